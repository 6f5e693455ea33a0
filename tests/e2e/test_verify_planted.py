"""./sluice verify on a stack that settled: clean as it is, and each anomaly that is planted is named, with its place.

Rows are deleted, doubled and altered with deltalake, in a copy of the lake each time (a state folder of its own, whose
stack.json names the copy; everything else is the running stack); ledger lines are forged in a copy of the ledger.
SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import io
import json
import os
import shutil

import deltalake
import pyarrow as pa
import pytest
from kafka import KafkaProducer

import rig
from sluice import stack as stacks
from sluice import verify

ROWS = 60


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with rig.Stack(tmp_path_factory.mktemp("planted"), settings=rig.FLUSH) as s:
        s.post("--rows", ROWS, "--seed", 3, "--rate", 100)
        for n in range(4):
            assert s.post_raw(s.topic("geo"), {"records": [{"key": n, "value": {"no": n}}]})[0] == 200
        s.settle()
        yield s


class Copy:
    """The stack with a lake and a ledger of its own."""

    def __init__(self, stack, folder):
        self.stack = stack
        self.state = str(folder)
        shutil.copytree(stacks.lake_path(stack.value), os.path.join(self.state, "lake"))
        self.ledger = shutil.copy(stack.path("ledger.jsonl"), os.path.join(self.state, "ledger.jsonl"))
        self.value = dict(stack.saved(), lake="file://" + os.path.join(self.state, "lake"))
        stacks.write_json(os.path.join(self.state, "stack.json"), self.value)

    def table(self, dataset):
        return deltalake.DeltaTable(stacks.table_path(self.value, dataset))

    def row(self, dataset, position):
        """One row as an Arrow table."""
        whole = pa.table(self.table(dataset).to_pyarrow_table())
        return whole.filter(pa.compute.equal(whole.column("_position"), position))

    def append(self, dataset, rows):
        deltalake.write_deltalake(self.table(dataset), rows, mode="append")

    def lines(self):
        return rig.ledger_lines(self.ledger)

    def forge(self, lines):
        with open(self.ledger, "w", encoding="utf-8") as f:
            for line in lines:
                f.write(json.dumps(line) + "\n")

    def verify(self):
        """(exit code, {anomaly: [where]}, counts), by the program's own functions: Python starts once."""
        out = io.StringIO()
        report = verify.Report(as_json=True, out=out)
        verify.check(self.value, [self.ledger], report)
        return self.read(report.finish(), out.getvalue())

    def verify_program(self):
        done = self.stack.sluice("verify", "--state", self.state, "--json", self.ledger, check=False)
        return self.read(done.returncode, done.stdout)

    @staticmethod
    def read(code, text):
        lines = [json.loads(x) for x in text.splitlines() if x.startswith("{")]
        assert lines, text
        found = {}
        for line in lines[:-1]:
            found.setdefault(line["anomaly"], []).append("%s: %s" % (line["where"], line["detail"]))
        return code, found, lines[-1]

    def expect(self, **anomalies):
        """Each anomaly with the words that its first finding must hold, and no other."""
        code, found, last = self.verify()
        assert code == 1 and not last["ok"]
        assert set(found) == set(anomalies), found
        for name, words in anomalies.items():
            for word in words:
                assert any(word in text for text in found[name]), (name, word, found)
            assert last["anomalies"][name] == len(found[name])


@pytest.fixture
def copy(stack, tmp_path):
    return Copy(stack, tmp_path / "copy")


def test_clean(copy):
    code, found, last = copy.verify_program()
    assert code == 0 and not found and last["ok"]
    assert last["rows"] == 3 * ROWS and last["rejects"] == 4 and last["ledger_ok"] == 3 * ROWS


def test_row_deleted(copy):
    copy.table("pin").delete("_position = 17")
    code, found, _ = copy.verify_program()
    assert code == 1 and set(found) == {"lost"}
    copy.expect(lost=["demo_pin_table", "@17/0"])


def test_row_doubled(copy):
    copy.append("user", copy.row("user", ROWS - 1))
    copy.expect(doubled=["demo_user_table", "@%d/0" % (ROWS - 1)])


@pytest.mark.parametrize("dataset,column,value", [
    ("pin", "title", "'forged'"), ("pin", "follower_count", "-1"), ("geo", "country", "NULL"), ("user", "age", "149"),
    ("geo", '"timestamp"', "TIMESTAMP '2001-01-01 00:00:00Z'"), ("user", "_ingested_at", "TIMESTAMP '2001-01-01 00:00:00Z'")])
def test_row_altered(copy, dataset, column, value):
    copy.table(dataset).update(updates={column.strip('"'): value}, predicate="_position = 5")
    copy.expect(altered=["demo_%s_table" % dataset, "@5/0"])


def test_row_from_nowhere(copy):
    row = copy.row("user", 9)
    copy.append("user", row.set_column(row.column_names.index("_position"), "_position", pa.array([ROWS + 5], pa.int64())))
    copy.expect(phantom=["demo_user_table", "@%d/0" % (ROWS + 5)])


