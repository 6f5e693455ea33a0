"""The gateway, the real program, against a scripted producer on the bus: answers byte for byte, every error code, the limits, stage
prefixes, CORS, HTTP/2, slow and hostile clients, drain, and what "refused" and "unknown" mean when the producer goes away.

SPDX-License-Identifier: Apache-2.0
"""
import base64
import concurrent.futures
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
from front import (  # noqa: E402
    BINARY, JSON, POST, TAIL, TEXT, V2, Producer, call, gateway, is_error, produce, raw)
from support.service import BIN, DEADLINE, until  # noqa: E402


@pytest.fixture(scope="module")
def shared():
    with gateway("--cors.origins=*") as (g, p):
        yield g, p


@pytest.fixture
def pair(shared):
    g, p = shared
    p.refuse, p.fail, p.garbage, p.silent_questions, p.unavailable = None, {}, False, False, False
    p.topics = {"demo.pin": 1, "demo.geo": 4, "demo.user": 1, "private": 2, "__consumer_offsets": 1}
    with p.lock:
        p.records, p.messages, p.asked = [], [], []
    return g, p


# ---- produce ----

def test_one_record_byte_for_byte(pair):
    g, p = pair
    before = int(time.time() * 1000) - 1000
    status, headers, body = produce(g, "demo.pin", b'{"records":[{"value":{"b" : 1.50e1,"a":"\\u00e4"}}]}')
    assert status == 200 and headers["content-type"] == V2
    assert body == b'{"offsets":[{"partition":0,"offset":0,"error_code":null,"error":null}]' + TAIL
    [(topic, partition, record)] = p.records
    assert (topic, partition, record.value) == ("demo.pin", 0, b'{"b" : 1.50e1,"a":"\\u00e4"}')
    assert not record.HasField("key") and not record.HasField("timestamp_ms")
    [header] = record.header
    assert header.name == "sluice-ingested-at"
    assert before <= int(header.value) <= int(time.time() * 1000) + 1000


def test_the_original_script(pair):
    g, p = pair
    payload = json.dumps({"records": [{"value": {"index": 7528, "unique_id": "x", "title": "t"}}]})
    reply = requests.request("POST", f"http://127.0.0.1:{g.http}/test/topics/demo.pin",
                             headers={"Content-Type": JSON}, data=payload, timeout=DEADLINE)
    assert reply.status_code == 200
    assert p.values() == [b'{"index": 7528, "unique_id": "x", "title": "t"}']


def test_all_fields(pair):
    g, p = pair
    body = {"records": [{"key": "1", "value": [1, 2], "partition": 2, "timestamp": 1234,
                         "headers": [{"key": "h", "value": base64.b64encode(b"\0\1").decode()}, {"key": "n", "value": None}]},
                        {"key": None, "value": None}, {"key": 12345678901234567890, "partition": 3}]}
    status, _, answer = produce(g, "demo.geo", body)
    assert status == 200
    assert [(o["partition"], o["offset"]) for o in json.loads(answer)["offsets"]] == [(2, 0), (0, 0), (3, 0)]
    a, b, c = [r for _, _, r in p.records]
    assert (a.key, a.value, a.timestamp_ms) == (b'"1"', b"[1, 2]", 1234)
    assert [(h.name, h.value) for h in a.header[:2]] == [("h", b"\0\1"), ("n", b"")]
    assert not a.header[1].HasField("value")
    assert not b.HasField("key") and not b.HasField("value")
    assert c.key == b"12345678901234567890" and not c.HasField("value")


def test_partition_of_the_path(pair):
    g, p = pair
    status, _, body = produce(g, "demo.geo/partitions/3", {"records": [{"value": 1}, {"value": 2, "partition": 1}]})
    assert status == 200
    assert [o["partition"] for o in json.loads(body)["offsets"]] == [3, 1]
    is_error(produce(g, "demo.geo/partitions/4", {"records": [{"value": 1}]}), 404, 40402, "Partition not found.")
    is_error(produce(g, "demo.geo", {"records": [{"value": 1}, {"value": 2, "partition": 9}]}), 404, 40402, "records[1]")
    is_error(produce(g, "demo.geo/partitions/x", {"records": [{"value": 1}]}), 404, 404)
    assert len(p.records) == 2


