"""The checker (tools/sluice/verify.py): a clean pipeline passes, and each planted anomaly is named.

The tables are real Delta tables written by deltalake, the raw records are given to the checker directly.
SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import io
import json
import os
import socket
import sys
from collections import namedtuple

import deltalake
import pyarrow as pa
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))

from sluice import rules, stack, verify  # noqa: E402

Message = namedtuple("Message", "offset key value headers timestamp")
IDS = {"demo.pin": "PINID", "demo.geo": "GEOID", "demo.user": "USERID"}
TYPES = {"ind": pa.int64(), "follower_count": pa.int64(), "age": pa.int32(), "coordinates": pa.list_(pa.float64()),
         "timestamp": pa.timestamp("us", tz="UTC"), "date_joined": pa.timestamp("us", tz="UTC"), "_source": pa.string(),
         "_position": pa.int64(), "_item": pa.int32(), "_ingested_at": pa.timestamp("us", tz="UTC"), "key": pa.binary(),
         "value": pa.binary()}
PROVENANCE = ("_source", "_position", "_item", "_ingested_at")
SENT = 1700000000000


class World:
    """Raw topics, a ledger and tables that agree; tests then spoil one thing."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.raw = {t: [] for t in IDS}
        self.low = {t: 0 for t in IDS}
        self.lines = []
        self.value = {"user": "demo", "lake": "file://" + self.folder, "kafka": "none", "admin": {}}

    def store(self, dataset, text, outcome="ok", stored=True, key=None):
        topic = "demo." + dataset
        data = text.encode()
        offset = None
        if stored:
            offset = len(self.raw[topic])
            self.raw[topic].append(Message(offset, key, data, [("sluice-ingested-at", str(SENT + offset).encode())], 5))
        self.lines.append({"id": len(self.lines), "try": 1, "sent_at": SENT, "dataset": dataset, "key": None,
                           "sha256": hashlib.sha256(data).hexdigest(), "target": "kafka", "status": 200, "error_code": None,
                           "outcome": outcome, "topic": topic, "partition": 0 if outcome == "ok" else None,
                           "offset": offset if outcome == "ok" else None, "value": text,
                           "answered_at": SENT + 5})

    def tables(self):
        """Writes what a sink must have written, copies dropped; two commits a table."""
        dead, out = [], {}
        for topic, messages in self.raw.items():
            dataset = topic.partition(".")[2]
            rows, seen = [], set()
            for m in messages:
                place = ("kafka:%s:0:%s" % (topic, IDS[topic]), m.offset)
                for item, what in enumerate(rules.wash(dataset, m.value)):
                    tail = place + (item, (SENT + m.offset) * 1000)
                    if what[0] == "row" and what[1] not in seen:
                        seen.add(what[1])
                        rows.append(dict(zip(rules.COLUMNS[dataset] + PROVENANCE, self._micros(dataset, what[1]) + tail)))
                    elif what[0] == "reject":
                        dead.append(dict(zip(PROVENANCE + ("dataset", "reason", "detail", "key", "value"),
                                             tail + (dataset, what[1], "", m.key, what[2] if m.value is not None else None))))
            out[dataset] = rows
        for dataset, rows in out.items():
            half = len(rows) // 2
            self.write(dataset, rows[:half])
            self.write(dataset, rows[half:])
        self.write("dead", dead)

    @staticmethod
    def _micros(dataset, values):
        return tuple(v * 1000 if c in ("timestamp", "date_joined") and v is not None else v
                     for c, v in zip(rules.COLUMNS[dataset], values))

    def path(self, dataset):
        return os.path.join(self.folder, "delta", "demo_%s_table" % dataset)

    def write(self, dataset, rows, mode="append"):
        names = rules.COLUMNS[dataset] + PROVENANCE if dataset != "dead" else PROVENANCE + ("dataset", "reason", "detail", "key", "value")
        schema = pa.schema([(n, TYPES.get(n, pa.string())) for n in names])
        deltalake.write_deltalake(self.path(dataset), pa.Table.from_pylist(rows, schema=schema), mode=mode)

    def read(self, dataset):
        return deltalake.DeltaTable(self.path(dataset)).to_pyarrow_table()

    def records(self, _servers, topic):
        yield "begin", 0, (self.low[topic], len(self.raw[topic]))
        for m in self.raw[topic][self.low[topic]:]:
            yield "record", 0, m

    def verify(self, as_json=True):
        ledger = os.path.join(self.folder, "ledger.jsonl")
        with open(ledger, "w") as f:
            f.writelines(json.dumps(line) + "\n" for line in self.lines)
        self.out = io.StringIO()
        report = verify.Report(as_json, out=self.out)
        verify.check(self.value, [ledger], report, ids=IDS, records=self.records)
        code = report.finish()
        assert code == (1 if report.findings else 0)
        self.last = self.out.getvalue().splitlines()[-1]
        assert json.loads(self.last)["ok"] == (code == 0) if as_json else (self.last == "nothing is wrong") == (code == 0)
        return {name for name, _, _ in report.findings}, report


