"""The cleaner on a real Kafka: raw records in, and what stands on the clean and dead topics, in the offsets and in the metrics after it.

SPDX-License-Identifier: Apache-2.0
"""
import base64
import json
import os
import signal
import sys

sys.path[:0] = [os.path.join(os.path.dirname(__file__), "..", d) for d in ("", os.path.join("..", "tools"))]

import pytest
from kafka import KafkaProducer

from sluice import verify
from support.spans import ORDER, Span
from support.washing import Service, User, until

pytest_plugins = ["support.washing"]


def cleaner(user, *flags, **options):
    defaults = {"kafka__brokers": user.broker.address, "user": user.name, "span__linger": "50ms", "commit__interval": "50ms",
                "topics__check": "200ms"}
    return Service("cleaner", *flags, **{**defaults, **options})


def pin(n, **more):
    return json.dumps({"index": n, "title": f"post {n}", **more}).encode()


def committed(user, dataset="pin", partition=0):
    return user.broker.committed(f"{user.name}-cleaner", user.raw(dataset), partition)


def until_committed(user, offset, dataset="pin", partition=0):
    until(f"offset {offset} of {dataset}/{partition}", lambda: committed(user, dataset, partition)[0] == offset)


def sources(service):
    return {s["source"]: s for s in service.state()["cleaner"]["sources"]}


def test_clocks_that_no_table_can_hold(kafka):
    """The header is anybody's who writes to Kafka: a number beyond the year 9999 would stop the sink. The record's own time counts then."""
    user = User(kafka)
    last = 253402300799999
    clocks = [[b"1700000000123"], [str(last).encode()], [str(last + 1).encode()], [b"9223372036854775807"], [b"9223372036854775808"], [b"-1"],
              [b"1e3"], [b""], [b"5", b"6"], [b"5", b"x"], []]
    for n, values in enumerate(clocks):
        kafka.send(user.raw("user"), [b'{"ind":%d}' % n], headers=[("sluice-ingested-at", v) for v in values])
    with cleaner(user) as c:
        until_committed(user, len(clocks), "user")
        messages = kafka.read(user.raw("user"))
        own = [m.timestamp for m in messages]
        found = [r["ingested_at_ms"] for r in user.chain("user").rows]
        assert found == [1700000000123, last] + own[2:8] + [6] + own[9:]
        assert found == [verify.ingested_at(m) for m in messages], "the checker reads them the same"
        c.end()