@pytest.mark.parametrize("kind", [BINARY, None])
def test_binary_is_the_default(pair, kind):
    g, p = pair
    assert produce(g, "demo.pin", {"records": [{"key": "aw==", "value": "AP8="}]}, kind)[0] == 200
    assert (p.records[0][2].key, p.records[0][2].value) == (b"k", b"\0\xff")
    is_error(produce(g, "demo.pin", {"records": [{"value": "AP8="}, {"value": {}}]}, kind), 422, 42206, "records[1].value")


def test_text_and_parameters_of_the_type(pair):
    g, p = pair
    assert produce(g, "demo.pin", {"records": [{"key": "k", "value": "v\n"}]}, TEXT + "; charset=utf-8")[0] == 200
    assert (p.records[0][2].key, p.records[0][2].value) == (b"k", b"v\n")


@pytest.mark.parametrize("kind", ["application/json", "text/plain", V2, "application/vnd.kafka.json.v3+json", "x"])
def test_unsupported_media_type(pair, kind):
    g, _ = pair
    status, _, body = produce(g, "demo.pin", {"records": [{"value": 1}]}, kind)
    assert (status, body) == (415, b'{"error_code":415,"message":"HTTP 415 Unsupported Media Type"}')


def test_content_type_comes_before_accept(pair):
    g, _ = pair
    body = {"records": [{"value": 1}]}
    is_error(produce(g, "demo.pin", body, "text/plain", Accept="text/html"), 415, 415, "HTTP 415 Unsupported Media Type")
    is_error(produce(g, "demo.pin", body, Accept="text/html"), 406, 406, "HTTP 406 Not Acceptable")
    is_error(produce(g, "demo.pin", body, Content_Encoding="gzip"), 415, 415)
    assert produce(g, "demo.pin", body, Content_Encoding="identity")[0] == 200


def test_timestamps_that_kafka_would_refuse(pair):
    """Kafka refuses the whole batch for one of them, with the records of other clients in it."""
    g, p = pair
    now = int(time.time() * 1000)
    for bad in (0, now + 3600_000, 2**63 - 1, -1):
        is_error(produce(g, "demo.pin", {"records": [{"value": 1}, {"value": 2, "timestamp": bad}]}), 422, 422, "records[1].timestamp")
    assert produce(g, "demo.pin", {"records": [{"value": 1, "timestamp": now + 60_000}, {"value": 2, "timestamp": 1}]})[0] == 200
    assert [r.timestamp_ms for _, _, r in p.records] == [now + 60_000, 1]


def test_headers_up_to_their_number(pair):
    g, p = pair
    header = {"key": "h", "value": "eA=="}
    assert produce(g, "demo.pin", {"records": [{"value": 1, "headers": [header] * 1000}]})[0] == 200
    assert len(p.records[0][2].header) == 1001  # with our own
    is_error(produce(g, "demo.pin", {"records": [{"value": 1, "headers": [header] * 1001}]}), 422, 422, "records[0].headers: too many")


@pytest.mark.parametrize("size,status", [(1 << 20, 200), ((1 << 20) + 1, 413)])
@pytest.mark.parametrize("kind", [JSON, BINARY, TEXT])
def test_the_largest_record(pair, kind, size, status):
    g, p = pair
    value = {JSON: "x" * (size - 2), TEXT: "x" * size, BINARY: base64.b64encode(b"x" * size).decode()}[kind]
    assert produce(g, "demo.pin", {"records": [{"value": value}]}, kind)[0] == status
    assert [len(v) for v in p.values()] == ([size] if status == 200 else [])


def test_schemas_are_refused_cleanly(pair):
    g, _ = pair
    avro = "application/vnd.kafka.avro.v2+json"
    is_error(produce(g, "demo.pin", {"records": [{"value": 1}]}, avro), 422, 42202)
    is_error(produce(g, "demo.pin", {"value_schema_id": 1, "records": [{"key": 1, "value": 1}]}, avro), 422, 42201)
    is_error(produce(g, "demo.pin", {"value_schema_id": 1, "records": [{"value": 1}]}, avro), 422, 42205)