def pin(i, **more):
    return json.dumps(dict({"index": i, "title": "title %d" % i, "follower_count": "%dk" % i}, **more))


@pytest.fixture
def world(tmp_path):
    w = World(tmp_path)
    for i in range(10):
        w.store("pin", pin(i))
        w.store("geo", json.dumps({"ind": i, "latitude": i, "longitude": 1.5, "timestamp": "2020-01-01 00:00:0%d" % i, "country": "Peru"}))
        w.store("user", json.dumps({"ind": i, "first_name": "A", "last_name": "é😀", "age": 20 + i, "date_joined": "2016-01-01T00:00:00.5Z"}))
    w.store("pin", pin(3))                                 # a copy
    w.store("pin", "[%s, 5, %s]" % (pin(20), pin(21)), key=b"k")  # two rows and a reject
    w.store("geo", "not json")
    w.store("geo", '{"ind": 77}', outcome="refused", stored=False)
    w.store("user", '{"ind": 78}', outcome="unknown", stored=False)
    w.store("user", '{"ind": 79}', outcome="unknown")
    w.tables()
    return w


def test_clean(world):
    found, report = world.verify()
    assert found == set(), world.out.getvalue()
    assert report.numbers["copies"] == 1 and report.numbers["rejects"] == 2 and report.numbers["unknown_stored"] == 1
    assert report.numbers["raw_records"] == 34 and report.numbers["ledger_ok"] == 33


def test_words(world):
    world.verify(as_json=False)
    assert world.out.getvalue().splitlines() == [
        "ledger  33 ok, 1 refused, 2 unknown (1 of them stored)", "topics  34 raw records",
        "tables  33 rows, 2 rejects, 1 copies of rows", "nothing is wrong"]
    deltalake.DeltaTable(world.path("geo")).delete("ind = 4")
    deltalake.DeltaTable(world.path("dead")).delete("dataset = 'geo'")
    world.verify(as_json=False)
    assert world.last == "2 findings: 1 lost, 1 dead_missing"
    assert [x.partition(":")[0] for x in world.out.getvalue().splitlines()[:2]] == ["lost", "dead_missing"]


def test_row_in_the_table_of_another_dataset(world):
    """A place that is right in one table explains nothing in another."""
    row = world.read("geo").slice(0, 1).to_pylist()[0]
    world.write("geo", [dict(row, _source="kafka:demo.pin:0:PINID")])
    found, report = world.verify()
    assert found == {"phantom"} and "demo_geo_table kafka:demo.pin" in report.findings[0][1]


def test_row_deleted(world):
    deltalake.DeltaTable(world.path("geo")).delete("ind = 4")
    found, report = world.verify()
    assert found == {"lost"} and "@4/0" in report.findings[0][1]


def test_row_deleted_of_which_there_was_a_copy(world):
    deltalake.DeltaTable(world.path("pin")).delete("ind = 3")
    found, report = world.verify()
    assert found == {"lost"} and len(report.findings) == 2


def test_row_doubled(world):
    one = world.read("user").filter(pa.compute.equal(world.read("user")["ind"], 2))
    deltalake.write_deltalake(world.path("user"), one, mode="append")
    found, _ = world.verify()
    assert "doubled" in found and found <= {"doubled", "reordered"}


def test_row_altered(world):
    deltalake.DeltaTable(world.path("pin")).update(updates={"title": "'other'"}, predicate="ind = 5")
    assert world.verify()[0] == {"altered"}


def test_ingestion_time_altered(world):
    deltalake.DeltaTable(world.path("pin")).update(updates={"_ingested_at": "_ingested_at + interval '1 second'"}, predicate="ind = 5")
    assert world.verify()[0] == {"altered"}


def test_phantom(world):
    row = world.read("geo").slice(0, 1).to_pylist()[0]
    world.write("geo", [dict(row, _position=999)])
    world.write("geo", [dict(row, _source="kafka:other.geo:0:X")])
    found, report = world.verify()
    assert found == {"phantom"} or found == {"phantom", "reordered"}
    assert report.counts["phantom"] == 2


def test_former_topic_is_no_phantom(world):
    row = world.read("geo").slice(0, 1).to_pylist()[0]
    world.write("geo", [dict(row, _source="kafka:demo.geo:0:FORMER")])
    found, report = world.verify()
    assert found == set() and report.numbers["rows_of_former_topics"] == 1