def test_every_shape_and_every_reject(kafka):
    user = User(kafka)
    post = {"index": 7, "title": "T \U0001F600\n", "description": "Untitled", "follower_count": "136k", "poster_name": "P ",
            "save_location": "Local save in /data/art", "tag_list": "a,b", "category": "art", "downloaded": 1, "image_src": ""}
    pins = [json.dumps(post), json.dumps([{"index": 1}, {"no": 1}, {"index": "x"}, {"index": 2}]), json.dumps(json.dumps({"index": 3})),
            json.dumps(base64.b64encode(b'{"index":4}').decode()), "{", "[]", '"text"', '{"index":"12"}', '{"index":1,"index":2}']
    values = [p.encode() for p in pins] + [b'{"index":1,"title":"\xff"}', None, b'{"index":5,"title":"' + b"x" * 2000 + b'"}']
    headers = [("sluice-ingested-at", b"1700000000123")]
    assert kafka.send(user.raw(), values, key=b"k", headers=headers) == list(range(12))
    kafka.send(user.raw("geo"), [b'{"ind":7,"timestamp":"2018-08-28 02:31:04","latitude":-88.5,"longitude":170.25,"country":"Chad"}',
                                 b'{"ind":8,"latitude":91,"longitude":0}', json.dumps(post).encode()])
    kafka.send(user.raw("user"), [b'{"ind":7,"first_name":"A","last_name":"B","age":20,"date_joined":"2015-10-21T21:26:45"}',
                                  b'{"ind":8,"first_name":"A","age":200,"date_joined":"2015:10:21"}'], headers=headers)
    with cleaner(user, record__max="1KiB") as c:
        for dataset, end in zip(ORDER, (12, 3, 2)):
            until_committed(user, end, dataset)
            assert committed(user, dataset)[1] == kafka.id(user.raw(dataset))
        chain = user.chain()
        assert not chain.holes and not chain.lost and chain.wanted == {user.source(): 12}
        assert chain.spans[0].start == chain.spans[0].end == 0, "a heartbeat at the assignment"
        assert [(r["position"], r["item"], r["ind"]) for r in chain.rows] == [(0, 0, 7), (1, 0, 1), (1, 3, 2), (2, 0, 3), (3, 0, 4), (7, 0, 12)]
        assert chain.rows[0] == {"position": 0, "item": 0, "ingested_at_ms": 1700000000123, "ind": 7, "title": "T \U0001F600\n",
                                 "follower_count": 136000, "poster_name": "P ", "tag_list": "a,b", "save_location": "/data/art",
                                 "category": "art"}
        rejects = [(1, 1, "no_key"), (1, 2, "bad_key"), (4, 0, "not_json"), (5, 0, "not_an_object"), (6, 0, "not_an_object"),
                   (8, 0, "not_json"), (9, 0, "bad_utf8"), (10, 0, "tombstone"), (11, 0, "too_large")]
        assert [(r["position"], r["item"], r["reason"]) for r in chain.rejects] == rejects
        whole = {r["position"]: r["value"] for r in chain.rejects if r["position"] != 1}
        assert whole == {p: values[p] for p in whole} and all(r["key"] == b"k" for r in chain.rejects)
        geo = user.chain("geo")
        assert [{k: r[k] for k in r if k != "ingested_at_ms"} for r in geo.rows] == [
            {"position": 0, "item": 0, "ind": 7, "country": "Chad", "coordinates": (-88.5, 170.25), "timestamp": 1535423464000},
            {"position": 1, "item": 0, "ind": 8}]
        assert geo.rows[0]["ingested_at_ms"] == kafka.read(user.raw("geo"))[0].timestamp
        assert [(r["position"], r["reason"]) for r in geo.rejects] == [(2, "no_key")], "a pin on the geo topic is no row of nulls"
        people = user.chain("user")
        assert [{k: r[k] for k in r if k not in ("position", "item", "ingested_at_ms")} for r in people.rows] == [
            {"ind": 7, "user_name": "A B", "age": 20, "date_joined": 1445462805000}, {"ind": 8}]
        letters = {(h["sluice-source"], int(h["sluice-position"]), int(h["sluice-item"])): (h["sluice-reason"], m.key, m.value)
                   for m in kafka.read(f"{user.name}.dead") for h in [{k: v.decode() for k, v in m.headers}]}
        assert len(letters) == 10 and letters[(user.source(), 10, 0)] == ("tombstone", b"k", None)
        assert letters == {(s, r["position"], r["item"]): (r["reason"], r["key"], r["value"])
                           for s, rs in ((user.source(), chain.rejects), (user.source("geo"), geo.rejects)) for r in rs}
        assert c.metric("sluice_cleaner_records_total", dataset="pin") == 12 and c.metric("sluice_cleaner_rows_total") == 10
        for reason in {r for _, _, r in rejects}:
            want = sum(r == reason for _, _, r in rejects)
            assert c.metric("sluice_cleaner_rejects_total", dataset="pin", reason=reason) == want, reason
        for column, reason in (("user.age", "out_of_range"), ("user.date_joined", "bad_format"), ("geo.coordinates", "out_of_range")):
            assert c.metric("sluice_cleaner_fields_nulled_total", column=column, reason=reason) == 1, column
        assert c.metric("sluice_cleaner_partitions") == 3 and c.metric("sluice_cleaner_offset_commits_total") >= 1, "one may carry all three"
        until("readiness", lambda: c.ready()[0] == 200)
        assert c.ready()[1]["partitions"] == (True, "3 of 3 partitions read")
        state = sources(c)[user.source()]
        assert (state["topic"], state["position"], state["confirmed"], state["low"], state["end"]) == (user.raw(), 12, 12, 0, 12)
        until("no lag", lambda: c.metric("sluice_cleaner_lag_records") == 0)
        c.end()
    # A second life goes on where the first stopped.
    kafka.send(user.raw(), [pin(20)])
    before = len(kafka.read(user.clean()))
    with cleaner(user) as c:
        until_committed(user, 13)
        more = [Span(m.value) for m in kafka.read(user.clean())[before:]]
        assert (more[0].start, more[0].end) == (12, 12) and more[-1].end == 13 and [r["ind"] for s in more for r in s.rows] == [20]
        c.end()


