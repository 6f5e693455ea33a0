"""rig: a whole stack for a test, started, looked at and stopped by ./sluice, as a person would do it.

    with Stack(folder, settings=["sink-s3.flush.interval=100ms"]) as s:
        s.post("--rows", "100", ledger="l.jsonl")
        s.settle()
        s.verify("l.jsonl")

Nothing here sleeps for a fixed time: until() waits for a condition. A stack that is up when a test fails shows the ends
of all its logs (conftest does that), and is stopped whatever happens.
SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading

from sluice import http, stack
from sluice.http import HttpError
from support import service

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SLUICE = os.path.join(ROOT, "sluice")
BIN = os.path.realpath(os.environ.get("SLUICE_BIN") or os.path.join(ROOT, "build", "test", "bin"))
POSTS = os.environ.get("SLUICE_POSTS") or os.path.join(os.path.dirname(ROOT), "shared", "data", "posts")
SERVICES = stack.SERVICES
DATASETS = stack.DATASETS
DEADLINE = int(os.environ.get("SLUICE_DEADLINE") or 180)
# A sanitized build is several times slower.
FLUSH = ["sink-s3.flush.interval=100ms", "sink-s3.commit.interval=200ms", "cleaner.commit.interval=200ms"]
UP = []  # the stacks that are up, for conftest


def until(what, check, deadline=DEADLINE, every=0.05):
    """As support.service.until; a stack that is not there, or not whole yet, counts as false too."""
    return service.until(what, check, deadline, (OSError, HttpError, KeyError, TypeError, stack.Trouble), every)


def ledger_lines(path):
    """The lines of a ledger as dicts; one that is being written now is left out."""
    out = []
    try:
        with open(path, "rb") as f:
            for line in f:
                if line.endswith(b"\n"):
                    out.append(json.loads(line))
    except FileNotFoundError:
        pass
    return out


class Load:
    """The emulator in the background."""

    def __init__(self, stack_, args, ledger):
        self.log = os.path.join(stack_.folder, "emulator-%d.log" % len(os.listdir(stack_.folder)))
        self.ledger = ledger
        line = [os.path.join(BIN, "sluice-emulator"), "--gateway", stack_.value["gateway"], "--user", stack_.value["user"]]
        line += ["--ledger", ledger, "--progress=json", "--report=json"] + [str(a) for a in args]
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=env)

    def running(self):
        return self.process.poll() is None

    def tries(self):
        """How many lines the ledger has by now."""
        try:
            with open(self.ledger, "rb") as f:
                return sum(chunk.count(b"\n") for chunk in iter(lambda: f.read(1 << 20), b""))
        except FileNotFoundError:
            return 0

    def wait(self, timeout=DEADLINE):
        """Waits for its end; returns its report."""
        out, _ = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, "emulator: exit code %d: %s" % (self.process.returncode, stack.tail(self.log))
        return json.loads(out)

    def stop(self, timeout=60):
        """Ends it; what is in flight is waited for. Returns its report."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Stack:
    """One stack. Services are named as ./sluice names them: "sink-s3", "cleaner#2", "kafka"."""

    def __init__(self, folder, settings=(), replicas=(), without=(), user="demo"):
        self.folder = str(folder)
        self.state = os.path.join(self.folder, "state")
        self.args = ["--bin", BIN, "--user", user, "--start-limit", "240"]
        for flag, values in (("--set", settings), ("--replicas", replicas), ("--without", without)):
            for v in values:
                self.args += [flag, v]
        self.loads = []
        self.value = None

    # --- up and down ---

    def __enter__(self):
        os.makedirs(self.folder, exist_ok=True)
        UP.append(self)
        try:
            self.up()
        except BaseException:
            self.__exit__(RuntimeError)
            raise
        return self

    def __exit__(self, kind=None, *_):
        try:
            if kind:
                sys.stderr.write("\n".join(self.broken()) + "\n" + self.logs())
            for load in self.loads:
                load.end()
            self.cont_all()
            self.sluice("down", "--state", self.state, check=False)
        finally:
            UP.remove(self)
        # A bug that a restart hid, or what a sanitizer said at the end.
        assert kind or not self.broken(), "\n".join(self.broken())

    def broken(self):
        """Lines of the services' logs that tell of a bug: failed checks, sanitizers."""
        out = []
        folder = os.path.join(self.state, "logs")
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as f:
                lines = f.read().splitlines()
            for n, x in enumerate(lines):
                if x.startswith("CHECK failed") or "Sanitizer:" in x or ": runtime error:" in x:
                    out += ["%s: %s" % (name, y[:500]) for y in lines[n:n + 14]]
        return out[:60]

    def up(self):
        self.sluice("up", "--detach", "--state", self.state, *self.args, timeout=300)
        self.value = stack.load(self.state)

    def down(self):
        self.sluice("down", "--state", self.state)

    def sluice(self, *args, timeout=300, check=True):
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_") or k in ("SLUICE_CACHE",)}
        done = subprocess.run([sys.executable, SLUICE, *[str(a) for a in args]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=timeout, env={**env, "SLUICE_BIN": BIN})
        assert not check or done.returncode == 0, "sluice %s: exit code %d\n%s%s" % (
            " ".join(str(a) for a in args), done.returncode, done.stdout[-6000:], done.stderr[-6000:])
        return done

    def logs(self, lines=12):
        """The ends of all logs, for people; of JSON lines only what is a warning or worse and the last ones."""
        out = []
        folder = os.path.join(self.state, "logs")
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            all_lines = stack.tail(os.path.join(folder, name), 400)
            loud = [x for x in all_lines[:-lines] if '"error"' in x or '"fatal"' in x or '"warn"' in x or "ended (" in x][-lines:]
            out.append("--- %s/%s\n" % (folder, name) + "\n".join(loud + all_lines[-lines:]) + "\n")
        return "".join(out)

    # --- what it says ---

    def saved(self):
        """stack.json as it is now."""
        return stack.load(self.state)

    def admin(self, name):
        return self.value["admin"][name]

    def pid(self, name):
        return self.saved()["pids"].get(name, 0)

    def restarts(self, name):
        return self.saved()["restarts"].get(name, 0)

    def debug(self, name, timeout=10):
        base = name.partition("#")[0]
        answer = http.get_json(self.admin(name) + "/debug/state", timeout)
        return answer["sink" if base == "sink-s3" else base]

    def ready(self, name):
        """(status, {check: (ok, detail)})"""
        status, _, data = http.request("GET", self.admin(name) + "/readyz", timeout=10)
        return status, {c["name"]: (c["ok"], c.get("detail", "")) for c in json.loads(data)["checks"]}

    def wait_ready(self, *names):
        for name in names or list(self.value["admin"]):
            until("%s to be ready" % name, lambda: http.ready(self.admin(name), 5)[0])

    def metric(self, name, metric, **labels):
        """The sum over the series of one service that have these labels."""
        return sum(v for n, has, v in http.metrics(self.admin(name), timeout=15)
                   if n == metric and all(has.get(k) == w for k, w in labels.items()))

    def events(self, name, event):
        """Log lines of one kind, as dicts."""
        out = []
        with open(os.path.join(self.state, "logs", name + ".log"), "rb") as f:
            for line in f:
                if line.startswith(b"{") and b'"%s"' % event.encode() in line:
                    with contextlib.suppress(ValueError):
                        entry = json.loads(line)
                        if entry.get("event") == event:
                            out.append(entry)
        return out

    def memory(self, name):
        """(VmRSS, VmHWM) in bytes of a process."""
        with open("/proc/%d/status" % self.pid(name)) as f:
            text = f.read()
        return tuple(int(re.search(key + r":\s+(\d+) kB", text).group(1)) * 1024 for key in ("VmRSS", "VmHWM"))

    # --- what is done to it ---

    def signal(self, name, number):
        """Sends a signal to a unit as soon as it has a process; returns the process id."""
        def send():
            pid = self.pid(name)
            if not pid or not stack.alive(pid):
                return 0
            os.kill(pid, number)
            return pid
        return until("a process of %s" % name, send, every=0.02)

    def kill(self, name, wait=True):
        """kill -9; with wait, until the runner has started it again."""
        pid = self.signal(name, signal.SIGKILL)
        if wait:
            until("%s to be started again" % name, lambda: self.pid(name) not in (0, pid), every=0.02)
        return pid

    def cont_all(self):
        with contextlib.suppress(stack.Trouble):
            for pid in self.saved()["pids"].values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def next_env(self, name, **variables):
        """Environment for the next start of a unit alone."""
        folder = os.path.join(self.state, "env")
        os.makedirs(folder, exist_ok=True)
        stack.write_json(os.path.join(folder, name + ".json"), variables)

    def next_env_taken(self, name):
        return not os.path.exists(os.path.join(self.state, "env", name + ".json"))

    @contextlib.contextmanager
    def stopped(self, *names):
        """SIGSTOP for as long as the block lasts."""
        pids = [self.signal(n, signal.SIGSTOP) for n in names]
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def path(self, name):
        return os.path.join(self.folder, name)

    def load(self, *args, ledger="ledger.jsonl"):
        load = Load(self, args, self.path(ledger))
        self.loads.append(load)
        return load

    def post(self, *args, ledger="ledger.jsonl", timeout=DEADLINE):
        """Posts with the emulator until it has sent everything; returns its report."""
        return self.load(*args, ledger=ledger).wait(timeout)

    def post_raw(self, topic, body, stage="", content="application/vnd.kafka.json.v2+json", timeout=60, headers=None):
        """One produce request; returns (status, parsed body)."""
        status, _, data = http.request("POST", "%s%s/topics/%s" % (self.value["gateway"], stage, topic),
                                       body=body if isinstance(body, bytes) else json.dumps(body).encode(),
                                       headers={"Content-Type": content, **(headers or {})}, timeout=timeout)
        return status, json.loads(data) if data else None

    def settle(self, timeout=DEADLINE):
        return self.sluice("settle", "--state", self.state, "--timeout", str(timeout), timeout=timeout + 60)

    def verify(self, *ledgers, check=True, raw_only=False):
        """Returns (exit code, findings, numbers); with check, there must be no finding."""
        args = ["verify", "--state", self.state, "--json"] + (["--raw-only"] if raw_only else [])
        done = self.sluice(*args, *[self.path(x) for x in ledgers], timeout=600, check=False)
        lines = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]
        assert lines, "verify: exit code %d\n%s\n%s" % (done.returncode, done.stdout, done.stderr)
        assert not check or done.returncode == 0, "verify found something:\n%s\n%s" % (done.stdout[-8000:], done.stderr[-2000:])
        return done.returncode, lines[:-1], lines[-1]

    def ask(self, question, **params):
        """One answer of query-api, parsed."""
        query = "&".join("%s=%s" % (k.rstrip("_"), v) for k, v in params.items())
        url = "%s/v1/questions/%s%s" % (self.value["query_api"], question, "?" + query if query else "")
        return http.get_json(url, timeout=60)

    def table(self, dataset):
        return stack.table_path(self.value, dataset)

    def topic(self, dataset):
        return "%s.%s" % (self.value["user"], dataset)


class Watch(threading.Thread):
    """Looks for a value again and again beside a test, and keeps what it saw."""

    def __init__(self, look, every=0.1):
        super().__init__(daemon=True)
        self.look, self.every, self.seen = look, every, []
        self.over = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while not self.over.wait(self.every):
            with contextlib.suppress(OSError, HttpError, KeyError, TypeError, stack.Trouble, AttributeError):
                self.seen.append(self.look())