@pytest.mark.parametrize("body,status,text", [
    ("", 400, "Malformed JSON at byte 0"), ("{", 400, "Malformed JSON"), ('{"records":[{"value":01}]}', 400, "at byte 2"),
    ('{"records":[{"value":1,"value":2}]}', 400, "duplicate key"), ('{"records":[{"value":1}]}}', 400, "Malformed JSON"),
    (b'{"records":[{"value":"\xff"}]}', 400, "Malformed JSON"), ('{"records":[{"value":' + "[" * 70 + "]" * 70 + "}]}", 400, "deep"),
    ("{}", 422, "records"), ('{"records":[]}', 422, "records"), ('{"records":null}', 422, "records"),
    ('{"records":[{"value":1},{"valu":2}]}', 422, "records[1]: Unrecognized field: valu"), ('{"records":[{"value":1}],"z":1}', 422, "Unrecognized field: z"),
    ('{"records":[{"value":1},{"value":2,"headers":[{"key":"sluice-source","value":""}]}]}', 422, "records[1].headers"),
    ('{"records":[{"value":1},7]}', 422, "records[1]"), ('{"records":[{"value":1},{"partition":"0"}]}', 422, "records[1].partition")])
def test_bodies_that_are_refused_whole(pair, body, status, text):
    g, p = pair
    is_error(produce(g, "demo.pin", body), status, status, text)
    assert p.records == []


def test_partial_failure_and_strict(pair):
    g, p = pair
    p.fail = {b"2": (1, "Broker: too large"), b"3": (2, "Local: timed out")}
    body = {"records": [{"value": 1}, {"value": 2}, {"value": 3}]}
    status, _, answer = produce(g, "demo.pin", body)
    want = (b'{"offsets":[{"partition":0,"offset":%d,"error_code":null,"error":null},'
            b'{"partition":null,"offset":null,"error_code":50002,"error":"Broker: too large"},'
            b'{"partition":null,"offset":null,"error_code":50003,"error":"Local: timed out"}]' + TAIL)
    assert (status, answer) == (200, want % 0)
    status, _, answer = produce(g, "demo.pin", body, Prefer="return=minimal, handling=strict")
    assert (status, answer) == (207, want % 1)
    assert produce(g, "demo.pin", {"records": [{"value": 2}, {"value": 3}]}, Prefer="handling=strict")[0] == 500
    assert produce(g, "demo.pin", {"records": [{"value": 3}]}, Prefer="handling=strict")[0] == 503
    assert produce(g, "demo.pin", {"records": [{"value": 3}]})[0] == 200
    p.fail = {b"2": (3, "Broker: topic authorization failed"), b"3": (4, "Broker: authentication failed")}
    status, _, answer = produce(g, "demo.pin", {"records": [{"value": 1}, {"value": 2}]})
    assert status == 403 and json.loads(answer)["offsets"][1]["error_code"] == 40301
    status, _, answer = produce(g, "demo.pin", {"records": [{"value": 3}, {"value": 2}]})
    assert status == 401 and json.loads(answer)["offsets"][0]["error_code"] == 40101


@pytest.mark.parametrize("reason,status,code", [(1, 503, 503), (2, 404, 40401), (3, 404, 40402), (4, 500, 50002), (5, 403, 40301),
                                                 (6, 401, 40101)])
def test_whole_request_refused_by_the_producer(pair, reason, status, code):
    g, p = pair
    p.refuse = (reason, "the queue is full")
    is_error(produce(g, "demo.user", {"records": [{"value": 1}]}), status, code)
    p.refuse = None
    assert produce(g, "demo.user", {"records": [{"value": 1}]})[0] in (200, 404)  # 404 until the cache is asked again
    until("the record", lambda: produce(g, "demo.user", {"records": [{"value": 1}]})[0] == 200)


