"""The gateway, the real program, against a scripted producer on the bus: answers byte for byte, every error code, the limits, stage
prefixes, CORS, HTTP/2, slow and hostile clients, drain, and what "refused" and "unknown" mean when the producer goes away.

SPDX-License-Identifier: Apache-2.0
"""
import base64
import concurrent.futures
import contextlib
import http.client
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import bus  # noqa: E402

BIN = os.environ.get("SLUICE_BIN", os.path.join(ROOT, "build", "test", "bin"))
DEADLINE = 90
M = bus.messages("produce")
V2 = "application/vnd.kafka.v2+json"
JSON = "application/vnd.kafka.json.v2+json"
BINARY = "application/vnd.kafka.binary.v2+json"
TEXT = "application/vnd.kafka.text.v2+json"
TAIL = b',"key_schema_id":null,"value_schema_id":null}'


def until(cond, what="the condition"):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        value = cond()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come in {DEADLINE} s")


class Producer:
    """A producer that stores in memory. `refuse`, `fail` and `hold` script it."""

    def __init__(self, port=0):
        self.topics = {"demo.pin": 1, "demo.geo": 4, "demo.user": 1, "private": 2, "__consumer_offsets": 1}
        self.records = []  # (topic, partition, record)
        self.messages = []  # the number of requests in each
        self.asked = []     # topics asked for by name
        self.refuse = None  # (reason, text)
        self.fail = {}      # value -> (outcome, text)
        self.garbage = False
        self.silent_questions = False
        self.unavailable = False
        self.release = threading.Event()
        self.release.set()
        self.lock = threading.Lock()
        self.server = bus.RepServer(self.handle, port)

    def handle(self, body):
        asked = M["ToProducer"].FromString(body)
        assert asked.version == 1
        answer = M["FromProducer"](version=1)
        if asked.produce:
            with self.lock:
                self.messages.append(len(asked.produce))
            if self.garbage:
                return b"\xff\xff"
            with self.lock:
                for request in asked.produce:
                    self.produce(request, answer.produce.add())
            self.release.wait(DEADLINE)
        for question in asked.question:
            if self.silent_questions:
                return None
            self.answer(question, answer.question.add())
        return answer.SerializeToString()

    def produce(self, request, answer):
        if self.refuse:
            answer.refused.reason, answer.refused.text = self.refuse
            return
        for i, record in enumerate(request.record):
            partition = record.partition if record.HasField("partition") else request.partition
            failed = self.fail.get(record.value)
            answer.partition.append(partition)
            if failed:
                answer.offset.append(-1)
                answer.error.add(index=i, outcome=failed[0], text=failed[1])
            else:
                answer.offset.append(sum(1 for t, p, _ in self.records if (t, p) == (request.topic, partition)))
                self.records.append((request.topic, partition, record))

    def topic(self, name, to, configs):
        to.name, to.id = name, "AAAAAAAAAAAAAAAAAAAAAA"
        for p in range(self.topics[name]):
            to.partition.add(number=p, leader=1, replica=[1, 2], in_sync=[1])
        if configs:
            to.config.add(name="cleanup.policy", value="delete")

    def answer(self, question, answer):
        answer.result = 1
        if self.unavailable:
            answer.result = 4
        elif question.kind == 1:
            for name in self.topics:
                self.topic(name, answer.topic.add(), False)
            answer.broker.extend([0, 1, 2])
        elif question.topic not in self.topics:
            with self.lock:
                self.asked.append(question.topic)
            answer.result = 2
        elif question.kind == 2:
            with self.lock:
                self.asked.append(question.topic)
            self.topic(question.topic, answer.topic.add(), True)
        elif question.partition >= self.topics[question.topic]:
            answer.result = 3
        else:
            answer.beginning_offset, answer.end_offset = 0, 12

    def values(self):
        with self.lock:
            return [r.value for _, _, r in self.records]

    def close(self):
        self.release.set()
        self.server.close()


