"""The emulator against a small HTTP server: what it sends, what it writes down, when it sends, and how it ends.

SPDX-License-Identifier: Apache-2.0
"""
import fcntl
import hashlib
import http.server
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time

import h2.config
import h2.connection
import h2.events
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("SLUICE_BIN", os.path.join(ROOT, "build", "test", "bin"))
EMULATOR = os.path.join(BIN, "sluice-emulator")
DEADLINE = 120
DATASETS = ("pin", "geo", "user")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet

    def do_POST(self):  # noqa: N802 (the name is the library's)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        gateway = self.server.gateway
        with gateway.lock:
            gateway.requests.append((self.path, dict(self.headers), json.loads(body), body))
            number = len(gateway.requests)
        answer = gateway.answer(number, self.path, json.loads(body)["records"])
        if answer is None:  # cut: the client cannot know
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, value = answer
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.kafka.v2+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        pass  # a client that went away is no failure of the test


class Gateway:
    """Stores everything, and says so; `answer` may be replaced."""

    def __init__(self):
        self.lock = threading.Lock()
        self.requests = []
        self.offsets = {}
        self.answer = self.store
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.gateway = self
        self.url = "http://127.0.0.1:%d" % self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def store(self, _number, path, records):
        topic = path.rsplit("/", 1)[1]
        with self.lock:
            first = self.offsets.get(topic, 0)
            self.offsets[topic] = first + len(records)
        return 200, {"offsets": [{"partition": 0, "offset": first + i, "error_code": None, "error": None}
                                 for i in range(len(records))]}

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def gateway():
    g = Gateway()
    yield g
    g.close()


def run(*args):
    return subprocess.run([EMULATOR, *args], capture_output=True, text=True, timeout=DEADLINE, check=False,
                          stdin=subprocess.DEVNULL)


