"""The gateway, the real program, on the wire: what it answers before a request is whole, HTTP/2 frame by frame, and JSONTestSuite's
cases as values.

SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import json
import os
import re
import socket
import sys
import time

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
from front import JSON, POST, V2, call, gateway, is_error, produce, raw  # noqa: E402
from support.service import DEADLINE, until  # noqa: E402

SUITE = os.path.join(os.environ.get("SLUICE_CACHE") or os.path.expanduser("~/.cache/sluice"), "json-suite")
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
ONE = b'{"records":[{"value":1}]}'


@pytest.fixture(scope="module")
def shared():
    with gateway("--cors.origins=*") as (g, p):
        yield g, p


@pytest.fixture
def pair(shared):
    g, p = shared
    with p.lock:
        p.records, p.messages, p.asked = [], [], []
    return g, p


# ---- HTTP/1: answers before the request was whole ----

MARKS = b"X-Request-Id: my-own.id_1\r\nOrigin: https://a.example\r\n"


def one_answer(got):
    """Status, fields and body of the only answer in these bytes."""
    assert got.count(b"HTTP/1.1 ") == 1, got
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    assert len(body) == int(fields["content-length"])
    return int(lines[0].split()[1]), fields, body


@pytest.mark.parametrize("status,data", [
    (413, POST + MARKS + b"Content-Length: 10485761\r\n\r\n"),
    (413, POST + MARKS + b"Expect: 100-continue\r\nContent-Length: 10485761\r\n\r\n"),
    (413, POST + MARKS + b"Transfer-Encoding: chunked\r\n\r\na00001\r\n"),
    (400, POST + MARKS + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")])
def test_early_answers_say_whose_they_are(pair, status, data):
    """The head was read: the client's id comes back, and a browser may see the answer."""
    g, _ = pair
    got, fields, body = one_answer(raw(g.http, data))
    assert (got, fields["content-type"], fields["connection"]) == (status, V2, "close")
    assert json.loads(body)["error_code"] == status
    assert fields["x-request-id"] == "my-own.id_1" and fields["access-control-allow-origin"] == "*"
    assert fields["access-control-expose-headers"] == "x-request-id, retry-after"


