"""The front door on real Kafka: how requests travel together, what of a record arrives, and that nobody's record hurts another's.

Only Kafka, producer and gateway are started.
SPDX-License-Identifier: Apache-2.0
"""
import base64
import concurrent.futures
import json
import time

import pytest
from kafka import KafkaConsumer, TopicPartition

import rig
from sluice import http

BINARY = "application/vnd.kafka.binary.v2+json"
TEXT = "application/vnd.kafka.text.v2+json"
HOUR_MS = 3600 * 1000


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with rig.Stack(tmp_path_factory.mktemp("door"), settings=["producer.topics.partitions=2"],
                   without=["redis", "cleaner", "sink-s3", "query-api"]) as s:
        yield s


def records_from(stack, topic, partition, offset, count):
    """So many records from an offset on, read by a client that is not ours."""
    part = TopicPartition(topic, partition)
    consumer = KafkaConsumer(bootstrap_servers=stack.value["kafka"], enable_auto_commit=False)
    try:
        consumer.assign([part])
        consumer.seek(part, offset)
        got, end = [], time.monotonic() + rig.DEADLINE
        while len(got) < count:
            assert time.monotonic() < end, (got, count)
            for batch in consumer.poll(timeout_ms=200).values():
                got += batch
        return got[:count]
    finally:
        consumer.close()


def test_requests_travel_together(stack):
    """64 connections, one record a request, as fast as answers come: more than four requests in a message on average."""
    def seen():
        return {(name, metric, part): stack.metric(name, f"{metric}_{part}")
                for name, metric in (("gateway", "sluice_bus_requests_per_message"), ("producer", "sluice_producer_batch_requests"))
                for part in ("sum", "count")}

    before = seen()
    report = stack.post("--rows", 5000, "--seed", 3, "--connections", 64, "--timeout", "60s", ledger="together.jsonl")
    assert report["ok"] == report["sent"] == 15000
    grown = {k: v - before[k] for k, v in seen().items()}
    for name, metric in {k[:2] for k in grown}:
        requests, messages = grown[name, metric, "sum"], grown[name, metric, "count"]
        print("%s: %.1f requests a message (%d in %d), %.0f records a second" % (metric, requests / messages, requests, messages, report["rate"]))
        assert requests == 15000
        assert requests > 4 * messages
    _, _, numbers = stack.verify("together.jsonl", raw_only=True)
    assert numbers["ledger_ok"] == 15000


def test_what_of_a_record_arrives(stack):
    now = int(time.time() * 1000)
    records = [{"key": "k", "value": {"b": 1.50, "a": [None]}, "timestamp": now - HOUR_MS,
                "headers": [{"key": "h", "value": base64.b64encode(b"\0\xff").decode()}, {"key": "n", "value": None}, {"key": "h", "value": ""}]},
               {"key": None, "value": None}, {}, {"key": {"x": 1}, "value": "text", "timestamp": 1}]
    status, answer = stack.post_raw("demo.geo/partitions/1", {"records": records})
    offsets = [o["offset"] for o in answer["offsets"]]
    assert status == 200 and [o["partition"] for o in answer["offsets"]] == [1] * 4
    assert offsets == list(range(offsets[0], offsets[0] + 4))
    a, b, c, d = records_from(stack, "demo.geo", 1, offsets[0], 4)
    assert (a.key, a.value, a.timestamp) == (b'"k"', b'{"b": 1.5, "a": [null]}', now - HOUR_MS)
    assert [h for h in a.headers if h[0] != "sluice-ingested-at"] == [("h", b"\0\xff"), ("n", None), ("h", b"")]
    assert [(r.key, r.value) for r in (b, c)] == [(None, None)] * 2 and now - 60_000 < b.timestamp < now + HOUR_MS
    assert (d.key, d.value, d.timestamp) == (b'{"x": 1}', b'"text"', 1)
    for content, key, value in ((BINARY, b"\0k", b"\xff\0"), (TEXT, "k\n".encode(), "ä\U0001f600".encode())):
        as_sent = [base64.b64encode(x).decode() if content == BINARY else x.decode() for x in (key, value)]
        status, answer = stack.post_raw("demo.user", {"records": [dict(zip(("key", "value"), as_sent), partition=0)]}, content=content)
        assert status == 200
        [r] = records_from(stack, "demo.user", 0, answer["offsets"][0]["offset"], 1)
        assert (r.key, r.value) == (key, value)
    _, _, data = http.request("GET", stack.value["gateway"] + "/topics/demo.geo/partitions/1/offsets", timeout=30)
    assert json.loads(data) == {"beginning_offset": 0, "end_offset": offsets[-1] + 1}


def test_largest_and_smallest(stack):
    """A record of record.max, one of nothing, 10 000 in one request, 1000 headers: all as they were sent."""
    status, answer = stack.post_raw("demo.pin/partitions/0", {"records": [
        {"value": "x" * ((1 << 20) - 2)}, {"value": ""}, {"value": 1, "headers": [{"key": "h", "value": "eA=="}] * 1000}]})
    assert status == 200 and all(o["error_code"] is None for o in answer["offsets"]), answer
    large, small, headed = records_from(stack, "demo.pin", 0, answer["offsets"][0]["offset"], 3)
    assert (len(large.value), small.value, len(headed.headers)) == (1 << 20, b'""', 1001)
    status, answer = stack.post_raw("demo.pin/partitions/0", {"records": [{"value": i} for i in range(10000)]})
    offsets = [o["offset"] for o in answer["offsets"]]
    assert status == 200 and offsets == list(range(offsets[0], offsets[0] + 10000))
    got = records_from(stack, "demo.pin", 0, offsets[0], 10000)
    assert [r.value for r in got] == [b"%d" % i for i in range(10000)]


def test_nobody_is_hurt_by_the_records_of_others(stack):
    """Kafka refuses a whole batch for a timestamp far ahead: such a record must never come into one."""
    far = int(time.time() * 1000) + 24 * HOUR_MS

    def post(n):
        body = {"records": [{"value": n}] if n % 8 else [{"value": n, "timestamp": far}]}
        return n, *stack.post_raw("demo.pin", body)

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(post, range(1600)))
    for n, status, answer in answers:
        if n % 8:
            assert status == 200 and answer["offsets"][0]["error_code"] is None, answer
        else:
            assert status == 422 and "records[0].timestamp" in answer["message"], answer
    assert stack.metric("producer", "sluice_producer_records_total", result="refused") == 0