def report_of(done, code=0):
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def printed(dataset, *args):
    done = run("--print", dataset, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_posts_generated_rows_in_order(gateway, tmp_path):
    ledger = str(tmp_path / "l.jsonl")
    report = report_of(run("--gateway", gateway.url, "--rows", "7", "--seed", "5", "--connections", "1", "--stage", "dev",
                           "--user", "ann", "--ledger", ledger, "--report=json"))
    assert (report["sent"], report["ok"], report["refused"], report["unknown"], report["planned"]) == (21, 21, 0, 0, 21)
    expected = {d: printed(d, "--rows", "7", "--seed", "5") for d in DATASETS}
    assert len(gateway.requests) == 21
    for i, (path, headers, body, raw) in enumerate(gateway.requests):
        dataset = DATASETS[i % 3]
        assert path == "/dev/topics/ann." + dataset
        assert headers["Content-Type"] == "application/vnd.kafka.json.v2+json"
        assert list(body) == ["records"] and [list(r) for r in body["records"]] == [["value"]]
        assert expected[dataset][i // 3].encode() in raw  # byte for byte
    written = lines(ledger)
    assert [x["id"] for x in written] == list(range(1, 22))
    for i, x in enumerate(written):
        dataset = DATASETS[i % 3]
        value = expected[dataset][i // 3]
        assert x["value"] == value and x["sha256"] == hashlib.sha256(value.encode()).hexdigest()
        assert (x["try"], x["dataset"], x["key"], x["status"]) == (1, dataset, i // 3, 200)
        assert (x["outcome"], x["error_code"], x["topic"]) == ("ok", None, "ann." + dataset)
        assert (x["partition"], x["offset"]) == (0, i // 3)
        assert x["target"] == gateway.url + "/dev/topics/ann." + dataset
        assert abs(x["sent_at"] - time.time() * 1000) < DEADLINE * 1000
        assert x["answered_at"] >= x["sent_at"]


def test_replays_files_byte_for_byte(gateway, tmp_path):
    texts = {"pin": '{"index":1,"title":"a\\u00e9 \\"b\\"" }\n{"index":2,"x":1.50}\n', "geo": '{"ind":1}\n\n{"ind":2}',
             "user": '{"ind":1,"first_name":"Zoë"}\r\n'}
    for name, text in texts.items():
        (tmp_path / (name + ".jsonl")).write_bytes(text.encode())
    report = report_of(run("--gateway", gateway.url + "/", "--posts", str(tmp_path), "--connections", "1", "--report=json"))
    assert report["sent"] == report["ok"] == report["planned"] == 5
    assert [(r[0], r[3]) for r in gateway.requests] == [
        ("/topics/demo.pin", b'{"records":[{"value":{"index":1,"title":"a\\u00e9 \\"b\\"" }}]}'),
        ("/topics/demo.geo", b'{"records":[{"value":{"ind":1}}]}'),
        ("/topics/demo.user", '{"records":[{"value":{"ind":1,"first_name":"Zoë"}}]}'.encode()),
        ("/topics/demo.pin", b'{"records":[{"value":{"index":2,"x":1.50}}]}'),
        ("/topics/demo.geo", b'{"records":[{"value":{"ind":2}}]}')]


def test_batches_over_many_connections(gateway, tmp_path):
    ledger = str(tmp_path / "l.jsonl")
    report = report_of(run("--gateway", gateway.url, "--rows", "205", "--batch", "20", "--connections", "6", "--ledger", ledger,
                           "--report=json"))
    assert (report["ok"], report["requests"]) == (615, 33)
    assert sorted(len(r[2]["records"]) for r in gateway.requests) == [5] * 3 + [20] * 30
    written = lines(ledger)
    assert sorted(x["id"] for x in written) == list(range(1, 616))
    for dataset in DATASETS:
        mine = [x for x in written if x["dataset"] == dataset]
        assert sorted(x["key"] for x in mine) == list(range(205))
        assert sorted(x["offset"] for x in mine) == list(range(205))


def test_draws_with_replacement(gateway, tmp_path):
    ledger = str(tmp_path / "l.jsonl")
    args = ("--gateway", gateway.url, "--rows", "5", "--draws", "40", "--pause", "0", "--report=json", "--ledger")
    report = report_of(run(*args, ledger))
    assert report["ok"] == report["planned"] == 120
    keys = [x["key"] for x in lines(ledger)]
    posts = [keys[i:i + 3] for i in range(0, 120, 3)]
    assert all(p[0] == p[1] == p[2] for p in posts)
    drawn = [p[0] for p in posts]
    assert set(drawn) <= set(range(5)) and len(set(drawn)) >= 3 and drawn != sorted(drawn)
    again = str(tmp_path / "again.jsonl")
    report_of(run(*args, again))
    assert [x["key"] for x in lines(again)] == keys


def test_pauses_between_draws(gateway):
    started = time.monotonic()
    report_of(run("--gateway", gateway.url, "--rows", "5", "--draws", "12", "--pause", "150ms", "--report=json"))
    assert time.monotonic() - started >= 0.15  # twelve coins, one seed: at least one pause


OUTCOMES = [
    ((200, {"offsets": [{"partition": None, "offset": None, "error_code": 50002, "error": "x"}]}), "refused", 200, 50002),
    ((200, {"offsets": [{"partition": None, "offset": None, "error_code": 50003, "error": "x"}]}), "unknown", 200, 50003),
    ((200, {"offsets": []}), "unknown", 200, None),
    ((200, b"not json"), "unknown", 200, None),
    ((404, {"error_code": 40401, "message": "x"}), "refused", 404, 40401),
    ((422, {"error_code": 42201, "message": "x"}), "refused", 422, 42201),
    ((429, b""), "refused", 429, None),
    ((503, {"error_code": 503, "message": "x"}), "refused", 503, 503),
    ((503, {"error_code": 50003, "message": "x"}), "unknown", 503, 50003),
    ((500, {"error_code": 500, "message": "x"}), "unknown", 500, 500),
    ((502, b"<html>"), "unknown", 502, None),
    (None, "unknown", None, None),
]


@pytest.mark.parametrize("answer,outcome,status,code", OUTCOMES)
def test_outcomes(gateway, tmp_path, answer, outcome, status, code):
    gateway.answer = lambda number, path, records: answer
    ledger = str(tmp_path / "l.jsonl")
    report = report_of(run("--gateway", gateway.url, "--rows", "1", "--ledger", ledger, "--report=json"))
    assert report[outcome] == report["sent"] == 3
    for x in lines(ledger):
        assert (x["outcome"], x["status"], x["error_code"], x["offset"]) == (outcome, status, code, None)
    assert len(gateway.requests) == 3  # nothing is repeated unasked


class Http2Gateway(threading.Thread):
    """HTTP/2 without TLS, on the same answers; each connection has a thread."""

    def __init__(self, gateway):
        super().__init__(daemon=True)
        self.gateway = gateway
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.connections = self.number = 0
        self.lock = threading.Lock()

    def run(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return  # closed by the test
            self.connections += 1
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        conn.initiate_connection()
        peer.sendall(conn.data_to_send())
        streams = {}
        while data := peer.recv(65536):
            for event in conn.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    path = dict(event.headers)[b":path"].decode()
                    streams[event.stream_id] = (path, bytearray())
                elif isinstance(event, h2.events.DataReceived):
                    streams[event.stream_id][1].extend(event.data)
                    conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    path, body = streams.pop(event.stream_id)
                    with self.lock:
                        self.number += 1
                        status, value = self.gateway.answer(self.number, path, json.loads(bytes(body))["records"])
                    conn.send_headers(event.stream_id, [(":status", str(status))])
                    conn.send_data(event.stream_id, json.dumps(value).encode(), end_stream=True)
            peer.sendall(conn.data_to_send())


def test_http2(gateway):
    server = Http2Gateway(gateway)
    server.start()
    report = report_of(run("--gateway", server.url, "--rows", "41", "--connections", "16", "--http2", "--report=json"))
    assert report["ok"] == 123 and sum(gateway.offsets.values()) == 123
    assert 1 <= server.connections <= 16
    server.listener.close()


def test_some_records_of_a_batch_fail_and_are_tried_again(gateway, tmp_path):
    def answer(number, path, records):
        if number > 1:
            return gateway.store(number, path, records)
        return 200, {"offsets": [{"partition": 0, "offset": 7, "error_code": None, "error": None},
                                 {"partition": None, "offset": None, "error_code": 50003, "error": "x"},
                                 {"partition": None, "offset": None, "error_code": 50002, "error": "x"}]}
    gateway.answer = answer
    ledger = str(tmp_path / "l.jsonl")
    report = report_of(run("--gateway", gateway.url, "--rows", "3", "--batch", "3", "--connections", "1", "--tries", "3",
                           "--ledger", ledger, "--report=json"))
    assert (report["sent"], report["ok"], report["tries"], report["requests"]) == (9, 9, 11, 4)
    written = lines(ledger)
    assert [(x["id"], x["try"], x["outcome"]) for x in written[:5]] == [
        (1, 1, "ok"), (2, 1, "unknown"), (3, 1, "refused"), (2, 2, "ok"), (3, 2, "ok")]
    assert [r["value"]["index"] for r in gateway.requests[1][2]["records"]] == [1, 2]


def test_tries_end(gateway, tmp_path):
    gateway.answer = lambda number, path, records: (503, {"error_code": 503, "message": "x"})
    ledger = str(tmp_path / "l.jsonl")
    report = report_of(run("--gateway", gateway.url, "--rows", "1", "--tries", "2", "--ledger", ledger, "--report=json"))
    assert (report["refused"], report["tries"]) == (3, 6)
    assert sorted((x["id"], x["try"]) for x in lines(ledger)) == [(i, t) for i in (1, 2, 3) for t in (1, 2)]


def test_nothing_could_be_sent(tmp_path):
    with socket.socket() as s:  # bound, and nobody listens
        s.bind(("127.0.0.1", 0))
        ledger = str(tmp_path / "l.jsonl")
        done = run("--gateway", "http://127.0.0.1:%d" % s.getsockname()[1], "--rows", "2", "--ledger", ledger, "--report=json")
    assert report_of(done, 69)["refused"] == 6
    assert "nothing could be sent" in done.stderr
    assert {(x["outcome"], x["status"]) for x in lines(ledger)} == {("refused", None)}


def test_timeout_is_unknown(gateway, tmp_path):
    release = threading.Event()
    gateway.answer = lambda number, path, records: release.wait(DEADLINE) and None
    ledger = str(tmp_path / "l.jsonl")
    report = report_of(run("--gateway", gateway.url, "--rows", "1", "--timeout", "300ms", "--ledger", ledger, "--report=json"))
    release.set()
    assert report["unknown"] == 3
    assert {(x["outcome"], x["status"]) for x in lines(ledger)} == {("unknown", None)}


def test_rate_is_kept(gateway):
    """The plan is never run ahead of, and is kept up with."""
    report = report_of(run("--gateway", gateway.url, "--rows", "50", "--rate", "100", "--report=json"))
    assert report["ok"] == 150
    assert report["seconds"] >= 1.48  # request 149 is planned for 1.49 s


def test_latency_counts_from_the_planned_moment(tmp_path):
    """A server that stands still for a second: what was planned meanwhile is late, and the report says so."""
    script = tmp_path / "server.py"
    script.write_text("import sys\nsys.path.insert(0, %r)\nimport test_emulator as t\ng = t.Gateway()\n"
                      "print(g.url, flush=True)\ng.thread.join()\n" % os.path.dirname(os.path.abspath(__file__)))
    server = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        emulator = subprocess.Popen([EMULATOR, "--gateway", url, "--rows", "300", "--rate", "120", "--connections", "8",
                                     "--progress=json", "--report=json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                    text=True)
        for line in emulator.stderr:
            if json.loads(line)["ok"] > 0:
                break
        os.kill(server.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        while time.monotonic() - stopped < 1.05:
            emulator.stderr.readline()  # one line every 200 ms
        os.kill(server.pid, signal.SIGCONT)
        out, _ = emulator.communicate(timeout=DEADLINE)
        report = json.loads(out)
        assert emulator.returncode == 0
        assert report["ok"] == 900
        assert report["latency_ms"]["p99_9"] >= 900
        assert report["latency_ms"]["max"] >= report["latency_ms"]["p99_9"] >= report["latency_ms"]["p50"] > 0
    finally:
        os.kill(server.pid, signal.SIGCONT)
        server.kill()
        server.wait(DEADLINE)


def test_progress_lines(gateway):
    done = run("--gateway", gateway.url, "--rows", "20", "--rate", "60", "--progress=json", "--report=json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(events) >= 2 and all(set(e) == {"event", "sent", "ok", "planned"} for e in events)
    assert events[-1] == {"event": "progress", "sent": 60, "ok": 60, "planned": 60}
    assert [e["sent"] for e in events] == sorted(e["sent"] for e in events)


def test_interrupt_ends_with_the_report(gateway, tmp_path):
    ledger = str(tmp_path / "l.jsonl")
    emulator = subprocess.Popen([EMULATOR, "--gateway", gateway.url, "--pause", "0", "--progress=json", "--report=json",
                                 "--ledger", ledger], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in emulator.stderr:
        if json.loads(line)["ok"] > 10:
            break
    emulator.send_signal(signal.SIGINT)
    out, _ = emulator.communicate(timeout=DEADLINE)
    report = json.loads(out)
    assert emulator.returncode == 0
    assert report["interrupted"] and report["planned"] is None
    assert report["ok"] == report["sent"] == len(lines(ledger)) == sum(gateway.offsets.values())


def test_second_interrupt_drops_what_is_in_flight(gateway, tmp_path):
    release = threading.Event()
    gateway.answer = lambda number, path, records: release.wait(DEADLINE) and None
    ledger = str(tmp_path / "l.jsonl")
    emulator = subprocess.Popen([EMULATOR, "--gateway", gateway.url, "--rows", "5", "--connections", "4", "--timeout", "100s",
                                 "--progress=json", "--report=json", "--ledger", ledger],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + DEADLINE
    while len(gateway.requests) < 4:
        assert time.monotonic() < deadline
        emulator.stderr.readline()
    emulator.send_signal(signal.SIGINT)
    for _ in range(3):
        emulator.stderr.readline()  # it goes on waiting
    assert emulator.poll() is None
    emulator.send_signal(signal.SIGINT)
    out, _ = emulator.communicate(timeout=DEADLINE)
    release.set()
    report = json.loads(out)
    assert (report["sent"], report["unknown"]) == (4, 4)
    assert [x["outcome"] for x in lines(ledger)] == ["unknown"] * 4


def test_print_is_deterministic():
    for dataset in DATASETS:
        rows = printed(dataset, "--rows", "50", "--seed", "9")
        assert len(rows) == 50 and rows == printed(dataset, "--rows", "50", "--seed", "9")
        assert rows != printed(dataset, "--rows", "50", "--seed", "10")
        key = "index" if dataset == "pin" else "ind"
        assert [json.loads(r)[key] for r in rows] == list(range(50))
        assert [json.dumps(json.loads(r)) for r in rows] == rows  # as the original client writes it


@pytest.mark.parametrize("args", [["--rate", "0"], ["--rows", "x"], ["--rows", "0"], ["--nonsense"], ["word"], ["--print", "dog"],
                                  ["--rows", "1", "--posts", "."], ["--posts", "/nonexistent"], ["--timeout", "1"],
                                  ["--gateway", "ftp://x"], ["--rows"], ["--report", "xml"], ["--batch", "0"]])
def test_usage(args):
    done = run(*args)
    assert done.returncode == 64
    assert done.stderr.startswith("sluice-emulator: ") and done.stdout == ""


def test_help_and_ledger_that_cannot_be_written():
    done = run("--help")
    assert done.returncode == 0 and "--ledger FILE" in done.stdout
    done = run("--rows", "1", "--ledger", "/nonexistent/l.jsonl")
    assert done.returncode == 73 and "/nonexistent/l.jsonl" in done.stderr


def test_a_ledger_that_is_full_stops_the_load(gateway):
    """What was sent must be written down."""
    done = run("--gateway", gateway.url, "--rows", "2000", "--connections", "2", "--ledger", "/dev/full", "--report=json")
    report = report_of(done, code=73)
    assert report["interrupted"] and report["sent"] < 100 and done.stderr.count("ledger cannot be written") == 1


@pytest.mark.parametrize("columns", [120, 60, 30])
def test_the_bar_fits_the_terminal(gateway, columns):
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(slave, "wb"), os.fdopen(master, "rb", 0) as screen:
        done = subprocess.run([EMULATOR, "--gateway", gateway.url, "--rows", "5"], stderr=slave, stdout=subprocess.PIPE, timeout=DEADLINE, check=False)
        assert done.returncode == 0
        drawn = screen.read(1 << 16).decode().replace("\n", "\r").split("\r")
    assert max(len(line) for line in drawn) == columns - 1
    last = [line for line in drawn if line][-1].strip()
    assert last.startswith("[###" if columns > 30 else "100 %") and "100 %  15 of 15 records" in last