@pytest.mark.parametrize("status,data", [
    (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + MARKS + b"X: " + b"x" * 17000),
    (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n"),
    (400, b"GET / HTTP/1.1\r\n" + MARKS + b"Host: a\r\nHost: b\r\n\r\n")])
def test_early_answers_without_a_head(pair, status, data):
    g, _ = pair
    got, fields, body = one_answer(raw(g.http, data))
    assert (got, json.loads(body)["error_code"]) == (status, status)
    assert re.fullmatch(UUID, fields["x-request-id"]) and "access-control-allow-origin" not in fields


def test_slow_and_crowded_answers_say_whose_they_are():
    with gateway("--http.request_timeout=400ms", "--cors.origins=https://a.example", "--body.max=64KiB", "--record.max=64KiB",
                 "--inflight.max=64KiB") as (g, _):
        status, fields, _ = one_answer(raw(g.http, POST + MARKS + b"Content-Length: 100\r\n\r\n{"))
        assert (status, fields["x-request-id"], fields["access-control-allow-origin"]) == (408, "my-own.id_1", "https://a.example")
        # Bodies that are announced take their room at once; the third does not find any.
        socks = [socket.create_connection(("127.0.0.1", g.http)) for _ in range(2)]
        for s in socks:
            s.sendall(POST + b"Content-Length: 60000\r\n\r\n")
        until("the arriving bytes", lambda: g.metric("sluice_http_arriving_bytes") == 120000)
        status, fields, body = one_answer(raw(g.http, POST + MARKS + b"Content-Length: 60000\r\n\r\n"))
        assert (status, json.loads(body)["error_code"], fields["retry-after"]) == (503, 503, "1")
        assert (fields["x-request-id"], fields["vary"]) == ("my-own.id_1", "origin")
        for s in socks:
            s.close()
        until("the arriving bytes", lambda: g.metric("sluice_http_arriving_bytes") == 0)


def test_pipelined_requests_keep_their_order(pair):
    g, p = pair
    got = raw(g.http, b"".join(POST + b"X-Request-Id: n%d\r\nContent-Length: 25\r\n\r\n" % i + ONE for i in range(99)) +
              POST + b"X-Request-Id: n99\r\nContent-Length: 25\r\nConnection: close\r\n\r\n" + ONE)
    assert re.findall(rb"x-request-id: (\S+)", got) == [b"n%d" % i for i in range(100)]
    assert got.count(b"HTTP/1.1 200 OK") == 100 and len(p.records) == 100


# ---- HTTP/2 ----

class H2:
    """One connection with prior knowledge; the streams' answers are gathered by pump()."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.conn.initiate_connection()
        self.flush()
        self.head, self.body, self.ended, self.reset, self.closed = {}, {}, set(), {}, False

    def flush(self):
        self.sock.sendall(self.conn.data_to_send())

    def begin(self, path="/topics/demo.pin", method="POST", fields=(), end=False):
        stream = self.conn.get_next_available_stream_id()
        self.conn.send_headers(stream, [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path),
                                        ("content-type", JSON), *fields], end_stream=end)
        self.flush()
        return stream

    def send(self, stream, data, end=False, into_answer=False):
        """As much as the windows let through, waiting for them; False when the stream has ended meanwhile."""
        while data or end:
            if (stream in self.ended and not into_answer) or stream in self.reset or self.closed:
                return False
            room = min(self.conn.local_flow_control_window(stream), self.conn.max_outbound_frame_size)
            if data and not room:
                self.pump()
                continue
            piece, data = data[:room], data[room:]
            self.conn.send_data(stream, piece, end_stream=end and not data)
            self.flush()
            if not data:
                end = False
        return True

    def pump(self):
        data = self.sock.recv(1 << 16)
        if not data:
            self.closed = True
            return
        for event in self.conn.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.head[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.body[event.stream_id] = self.body.get(event.stream_id, b"") + event.data
                self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.reset[event.stream_id] = event.error_code
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.closed = True
        self.flush()

    def answer(self, stream):
        while not (stream in self.ended or stream in self.reset or self.closed):
            self.pump()
        assert stream in self.ended, (self.reset, self.closed)
        return int(self.head[stream][":status"]), self.head[stream], self.body.get(stream, b"")

    def close(self):
        self.sock.close()


@pytest.fixture
def http2(pair):
    g, p = pair
    c = H2(g.http)
    yield g, p, c
    c.close()


def announced(n):
    return [("content-length", str(n)), ("x-request-id", "my-own.id_2"), ("origin", "https://a.example")]


def test_http2_many_streams_on_one_connection(http2):
    _, p, c = http2
    streams = [c.begin() for _ in range(50)]
    for i, stream in enumerate(streams):
        c.send(stream, b'{"records":[{"value":%d}' % i)
    for stream in reversed(streams):
        c.send(stream, b"]}", end=True)
    assert [c.answer(s)[0] for s in streams] == [200] * 50
    assert sorted(p.values(), key=int) == [b"%d" % i for i in range(50)]


def test_http2_body_that_is_announced_too_large(http2):
    """413 as over HTTP/1, before any of the body; the connection goes on."""
    g, p, c = http2
    before = g.metric("sluice_http_rejected_total", reason="body_too_large")
    stream = c.begin(fields=announced((10 << 20) + 1))
    status, fields, body = c.answer(stream)
    assert (status, fields["content-type"]) == (413, V2) and json.loads(body)["error_code"] == 413
    assert fields["x-request-id"] == "my-own.id_2" and fields["access-control-allow-origin"] == "*"
    assert g.metric("sluice_http_rejected_total", reason="body_too_large") == before + 1
    other = c.begin()
    c.send(other, ONE, end=True)
    assert c.answer(other)[0] == 200 and p.values() == [b"1"]


@pytest.mark.parametrize("fields", [(), announced(12 << 20)], ids=["not announced", "announced"])
def test_http2_body_that_grows_too_large(http2, fields):
    """The client goes on sending into the answer: what it sent takes no room, and the connection goes on."""
    g, p, c = http2
    stream = c.begin(fields=fields)
    c.send(stream, b"x" * (12 << 20))
    status, _, body = c.answer(stream)
    assert status == 413 and json.loads(body) == {"error_code": 413, "message": "the body is larger than the limit"}
    other = c.begin()
    c.send(other, ONE, end=True)
    assert c.answer(other)[0] == 200 and len(p.records) == 1
    assert g.metric("sluice_http_arriving_bytes") == 0


def test_http2_what_follows_an_early_answer_is_dropped(http2):
    """Whole uploads into the answer, more of them than the connection's window holds, and more than are kept in mind at once."""
    g, p, c = http2
    for _ in range(4):
        stream = c.begin(fields=announced(11 << 20))
        assert c.answer(stream)[0] == 413
        assert c.send(stream, b"x" * (11 << 20), end=True, into_answer=True)
    for _ in range(100):
        stream = c.begin(fields=announced(11 << 20))
        assert c.answer(stream)[0] == 413
        c.send(stream, b"x", end=True, into_answer=True)
    other = c.begin()
    c.send(other, ONE, end=True)
    assert c.answer(other)[0] == 200 and p.values() == [b"1"] and not c.reset
    for _ in range(65):  # a client that never ends its bodies
        stream = c.begin(fields=announced(11 << 20))
    with contextlib.suppress(ConnectionError):
        while not c.closed:
            c.pump()
    assert call(g.http, "GET", "/")[0] == 200
    until("the arriving bytes", lambda: g.metric("sluice_http_arriving_bytes") == 0)


def test_http2_largest_body(http2):
    g, p, c = http2
    body = b'{"records":[' + b",".join([b'{"value":"%s"}' % (b"x" * 1_000_000)] * 10) + b"]}"
    body += b" " * ((10 << 20) - len(body))
    stream = c.begin(fields=announced(len(body)))
    assert c.send(stream, body[:5 << 20])
    until("the arriving bytes", lambda: g.metric("sluice_http_arriving_bytes") == 5 << 20)
    assert c.send(stream, body[5 << 20:], end=True)
    assert c.answer(stream)[0] == 200 and len(p.records) == 10
    assert g.metric("sluice_http_arriving_bytes") == 0


def test_http2_head_too_large(http2):
    _, _, c = http2
    status, fields, body = c.answer(c.begin(method="GET", fields=[("x-wide", "w" * 17000), ("x-request-id", "my-own.id_3")], end=True))
    assert (status, json.loads(body)["error_code"], fields["x-request-id"]) == (431, 431, "my-own.id_3")


def test_http2_slow_requests():
    with gateway("--http.request_timeout=500ms") as (g, p):
        c = H2(g.http)
        slow, good = c.begin(fields=announced(100)), c.begin()
        c.send(good, ONE, end=True)
        began = time.monotonic()
        while slow not in c.ended and time.monotonic() - began < DEADLINE:  # a byte now and then does not help
            c.sock.settimeout(0.1)
            try:
                c.pump()
            except TimeoutError:
                c.send(slow, b" ")
        c.sock.settimeout(DEADLINE)
        status, fields, body = c.answer(slow)
        assert (status, json.loads(body)["error_code"], fields["x-request-id"]) == (408, 408, "my-own.id_2")
        assert c.answer(good)[0] == 200 and p.values() == [b"1"]
        late = c.begin()  # the connection is as good as new
        c.send(late, ONE, end=True)
        assert c.answer(late)[0] == 200
        assert g.metric("sluice_http_arriving_bytes") == 0
        # A frame that never becomes whole: there is nothing to answer to.
        other = socket.create_connection(("127.0.0.1", g.http), timeout=DEADLINE)
        other.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + b"\0\x10\0\1\4\0\0\0\1")
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < DEADLINE:
                other.sendall(b"x")
                time.sleep(0.05)
        other.close()
        assert g.metric("sluice_http_rejected_total", reason="timeout") == 2
        c.close()