def test_dead_row_removed(world):
    deltalake.DeltaTable(world.path("dead")).delete("dataset = 'geo'")
    assert world.verify()[0] == {"dead_missing"}


def test_dead_row_doubled(world):
    deltalake.write_deltalake(world.path("dead"), world.read("dead").slice(0, 1), mode="append")
    found, _ = world.verify()
    assert "dead_doubled" in found and found <= {"dead_doubled", "reordered"}


def test_dead_row_altered(world):
    deltalake.DeltaTable(world.path("dead")).update(updates={"reason": "'no_key'"}, predicate="dataset = 'geo'")
    assert world.verify()[0] == {"altered"}


def test_order(world):
    rows = world.read("geo").sort_by([("_position", "ascending")]).to_pylist()
    deltalake.DeltaTable(world.path("geo")).delete()
    world.write("geo", rows[5:])
    world.write("geo", rows[:5])
    assert world.verify()[0] == {"reordered"}


@pytest.mark.parametrize("change", [
    {"sha256": "00" * 32}, {"offset": 4}, {"value": "{}"}, {"outcome": "fine"}, {"offset": None}])
def test_forged_ledger_line(world, change):
    line = next(x for x in world.lines if x["dataset"] == "pin" and x["offset"] == 7)
    line.update(change)
    assert "ledger_mismatch" in world.verify()[0]


def test_order_of_the_ledger(world):
    lines = [x for x in world.lines if x["dataset"] == "geo" and x["outcome"] == "ok"]
    for i, line in enumerate(lines):
        line.update(sent_at=SENT + 10 * i, answered_at=SENT + 10 * i + 25)  # three on their way at a time
    lines[6]["sent_at"], lines[4]["sent_at"] = lines[4]["sent_at"], lines[6]["sent_at"]
    assert world.verify()[0] == set()
    lines[3].update(sent_at=SENT + 1000, answered_at=SENT + 1005)
    found, report = world.verify()
    assert found == {"reordered"} and len(report.findings) == 1


def test_ok_beyond_the_end(world):
    world.lines.append(dict(world.lines[0], offset=1000))
    assert world.verify()[0] == {"lost"}


def test_refused_present(world):
    for line in world.lines:
        if line["dataset"] == "pin" and line["offset"] == 6:
            line.update(outcome="refused", offset=None, partition=None)
    assert world.verify()[0] == {"refused_present"}


def test_stored_twice(world):
    line = next(x for x in world.lines if x["value"] == '{"ind": 79}')
    world.store("user", line["value"])
    world.lines.pop()

    for d in ("pin", "geo", "user", "dead"):
        deltalake.DeltaTable(world.path(d)).delete()
    world.tables()
    assert world.verify()[0] == {"doubled"}


def test_expired_records_are_counted(world):
    world.low["demo.geo"] = 5
    found, report = world.verify()
    assert found == set() and report.numbers["expired"] == 5 and report.numbers["expired_rows"] == 5
    assert report.numbers["expired_without_row"] == 0
    deltalake.DeltaTable(world.path("geo")).delete("ind = 4")
    world.verify(as_json=False)
    assert "        5 of the ok ones Kafka has deleted since; 1 of these left no row: copies, or declared lost" in world.out.getvalue()


def test_what_cannot_be_read_is_named(world):
    path = next(x for x in sorted(os.listdir(world.path("geo"))) if x.endswith(".parquet"))
    for spoil in (lambda f: f.write(b"PAR1" + bytes(200)), lambda f: f.truncate(100)):  # its first page; its end
        with open(os.path.join(world.path("geo"), path), "r+b") as f:
            spoil(f)
        with pytest.raises(stack.Trouble, match="demo_geo_table/%s cannot be read" % path):
            world.verify()
    with open(os.path.join(world.path("geo"), "_delta_log", "%020d.json" % 0), "w") as f:
        f.write("{")
    with pytest.raises(stack.Trouble, match="demo_geo_table cannot be read"):
        world.verify()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % nobody.getsockname()[1]
        with pytest.raises(stack.Trouble, match="Kafka at %s cannot be read" % address):
            list(verify.raw_records(address, "demo.pin", wait=1))


def test_torn_last_line(world):
    found, _ = world.verify()
    path = os.path.join(world.folder, "ledger.jsonl")
    with open(path, "a") as f:
        f.write('{"id": 99, "outc')
    report = verify.Report(out=io.StringIO())
    verify.check(world.value, [path], report, ids=IDS, records=world.records)
    assert not report.findings and report.numbers["ledger_torn"] == 1