def test_topics_that_may_not_be_used(pair):
    g, p = pair
    record = {"records": [{"value": 1}]}
    is_error(produce(g, "private", record), 403, 40301)
    is_error(produce(g, "__consumer_offsets", record), 403, 40301)
    name = f"nobody.{time.time_ns()}"
    began = time.monotonic()
    is_error(produce(g, name, record), 404, 40401, "Topic not found.")
    took = time.monotonic() - began
    is_error(produce(g, name, record), 404, 40401)
    assert p.asked == [name]  # once only
    assert took < 5, took  # goal: 50 ms; the machine may be busy
    is_error(produce(g, "a%2Fb", record), 404, 40401)
    is_error(produce(g, "x" * 300, record), 404, 40401)
    p.topics["late"] = 1  # exists, and is not in the cache yet
    is_error(produce(g, "late", record), 403, 40301)
    assert p.records == []


def test_unknown_topic_is_answered_when_the_producer_is_slow(pair):
    g, p = pair
    p.silent_questions = True
    is_error(produce(g, f"nobody.{time.time_ns()}", {"records": [{"value": 1}]}), 404, 40401)


def test_garbage_from_the_producer_is_unknown(pair):
    g, p = pair
    p.garbage = True
    is_error(produce(g, "demo.pin", {"records": [{"value": 1}]}), 503, 50003)
    p.garbage = False
    assert produce(g, "demo.pin", {"records": [{"value": 1}]})[0] == 200


# ---- reading ----

PARTITION = b'{"partition":%d,"leader":1,"replicas":[{"broker":1,"leader":true,"in_sync":true},{"broker":2,"leader":false,"in_sync":false}]}'


@pytest.mark.parametrize("path,status,body", [
    ("/", 200, b"{}"), ("/topics", 200, b'["__consumer_offsets","demo.geo","demo.pin","demo.user","private"]'),
    ("/topics/private", 200, b'{"name":"private","configs":{"cleanup.policy":"delete"},"partitions":[' + PARTITION % 0 + b"," + PARTITION % 1 + b"]}"),
    ("/topics/private/partitions", 200, b"[" + PARTITION % 0 + b"," + PARTITION % 1 + b"]"),
    ("/topics/private/partitions/1", 200, PARTITION % 1),
    ("/topics/private/partitions/2", 404, b'{"error_code":40402,"message":"Partition not found."}'),
    ("/topics/private/partitions/1/offsets", 200, b'{"beginning_offset":0,"end_offset":12}'),
    ("/topics/private/partitions/2/offsets", 404, b'{"error_code":40402,"message":"Partition not found."}'),
    ("/topics/none", 404, b'{"error_code":40401,"message":"Topic not found."}'),
    ("/topics/none/partitions", 404, b'{"error_code":40401,"message":"Topic not found."}'),
    ("/topics/none/partitions/0/offsets", 404, b'{"error_code":40401,"message":"Topic not found."}'),
    ("/topics/a%20b", 404, b'{"error_code":40401,"message":"Topic not found."}'),
    ("/brokers", 200, b'{"brokers":[0,1,2]}'), ("/brokers/", 200, b'{"brokers":[0,1,2]}'),
    ("/nothing", 404, b'{"error_code":404,"message":"HTTP 404 Not Found"}'),
    ("/topics/a/b", 404, b'{"error_code":404,"message":"HTTP 404 Not Found"}'),
    ("/topics/a/partitions/0/x", 404, b'{"error_code":404,"message":"HTTP 404 Not Found"}')])
@pytest.mark.parametrize("stage", ["", "/dev", "/Production"])
def test_get(pair, stage, path, status, body):
    g, _ = pair
    got, headers, text = call(g.http, "GET", stage + path)
    assert (got, text) == (status, body) and headers["content-type"] == V2
    got, headers, text = call(g.http, "HEAD", stage + path)
    assert (got, text) == (status, b"") and int(headers["content-length"]) == len(body)


def test_broker_not_available(pair):
    g, p = pair
    p.unavailable = True
    is_error(call(g.http, "GET", "/topics/private"), 503, 50302)


def test_stage_is_stripped_once(pair):
    g, _ = pair
    assert call(g.http, "GET", "/dev/dev/topics")[0] == 404
    assert call(g.http, "GET", "/staging/topics")[0] == 404
    assert call(g.http, "POST", "/stage")[2] == b"{}"