def test_limits_of_spans(kafka):
    user = User(kafka)
    kafka.send(user.raw(), [pin(n) for n in range(7)] + [json.dumps([{"index": n} for n in range(5)]).encode()] + [pin(8), pin(9)])
    big = [pin(n, description=chr(97 + n) * 700) for n in range(4)]
    kafka.send(user.raw("geo"), [b'{"ind":1,"country":"%s"}' % (b"x" * 5000)] + [b'{"ind":%d,"country":"%s"}' % (n, b"y" * 700) for n in range(4)])
    with cleaner(user, span__max__rows=3, span__max__bytes="1KiB", span__linger="10s", span__heartbeat="100ms") as c:
        until_committed(user, 10)
        until_committed(user, 5, "geo")
        chain = user.chain()
        full = [s for s in chain.spans if s.end > s.start]
        assert [len(s.rows) for s in full] == [3, 3, 1, 5, 2], "a record alone may exceed a limit, and is never split"
        sizes = [(len(s.rows), s.bytes) for s in user.chain("geo").spans if s.end > s.start]
        assert [n for n, _ in sizes] == [1] * 5 and sizes[0][1] > 5000, sizes
        # The end of the partition closed the last spans long before the linger; heartbeats go on without records.
        beats = len(chain.spans)
        until("heartbeats", lambda: len(user.chain().spans) >= beats + 3)
        assert all((s.start, s.end) == (10, 10) for s in user.chain().spans[-2:])
        kafka.send(user.raw(), big)
        until_committed(user, 14)
        assert not user.chain().holes and len(user.chain().rows) == 18
        c.end()


def test_an_offset_of_another_topic_is_not_believed(kafka):
    user = User(kafka)
    kafka.send(user.raw(), [pin(n) for n in range(6)])
    kafka.send(user.raw("geo"), [b'{"ind":1}', b'{"ind":2}'])
    kafka.commit(f"{user.name}-cleaner", user.raw(), 4, "AAAAAAAAAAAAAAAAAAAAAA")
    kafka.commit(f"{user.name}-cleaner", user.raw("geo"), 1, kafka.id(user.raw("geo")))
    with cleaner(user) as c:
        until_committed(user, 6)
        until_committed(user, 2, "geo")
        assert [r["ind"] for r in user.chain().rows] == list(range(6))
        geo = user.chain("geo")
        assert (geo.spans[0].start, geo.spans[0].end) == (1, 1) and geo.spans[-1].end == 2
        assert [r["ind"] for s in geo.spans for r in s.rows] == [2]
        c.end()