def test_row_of_a_source_that_cannot_be(copy):
    row = copy.row("user", 9)
    copy.append("user", row.set_column(row.column_names.index("_source"), "_source", pa.array(["kafka:other:0:x"], pa.string())))
    copy.expect(phantom=["demo_user_table", "kafka:other:0:x"])


def test_rows_out_of_order(copy):
    late = copy.row("geo", 3)
    copy.table("geo").delete("_position = 3")
    copy.append("geo", late)
    copy.expect(reordered=["demo_geo_table", "@3/0"])


def dead_position(copy):
    return copy.table("dead").to_pyarrow_table().column("_position").to_pylist()[1]


def test_dead_row_removed(copy):
    position = dead_position(copy)
    copy.table("dead").delete("_position = %d" % position)
    copy.expect(dead_missing=["demo_dead_table", "@%d/0" % position])


def test_dead_row_doubled(copy):
    last = max(copy.table("dead").to_pyarrow_table().column("_position").to_pylist())
    copy.append("dead", copy.row("dead", last))
    copy.expect(dead_doubled=["demo_dead_table", "@%d/0" % last])


def test_dead_row_altered(copy):
    position = dead_position(copy)
    copy.table("dead").update(updates={"reason": "'tombstone'"}, predicate="_position = %d" % position)
    copy.expect(altered=["demo_dead_table", "@%d/0" % position])


def test_a_record_that_was_answered_ok_is_not_in_the_topic(copy):
    lines = copy.lines()
    late = max(x["answered_at"] for x in lines) + 1
    line = dict(lines[10], id=99999, sent_at=late, answered_at=late, offset=100000, value='{"x":1}', sha256=hashlib.sha256(b'{"x":1}').hexdigest())
    copy.forge(lines + [line])
    copy.expect(lost=["%s-0@100000" % line["topic"], "id 99999"])


def test_a_refused_record_is_in_the_topic(copy):
    lines = copy.lines()
    offset = lines[10]["offset"]
    lines[10].update(outcome="refused", status=503, offset=None, partition=None, error_code=50302)
    copy.forge(lines)
    copy.expect(refused_present=[lines[10]["topic"], "0@%d" % offset])


def test_an_unknown_record_may_be_in_the_topic_once(copy):
    lines = copy.lines()
    lines[10].update(outcome="unknown", status=503, offset=None, partition=None, error_code=50003)
    copy.forge(lines)
    code, found, last = copy.verify()
    assert code == 0 and not found and last["unknown_stored"] == 1


def test_the_ledger_names_another_value(copy):
    lines = copy.lines()
    lines[10].update(value='{"x":1}', sha256=hashlib.sha256(b'{"x":1}').hexdigest())
    copy.forge(lines)
    copy.expect(ledger_mismatch=["%s-0@%d" % (lines[10]["topic"], lines[10]["offset"])])


def test_the_ledger_contradicts_itself(copy):
    lines = copy.lines()
    lines[10]["sha256"] = "00" * 32
    copy.forge(lines)
    code, found, _ = copy.verify()
    assert code == 1 and "ledger_mismatch" in found and any("sha256" in text for text in found["ledger_mismatch"])


def test_two_lines_claim_one_record(copy):
    lines = copy.lines()
    copy.forge(lines + [dict(lines[10], id=88888)])
    copy.expect(ledger_mismatch=["id 88888"])


def test_raw_records_out_of_order(copy):
    """The ledger says that one was confirmed before the other, which stands before it, was sent."""
    lines = copy.lines()
    mine = sorted((x for x in lines if x["dataset"] == "pin"), key=lambda x: x["offset"])
    first, last = mine[0], mine[-1]
    begin = min(x["sent_at"] for x in lines)
    last.update(sent_at=begin, answered_at=begin + 1)
    first.update(sent_at=begin + 5000, answered_at=begin + 5001)
    copy.forge(lines)
    copy.expect(reordered=["%s-0@%d" % (first["topic"], first["offset"])])


def test_a_torn_last_line_is_no_statement(copy):
    with open(copy.ledger, "a", encoding="utf-8") as f:
        f.write('{"id": 5, "try"')
    code, found, last = copy.verify()
    assert code == 0 and not found and last["ledger_torn"] == 1


def test_in_the_running_stack(stack):
    """Last, since it spoils the stack: a raw record twice, a row gone from the live table; the sink goes on all the same."""
    line = [x for x in rig.ledger_lines(stack.path("ledger.jsonl")) if x["dataset"] == "geo"][7]
    producer = KafkaProducer(bootstrap_servers=stack.value["kafka"])
    producer.send(stack.topic("geo"), value=line["value"].encode(), partition=0).get(timeout=60)
    producer.close()
    stack.settle()
    deltalake.DeltaTable(stack.table("pin")).delete("_position = 30")
    stack.post("--rows", 5, "--seed", 99, ledger="more.jsonl")
    stack.settle()
    code, findings, last = stack.verify("ledger.jsonl", "more.jsonl", check=False)
    assert code == 1 and {f["anomaly"] for f in findings} == {"doubled", "lost"}, findings
    assert [f["where"].endswith("@30/0") for f in findings if f["anomaly"] == "lost"] == [True]
    assert last["anomalies"] == {"doubled": 1, "lost": 1}
