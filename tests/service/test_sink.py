"""The sink on a real Kafka and Redis: spans made by hand in, and what the Delta tables hold, read by deltalake, after it.

SPDX-License-Identifier: Apache-2.0
"""
import glob
import json
import os
import shutil
import signal
import sys

sys.path[:0] = [os.path.join(os.path.dirname(__file__), "..", d) for d in ("", os.path.join("..", "tools"))]

import duckdb
import pytest
from deltalake import DeltaTable

from support.spans import encode
from support.washing import Service, User, new_redis, until

pytest_plugins = ["support.washing"]
SOURCE = "kafka:raw:0:AAAAAAAAAAAAAAAAAAAAAA"


@pytest.fixture
def lake(tmp_path):
    return tmp_path / "lake"


def sink(user, lake, redis, *flags, **options):
    defaults = {"kafka__brokers": user.broker.address, "user": user.name, "lake__url": f"file://{lake}", "announce__listen": "127.0.0.1:0",
                "flush__interval": "50ms", "commit__interval": "50ms"}
    return Service("sink-s3", *flags, env={"SLUICE_REDIS_URL": redis}, **{**defaults, **options})


def row(position, ind=None, item=0, **more):
    return {"position": position, "item": item, "ingested_at_ms": 1700000000000 + position, "ind": position if ind is None else ind, **more}


def rows(start, end, **more):
    return [row(p, **more) for p in range(start, end)]


def span(start, end, **options):
    """[start, end) of the test's source; with a row for each position unless it says otherwise."""
    if not options.get("lost") and "rows" not in options:
        options["rows"] = rows(start, end)
    return encode(options.pop("source", SOURCE), start, end, **options)


def table(user, lake, kind="pin"):
    return DeltaTable(str(lake / "delta" / f"{user.name}_{kind}_table"))


def read(user, lake, kind="pin"):
    """The rows of a table in the order of their places."""
    return sorted(table(user, lake, kind).to_pyarrow_table().to_pylist(), key=lambda r: (r["_source"], r["_position"], r["_item"]))


def positions(user, lake, kind="pin"):
    return [r["_position"] for r in read(user, lake, kind)]


def stored(service, kind="pin"):
    return service.state()["sink"]["tables"][kind]["sources"]


def until_stored(service, wanted, kind="pin", source=SOURCE):
    until(f"position {wanted}", lambda: stored(service, kind).get(source) == wanted)


def committed(user, dataset="pin", partition=0):
    return user.broker.committed(f"{user.name}-sink-s3", user.clean(dataset), partition)[0]


def until_committed(user, offset, dataset="pin"):
    until(f"offset {offset}", lambda: committed(user, dataset) == offset)


def commits(user, lake, kind="pin"):
    """The actions of every commit of a table's log, by kind."""
    out = []
    for path in sorted(glob.glob(f"{lake}/delta/{user.name}_{kind}_table/_delta_log/*.json")):
        with open(path) as f:
            out.append([json.loads(line) for line in f])
    return out


def commit_infos(user, lake, kind="pin"):
    return [a["commitInfo"] for c in commits(user, lake, kind) for a in c if "commitInfo" in a]


def lost_of(info):
    lost = info.get("sluice.lost", [])
    return json.loads(lost) if isinstance(lost, str) else lost


def open_hole(service):
    return [(h["source"], h["wanted"], h["from"]) for h in service.state()["sink"]["holes"]]