def test_what_kafka_deleted_is_said_to_be_lost(kafka):
    user = User(kafka)
    kafka.send(user.raw(), [pin(n) for n in range(10)])
    kafka.trim(user.raw(), 4)
    with cleaner(user) as c:
        until_committed(user, 10)
        chain = user.chain()
        assert chain.lost == [(0, 4)] and [r["ind"] for r in chain.rows] == [4, 5, 6, 7, 8, 9] and not chain.holes
        assert c.event("source_begins_at")["position"] == 4 and not c.events("records_lost")
        assert c.metric("sluice_cleaner_lost_positions_total") == 0
        c.end()
    kafka.send(user.raw(), [pin(n) for n in range(10, 20)])
    kafka.trim(user.raw(), 15)
    with cleaner(user) as c:
        until_committed(user, 20)
        chain = user.chain()
        assert chain.lost == [(0, 4), (10, 15)] and [r["ind"] for r in chain.rows] == [4, 5, 6, 7, 8, 9, 15, 16, 17, 18, 19]
        assert not chain.holes and c.metric("sluice_cleaner_lost_positions_total", dataset="pin") == 5
        lost = c.event("records_lost")
        assert (lost["level"], lost["source"], lost["from"], lost["to"]) == ("error", user.source(), 10, 15)
        # The log runs away from a reader that sleeps: its next offset is out of range.
        c.send(signal.SIGSTOP)
        try:
            kafka.send(user.raw(), [pin(20)])
            kafka.send(user.raw(), [pin(n) for n in range(21, 40)])
            kafka.trim(user.raw(), 35)
        finally:
            c.send(signal.SIGCONT)
        until_committed(user, 40)
        chain = user.chain()
        assert not chain.holes and [r["ind"] for r in chain.rows][-5:] == [35, 36, 37, 38, 39]
        assert chain.lost[-1][1] == 35 and c.event("partition_begun_anew")["why"] == "offset_out_of_range"
        assert c.metric("sluice_cleaner_partition_restarts_total") >= 1
        c.end()


def test_a_topic_made_anew_is_a_new_source(kafka):
    user = User(kafka)
    kafka.send(user.raw(), [pin(n) for n in range(5)])
    with cleaner(user) as c:
        until_committed(user, 5)
        old = user.source()
        kafka.delete(user.raw())
        kafka.create(user.raw())
        new = user.source()
        assert new != old
        kafka.send(user.raw(), [pin(n) for n in range(100, 103)])
        until("the new source", lambda: new in sources(c) and sources(c)[new]["committed"] == 3)
        chain = user.chain()
        assert chain.wanted == {old: 5, new: 3} and not chain.holes and not chain.lost
        assert [r["ind"] for r in chain.rows] == [0, 1, 2, 3, 4, 100, 101, 102]
        assert committed(user) == (3, new.split(":")[3])
        c.end()


def test_a_topic_made_anew_and_longer_than_before(kafka):
    """The client reads on in the new topic where it stood in the old one: nothing of that may go out under the old source."""
    user = User(kafka)
    with cleaner(user, topics__check="60s") as c:
        for round_ in range(1, 6):
            old, first = user.source(), 1000 * round_
            kafka.send(user.raw(), [pin(first + n) for n in range(5 * round_)])
            until_committed(user, 5 * round_)
            kafka.delete(user.raw())
            kafka.create(user.raw())
            kafka.send(user.raw(), [pin(first + 500 + n) for n in range(5 * round_ + 20)])
            new = user.source()
            assert new != old
            until("the new source", lambda: sources(c).get(new, {}).get("committed") == 5 * round_ + 20)
            chain = user.chain()
            assert chain.wanted[old] == 5 * round_ and chain.wanted[new] == 5 * round_ + 20 and not chain.holes and not chain.lost
            assert [r["ind"] for r in chain.rows if r["ind"] >= first] == [first + n for n in range(5 * round_)] + [
                first + 500 + n for n in range(5 * round_ + 20)]
            kafka.delete(user.raw())
            kafka.create(user.raw())
            kafka.send(user.raw(), [pin(0)])
            until("the third source", lambda: sources(c).get(user.source(), {}).get("committed") == 1)
            kafka.delete(user.raw())
            kafka.create(user.raw())
        c.end()


def test_offsets_without_a_record(kafka):
    user = User(kafka)
    producer = KafkaProducer(bootstrap_servers=kafka.address, transactional_id=user.name)
    try:
        producer.init_transactions()
        for n, commit in ((0, True), (1, False), (2, True)):
            producer.begin_transaction()
            producer.send(user.raw(), pin(n), partition=0)
            producer.flush()
            (producer.commit_transaction if commit else producer.abort_transaction)()
    finally:
        producer.close(timeout=5)
    with cleaner(user) as c:
        until_committed(user, 6)
        chain = user.chain()
        assert [(r["position"], r["ind"]) for r in chain.rows] == [(0, 0), (4, 2)]
        assert chain.wanted == {user.source(): 6} and not chain.holes and not chain.lost
        kafka.send(user.raw(), [pin(9)])
        until_committed(user, 7)
        c.end()