@pytest.mark.parametrize("method,path,allow", [("DELETE", "/topics/demo.pin", "GET, HEAD, POST, OPTIONS"), ("POST", "/topics", "GET, HEAD, OPTIONS"),
                                               ("PUT", "/", "GET, HEAD, POST, OPTIONS"), ("POST", "/brokers", "GET, HEAD, OPTIONS"),
                                               ("PATCH", "/topics/demo.pin/partitions/0", "GET, HEAD, POST, OPTIONS")])
def test_method_not_allowed(pair, method, path, allow):
    g, _ = pair
    status, headers, body = call(g.http, method, path, b"{}")
    assert (status, headers["allow"]) == (405, allow)
    assert body == b'{"error_code":405,"message":"HTTP 405 Method Not Allowed"}'


@pytest.mark.parametrize("accept,kind", [
    (None, V2), ("*/*", V2), ("application/json", "application/json"), (V2, V2), ("application/*", V2),
    (f"application/json;q=0.5, {V2};q=0.4", "application/json"), ("text/html, */*;q=0.1", V2), (f"{V2};q=0, */*", "application/json"),
    ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", V2),  # Java's own client
    ("text/html", None), ("*;q=0", None), ("application/json;q=0", None)])
def test_accept(pair, accept, kind):
    g, _ = pair
    status, headers, body = call(g.http, "GET", "/topics", headers={"Accept": accept} if accept else {})
    if kind:
        assert (status, headers["content-type"]) == (200, kind)
    else:
        assert (status, body) == (406, b'{"error_code":406,"message":"HTTP 406 Not Acceptable"}')


def test_request_id(pair):
    g, _ = pair
    assert call(g.http, "GET", "/", headers={"X-Request-Id": "a.B-9_"})[1]["x-request-id"] == "a.B-9_"
    made = set()
    for bad in ("", "x" * 65, "a b", "a\u00e4"):
        rid = call(g.http, "GET", "/nothing", headers={"X-Request-Id": bad.encode("latin-1")})[1]["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", rid)
        made.add(rid)
    assert len(made) == 4


