"""./sluice as a program: up, down, status, settle, ask, repair and demo, with the real redis-server and
scripted services (a small HTTP program under each service's name), so that every answer can be chosen.

SPDX-License-Identifier: Apache-2.0
"""
import fcntl
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))

from sluice import http, stack, status, terminal  # noqa: E402
from support.service import until  # noqa: E402

SLUICE = os.path.join(ROOT, "sluice")
SCRIPTED = r'''#!%s
import http.server, json, os, sys, threading
name = os.path.basename(sys.argv[0])
if "--check-config" in sys.argv:
    wrong = [a for a in sys.argv if "nosuch" in a]
    print(name + ": unknown flag " + wrong[0] if wrong else "the configuration is valid")
    sys.exit(64 if wrong else 0)
here = os.path.dirname(os.path.abspath(sys.argv[0]))
replica = os.environ.get("SLUICE_REPLICA", "0")
with open(os.path.join(here, "starts"), "a") as f:
    f.write(json.dumps({"name": name, "replica": replica, "pid": os.getpid(), "argv": sys.argv[1:],
                        "env": {k: v for k, v in os.environ.items() if k.startswith("SLUICE_")}}) + "\n")
def script():
    with open(os.path.join(here, "script.json")) as f:
        return json.load(f)
if name + ".exit" in script():
    print("the end of the world is near", file=sys.stderr)
    sys.exit(script()[name + ".exit"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path
        key = "%%s %%s" %% (name + ("#" + str(int(replica) + 1) if replica != "0" else ""), path)
        status, body = script().get(key, [200, {"ready": True, "checks": []}] if path == "/readyz" else [404, {"error": "no " + key}])
        if isinstance(body, str) and body.startswith("@"):
            body = json.dumps({"path": path, "posted": self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()})
            with open(os.path.join(here, "orders"), "a") as f:
                f.write(body + "\n")
            body = {"ok": True}
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_POST = do_GET
    def log_message(self, *a):
        pass
servers = []
for variable in ("SLUICE_ADMIN_LISTEN", "SLUICE_HTTP_LISTEN"):
    if variable in os.environ:
        host, _, port = os.environ[variable].rpartition(":")
        servers.append(http.server.ThreadingHTTPServer((host, int(port)), Handler))
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
''' % sys.executable
EMULATOR = r'''#!%s
import json, sys
rows = int(sys.argv[sys.argv.index("--rows") + 1])
for sent in (rows, 3 * rows):
    print(json.dumps({"event": "progress", "sent": sent, "ok": sent, "planned": 3 * rows}), file=sys.stderr)
''' % sys.executable
SOURCES = {d: "kafka:demo.%s:0:ID%s" % (d, d) for d in stack.DATASETS}
QUESTIONS = {"popular-category-by-country": ["dedup"], "top-user-country": ["dedup", "top", "format"]}