def test_tables_copies_rejects_and_lost(kafka, redis, lake):
    user = User(kafka)
    values = {"title": "T \U0001F600", "follower_count": 136000, "category": "art"}
    reject = {"position": 6, "reason": "bad_key", "detail": "why", "key": b"\x00k", "value": None, "ingested_at_ms": 5}
    kafka.send(user.clean(), [span(0, 0), span(0, 3, lost=True), span(3, 5, rows=[row(3, 1, **values), row(4, 1, **values)]),
                              span(5, 8, rows=[row(5, 2), row(7, 1, **values)], rejects=[reject]), b"no span", span(8, 12, lost=True)])
    kafka.send(user.clean("geo"), [encode("kafka:geo:0:x", 0, 2, [row(0, country="Chad", coordinates=(-88.5, 170.25), timestamp=1535423464123),
                                                                  row(1)], dataset="geo")])
    kafka.send(user.clean("user"), [encode("kafka:user:0:x", 0, 1, [row(0, user_name="A B", age=20, date_joined=-1)], dataset="user")])
    with sink(user, lake, redis) as s:
        until_committed(user, 6)
        until_committed(user, 1, "geo")
        until_committed(user, 1, "user")
        got = read(user, lake)
        assert [(r["_position"], r["ind"]) for r in got] == [(3, 1), (5, 2)], "the first of equal rows stays"
        assert got[0]["title"] == values["title"] and got[0]["follower_count"] == 136000 and got[0]["description"] is None
        assert got[0]["_source"] == SOURCE and got[0]["_item"] == 0 and got[0]["_ingested_at"].timestamp() == 1700000000.003
        geo = read(user, lake, "geo")
        assert geo[0]["coordinates"] == [-88.5, 170.25] and geo[0]["country"] == "Chad" and geo[1]["coordinates"] is None
        assert geo[0]["timestamp"].isoformat() == "2018-08-28T02:31:04.123000+00:00"
        person = read(user, lake, "user")[0]
        assert (person["user_name"], person["age"]) == ("A B", 20) and person["date_joined"].isoformat() == "1969-12-31T23:59:59.999000+00:00"
        dead = read(user, lake, "dead")
        assert [(r["_position"], r["dataset"], r["reason"], r["detail"], r["key"], r["value"]) for r in dead] == [
            (6, "pin", "bad_key", "why", b"\x00k", None)]
        assert stored(s) == {SOURCE: 12} and list(stored(s, "dead")) == [SOURCE]
        assert table(user, lake).transaction_version(f"sluice:{SOURCE}") == 12
        infos = commit_infos(user, lake)
        assert sum(int(i.get("sluice.copies", 0)) for i in infos) == 2
        assert [(l["source"], l["from"], l["to"]) for i in infos for l in lost_of(i)] == [(SOURCE, 0, 3), (SOURCE, 8, 12)]
        assert s.metric("sluice_sink_copies_total") == 2 and s.metric("sluice_sink_rows_total", table="pin") == 2
        assert s.metric("sluice_sink_rejects_total") == 1 and s.metric("sluice_sink_not_spans_total") == 1
        assert s.metric("sluice_sink_lost_positions_total") == 4, "a beginning above 0 is no loss"
        assert s.metric("sluice_sink_spans_dropped_total", dataset="pin") == 1 and s.metric("sluice_sink_spans_total", dataset="pin") == 5
        assert s.event("records_declared_lost")["positions"] == 4 and s.event("source_begins_at")["position"] == 3
        assert s.metric("sluice_sink_redis_up") == 1 and s.metric("sluice_sink_commits_total", table="geo") == 1
        until("readiness", lambda: s.ready()[0] == 200)
        assert s.ready()[1]["redis"] == (True, "connected") and s.ready()[1]["holes"] == (True, "none")
        # A copy of what has landed is seen by its mark; repeated and overlapping spans are seen by the table.
        kafka.send(user.clean(), [span(3, 5, rows=[row(3, 1, **values), row(4, 1, **values)]), span(10, 14, rows=[row(12, 2), row(13, 3)])])
        until_stored(s, 14)
        assert [(r["_position"], r["ind"]) for r in read(user, lake)] == [(3, 1), (5, 2), (13, 3)]
        assert s.metric("sluice_sink_copies_total") == 3
        s.end()
    # A second life begins at the committed offset, and knows the table.
    until_committed(user, 8)
    kafka.send(user.clean(), [span(13, 15, rows=[row(13, 3), row(14, 4)])])
    with sink(user, lake, redis) as s:
        until_stored(s, 15)
        assert positions(user, lake) == [3, 5, 13, 14]
        assert s.event("partition_begun", topic=user.clean())["offset"] == 8
        s.end()


def test_copies_keep(kafka, lake):
    user = User(kafka)
    kafka.send(user.clean(), [span(0, 4, rows=[row(p, 1) for p in range(4)])])
    with sink(user, lake, "redis://127.0.0.1:1", copies="keep") as s:
        until_stored(s, 4)
        assert positions(user, lake) == [0, 1, 2, 3] and "redis" not in s.ready()[1]
        s.end()