class Gateway:
    def __init__(self, producers, *args, ready=True):
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
        env.setdefault("LSAN_OPTIONS", f"suppressions={ROOT}/tests/support/lsan.supp")
        ports = ",".join(f"127.0.0.1:{p}" for p in producers)
        self.process = subprocess.Popen(
            [os.path.join(BIN, "gateway"), "--http.listen=127.0.0.1:0", "--admin.listen=127.0.0.1:0", f"--producers={ports}", *args],
            env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.lines, self.ports, found = [], {}, queue.Queue()

        def read():
            for line in self.process.stderr:
                self.lines.append(line)
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if event.get("event") == "listening":
                        found.put((event["what"], event["port"]))
            found.put((None, None))

        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()
        while len(self.ports) < 2:
            what, port = found.get(timeout=DEADLINE)
            assert what, "".join(self.lines)
            self.ports[what] = port
        self.http, self.admin = self.ports["http"], self.ports["admin"]
        if ready:
            until(lambda: self.ready()[0] == 200, "readiness")

    def ready(self):
        status, _, body = call(self.admin, "GET", "/readyz")
        return status, json.loads(body)

    def metric(self, name, labels=""):
        """The sum over all series of that name whose labels contain the text."""
        _, _, body = call(self.admin, "GET", "/metrics")
        total = 0.0
        for line in body.decode().splitlines():
            m = re.fullmatch(r"(\w+)(\{[^}]*\})? (\S+)", line)
            if m and m.group(1) == name and labels in (m.group(2) or ""):
                total += float(m.group(3))
        return total

    def state(self):
        _, _, body = call(self.admin, "GET", "/debug/state")
        return json.loads(body)["gateway"]

    def stop(self, expected=0):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(DEADLINE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        self.reader.join(DEADLINE)
        assert code == expected, "".join(self.lines[-60:])


def call(port, method, path, body=None, headers=None):
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        conn.request(method, path, body=body, headers=headers or {})
        reply = conn.getresponse()
        return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()
    finally:
        conn.close()


@contextlib.contextmanager
def gateway(*args, producers=1, ready=True):
    all_of = [Producer() for _ in range(producers)]
    g = None
    try:
        g = Gateway([p.server.port for p in all_of], *args, ready=ready)
        g.producers = all_of
        yield g, all_of[0]
        for p in all_of:
            p.release.set()
        g.stop()
    finally:
        for p in all_of:
            p.close()
        if g and g.process.poll() is None:
            g.process.kill()
            g.process.wait()


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


def produce(g, topic, body, kind=JSON, **headers):
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    head = {k.replace("_", "-"): v for k, v in headers.items()}
    if kind:
        head["Content-Type"] = kind
    return call(g.http, "POST", f"/topics/{topic}", body, head)


def is_error(reply, status, code, text=None):
    got, headers, body = reply
    value = json.loads(body)
    assert (got, value["error_code"]) == (status, code), (got, body)
    assert list(value) == ["error_code", "message"] and headers["content-type"] == V2
    if text is not None:
        assert text in value["message"], value
    assert ("retry-after" in headers) == ((status, code) == (503, 503))


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
    requests = pytest.importorskip("requests")
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
    ('{"records":[{"value":1},{"valu":2}]}', 422, "Unrecognized field: valu"), ('{"records":[{"value":1}],"z":1}', 422, "Unrecognized field: z"),
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
    until(lambda: produce(g, "demo.user", {"records": [{"value": 1}]})[0] == 200)


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
    ("text/html", None), ("application/json;q=0", None)])
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

