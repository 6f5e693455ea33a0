"""The state folder and stack.json: where things are, which ports they have, which processes are ours.

A state folder holds logs/, kafka/, redis/, lake/, tmp/, stack.json (replaced by rename), ports.json (so
that the next `up` has the same addresses) and runner.lock (held by the living runner).
SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import fcntl
import json
import os
import random
import shlex
import signal
import socket
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PARTS = ("kafka", "redis")   # what is not ours, and started all the same
WAY = ("gateway", "producer", "kafka", "cleaner", "redis", "sink-s3", "query-api")   # of a record
SERVICES = tuple(name for name in WAY if name not in PARTS)
DATASETS = ("pin", "geo", "user")
MARKER = "_SLUICE_STATE_DIR"  # in the environment of every process that a runner starts

DEFAULT_PORTS = {
    "gateway.http": 8082, "gateway.admin": 9101, "producer.admin": 9102, "producer.bus": 7700,
    "cleaner.admin": 9103, "sink-s3.admin": 9104, "sink-s3.announce": 7710, "query-api.admin": 9105,
    "query-api.http": 8080, "kafka": 9092, "kafka.controller": 9093, "redis": 6379,
}


class Trouble(Exception):
    """Something a person must hear of; the text says what to do."""

    code = 1


class Usage(Trouble):
    """A command line that cannot be meant."""

    code = 64


def cache_dir():
    return os.environ.get("SLUICE_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "sluice")


def state_dir(given=None):
    return os.path.realpath(given or os.environ.get("SLUICE_STATE") or os.path.join(ROOT, ".run"))


def state_flag(state):
    """What a command needs so that it finds the state folder: nothing for the one that it takes by itself."""
    return "" if state == state_dir() else " --state " + shlex.quote(state)


def bin_dir(given=None):
    """The folder of the services' binaries: --bin, SLUICE_BIN, the release build, the test build."""
    named = given or os.environ.get("SLUICE_BIN")
    tries = [named] if named else [os.path.join(ROOT, "build", kind, "bin") for kind in ("release", "test")]
    for path in tries:
        if os.path.isdir(path):
            return os.path.realpath(path)
    raise Trouble("no binaries in %s: run `make build` first, or name them with --bin DIR"
                  % " or ".join(tries))


def split_name(name):
    """'cleaner#2' -> ('cleaner', 2); 'cleaner' -> ('cleaner', 1)."""
    base, mark, number = name.partition("#")
    return base, int(number) if mark else 1


def join_name(service, number):
    return service if number == 1 else "%s#%d" % (service, number)


