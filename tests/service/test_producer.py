"""The producer, the real program, between a gateway's end of the bus and librdkafka's mock cluster: what is stored, refused and unsure,
order, the bound of the queue, metadata, drain, and messages that are no messages.

SPDX-License-Identifier: Apache-2.0
"""
import os
import re
import signal
import sys
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import bus  # noqa: E402
import mock_kafka  # noqa: E402
from support.service import DEADLINE, Service, until  # noqa: E402

M = bus.messages("produce")
BUSY, NO_TOPIC, NO_PARTITION, INVALID = 1, 2, 3, 4
REFUSED, UNSURE, DENIED = 1, 2, 3
CLUSTER, TOPIC, OFFSETS = 1, 2, 3
OK, Q_NO_TOPIC, Q_NO_PARTITION = 1, 2, 3
TOPICS = [f"demo.{name}" for name in ("clean.pin", "clean.geo", "clean.user", "dead", "pin", "geo", "user")]


class Producer(Service):
    def __init__(self, kafka, env=None, **options):
        super().__init__("producer", env=env, **{"bus__listen": "127.0.0.1:0", "kafka__brokers": kafka.address, "metadata__refresh": "100ms",
                                                 **options})

    def client(self):
        return bus.ReqClient("127.0.0.1", self.port_of("bus"), timeout=DEADLINE)

    def __exit__(self, kind, *rest):
        try:
            if not kind:
                self.end()
        finally:
            super().__exit__(kind, *rest)


@pytest.fixture
def kafka():
    mock = mock_kafka.MockKafka()
    for topic in TOPICS:
        mock.topic(topic, 4 if topic == "demo.geo" else 1)
    yield mock
    mock.close()


def request(topic, *values, partition=None, timeout_ms=60000, keys=None):
    r = M["ProduceRequest"](topic=topic, timeout_ms=timeout_ms)
    if partition is not None:
        r.partition = partition
    for i, value in enumerate(values):
        record = r.record.add()
        if value is not None:
            record.value = value
        if keys:
            record.key = keys[i]
        record.header.add(name="sluice-ingested-at", value=b"1700000000000")
    return r


def message(*requests, questions=(), version=1):
    m = M["ToProducer"](version=version)
    m.produce.extend(requests)
    m.question.extend(questions)
    return m.SerializeToString()


def ask(client, *requests, **more):
    return M["FromProducer"].FromString(client.ask(message(*requests, **more)))


def test_stored_in_order(kafka):
    with Producer(kafka).until_ready() as p:
        c = p.client()
        answer = ask(c, request("demo.pin", b"a", None, b""), request("demo.geo", b"x", b"y", partition=2))
        first, second = answer.produce
        assert (list(first.partition), list(first.offset), len(first.error)) == ([0, 0, 0], [0, 1, 2], 0)
        assert (list(second.partition), list(second.offset)) == ([2, 2], [0, 1])
        # Many messages on their way at once: the offsets follow the order in which they were sent.
        heads = [c.send(message(request("demo.pin", *[b"v"] * (1 + i % 7)))) for i in range(200)]
        answers, want = {}, 3
        while len(answers) < len(heads):
            m = bus.read_message(c.sock)
            answers[m[:4]] = M["FromProducer"].FromString(m[4:]).produce[0]
        for head in heads:
            got = list(answers[head].offset)
            assert got == list(range(want, want + len(got)))
            want += len(got)
        # Keys decide the partition, as with Java's client.
        a = ask(c, request("demo.geo", b"1", b"2", b"3", keys=[b"k", b"k", b"other"])).produce[0]
        assert a.partition[0] == a.partition[1]
        assert p.metric("sluice_producer_records_total", result="stored") == want + 2 + 3
        assert p.metric("sluice_producer_queued_bytes") == 0


def test_refused_whole(kafka):
    with Producer(kafka).until_ready() as p:
        c = p.client()
        begun = time.monotonic()
        unknown, far, far_record, good = ask(c, request("nowhere", b"a"), request("demo.pin", b"a", partition=1),
                                             request("demo.geo", b"a", partition=4), request("demo.geo", b"a", partition=3)).produce
        assert time.monotonic() - begun < 30
        assert unknown.refused.reason == NO_TOPIC and not unknown.offset
        assert far.refused.reason == NO_PARTITION and far_record.refused.reason == NO_PARTITION
        assert list(good.offset) == [0]
        assert ask(c, request("demo.pin", b"a"), version=9).produce[0].refused.reason == INVALID
        assert ask(c, request("demo.pin")).produce[0].ByteSize() == 0  # no records, no results
        kafka.topic("made.later")
        until("the new topic", lambda: not ask(c, request("made.later", b"a")).produce[0].HasField("refused"))