def test_redis_goes_and_comes_back(kafka, ports, lake, tmp_path):
    user = User(kafka)
    server = new_redis(ports, tmp_path / "redis")
    try:
        with sink(user, lake, f"redis://127.0.0.1:{server.what.port}") as s:
            until("Redis", lambda: s.metric("sluice_sink_redis_up") == 1)
            kafka.send(user.clean(), [span(0, 1, rows=[row(0, 1)])])
            until_stored(s, 1)
            server.end()
            until("its absence", lambda: s.metric("sluice_sink_redis_up") == 0)
            assert s.ready()[1]["redis"] == (True, "not connected: copies pass")
            kafka.send(user.clean(), [span(1, 3, rows=[row(1, 1), row(2, 1)])])
            until_stored(s, 3)
            assert positions(user, lake) == [0, 1], "within one commit a copy is seen all the same"
            assert s.metric("sluice_sink_copies_unasked_total") >= 1 and s.metric("sluice_sink_marks_failed_total") == 1
            server.start()
            until("its return", lambda: s.metric("sluice_sink_redis_up") == 1)
            kafka.send(user.clean(), [span(3, 4, rows=[row(3, 2)])])
            until_stored(s, 4)
            kafka.send(user.clean(), [span(4, 6, rows=[row(4, 2), row(5, 3)])])
            until_stored(s, 6)
            assert positions(user, lake) == [0, 1, 3, 5]
            s.end()
    finally:
        server.end()


def test_flushes_by_rows_and_at_the_drain(kafka, redis, lake):
    user = User(kafka)
    with sink(user, lake, redis, flush__interval="1h", flush__rows=10) as s:
        kafka.send(user.clean(), [span(0, 4)])
        until("the span", lambda: s.metric("sluice_sink_buffer_bytes") > 0)
        assert stored(s) == {}
        kafka.send(user.clean(), [span(4, 12)])
        until_stored(s, 12)
        kafka.send(user.clean(), [span(12, 15)])
        until("the span", lambda: s.metric("sluice_sink_buffer_bytes") > 0)
        s.end()
    assert positions(user, lake) == list(range(15)) and committed(user) == 3
    assert table(user, lake).version() == 2


def test_a_full_disk_pauses_and_goes_on(kafka, redis, lake):
    user = User(kafka)
    with sink(user, lake, redis, flush__bytes="1MiB", flush__interval="200ms") as s:
        kafka.send(user.clean(), [span(0, 1)])
        until_stored(s, 1)
        s.file_limit(0)
        kafka.send(user.clean(), [span(n, n + 1, rows=[row(n, description="x" * 250000)]) for n in range(1, 21)])
        s.event("table_waits")
        until("not ready", lambda: s.ready()[0] == 503 and not s.ready()[1]["table_pin"][0])
        until("a pause", lambda: s.metric("sluice_sink_paused") == 1)
        assert s.metric("sluice_sink_pauses_total") == 1 and committed(user) <= 1
        assert s.metric("sluice_sink_buffer_bytes") > s.metric("sluice_sink_buffer_max_bytes") == 2 << 20
        assert s.metric("sluice_sink_retries_total", table="pin") >= 1
        s.file_limit(None)
        until_committed(user, 21)
        assert positions(user, lake) == list(range(21))
        until("ready", lambda: s.ready()[0] == 200)
        assert s.metric("sluice_sink_paused") == 0
        s.end()


def test_a_commit_is_not_tried_for_ever(kafka, redis, lake):
    user = User(kafka)
    with sink(user, lake, redis, commit__max_age="100ms") as s:
        kafka.send(user.clean(), [span(0, 1)])
        until_stored(s, 1)
        s.file_limit(0)
        kafka.send(user.clean(), [span(1, 2, rows=[])])  # no data file: the commit itself fails
        assert s.wait() == 69, "".join(s.lines[-20:])
        assert s.event("commit_given_up")["exit_code"] == 69
    with sink(user, lake, redis) as s:
        until_stored(s, 2)
        s.end()


def test_a_hole_is_looked_at_twice_and_stops_its_source(kafka, redis, lake):
    user = User(kafka)
    other = "kafka:other:0:BBBBBBBBBBBBBBBBBBBBBB"
    with sink(user, lake, redis) as s:
        kafka.send(user.clean(), [span(0, 10)])
        until_committed(user, 1)
        kafka.send(user.clean(), [span(20, 30), span(0, 2, source=other, rows=[row(0, 100), row(1, 101)])])
        until("the hole", lambda: open_hole(s) == [(SOURCE, 10, 20)])
        until_stored(s, 2, source=other)
        assert s.metric("sluice_sink_rechecks_total") == 1 and s.metric("sluice_sink_open_holes") == 1
        status, checks = s.ready()
        assert status == 503 and checks["holes"] == (False, f"{SOURCE}: positions 10 to 20 are missing")
        found = s.event("hole_found")
        assert (found["level"], found["source"], found["wanted"], found["from"]) == ("error", SOURCE, 10, 20)
        kafka.send(user.clean(), [span(2, 3, source=other, rows=[row(2, 102)]), span(30, 30)])
        until_stored(s, 3, source=other)
        assert committed(user) == 1, "no offset past the first span behind the hole"
        # The cleaner was rewound: it writes everything again from the wanted position on.
        kafka.send(user.clean(), [span(10, 15), span(15, 30)])
        until_committed(user, 7)
        assert not open_hole(s) and s.metric("sluice_sink_open_holes") == 0 and s.metric("sluice_sink_holes_total") == 1
        until("ready", lambda: s.ready()[0] == 200)
        assert s.event("hole_closed")["source"] == SOURCE
        assert [(r["_source"], r["_position"]) for r in read(user, lake)] == [(other, p) for p in range(3)] + [(SOURCE, p) for p in range(30)]
        s.end()


