"""The gateway, the real program, with a scripted producer behind it: what the tests of the front door share.

SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import http.client
import json
import socket
import threading

import bus
from support.service import DEADLINE, Service

M = bus.messages("produce")
V2 = "application/vnd.kafka.v2+json"
JSON = "application/vnd.kafka.json.v2+json"
BINARY = "application/vnd.kafka.binary.v2+json"
TEXT = "application/vnd.kafka.text.v2+json"
TAIL = b',"key_schema_id":null,"value_schema_id":null}'


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


class Gateway(Service):
    def __init__(self, producers, *args, ready=True):
        super().__init__("gateway", *args, http__listen="127.0.0.1:0", producers=",".join(f"127.0.0.1:{p}" for p in producers))
        self.http, self.admin = self.port_of("http"), self.port_of("admin")
        if ready:
            self.until_ready()

    def state(self):
        return super().state()["gateway"]


def call(port, method, path, body=None, headers=None):
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        conn.request(method, path, body=body, headers=headers or {})
        reply = conn.getresponse()
        return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()
    finally:
        conn.close()


@contextlib.contextmanager
def gateway(*args, producers=1, ready=True, drained=True):
    all_of = [Producer() for _ in range(producers)]
    g = None
    try:
        g = Gateway([p.server.port for p in all_of], *args, ready=ready)
        g.producers = all_of
        yield g, all_of[0]
        for p in all_of:
            p.release.set()
        g.end(drained=drained)
    finally:
        for p in all_of:
            p.close()
        if g:
            g.__exit__()


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