def test_pauses_when_kafka_confirms_more_slowly_than_it_gives(kafka):
    user = User(kafka)
    body = "x" * 100000
    kafka.send(user.raw(), [pin(n, title=f"{n} {body}") for n in range(150)])
    with cleaner(user, inflight__max="1MiB") as c:
        until_committed(user, 150)
        assert c.metric("sluice_cleaner_pauses_total") >= 1
        until("a resumption", lambda: c.metric("sluice_cleaner_paused") == 0 and c.metric("sluice_cleaner_inflight_bytes") == 0)
        assert c.metric("sluice_cleaner_inflight_max_bytes") == 1 << 20
        # What came in while it paused is bounded: no more than one queue of the client above the mark.
        assert c.state()["memory"]["peak"] < 4 << 20
        chain = user.chain()
        assert [r["ind"] for r in chain.rows] == list(range(150)) and not chain.holes
        c.end()


def test_orders(kafka):
    user = User(kafka)
    kafka.send(user.raw(), [pin(n) for n in range(10)])
    with cleaner(user) as c:
        until_committed(user, 10)
        source = user.source()
        for name in ("rewind", "accept"):
            for body in ("", "[]", "{}", '{"source":1,"position":1}', {"source": source}, {"source": source, "position": -1},
                         {"source": source, "position": "1"}, '{"source":"a","source":"b","position":1}', {"source": "x" * 400, "position": 1}):
                status, answer = c.order(name, body)
                assert status == 400 and answer["error"], (name, body)
            status, answer = c.order(name, {"source": "kafka:none:0:x", "position": 1})
            assert status == 404 and answer["error"]
        status, answer = c.order("accept", {"source": source, "position": 3})
        assert status == 409 and "order rewind" in answer["error"]
        status, answer = c.order("rewind", {"source": source, "position": 11})
        assert status == 409 and answer["error"]
        assert c.metric("sluice_cleaner_orders_total") == 0
        before = len(kafka.read(user.clean()))
        assert c.order("rewind", {"source": source, "position": 3}) == (200, {"ok": True})
        until_committed(user, 10)
        again = [Span(m.value) for m in kafka.read(user.clean())[before:]]
        assert (again[0].start, again[0].end) == (3, 3) and [r["ind"] for s in again for r in s.rows] == [3, 4, 5, 6, 7, 8, 9]
        kafka.trim(user.raw(), 6)
        status, answer = c.order("rewind", {"source": source, "position": 3})
        assert status == 409 and "order accept" in answer["error"]
        before = len(kafka.read(user.clean()))
        assert c.order("accept", {"source": source, "position": 3}) == (200, {"ok": True})
        until_committed(user, 10)
        until("the spans", lambda: len(kafka.read(user.clean())) >= before + 3)
        again = [Span(m.value) for m in kafka.read(user.clean())[before:]]
        assert [(s.start, s.end) for s in again if s.lost] == [(3, 6)] and [r["ind"] for s in again for r in s.rows] == [6, 7, 8, 9]
        assert c.metric("sluice_cleaner_orders_total") == 2
        assert [e["order"] for e in c.events("order_carried_out")] == ["rewind", "accept"]
        c.end()


def test_two_cleaners_share_and_hand_over(kafka):
    user = User(kafka, partitions=4)
    total = {p: 0 for p in range(4)}

    def feed(n):
        for p in total:
            kafka.send(user.raw(), [pin(p * 1000 + total[p] + i) for i in range(n)], partition=p)
            total[p] += n

    def check():
        for p in total:
            until_committed(user, total[p], partition=p)
            chain = user.chain(partition=p)
            assert not chain.holes and [r["ind"] for r in chain.rows] == [p * 1000 + i for i in range(total[p])]

    def counts():
        return [s.metric("sluice_cleaner_partitions") for s in (a, b)]

    with cleaner(user, kafka__session_timeout="2s") as a:
        until("all partitions", lambda: a.metric("sluice_cleaner_partitions") == 12)
        feed(50)
        with cleaner(user, replica=1, kafka__session_timeout="2s") as b:
            feed(50)
            until("a fair share", lambda: sum(counts()) == 12 and min(counts()) >= 4)
            feed(50)
            check()
            assert a.metric("sluice_cleaner_rebalances_total") >= 2 and b.metric("sluice_cleaner_rebalances_total") >= 1
            b.process.kill()
            b.process.wait()
        feed(50)
        until("all partitions again", lambda: a.metric("sluice_cleaner_partitions") == 12)
        check()
        a.end()