def test_records_fail_one_by_one(kafka):
    with Producer(kafka, record__max="2KiB").until_ready() as p:
        c = p.client()
        a = ask(c, request("demo.pin", b"a", b"x" * 100000, b"b")).produce[0]
        assert list(a.offset) == [0, -1, 1] and [(e.index, e.outcome) for e in a.error] == [(1, REFUSED)]
        assert "larger" in a.error[0].text
        kafka.fail(mock_kafka.NOT_ENOUGH_REPLICAS, 2)
        kafka.fail(mock_kafka.DISCONNECT)
        assert list(ask(c, request("demo.pin", b"c")).produce[0].offset) == [2]
        kafka.fail(mock_kafka.DENIED)
        assert [e.outcome for e in ask(c, request("demo.pin", b"d")).produce[0].error] == [DENIED]
        assert p.metric("sluice_producer_records_total", result="refused") == 2


def test_unsure_and_back(kafka):
    with Producer(kafka, kafka__delivery_timeout="1s").until_ready() as p:
        c = p.client()
        assert list(ask(c, request("demo.pin", b"a")).produce[0].offset) == [0]
        kafka.down()
        a = ask(c, request("demo.pin", b"b")).produce[0]
        assert [e.outcome for e in a.error] == [UNSURE] and list(a.offset) == [-1]
        begun = time.monotonic()
        short = ask(c, request("demo.pin", b"c", timeout_ms=50)).produce[0]
        assert [e.outcome for e in short.error] == [UNSURE]
        assert time.monotonic() - begun < 30
        until("being not ready", lambda: p.ready()[0] == 503)
        assert p.metric("sluice_producer_kafka_up") == 0
        assert p.metric("sluice_producer_records_total", result="unsure") == 2
        kafka.up()
        p.until_ready()
        until("a stored record", lambda: not ask(c, request("demo.pin", b"d")).produce[0].error)
        until("an empty queue", lambda: p.metric("sluice_producer_queued_bytes") == 0)


def test_queue_is_bounded(kafka):
    with Producer(kafka, queue__max="1MiB").until_ready() as p:
        c = p.client()
        kafka.down()
        heads = [c.send(message(request("demo.pin", b"x" * 100000))) for _ in range(10)]
        until("ten records in the queue", lambda: p.metric("sluice_producer_queued_records") == 10)
        late = p.client()
        a = ask(late, request("demo.pin", b"x" * 100000)).produce[0]
        assert a.refused.reason == BUSY and "full" in a.refused.text
        assert p.metric("sluice_producer_requests_total", result="busy") >= 1
        assert p.metric("sluice_producer_queued_bytes") <= 1 << 20
        kafka.up()
        assert sorted(M["FromProducer"].FromString(bus.read_message(c.sock)[4:]).produce[0].offset[0] for _ in heads) == list(range(10))


def test_questions(kafka):
    with Producer(kafka).until_ready() as p:
        c = p.client()
        question = M["Question"]
        ask(c, request("demo.pin", b"a", b"b"))
        cluster, topic, unknown, offsets, far, nowhere = ask(c, questions=[
            question(kind=CLUSTER), question(kind=TOPIC, topic="demo.geo"), question(kind=TOPIC, topic="nowhere"),
            question(kind=OFFSETS, topic="demo.pin", partition=0), question(kind=OFFSETS, topic="demo.pin", partition=7),
            question(kind=OFFSETS, topic="nowhere", partition=0)]).question
        assert cluster.result == OK and {t.name: len(t.partition) for t in cluster.topic if t.name.startswith("demo.")} == {
            name: 4 if name == "demo.geo" else 1 for name in TOPICS}
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", t.id) for t in cluster.topic)
        assert sorted(cluster.broker) == [0, 1]
        assert topic.result == OK and [x.number for x in topic.topic[0].partition] == [0, 1, 2, 3]
        assert all(x.leader in x.replica and x.leader in x.in_sync for x in topic.topic[0].partition)
        assert unknown.result == Q_NO_TOPIC
        assert (offsets.result, offsets.beginning_offset, offsets.end_offset) == (OK, 0, 2)
        assert far.result == Q_NO_PARTITION and nowhere.result == Q_NO_TOPIC
        state = p.state()["producer"]["topics"]
        assert state["demo.geo"]["partitions"] == 4


def test_garbage_is_answered(kafka):
    with Producer(kafka).until_ready() as p:
        c = p.client()
        for body in (b"\xff\xff", b"", b"\x12\x05\x0a", os.urandom(100)):
            assert M["FromProducer"].FromString(c.ask(body)).version == 1
        whole = message(request("demo.pin", b"value"))
        for cut in range(1, len(whole)):
            c.ask(whole[:cut])
        broken = M["ToProducer"](version=1)
        assert ask(c, request("demo\0pin", b"a")).produce[0].refused.reason == INVALID
        assert broken.version == 1 and p.process.poll() is None