def test_http2_answer_that_is_not_taken():
    """A client that opens no window for its answer does not hold it forever."""
    with gateway("--http.request_timeout=500ms") as (g, _):
        c = H2(g.http)
        c.conn.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        c.flush()
        c.begin("/topics", "GET", end=True)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while not c.closed:
                c.pump()
        assert c.closed and c.body == {} and time.monotonic() - began >= 0.4
        until("no connection", lambda: g.metric("sluice_http_connections") == 0)


def test_http2_bodies_without_room():
    """All bodies that are arriving share their room: a connection that would pass it ends, the others go on."""
    with gateway("--body.max=64KiB", "--record.max=64KiB", "--inflight.max=64KiB") as (g, p):
        first, second = H2(g.http), H2(g.http)
        streams = [first.begin() for _ in range(2)]
        for stream in streams:
            first.send(stream, b" " * 60000)
        until("the arriving bytes", lambda: g.metric("sluice_http_arriving_bytes") == 120000)
        with contextlib.suppress(ConnectionError):
            second.send(second.begin(), b" " * 60000)
            while not second.closed:
                second.pump()
        assert g.metric("sluice_http_rejected_total", reason="backpressure") == 1
        first.send(streams[0], ONE, end=True)
        assert first.answer(streams[0])[0] == 200 and len(p.records) == 1
        first.close()
        second.close()
        until("the arriving bytes", lambda: g.metric("sluice_http_arriving_bytes") == 0)


# ---- JSONTestSuite ----

def cases(kind):
    found = sorted(name for name in os.listdir(SUITE) if name.startswith(kind + "_"))
    for name in found:
        with open(os.path.join(SUITE, name), "rb") as f:
            yield name, f.read()


def as_value(case):
    return b'{"records":[{"value":' + case + b"}]}"


def test_json_suite_must_accept(pair):
    """Each case is stored as it stands, but for the blanks around it."""
    g, p = pair
    wanted = []
    for name, case in cases("y"):
        assert produce(g, "demo.pin", as_value(case))[0] == 200, name
        wanted.append(None if case.strip() == b"null" else case.strip(b" \t\r\n"))
    assert len(wanted) == 95
    assert [r.value if r.HasField("value") else None for _, _, r in p.records] == wanted


def test_json_suite_must_refuse(pair):
    g, p = pair
    n = 0
    for name, case in cases("n"):
        # Bytes that are no UTF-8 came as U+FFFD.
        for broken in (b"\xff", b"\xe5", b"\x80", b"\xef\xbb") if b"\xef\xbf\xbd" in case else (b"",):
            reply = produce(g, "demo.pin", as_value(case.replace(b"\xef\xbf\xbd", broken)))
            assert reply[0] == 400, (name, reply)
            is_error(reply, 400, 400, "Malformed JSON at byte ")
        n += 1
    assert n == 188 and p.records == []


def test_json_suite_either(pair):
    g, p = pair
    taken = []
    for name, case in cases("i"):
        status = produce(g, "demo.pin", as_value(case))[0]
        assert status in (200, 400), name
        if status == 200:
            taken.append(case.strip())
    assert p.values() == taken
    assert call(g.http, "GET", "/")[0] == 200