def test_cors(pair):
    g, _ = pair
    status, headers, body = call(g.http, "OPTIONS", "/dev/topics/demo.pin", headers={
        "Origin": "https://a.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"})
    assert (status, body) == (204, b"")
    assert headers["access-control-allow-origin"] == "*" and headers["access-control-allow-headers"] == "content-type"
    assert "POST" in headers["access-control-allow-methods"] and headers["access-control-max-age"] == "86400"
    for path, status in (("/topics", 200), ("/nothing", 404)):
        got, headers, _ = call(g.http, "GET", path, headers={"Origin": "https://a.example"})
        assert (got, headers["access-control-allow-origin"]) == (status, "*")
    assert "access-control-allow-origin" not in call(g.http, "GET", "/topics")[1]
    with gateway("--cors.origins=https://a.example,https://b.example") as (other, _):
        _, headers, _ = call(other.http, "GET", "/topics", headers={"Origin": "https://b.example"})
        assert headers["access-control-allow-origin"] == "https://b.example" and headers["vary"] == "Origin"
        _, headers, _ = call(other.http, "GET", "/topics", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in headers and headers["vary"] == "Origin"


# ---- the wire ----

HIDDEN = b'POST /topics/demo.pin HTTP/1.1\r\nHost: a\r\nContent-Length: 25\r\n\r\n{"records":[{"value":1}]}'


@pytest.mark.parametrize("data", [
    POST + b"Content-Length: 0\r\nContent-Length: 90\r\n\r\n", POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n0_2e\r\n\r\n", POST + b"Transfer-Encoding: chunked\r\n\r\n2;a\rb\r\n{}\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\r\n"])
def test_smuggling(pair, data):
    g, p = pair
    got = raw(g.http, data + HIDDEN)
    assert got.startswith(b"HTTP/1.1 400 ") and got.count(b"HTTP/1.1 ") == 1
    assert b"connection: close\r\n" in got and b'{"error_code":400,"message":' in got
    assert p.records == []


def test_keep_alive_pipelining_and_chunks(pair):
    g, p = pair
    body = b'{"records":[{"value":%d}]}'
    data = b"".join(POST + b"Content-Length: %d\r\n\r\n%s" % (len(body % i), body % i) for i in range(50))
    chunked = body % 50
    data += POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + b"".join(b"1\r\n%c\r\n" % c for c in chunked) + b"0\r\n\r\n"
    got = raw(g.http, data)
    assert got.count(b"HTTP/1.1 200 OK") == 51
    assert p.values() == [b"%d" % i for i in range(51)]


def test_expect_continue_and_oversize(pair):
    g, _ = pair
    with socket.create_connection(("127.0.0.1", g.http), timeout=DEADLINE) as s:
        body = b'{"records":[{"value":1}]}'
        s.sendall(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
        assert s.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        s.sendall(body)
        assert s.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
    before = g.metric("sluice_http_rejected_total", reason="body_too_large")
    got = raw(g.http, POST + b"Content-Length: 10485761\r\n\r\n")  # nothing of the body was sent
    assert got.startswith(b"HTTP/1.1 413 ") and b'{"error_code":413,' in got
    got = raw(g.http, POST + b"Transfer-Encoding: chunked\r\n\r\na00001\r\n")
    assert got.startswith(b"HTTP/1.1 413 ")
    is_error(produce(g, "demo.pin", {"records": [{"value": 1}, {"value": "x" * (1 << 20)}]}), 413, 413, "records[1]")
    is_error(produce(g, "demo.pin", {"records": [{"value": 1}] * 10001}), 422, 422, "10000")
    assert g.metric("sluice_http_rejected_total", reason="body_too_large") == before + 3
    got = raw(g.http, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 17000)
    assert got.startswith(b"HTTP/1.1 431 ") and b'{"error_code":431,' in got


def test_http2(pair, tmp_path):
    g, p = pair
    body = tmp_path / "body"
    body.write_text(json.dumps({"records": [{"value": "x" * 1000}] * 300}))
    done = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", "-D", "-", "-H", f"Content-Type: {JSON}", "--data-binary", f"@{body}",
                           f"http://127.0.0.1:{g.http}/dev/topics/demo.pin"], capture_output=True, timeout=DEADLINE, check=True)
    head, _, answer = done.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/2 200") and b"x-request-id: " in head
    assert len(json.loads(answer)["offsets"]) == 300 and len(p.records) == 300
    done = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", "-w", "%{http_code} %{http_version}", f"http://127.0.0.1:{g.http}/topics/none"],
                          capture_output=True, timeout=DEADLINE, check=True)
    assert done.stdout == b'{"error_code":40401,"message":"Topic not found."}404 2'


def test_hostile_bytes_do_not_hurt(pair):
    g, _ = pair
    for data in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100, b"\0" * 100 + b"\n", b"GET " + b"/" * 20000):
        raw(g.http, data, half_close=True)
    assert call(g.http, "GET", "/")[0] == 200


def test_metrics_close(pair):
    g, p = pair
    base = {k: g.metric(f"sluice_records_{k}") for k in ("received_total", "sent_total", "dropped_total")}
    p.fail = {b"2": (1, "no"), b"3": (2, "late")}
    for _ in range(5):
        produce(g, "demo.pin", {"records": [{"value": 1}, {"value": 2}, {"value": 3}]})
    p.garbage = True
    produce(g, "demo.pin", {"records": [{"value": 1}]})
    p.garbage = False
    grown = {k: g.metric(f"sluice_records_{k}") - v for k, v in base.items()}
    assert grown == {"received_total": 16, "sent_total": 5, "dropped_total": 11}
    assert g.metric("sluice_records_in_flight") == 0 and g.metric("sluice_buffer_bytes") == 0
    assert g.metric("sluice_records_dropped_total", reason="unknown") >= 6
    assert g.metric("sluice_http_requests_total", route="produce", code="503") >= 1
    assert g.metric("sluice_producers_connected") == 1
    state = g.state()
    assert state["topics"]["demo.geo"] == {"id": "AAAAAAAAAAAAAAAAAAAAAA", "partitions": 4}


# ---- gateways of their own ----