def test_before_kafka_and_drain(kafka):
    kafka.down()
    p = Producer(kafka)
    c = p.client()
    assert ask(c, request("demo.pin", b"a")).produce[0].refused.reason == BUSY
    assert p.ready()[0] == 503
    kafka.up()
    p.until_ready()
    until("the first record", lambda: not ask(c, request("demo.pin", b"a")).produce[0].HasField("refused"))
    kafka.rtt(700)
    heads = [c.send(message(request("demo.pin", b"in flight"))) for _ in range(20)]
    until("twenty records on their way", lambda: p.metric("sluice_producer_queued_records") == 20)
    p.process.send_signal(signal.SIGTERM)
    until("draining", lambda: p.ready()[0] == 503 or p.process.poll() is not None)
    answers = [M["FromProducer"].FromString(bus.read_message(c.sock)[4:]).produce[0] for _ in heads]
    assert all(a.offset and a.offset[0] >= 0 and not a.error for a in answers)
    p.end()


def flood(*values):
    """Many requests in one message: more than two windows of calm, however slow the machine is."""
    return [request("demo.pin", value) for value in values]


def sent(p, client):
    return p.metric("sluice_producer_sent_records_total", client=client)


def test_a_flood_moves_to_the_client_that_gathers(kafka):
    """A topic that starts under flood does not stay on the client that sends at once, and its records keep their order."""
    with Producer(kafka).until_ready() as p:
        c = p.client()
        kafka.rtt(300)
        heads = [c.send(message(request("demo.pin", b"lonely")))]
        until("a record on its way", lambda: p.metric("sluice_producer_queued_records") == 1)
        heads += [c.send(message(*flood(*[b"%d" % i for i in range(n * 50, n * 50 + 50)]))) for n in range(6)]
        answers = {}
        while len(answers) < len(heads):
            m = bus.read_message(c.sock)
            answers[m[:4]] = M["FromProducer"].FromString(m[4:]).produce
        offsets = [offset for head in heads for answer in answers[head] for offset in answer.offset]
        assert offsets == list(range(301))
        assert sent(p, "quick") <= 41 and sent(p, "bulk") == 301 - sent(p, "quick")
        # Idle and calm again: the next lonely record goes out at once.
        kafka.rtt(0)
        quick = sent(p, "quick")
        until("a lonely record on the quick client", lambda: ask(c, request("demo.pin", b"x")).produce[0].offset[0] and sent(p, "quick") > quick)


def test_what_is_held_is_refused_when_kafka_does_not_answer(kafka):
    """Between the two clients nothing was handed on: such records are refused, and come into no topic later."""
    with Producer(kafka).until_ready() as p:
        c = p.client()
        kafka.rtt(2000)
        heads = [c.send(message(request("demo.pin", b"lonely")))]
        until("a record on its way", lambda: p.metric("sluice_producer_queued_records") == 1)
        requests = flood(*[b"%d" % i for i in range(100)])
        for r in requests:
            r.timeout_ms = 300
        answers = ask(c, *requests).produce
        refused = [i for i, a in enumerate(answers) if a.HasField("refused")]
        assert refused and refused == list(range(refused[0], 100)) and len(refused) >= 59
        assert all(answers[i].refused.reason == BUSY and "nothing was handed on" in answers[i].refused.text for i in refused)
        assert all([e.outcome for e in a.error] == [UNSURE] for a in answers[:refused[0]])
        assert p.metric("sluice_producer_records_total", result="refused") == len(refused)
        assert M["FromProducer"].FromString(c.receive(heads[0])).produce[0].offset == [0]
        kafka.rtt(0)
        until("an empty queue", lambda: p.metric("sluice_producer_queued_bytes") == 0)
        assert ask(c, request("demo.pin", b"next")).produce[0].offset == [1 + refused[0]]  # those that were on their way, and no other


def test_held_records_at_the_end(kafka):
    """SIGTERM while records are held: they still go out, in order."""
    p = Producer(kafka).until_ready()
    c = p.client()
    kafka.rtt(500)
    heads = [c.send(message(request("demo.pin", b"lonely")))]
    until("a record on its way", lambda: p.metric("sluice_producer_queued_records") == 1)
    heads.append(c.send(message(*flood(*[b"%d" % i for i in range(100)]))))
    until("records that are held", lambda: p.metric("sluice_producer_queued_records") == 101)
    p.process.send_signal(signal.SIGTERM)
    answers = {m[:4]: M["FromProducer"].FromString(m[4:]).produce for m in (bus.read_message(c.sock) for _ in heads)}
    assert [a.offset[0] for head in heads for a in answers[head]] == list(range(101))
    p.end()


def test_many_headers_take_their_room(kafka):
    """What headers cost in Kafka's client counts against queue.max, also where they are nearly empty."""
    with Producer(kafka, queue__max="1MiB").until_ready() as p:
        c = p.client()
        r = M["ProduceRequest"](topic="demo.pin", timeout_ms=60000)
        for _ in range(5):
            record = r.record.add(value=b"x")
            for _ in range(1001):
                record.header.add(name="h")
        assert list(ask(c, r).produce[0].offset) == list(range(5))
        kafka.down()
        c.send(message(r))
        until("records with headers in the queue", lambda: p.metric("sluice_producer_queued_bytes") > 5 * 1000 * 96)
        c.send(message(r))
        assert ask(p.client(), r).produce[0].refused.reason == BUSY
        kafka.up()
        until("an empty queue", lambda: p.metric("sluice_producer_queued_bytes") == 0)