def write_json(path, value):
    temp = "%s.%d.tmp" % (path, os.getpid())
    try:
        with open(temp, "w") as f:
            json.dump(value, f, indent=2, sort_keys=True)
            f.write("\n")
        os.replace(temp, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise


def read_json(path):
    try:
        with open(path) as f:
            return json.load(f)
    except (OSError, ValueError):
        return None


def load(state):
    """Reads stack.json of a state folder, or says how to get one."""
    value = read_json(os.path.join(state, "stack.json"))
    if not isinstance(value, dict):
        raise Trouble("no stack is up in %s: start one with `./sluice up --detach%s`" % (state, state_flag(state)))
    return value


def replicas(stack, service):
    """The admin URLs of all replicas of a service, as (name, url)."""
    pairs = [(n, u) for n, u in stack.get("admin", {}).items() if split_name(n)[0] == service]
    return sorted(pairs, key=lambda p: split_name(p[0])[1])


def lake_path(stack):
    url = stack["lake"]
    if not url.startswith("file://"):
        raise Trouble("the lake %s is not a local folder" % url)
    return url[len("file://"):]


def table_path(stack, dataset):
    return os.path.join(lake_path(stack), "delta", "%s_%s_table" % (stack.get("user", "demo"), dataset))


# --- ports ---------------------------------------------------------------------------------------

class Ports:
    """Picks ports that nobody uses and keeps them reserved while this process lives.

    A reservation is an abstract Unix socket named after the port: two runners that start at once
    cannot pick the same one, and nothing has to be cleaned up. Free ports are looked for below the
    kernel's ephemeral range, because a client that dials a dead service again and again could be
    given that very port as its own (and then talks to itself, and the service cannot come back).
    """

    def __init__(self, wanted=None):
        self.wanted = wanted or {}
        self.taken = {}
        self._holds = []

    def _reserve(self, port):
        hold = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            hold.bind("\0sluice-port-%d" % port)
        except OSError:
            hold.close()
            return False
        if not self._bindable(port):
            hold.close()
            return False
        self._holds.append(hold)
        return True

    @staticmethod
    def _bindable(port):
        for host in ("127.0.0.1", "0.0.0.0"):
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                probe.listen(1)
            except OSError:
                return False
            finally:
                probe.close()
        return True

    @staticmethod
    def _range():
        try:
            with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
                low = int(f.read().split()[0])
        except (OSError, ValueError, IndexError):
            low = 32768
        return (10000, low - 1) if low > 12000 else (20000, 60000)

    def pick(self, what, default=None):
        """Returns the port for `what` ("gateway.http"): as last time, the default, or a free one."""
        if what in self.taken:
            return self.taken[what]
        for port in (self.wanted.get(what), default):
            if port and self._reserve(port):
                self.taken[what] = port
                return port
        low, high = self._range()
        for _ in range(2000):
            port = random.SystemRandom().randint(low, high)
            if self._reserve(port):
                self.taken[what] = port
                return port
        raise Trouble("no free port between %d and %d" % (low, high))

    def force(self, what, port):
        self.taken[what] = port
        return port

    def release(self):
        for hold in self._holds:
            hold.close()
        self._holds = []


# --- processes -----------------------------------------------------------------------------------

def _read(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def alive(pid):
    """True for a process that runs; a zombie does not."""
    stat = _read("/proc/%d/stat" % pid)
    return bool(stat) and stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def is_ours(pid, state):
    """Whether a runner on this state folder started the process.

    Three marks, since a program may overwrite one: environment, working folder, command line.
    """
    if pid <= 1 or pid == os.getpid() or not alive(pid):
        return False
    if ("%s=%s" % (MARKER, state)).encode() in _read("/proc/%d/environ" % pid).split(b"\0"):
        return True
    try:
        cwd = os.readlink("/proc/%d/cwd" % pid)
    except OSError:
        return False
    exe = os.path.basename(_read("/proc/%d/cmdline" % pid).split(b"\0")[0].split(b" ")[0])
    return exe.startswith(b"redis-server") and cwd == os.path.join(state, "redis")


def ours(state):
    """All living processes that a runner on this state folder started."""
    return sorted(int(n) for n in os.listdir("/proc") if n.isdigit() and is_ours(int(n), state))


def _signal(pid, number):
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def stop_pids(pids, state, grace):
    """SIGTERM (a stopped process is woken for it), then SIGKILL after `grace` seconds; only what is ours."""
    pids = [p for p in pids if is_ours(p, state)]
    for pid in pids:
        _signal(pid, signal.SIGTERM)
        _signal(pid, signal.SIGCONT)

    def left():
        return [p for p in pids if is_ours(p, state)]
    wait_until(lambda: not left(), grace)
    for pid in left():
        _signal(pid, signal.SIGKILL)
    wait_until(lambda: not left(), 10)


def clean_leftovers(state, say=lambda text: None):
    """Ends what a killed runner left: services first, then Kafka and Redis. Returns how many there were."""
    left = ours(state)
    if not left:
        return 0
    pids = (read_json(os.path.join(state, "stack.json")) or {}).get("pids", {})
    last = {pids.get("kafka"), pids.get("redis")}
    say("stopping %d process%s left by a runner that is gone" % (len(left), "" if len(left) == 1 else "es"))
    stop_pids([p for p in left if p not in last], state, 12)
    stop_pids(ours(state), state, 15)
    return len(left)


class Lock:
    """runner.lock: held by the runner of a state folder as long as it lives; holds its process id."""

    def __init__(self, state):
        self.path = os.path.join(state, "runner.lock")
        self._file = None

    def take(self):
        f = open(self.path, "a+")
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            f.close()
            return False
        f.seek(0)
        f.truncate()
        f.write("%d\n" % os.getpid())
        f.flush()
        self._file = f
        return True

    def held(self):
        """Whether it is ours still: it goes with a state folder that somebody removes."""
        try:
            return bool(self._file) and os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def drop(self):
        if self._file:
            self._file.close()
            self._file = None

    def holder(self):
        """The living runner's process id, or 0."""
        try:
            with open(self.path) as f:
                try:
                    fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return 0
                except OSError:
                    return int(f.read().strip() or 0)
        except (OSError, ValueError):
            return 0


def down(state, say=print, grace=60):
    """Stops the runner and everything it started. Returns what was found: "runner", "left" or ""."""
    lock = Lock(state)
    found = ""
    holder = lock.holder()
    if holder:
        found = "runner"
        _signal(holder, signal.SIGTERM)
        _signal(holder, signal.SIGCONT)
        wait_until(lambda: lock.holder() != holder, grace)
        if lock.holder() == holder:
            say("the runner (process %d) did not end within %d s: killed" % (holder, grace))
            _signal(holder, signal.SIGKILL)
        wait_until(lambda: not alive(holder), 10)
    if clean_leftovers(state, say) and not found:
        found = "left"
    try:
        os.unlink(os.path.join(state, "stack.json"))
        found = found or "left"
    except OSError:
        pass
    return found


def tail(path, lines=15, limit=64 * 1024, since=0):
    """The last lines of a log file, as far as they were written from `since` on."""
    try:
        with open(path, "rb") as f:
            f.seek(0, os.SEEK_END)
            f.seek(max(0, since, f.tell() - limit))
            return [x[:600] for x in f.read().decode("utf-8", "replace").splitlines()[-lines:]]
    except OSError:
        return []