def test_a_broken_span_stops_its_partition_only(kafka, redis, lake):
    broken = [span(5, 3, rows=[]), span(0, 2, rows=[row(7)]), span(0, 2, rows=[row(1), row(0)], counts=(2, 0)), span(0, 2, counts=(1, 0)),
              encode(SOURCE, 0, 1, [row(0)], dataset="geo")]
    user = User(kafka, partitions=len(broken) + 1)
    for n, value in enumerate(broken):
        source = f"kafka:raw:{n}:x"
        kafka.send(user.clean(), [b"\x00", span(0, 0, source=source), value, span(0, 1, source=source)], partition=n)
    kafka.send(user.clean(), [span(0, 1)], partition=len(broken))
    with sink(user, lake, redis) as s:
        for n in range(len(broken)):
            assert s.event("span_broken", partition=n)["offset"] == 2
            until("the offset", lambda n=n: committed(user, partition=n) == 2)
        until("the offset of the good one", lambda: committed(user, partition=len(broken)) == 1)
        assert s.metric("sluice_sink_broken_spans_total") == s.metric("sluice_sink_not_spans_total") == len(broken)
        status, checks = s.ready()
        assert status == 503 and not checks["partitions"][0]
        assert checks["partitions"][1].endswith("stopped: a broken span at offset 2")
        assert stored(s) == {SOURCE: 1}
        s.end()
    assert [committed(user, partition=n) for n in range(len(broken))] == [2] * len(broken)


def test_a_table_made_anew_is_filled_from_the_beginning(kafka, redis, lake):
    user = User(kafka)
    with sink(user, lake, redis) as s:
        kafka.send(user.clean(), [span(0, 5)])
        until_committed(user, 1)
        shutil.rmtree(lake / "delta" / f"{user.name}_pin_table")
        kafka.send(user.clean(), [span(5, 8)])
        until_committed(user, 2)
        until_stored(s, 8)
        assert positions(user, lake) == list(range(8)), "marks of the old table do not count for the new one"
        assert s.events("table_made_anew") or s.events("table_went_back")
        s.end()


def test_checkpoints(kafka, redis, lake):
    user = User(kafka)
    with sink(user, lake, redis, flush__interval="10ms", checkpoint__interval=3) as s:
        for n in range(8):
            kafka.send(user.clean(), [span(n, n + 1)])
            until_stored(s, n + 1)
        s.event("checkpoint_written", n=2, table="pin")
        s.end()
    folder = lake / "delta" / f"{user.name}_pin_table"
    names = sorted(os.listdir(folder / "_delta_log"))
    assert [n for n in names if n.endswith(".checkpoint.parquet")] == ["%020d.checkpoint.parquet" % v for v in (3, 6)]
    for n in names:  # only what the checkpoint does not say is left
        if n.endswith(".json") and n[:20].isdigit() and int(n[:20]) < 6:
            os.unlink(folder / "_delta_log" / n)
    assert positions(user, lake) == list(range(8)) and table(user, lake).version() == 8
    assert table(user, lake).transaction_version(f"sluice:{SOURCE}") == 8
    files = [f.removeprefix("file://") for f in table(user, lake).file_uris()]
    assert duckdb.sql(f"SELECT count(*), sum(ind) FROM read_parquet({files})").fetchone() == (8, 28)
    with sink(user, lake, redis) as s:
        kafka.send(user.clean(), [span(6, 10)])
        until_stored(s, 10)
        s.end()
    assert positions(user, lake) == list(range(10))