class Place:
    """A state folder, scripted services, and a way to call ./sluice on them."""

    def __init__(self, folder):
        self.state = str(folder / "state")
        self.bin = str(folder / "bin")
        os.makedirs(self.bin)
        for name, text in [(s, SCRIPTED) for s in stack.SERVICES] + [("sluice-emulator", EMULATOR)]:
            path = os.path.join(self.bin, name)
            with open(path, "w") as f:
                f.write(text)
            os.chmod(path, 0o755)
        self.answers = {}
        self.settled(5)

    def settled(self, n, wanted=None, version=3, seen=3, holes=()):
        """Scripts a pipeline: n raw records a topic, of which the tables have `wanted`."""
        wanted = n if wanted is None else wanted
        a = self.answers
        a["gateway /debug/state"] = [200, {"gateway": {"topics": {"demo." + d: {"id": "ID" + d, "partitions": 1} for d in SOURCES}}}]
        for d in SOURCES:
            a["gateway /topics/demo.%s/partitions" % d] = [200, [{"partition": 0, "leader": 1}]]
            a["gateway /topics/demo.%s/partitions/0/offsets" % d] = [200, {"beginning_offset": 0, "end_offset": n}]
        a["sink-s3 /debug/state"] = [200, {"sink": {"tables": {
            d: {"table": "demo_%s_table" % d, "version": version, "sources": {s: wanted}} for d, s in SOURCES.items()}, "holes": list(holes)}}]
        a["query-api /debug/state"] = [200, {"query-api": {"tables": {d: {"version": seen, "rows": n} for d in SOURCES}}}]
        a["query-api /v1/questions"] = [200, {"questions": [{"name": q, "parameters": [{"name": p} for p in ps]} for q, ps in QUESTIONS.items()]}]
        for q in QUESTIONS:
            a["query-api /v1/questions/" + q] = [200, {
                "meta": [{"name": "country", "type": "string"}, {"name": "category_count", "type": "long"}],
                "data": [{"country": "Perú 東京", "category_count": 8}, {"country": None, "category_count": 2}], "rows": 2, "statistics": {}}]
        self.write()

    def write(self):
        temp = os.path.join(self.bin, "script.tmp")
        with open(temp, "w") as f:
            json.dump(self.answers, f)
        os.replace(temp, os.path.join(self.bin, "script.json"))

    def sluice(self, *args, code=0, timeout=120, encoding="utf-8"):
        env = dict(os.environ, SLUICE_BIN=self.bin, SLUICE_FOREIGN="1")
        done = subprocess.run([SLUICE, args[0], "--state", self.state] + list(args[1:]), env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, encoding=encoding)
        assert done.returncode == code, "%s: exit %d\n%s\n%s" % (args, done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def up(self, *args, **more):
        return self.sluice("up", "--detach", "--without", "kafka", *args, **more)

    def stack(self):
        return stack.load(self.state)

    def lines(self, name):
        with open(os.path.join(self.bin, name)) as f:
            return [json.loads(line) for line in f]


@pytest.fixture
def place(tmp_path):
    p = Place(tmp_path)
    yield p
    stack.down(p.state, say=lambda text: None)
    assert stack.ours(p.state) == []


def test_up_tells_where_everything_is(place):
    place.up("--replicas", "cleaner=2", "--replicas", "gateway=2", "--set", "sink-s3.flush.interval=100ms", "--set", "cleaner#2.span.linger=5ms",
             "--env", "cleaner#1.SLUICE_CRASH_AT=here", "--user", "demo", "--set", "sink-s3.redis.url=redis://:secret@127.0.0.1:1")
    value = place.stack()
    assert set(value["admin"]) == set(stack.SERVICES) | {"cleaner#2", "gateway#2"}
    assert http.request("GET", value["gateway#2"] + "/")[0] == 404 and value["gateway#2"] != value["gateway"]
    assert set(value["pids"]) == set(value["admin"]) | {"redis"}
    assert all(stack.alive(pid) for pid in value["pids"].values())
    assert all(http.ready(url)[0] for url in value["admin"].values())
    assert value["lake"] == "file://" + os.path.join(place.state, "lake")
    starts = {(s["name"], s["replica"]): s for s in place.lines("starts")}
    assert starts["sink-s3", "0"]["argv"] == ["--flush.interval=100ms"] and starts["cleaner", "1"]["argv"] == ["--span.linger=5ms"]
    env = starts["sink-s3", "0"]["env"]
    assert env["SLUICE_REDIS_URL"] == "redis://:secret@127.0.0.1:1" and env["SLUICE_KAFKA_BROKERS"] == value["kafka"]
    assert env["SLUICE_LAKE_URL"] == value["lake"] and "SLUICE_FOREIGN" not in env and "SLUICE_BIN" not in env
    assert starts["query-api", "0"]["env"]["SLUICE_ANNOUNCE_FROM"] == env["SLUICE_ANNOUNCE_LISTEN"]
    assert starts["gateway", "0"]["env"]["SLUICE_PRODUCERS"] == starts["producer", "0"]["env"]["SLUICE_BUS_LISTEN"]
    assert starts["cleaner", "0"]["env"]["SLUICE_CRASH_AT"] == "here" and "SLUICE_CRASH_AT" not in starts["cleaner", "1"]["env"]
    assert "already up" in place.up(code=1)
    assert "stopped" in place.sluice("down")
    assert not any(stack.alive(pid) for pid in [value["runner"], *value["pids"].values()])
    assert "nothing was running" in place.sluice("down")
    place.up()
    assert {k: place.stack()[k] for k in ("gateway", "query_api", "redis")} == {k: value[k] for k in ("gateway", "query_api", "redis")}


@pytest.mark.parametrize("victim", ["cleaner", "redis"])
def test_what_dies_is_started_again(place, victim):
    place.up("--env", "cleaner.SLUICE_CRASH_AT=here")
    before = place.stack()
    os.kill(before["pids"][victim], signal.SIGKILL)
    until("a new process", lambda: place.stack()["pids"].get(victim, before["pids"][victim]) != before["pids"][victim])
    after = place.stack()
    assert after["restarts"][victim] == 1 and after["admin"] == before["admin"] and after["redis"] == before["redis"]
    until("all to be ready again", lambda: all(s["ready"] for s in json.loads(_status(place))["services"]))
    if victim == "cleaner":
        assert [("SLUICE_CRASH_AT" in s["env"]) for s in place.lines("starts") if s["name"] == "cleaner"] == [True, False]


def test_environment_of_the_next_start_alone(place):
    place.up()
    os.makedirs(os.path.join(place.state, "env"))
    path = os.path.join(place.state, "env", "cleaner.json")
    stack.write_json(path, {"SLUICE_CRASH_AT": "there"})
    for starts in (2, 3):
        pid = place.stack()["pids"]["cleaner"]
        os.kill(pid, signal.SIGKILL)
        until("a new process", lambda: place.stack()["pids"].get("cleaner", pid) != pid)
        until("its start", lambda: len([s for s in place.lines("starts") if s["name"] == "cleaner"]) == starts)
        assert not os.path.exists(path)
    given = [s["env"].get("SLUICE_CRASH_AT") for s in place.lines("starts") if s["name"] == "cleaner"]
    assert given == [None, "there", None]


def _status(place):
    return subprocess.run([SLUICE, "status", "--state", place.state, "--json"], stdout=subprocess.PIPE, timeout=60).stdout


def test_killed_runner(place):
    place.up()
    value = place.stack()
    os.kill(value["runner"], signal.SIGKILL)
    until("the runner's end", lambda: not stack.alive(value["runner"]))
    assert "the runner is gone" in place.sluice("status", code=1)
    place.up()
    assert not any(stack.alive(pid) for pid in value["pids"].values())
    value = place.stack()
    os.kill(value["runner"], signal.SIGKILL)
    until("the runner's end", lambda: not stack.alive(value["runner"]))
    assert "left" in place.sluice("down")
    assert not any(stack.alive(pid) for pid in value["pids"].values())


def test_a_state_folder_that_is_removed_ends_what_ran_in_it(place):
    place.up()
    before = place.stack()
    os.rename(place.state, place.state + ".removed")
    until("the end of what ran in it", lambda: not any(stack.alive(pid) for pid in (before["runner"], *before["pids"].values())))
    place.up()
    before = place.stack()
    os.rename(place.state, place.state + ".removed.too")
    place.up()   # while the other runner may not have noticed yet
    until("the end of what ran in it", lambda: not stack.alive(before["runner"]))
    value = place.stack()
    assert value["runner"] != before["runner"] and all(stack.alive(pid) for pid in value["pids"].values())
    assert "stopped" in place.sluice("down")


def test_a_foreign_process_is_never_touched(place):
    with subprocess.Popen(["sleep", "600"]) as foreign:
        try:
            os.makedirs(place.state)
            stack.write_json(os.path.join(place.state, "stack.json"), {"pids": {"gateway": foreign.pid}, "runner": foreign.pid})
            place.sluice("down")
            assert foreign.poll() is None
        finally:
            foreign.kill()


def test_a_service_that_cannot_start_is_an_error_with_its_log(place):
    place.answers["cleaner.exit"] = 78
    place.write()
    text = place.up(code=1)
    assert "cleaner did not start" in text and "configuration" in text and "the end of the world" in text
    assert stack.ours(place.state) == [] and not os.path.exists(os.path.join(place.state, "stack.json"))


def test_a_service_that_is_never_ready_is_an_error_that_says_why(place):
    place.answers["sink-s3 /readyz"] = [503, {"ready": False, "checks": [{"name": "lake", "ok": False, "detail": "disk full"}]}]
    place.write()
    text = place.up("--start-limit", "8", code=1)
    assert "sink-s3" in text and "lake: disk full" in text
    assert stack.ours(place.state) == []


@pytest.mark.parametrize("args, hint", [
    (["--set", "cleaner"], "SERVICE.OPTION=VALUE"), (["--set", "nobody.x=1"], "no such service"), (["--replicas", "cleaner=0"], "SERVICE=N"),
    (["--without", "nobody"], "there are"), (["--user", "a b"], "letters"), (["--bin", "/nowhere"], "no binaries")])
def test_wrong_options(place, args, hint):
    assert hint in place.up(*args, code=1 if args[0] == "--bin" else 64)


def test_wrong_command_lines(place):
    for args, hint in (([], "usage: sluice"), (["nonsense"], "invalid choice"), (["up", "--nosuch"], "unrecognized"),
                       (["settle", "--timeout", "soon"], "invalid float"), (["demo", "--rows", "0"], "at least 1")):
        done = subprocess.run([SLUICE, *args], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 64 and hint in done.stderr and not done.stdout, done


def test_options_that_a_service_does_not_take_are_refused_before_anything_starts(place):
    text = place.up("--set", "gateway.nosuch=1", "--set", "cleaner.span.linger=5ms", code=64)
    assert "gateway does not take its options" in text and "unknown flag --nosuch=1" in text
    assert not os.path.exists(os.path.join(place.bin, "starts")) and stack.ours(place.state) == []
    assert not os.path.exists(os.path.join(place.state, "redis"))


def test_a_redis_that_cannot_start_is_given_up(place):
    os.makedirs(os.path.join(place.state, "logs"))
    with open(os.path.join(place.state, "logs", "redis.log"), "w") as f:
        f.write("from another life\n")
    began = time.monotonic()
    text = place.up("--set", "redis.nosuch=1", "--start-limit", "100", code=1)
    assert "redis did not start: exit code 1" in text and "nosuch" in text and "another life" not in text
    assert time.monotonic() - began < 90 and stack.ours(place.state) == []


def test_a_state_folder_that_cannot_be_used(place, tmp_path):
    (tmp_path / "file").write_text("")
    for args in (["up", "--detach"], ["up"], ["demo"]):
        done = subprocess.run([SLUICE, *args, "--state", str(tmp_path / "file")], env=dict(os.environ, SLUICE_BIN=place.bin),
                              capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1 and "cannot be a state folder: Not a directory; name another one with --state" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_stack_that_cannot_be_written_down_is_watched_all_the_same(place):
    place.up()
    value = place.stack()
    in_the_way = os.path.join(place.state, "stack.json.%d.tmp" % value["runner"])  # as on a full disk, the new file cannot be made
    os.makedirs(in_the_way)
    os.kill(value["pids"]["cleaner"], signal.SIGKILL)
    until("another start", lambda: len([s for s in place.lines("starts") if s["name"] == "cleaner"]) == 2)
    assert place.stack() == value
    with open(os.path.join(place.state, "logs", "runner.log")) as f:
        assert f.read().count("stack.json cannot be written") == 1
    os.rmdir(in_the_way)
    until("stack.json to be true again", lambda: place.stack()["pids"].get("cleaner") not in (None, value["pids"]["cleaner"]))
    assert place.stack()["restarts"]["cleaner"] == 1 and "stopped" in place.sluice("down")


def test_without_a_stack(place):
    for command in (["status"], ["settle"], ["ask"], ["repair"]):
        assert "no stack is up" in place.sluice(*command, code=1)


def test_settle(place):
    place.up()
    assert "settled: 15 raw records" in place.sluice("settle")
    place.settled(5, wanted=4)
    assert "1 behind" in place.sluice("settle", "--timeout", "1", code=1)
    place.settled(5, version=4, seen=3)
    assert "answers from version 3" in place.sluice("settle", "--timeout", "1", code=1)
    del place.answers["query-api /debug/state"][1]["query-api"]["tables"]["geo"]
    place.write()
    text = place.sluice("settle", "--timeout", "1", code=1)
    assert "of the pin table" in text and "of the geo table" not in text  # that no question asks about
    place.settled(0, version=-1, seen=-1)
    assert "settled: 0 raw" in place.sluice("settle")
    place.sluice("down")
    place.settled(5, wanted=0)
    place.up("--without", "cleaner", "--without", "query-api")
    assert "this stack has no cleaner" in place.sluice("settle", "--timeout", "1", code=1)
    place.settled(5)
    assert "the tables are at geo=3" in place.sluice("settle")
    place.sluice("down")
    place.up()
    place.settled(5, holes=[{"source": SOURCES["pin"], "wanted": 2, "from": 4}])
    text = place.sluice("settle", "--timeout", "600", code=1)
    assert "hole" in text and SOURCES["pin"] in text and "repair" in text


def test_ask(place):
    place.up()
    text = place.sluice("ask")
    assert all("\n%s  (2 rows" % q in text for q in QUESTIONS)
    os.environ["PYTHONIOENCODING"] = "latin-1"
    try:
        assert "Perú ??" in place.sluice("ask", encoding="latin-1")
    finally:
        del os.environ["PYTHONIOENCODING"]
    assert "Perú 東京" in text and "#" * terminal.BAR in text
    refused = place.sluice("ask", "nothing-such", code=1)
    assert "HTTP 404" in refused and all(q in refused for q in QUESTIONS)
    place.answers["query-api /v1/questions/top-user-country?from=1"] = [400, {"detail": "no parameter 'from'"}]
    place.write()
    refused = place.sluice("ask", "top-user-country", "from=1", code=1)
    assert "HTTP 400: no parameter 'from'" in refused and "dedup, top" in refused
    assert "curl '" in place.sluice("ask", "top-user-country", "format=csv", code=1)
    assert "key=value" in place.sluice("ask", "top-user-country", "top", code=64)
    place.answers["query-api /v1/questions/top-user-country?top=1"] = place.answers["query-api /v1/questions/top-user-country"]
    place.write()
    assert "top-user-country top=1" in place.sluice("ask", "top-user-country", "top=1")
    text = place.sluice("ask", "top=1")
    assert "top-user-country top=1" in text and "popular-category" not in text  # only those that have the parameter
    assert "no question has all" in place.sluice("ask", "top=1", "from=1", code=1)


def test_columns_stand_under_each_other():
    lines = terminal.table(["name", "n_count"], [{"name": "東京", "n_count": 10}, {"name": "e\u0301\U0001F600", "n_count": None}])
    assert [terminal.width(line.split("#")[0].rstrip()) for line in lines] == [13, 13, 13, 13]


def in_a_terminal(most, show):
    """What `show` writes on a terminal of so many columns."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, most, 0, 0))
    with os.fdopen(slave, "w") as out, os.fdopen(master, "rb", 0) as screen:
        show(out)
        out.flush()
        return screen.read(1 << 16).decode()


def test_no_line_is_wider_than_the_terminal():
    rows = [{"country": "Peru", "poster_name": "A name of which there is rather too much", "follower_count": n} for n in (10, 5)]
    names = list(rows[0])
    for most, bar, whole in ((200, terminal.BAR, True), (75, 8, True), (66, 0, True), (60, 0, False), (36, 0, False)):
        lines = terminal.table(names, rows, most=most)
        assert max(terminal.width(line) for line in lines) <= most, lines
        assert lines[2].count("#") == bar and ("…" not in lines[2]) == whole, lines
        assert lines[2].split("#")[0].split()[-1] == "10"
    assert terminal.shorten("東京都", 5) == "東京…" and terminal.shorten("東京都", 6) == "東京都"

    for most in (100, 60, 20):
        def show(out):
            bar = terminal.Progress("settling", out)
            bar.show(1500, 2000)
            bar.show(2000, 2000)
            bar.end()
        text = in_a_terminal(most, show)
        assert all(len(part) < most for part in text.replace("\n", "\r").split("\r")), text
        assert "settling" in text and ("#" in text) == (most > 40), text


def test_progress_elsewhere():
    out = io.StringIO()
    bar = terminal.Progress("posting", out)
    for done in (1, 5, 50, 51, 100):
        bar.show(done, 100)
    bar.end()
    assert out.getvalue() == "posting 1 % (1 of 100)\nposting 50 % (50 of 100)\nposting 100 % (100 of 100)\n"


def test_repair(place):
    place.up("--replicas", "cleaner=2")
    assert "0 open holes" in place.sluice("repair")
    place.settled(5, wanted=2, holes=[{"source": SOURCES["pin"], "wanted": 2, "from": 4}])
    assert "wanted 2" in place.sluice("repair", code=1)
    place.answers["cleaner /orders/rewind"] = [404, {"error": "not owned here"}]
    place.answers["cleaner#2 /orders/rewind"] = [200, "@log"]
    place.write()
    assert "position 2" in place.sluice("repair", "demo.pin:0", "--rewind")
    (order,) = place.lines("orders")
    assert order["path"] == "/orders/rewind" and json.loads(order["posted"]) == {"source": SOURCES["pin"], "position": 2}
    assert "not owned here" not in place.sluice("repair", SOURCES["pin"], "--accept", code=1).split("cleaner#2")[1]
    assert "no source" in place.sluice("repair", "demo.nothing:0", "--accept", code=1)


def test_demo(place):
    text = place.sluice("demo", "--once", "--rows", "5", "--without", "kafka")
    assert "posting 100 %" in text and "nothing is left running" in text
    assert all("\n%s  (2 rows" % q in text for q in QUESTIONS)
    assert stack.ours(place.state) == []


def test_demo_stays_until_interrupted(place):
    env = dict(os.environ, SLUICE_BIN=place.bin)
    with subprocess.Popen([SLUICE, "demo", "--state", place.state, "--rows", "5", "--without", "kafka"], env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as demo:
        for line in demo.stdout:
            if "stays up until" in line:
                break
        else:
            pytest.fail("the demo ended by itself")
        assert demo.poll() is None and stack.ours(place.state)
        demo.send_signal(signal.SIGINT)
        assert "nothing is left running" in demo.stdout.read()
        assert demo.wait(60) == 0
    assert stack.ours(place.state) == []


@pytest.mark.parametrize("behind", [True, False])
def test_demo_that_is_interrupted_before_its_answers(place, behind):
    """While it settles, or while it still starts: exit code 130, so that no script takes it for a success."""
    if behind:
        place.settled(5, wanted=4)
    else:
        place.answers["sink-s3 /readyz"] = [503, {"ready": False, "checks": []}]
    place.write()
    with subprocess.Popen([SLUICE, "demo", "--once", "--state", place.state, "--rows", "5", "--without", "kafka"], text=True,
                          env=dict(os.environ, SLUICE_BIN=place.bin), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as demo:
        until("all services", lambda: os.path.exists(os.path.join(place.bin, "starts")) and len(place.lines("starts")) == 5)
        for line in demo.stdout if behind else ():
            if "settling" in line:
                break
        demo.send_signal(signal.SIGINT)
        text = demo.stdout.read()
        assert demo.wait(60) == 130, text
    assert "stopped before" in text and "nothing is left running" in text and "Traceback" not in text
    assert stack.ours(place.state) == []


def test_ports_in_use_are_replaced_and_reserved():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(1)
        port = busy.getsockname()[1]
        one, two = stack.Ports(), stack.Ports()
        a = one.pick("x", port)
        assert a != port
        assert one.pick("x", port) == a
        assert two.pick("x", a) != a
        one.release()
        assert stack.Ports({"x": a}).pick("x") == a
        two.release()


def test_status_shows_rates_lag_and_holes(place):
    place.settled(9, wanted=2, holes=[{"source": SOURCES["pin"], "wanted": 2, "from": 4}])
    place.answers["cleaner /debug/state"] = [200, {"cleaner": {"sources": [
        {"source": s, "topic": "demo." + d, "partition": 0, "position": 8, "confirmed": 8, "committed": 8, "low": 0, "end": 9}
        for d, s in SOURCES.items()]}}]
    place.answers["cleaner /metrics"] = [200, 'sluice_cleaner_records_total{dataset="pin"} 3\n']
    place.write()
    place.up()
    text = place.sluice("status", code=1)
    assert "hole: " + SOURCES["pin"] in text
    rows = {s["name"]: s for s in json.loads(_status(place))["services"]}
    assert rows["cleaner"]["lag"] == 3 and rows["sink-s3"]["lag"] == 21 and rows["gateway"]["lag"] is None
    assert rows["cleaner"]["in_per_s"] == 0.0 and rows["cleaner"]["out_per_s"] == 0.0 and rows["sink-s3"]["in_per_s"] is None
    assert all(r["ready"] and r["restarts"] == 0 for r in rows.values())
    assert list(rows) == ["gateway", "producer", "cleaner", "redis", "sink-s3", "query-api"]
    assert rows["query-api"]["address"] == place.stack()["query_api"] and rows["gateway"]["address"] == place.stack()["gateway"]
    place.answers["cleaner /readyz"] = [503, {"ready": False, "checks": [{"name": "kafka", "ok": False, "detail": "x" * 300}]}]
    place.write()
    text = place.sluice("status", code=1)
    assert "cleaner is not ready: kafka: " + "x" * 300 in text.splitlines()
    assert max(len(line) for line in text.splitlines()[:8]) < 100


def test_status_counts_by_metrics_that_there_are():
    with open(os.path.join(ROOT, "docs", "metrics.md")) as f:
        parts = {part.splitlines()[0]: part for part in f.read().split("\n## ")}
    for service, totals in status.FLOW.items():
        for name, labels in filter(None, totals):
            (line,) = [x for x in parts[service].splitlines() if "`%s`" % name in x]
            assert all("`%s`" % k in line and v in line for k, v in labels.items())
    samples = http.parse_metrics('sluice_producer_records_total{result="stored"} 3\nsluice_producer_records_total{result="unsure"} 1\n')
    assert status.flow(samples, "producer") == [0, 3]


def test_metrics_are_parsed():
    text = '# HELP a b\na_total{x="1,2",y="q\\"z"} 3\nb 4.5e1\nbroken\n'
    assert http.parse_metrics(text) == [("a_total", {"x": "1,2", "y": 'q\\"z'}, 3.0), ("b", {}, 45.0)]