def raw(port, data, half_close=False):
    """What comes back until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as s:
        got = bytearray()
        with contextlib.suppress(ConnectionError):
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            while piece := s.recv(1 << 16):
                got += piece
        return bytes(got)


POST = b"POST /topics/demo.pin HTTP/1.1\r\nHost: a\r\nContent-Type: " + JSON.encode() + b"\r\n"
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
    before = g.metric("sluice_http_rejected_total", 'reason="body_too_large"')
    got = raw(g.http, POST + b"Content-Length: 10485761\r\n\r\n")  # nothing of the body was sent
    assert got.startswith(b"HTTP/1.1 413 ") and b'{"error_code":413,' in got
    got = raw(g.http, POST + b"Transfer-Encoding: chunked\r\n\r\na00001\r\n")
    assert got.startswith(b"HTTP/1.1 413 ")
    is_error(produce(g, "demo.pin", {"records": [{"value": 1}, {"value": "x" * (1 << 20)}]}), 413, 413, "records[1]")
    is_error(produce(g, "demo.pin", {"records": [{"value": 1}] * 10001}), 422, 422, "10000")
    assert g.metric("sluice_http_rejected_total", 'reason="body_too_large"') == before + 3
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
    assert g.metric("sluice_records_dropped_total", 'reason="unknown"') >= 6
    assert g.metric("sluice_http_requests_total", 'route="produce",code="503"') >= 1
    assert g.metric("sluice_producers_connected") == 1
    state = g.state()
    assert state["topics"]["demo.geo"] == {"id": "AAAAAAAAAAAAAAAAAAAAAA", "partitions": 4}


# ---- gateways of their own ----

def test_requests_travel_together():
    with gateway() as (g, p), concurrent.futures.ThreadPoolExecutor(32) as pool:
        p.release.clear()  # two messages stay unanswered: the others gather
        replies = [pool.submit(produce, g, "demo.pin", {"records": [{"value": i}]}) for i in range(32)]
        until(lambda: sum(p.messages) == 32, "all requests at the producer")
        p.release.set()
        assert [r.result(DEADLINE)[0] for r in replies] == [200] * 32
        assert len(p.messages) < 32 and sorted(p.values(), key=int) == [b"%d" % i for i in range(32)]
        assert g.metric("sluice_bus_requests_per_message_sum") == 32
        assert g.metric("sluice_bus_messages_total") == len(p.messages)


def test_no_producer():
    with gateway() as (g, p):
        port = p.server.port
        p.server.close()
        until(lambda: g.ready()[0] == 503, "not ready")
        assert [c["name"] for c in g.ready()[1]["checks"] if not c["ok"]] == ["producer"]
        is_error(produce(g, "demo.pin", {"records": [{"value": 1}]}), 503, 503)
        is_error(call(g.http, "GET", "/topics"), 503, 503)
        assert call(g.http, "GET", "/")[0] == 200
        assert g.metric("sluice_http_rejected_total", 'reason="no_producer"') >= 2
        again = Producer(port)  # it comes back by itself
        try:
            until(lambda: g.ready()[0] == 200, "ready again")
            assert produce(g, "demo.pin", {"records": [{"value": 1}]})[0] == 200
        finally:
            again.close()


def test_lost_producer_is_unknown():
    with gateway() as (g, p), concurrent.futures.ThreadPoolExecutor(4) as pool:
        p.release.clear()
        reply = pool.submit(produce, g, "demo.pin", {"records": [{"value": 1}]})
        until(lambda: p.records)
        p.server.cut()
        is_error(reply.result(DEADLINE), 503, 50003)
        p.release.set()
        until(lambda: produce(g, "demo.pin", {"records": [{"value": 2}]})[0] == 200, "a new connection")
        assert p.values().count(b"1") == 1  # nothing was sent again


def test_late_producer_is_unknown():
    with gateway("--produce.timeout=300ms") as (g, p):
        p.release.clear()
        is_error(produce(g, "demo.pin", {"records": [{"value": 1}]}), 503, 50003)


def test_two_producers_one_dies():
    with gateway(producers=2) as (g, _), concurrent.futures.ThreadPoolExecutor(8) as pool:
        a, b = g.producers
        until(lambda: g.metric("sluice_producers_connected") == 2)
        a.server.close()
        until(lambda: g.metric("sluice_producers_connected") == 1)
        assert g.ready()[0] == 200
        replies = list(pool.map(lambda i: produce(g, "demo.pin", {"records": [{"value": i}]})[0], range(40)))
        assert replies == [200] * 40 and len(b.values()) == 40


def test_inflight_limit():
    with gateway("--inflight.max=100KiB", "--body.max=64KiB", "--record.max=64KiB") as (g, p), \
            concurrent.futures.ThreadPoolExecutor(4) as pool:
        p.release.clear()
        body = {"records": [{"value": "x" * 40000}]}
        held = pool.submit(produce, g, "demo.pin", body)
        until(lambda: p.records)
        is_error(produce(g, "demo.pin", body), 503, 503, "inflight.max")
        assert produce(g, "private", {"records": [{"value": 1}]})[0] == 403  # small ones still find room
        assert g.metric("sluice_buffer_bytes") > 40000
        p.release.set()
        assert held.result(DEADLINE)[0] == 200
        until(lambda: g.metric("sluice_buffer_bytes") == 0)
        assert produce(g, "demo.pin", body)[0] == 200
        assert g.metric("sluice_http_rejected_total", 'reason="backpressure"') == 1


def test_client_that_leaves():
    with gateway() as (g, p):
        p.release.clear()
        s = socket.create_connection(("127.0.0.1", g.http))
        s.sendall(POST + b'Content-Length: 25\r\n\r\n{"records":[{"value":1}]}')
        until(lambda: p.records)
        s.close()
        until(lambda: g.metric("sluice_http_in_flight_requests") == 0)
        assert g.metric("sluice_records_in_flight") == 1
        p.release.set()
        until(lambda: g.metric("sluice_records_in_flight") == 0)
        assert g.metric("sluice_records_sent_total") == 1  # it was stored all the same
        assert g.metric("sluice_buffer_bytes") == 0


def test_slow_clients():
    with gateway("--http.request_timeout=400ms") as (g, _):
        for part in (b"POST /topics/demo.pin HTTP/1.1\r\nHo", POST + b"Content-Length: 100\r\n\r\n{"):
            got = raw(g.http, part)
            assert got.startswith(b"HTTP/1.1 408 ") and b'{"error_code":408,' in got
        assert raw(g.http, b"") == b""  # idle: no word
        assert g.metric("sluice_http_rejected_total", 'reason="timeout"') == 2


def test_connections_limit():
    with gateway("--connections.max=2") as (g, _):
        socks = [socket.create_connection(("127.0.0.1", g.http)) for _ in range(3)]
        socks[2].sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: g.metric("sluice_http_accept_paused_total") == 1)
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
        until(lambda: p.records)
        g.process.send_signal(signal.SIGTERM)
        until(lambda: g.ready()[0] == 503, "not ready")
        assert g.process.poll() is None
        with pytest.raises(OSError):
            call(g.http, "GET", "/")  # no new connections
        p.release.set()
        status, headers, _ = held.result(DEADLINE)
        assert (status, headers["connection"]) == (200, "close")
        idle.close()


def test_drain_gives_up_at_its_deadline():
    with gateway("--drain.timeout=500ms") as (g, p), concurrent.futures.ThreadPoolExecutor(4) as pool:
        p.release.clear()
        held = pool.submit(lambda: pytest.raises(Exception, produce, g, "demo.pin", {"records": [{"value": 1}]}))
        until(lambda: p.records)
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