def test_requests_travel_together():
    with gateway() as (g, p), concurrent.futures.ThreadPoolExecutor(32) as pool:
        p.release.clear()  # two messages stay unanswered: the others gather
        replies = [pool.submit(produce, g, "demo.pin", {"records": [{"value": i}]}) for i in range(32)]
        until("all requests at the producer", lambda: sum(p.messages) == 32)
        p.release.set()
        assert [r.result(DEADLINE)[0] for r in replies] == [200] * 32
        assert len(p.messages) < 32 and sorted(p.values(), key=int) == [b"%d" % i for i in range(32)]
        assert g.metric("sluice_bus_requests_per_message_sum") == 32
        assert g.metric("sluice_bus_messages_total") == len(p.messages)


def test_no_producer():
    with gateway() as (g, p):
        port = p.server.port
        p.server.close()
        until("not ready", lambda: g.ready()[0] == 503)
        assert [name for name, (ok, _) in g.ready()[1].items() if not ok] == ["producer"]
        is_error(produce(g, "demo.pin", {"records": [{"value": 1}]}), 503, 503)
        is_error(call(g.http, "GET", "/topics"), 503, 503)
        assert call(g.http, "GET", "/")[0] == 200
        assert g.metric("sluice_http_rejected_total", reason="no_producer") >= 2
        again = Producer(port)  # it comes back by itself
        try:
            until("ready again", lambda: g.ready()[0] == 200)
            assert produce(g, "demo.pin", {"records": [{"value": 1}]})[0] == 200
        finally:
            again.close()


def test_lost_producer_is_unknown():
    with gateway() as (g, p), concurrent.futures.ThreadPoolExecutor(4) as pool:
        p.release.clear()
        reply = pool.submit(produce, g, "demo.pin", {"records": [{"value": 1}]})
        until("a record at the producer", lambda: p.records)
        p.server.cut()
        is_error(reply.result(DEADLINE), 503, 50003)
        p.release.set()
        until("a new connection", lambda: produce(g, "demo.pin", {"records": [{"value": 2}]})[0] == 200)
        assert p.values().count(b"1") == 1  # nothing was sent again


def test_late_producer_is_unknown():
    with gateway("--produce.timeout=300ms") as (g, p):
        p.release.clear()
        is_error(produce(g, "demo.pin", {"records": [{"value": 1}]}), 503, 50003)


def test_two_producers_one_dies():
    with gateway(producers=2) as (g, _), concurrent.futures.ThreadPoolExecutor(8) as pool:
        a, b = g.producers
        until("the number of producers", lambda: g.metric("sluice_producers_connected") == 2)
        a.server.close()
        until("the number of producers", lambda: g.metric("sluice_producers_connected") == 1)
        assert g.ready()[0] == 200
        replies = list(pool.map(lambda i: produce(g, "demo.pin", {"records": [{"value": i}]})[0], range(40)))
        assert replies == [200] * 40 and len(b.values()) == 40


def test_inflight_limit():
    with gateway("--inflight.max=100KiB", "--body.max=64KiB", "--record.max=64KiB") as (g, p), \
            concurrent.futures.ThreadPoolExecutor(4) as pool:
        p.release.clear()
        body = {"records": [{"value": "x" * 40000}]}
        held = pool.submit(produce, g, "demo.pin", body)
        until("a record at the producer", lambda: p.records)
        is_error(produce(g, "demo.pin", body), 503, 503, "inflight.max")
        assert produce(g, "private", {"records": [{"value": 1}]})[0] == 403  # small ones still find room
        assert g.metric("sluice_buffer_bytes") > 40000
        p.release.set()
        assert held.result(DEADLINE)[0] == 200
        until("an empty buffer", lambda: g.metric("sluice_buffer_bytes") == 0)
        assert produce(g, "demo.pin", body)[0] == 200
        assert g.metric("sluice_http_rejected_total", reason="backpressure") == 1


def test_client_that_leaves():
    with gateway() as (g, p):
        p.release.clear()
        s = socket.create_connection(("127.0.0.1", g.http))
        s.sendall(POST + b'Content-Length: 25\r\n\r\n{"records":[{"value":1}]}')
        until("a record at the producer", lambda: p.records)
        s.close()
        until("no request", lambda: g.metric("sluice_http_in_flight_requests") == 0)
        assert g.metric("sluice_records_in_flight") == 1
        p.release.set()
        until("no record in flight", lambda: g.metric("sluice_records_in_flight") == 0)
        assert g.metric("sluice_records_sent_total") == 1  # it was stored all the same
        assert g.metric("sluice_buffer_bytes") == 0