def test_a_member_that_is_thrown_out_joins_anew(kafka):
    """Two processes with one name: the group keeps the newer. The older goes on as soon as it can, and nothing is twice in the chain."""
    user = User(kafka)
    with cleaner(user) as a:
        kafka.send(user.raw(), [pin(n) for n in range(100)])
        until_committed(user, 100)
        with cleaner(user) as b:
            until("the loss", lambda: a.metric("sluice_cleaner_lost_memberships_total") >= 1)
            assert a.events("membership_lost")[0]["instance"] == "cleaner-0"
            kafka.send(user.raw(), [pin(n) for n in range(100, 200)])
            until_committed(user, 200)
            b.process.kill()
            b.process.wait()
        kafka.send(user.raw(), [pin(n) for n in range(200, 300)])
        until_committed(user, 300)
        assert [r["ind"] for r in user.chain().rows] == list(range(300)) and not user.chain().holes
        assert a.process.poll() is None
        a.end()


def test_drain_commits_everything(kafka):
    user = User(kafka)
    with cleaner(user, commit__interval="60s", span__linger="10s") as c:
        kafka.send(user.raw(), [pin(n) for n in range(500)])
        until("the records", lambda: c.metric("sluice_cleaner_records_total") == 500)
        assert committed(user)[0] == -1
        c.end()
    assert committed(user)[0] == 500 and [r["ind"] for r in user.chain().rows] == list(range(500))


def test_a_span_refused_for_good_ends_the_process(kafka):
    user = User(kafka, clean={"max_message_bytes": 2000})
    kafka.send(user.raw(), [pin(1, title=os.urandom(4000).hex())])
    with cleaner(user) as c:
        exit_code = c.wait()
        assert exit_code == 70, "".join(c.lines[-30:])
        assert c.events("span_not_stored") or c.events("producer_failed")
    assert committed(user)[0] <= 0
    # The topic is put right: the next life goes on.
    kafka.configure(user.clean(), "max.message.bytes", 4 << 20)
    with cleaner(user) as c:
        until_committed(user, 1)
        assert len(user.chain().rows) == 1
        c.end()


def test_a_log_that_ends_below_the_committed_offset(kafka):
    user = User(kafka)
    kafka.send(user.raw(), [pin(0)])
    kafka.commit(f"{user.name}-cleaner", user.raw(), 5, kafka.id(user.raw()))
    with cleaner(user) as c:
        short = c.event("raw_log_short")
        assert (short["level"], short["committed"], short["end"]) == ("error", 5, 1)
        until("not ready", lambda: c.ready()[0] == 503 and "its log ends below" in c.ready()[1]["partitions"][1])
        assert not user.chain().spans
        kafka.send(user.raw(), [pin(n) for n in range(1, 6)])
        until_committed(user, 6)
        until("ready", lambda: c.ready()[0] == 200)
        c.end()


def test_a_missing_clean_partition_is_waited_for(kafka):
    user = User(kafka)
    kafka.admin.create_partitions({user.raw(): 2})
    with cleaner(user) as c:
        until("the second partition", lambda: c.events("partition_not_begun", partition=1, step="clean_partition"))
        assert c.event("partition_not_begun", partition=1)["topic"] == user.raw()
        kafka.admin.create_partitions({user.clean(): 2})
        kafka.send(user.raw(), [pin(1)], partition=1)
        until_committed(user, 1, partition=1)
        c.end()


@pytest.mark.parametrize("flag", ["--span.max.rows=0", "--memory.max=16MiB"])
def test_wrong_options(flag):
    with Service("cleaner", flag) as c:
        assert c.wait() in (64, 78)