def test_two_sinks_forced_onto_the_same_partitions(kafka, redis, lake):
    user = User(kafka)
    forced = {"kafka__partitions": "0", "flush__interval": "10ms", "copies": "keep"}
    with sink(user, lake, redis, **forced) as a, sink(user, lake, redis, **forced) as b:
        for s in (a, b):
            until("the partition", lambda s=s: len(s.state()["sink"]["partitions"]) == 3)
        n = 0

        def conflicts():
            return sum(s.metric("sluice_sink_commit_conflicts_total") for s in (a, b))

        def push():
            nonlocal n
            reject = {"position": n, "item": 1, "reason": "no_key", "value": b"v"}
            kafka.send(user.clean(), [span(n, n + 3, rejects=[reject])])
            n += 3
            return conflicts() > 3 and n > 150

        until("conflicts", push)
        for s in (a, b):
            until("both at the end", lambda s=s: s.state()["sink"]["partitions"] and
                  all(p["stored"] == p["next"] for p in s.state()["sink"]["partitions"] if p["topic"] == user.clean() and p["next"] == n // 3) and
                  any(p["next"] == n // 3 for p in s.state()["sink"]["partitions"]))
            assert not open_hole(s)
        assert positions(user, lake) == list(range(n)) and positions(user, lake, "dead") == list(range(0, n, 3))
        assert sum(s.metric("sluice_sink_rows_total", table="pin") for s in (a, b)) == n
        a.end()
        b.end()


def test_two_sinks_of_a_group_hand_over(kafka, redis, lake):
    user = User(kafka, partitions=2)
    source = ["kafka:raw:%d:x" % p for p in range(2)]
    with sink(user, lake, redis, kafka__session_timeout="2s") as a:
        until("all partitions", lambda: len(a.state()["sink"]["partitions"]) == 6)
        for p in range(2):
            kafka.send(user.clean(), [span(0, 5, source=source[p], rows=rows(0, 5, title=str(p)))], partition=p)
        with sink(user, lake, redis, replica=1, kafka__session_timeout="2s") as b:
            until("a fair share", lambda: [len(s.state()["sink"]["partitions"]) for s in (a, b)] == [3, 3])
            for p in range(2):
                kafka.send(user.clean(), [span(4, 9, source=source[p], rows=rows(4, 9, title=str(p)))], partition=p)
            until("both", lambda: [user.broker.committed(f"{user.name}-sink-s3", user.clean(), p)[0] for p in range(2)] == [2, 2])
            b.process.kill()
        until("all partitions again", lambda: len(a.state()["sink"]["partitions"]) == 6)
        assert [(r["_source"], r["_position"]) for r in read(user, lake)] == [(s, p) for s in source for p in range(9)]
        a.end()


def test_a_member_that_is_thrown_out_joins_anew(kafka, redis, lake):
    user = User(kafka)
    with sink(user, lake, redis) as a:
        kafka.send(user.clean(), [span(0, 5, rows=rows(0, 5))])
        until("the first", lambda: user.broker.committed(f"{user.name}-sink-s3", user.clean(), 0)[0] == 1)
        with sink(user, lake, redis) as b:
            until("the loss", lambda: a.metric("sluice_sink_lost_memberships_total") >= 1)
            assert a.events("membership_lost")[0]["instance"] == "sink-s3-0"
            b.process.kill()
            b.process.wait()
        kafka.send(user.clean(), [span(4, 9, rows=rows(4, 9))])
        until("the second", lambda: user.broker.committed(f"{user.name}-sink-s3", user.clean(), 0)[0] == 2)
        assert [r["_position"] for r in read(user, lake)] == list(range(9))
        assert a.process.poll() is None
        a.end()


def test_a_lake_that_cannot_be_made(kafka, redis, tmp_path):
    user = User(kafka)
    (tmp_path / "file").write_text("in the way")
    with sink(user, tmp_path / "file" / "lake", redis) as s:
        assert s.wait() in (73, 78)
        assert s.events("start_failed")
    with sink(user, tmp_path / "lake", "http://nowhere") as s:
        assert s.wait() == 78
    with sink(user, tmp_path / "lake", redis, kafka__partitions="0,x") as s:
        assert s.wait() == 78


def test_a_folder_in_the_way_of_a_table(kafka, redis, lake):
    user = User(kafka)
    os.makedirs(lake / "delta")
    (lake / "delta" / f"{user.name}_pin_table").write_text("in the way")
    kafka.send(user.clean(), [span(0, 2)])
    with sink(user, lake, redis) as s:
        s.event("table_waits", table="pin")
        until("not ready", lambda: s.ready()[0] == 503 and not s.ready()[1]["table_pin"][0])
        os.unlink(lake / "delta" / f"{user.name}_pin_table")
        until_stored(s, 2)
        until("ready", lambda: s.ready()[0] == 200)
        s.end(signal.SIGINT)