def test_slow_clients():
    with gateway("--http.request_timeout=400ms") as (g, _):
        for part in (b"POST /topics/demo.pin HTTP/1.1\r\nHo", POST + b"Content-Length: 100\r\n\r\n{"):
            got = raw(g.http, part)
            assert got.startswith(b"HTTP/1.1 408 ") and b'{"error_code":408,' in got
        assert raw(g.http, b"") == b""  # idle: no word
        assert g.metric("sluice_http_rejected_total", reason="timeout") == 2


def test_connections_limit():
    with gateway("--connections.max=2") as (g, _):
        socks = [socket.create_connection(("127.0.0.1", g.http)) for _ in range(3)]
        socks[2].sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        until("accepting to wait", lambda: g.metric("sluice_http_accept_paused_total") == 1)
        assert g.metric("sluice_http_connections") == 2
        socks[0].close()
        socks[2].settimeout(DEADLINE)
        assert socks[2].recv(1000).startswith(b"HTTP/1.1 200 OK")
        for s in socks:
            s.close()


def test_no_h2c():
    with gateway("--http.h2c=off") as (g, _):
        assert raw(g.http, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_strict_by_option_and_allow():
    with gateway("--strict=on", "--topics.allow=private", "--stages=v9", "--cors.origins=") as (g, p):
        p.fail = {b"2": (1, "no")}
        assert produce(g, "private", {"records": [{"value": 1}, {"value": 2}]})[0] == 207
        is_error(produce(g, "demo.pin", {"records": [{"value": 1}]}), 403, 40301)
        assert call(g.http, "GET", "/v9/topics")[0] == 200 and call(g.http, "GET", "/dev/topics")[0] == 404
        assert "access-control-allow-origin" not in call(g.http, "GET", "/topics", headers={"Origin": "https://a"})[1]


def test_drain():
    with gateway() as (g, p), concurrent.futures.ThreadPoolExecutor(4) as pool:
        p.release.clear()
        idle = http.client.HTTPConnection("127.0.0.1", g.http, timeout=DEADLINE)
        idle.request("GET", "/")
        assert idle.getresponse().read() == b"{}"
        held = pool.submit(produce, g, "demo.pin", {"records": [{"value": 1}]})
        until("a record at the producer", lambda: p.records)
        g.process.send_signal(signal.SIGTERM)
        until("not ready", lambda: g.ready()[0] == 503)
        assert g.process.poll() is None
        with pytest.raises(OSError):
            call(g.http, "GET", "/")  # no new connections
        p.release.set()
        status, headers, _ = held.result(DEADLINE)
        assert (status, headers["connection"]) == (200, "close")
        idle.close()


def test_drain_gives_up_at_its_deadline():
    with gateway("--drain.timeout=500ms", drained=False) as (g, p), concurrent.futures.ThreadPoolExecutor(4) as pool:
        p.release.clear()
        held = pool.submit(lambda: pytest.raises(Exception, produce, g, "demo.pin", {"records": [{"value": 1}]}))
        until("a record at the producer", lambda: p.records)
        g.process.send_signal(signal.SIGTERM)
        assert g.process.wait(DEADLINE) == 0
        held.result(DEADLINE)


@pytest.mark.parametrize("args,code,text", [
    (["--record.max=11MiB"], 78, "record.max"), (["--inflight.max=1MiB"], 78, "inflight.max"), (["--memory.max=32MiB"], 78, "memory.max"),
    (["--records.max=0"], 78, "records.max"), (["--nonsense=1"], 64, "nonsense")])
def test_configuration_is_checked(args, code, text):
    done = subprocess.run([os.path.join(BIN, "gateway"), "--check-config", *args], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode in (code, 64 if code == 78 else code) and text in done.stderr


def test_port_in_use():
    with gateway() as (g, _):
        done = subprocess.run([os.path.join(BIN, "gateway"), f"--http.listen=127.0.0.1:{g.http}", "--admin.listen=127.0.0.1:0"],
                              capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 71
