"""What every row uses: stacks, single services, CPU seconds, input files, turns, results.

SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import glob
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

from sluice import http, stack

DATASETS = ("pin", "geo", "user")
TURNS = 5
MAX_SPREAD = 0.30
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SLUICE_BUILD") or os.path.join(ROOT, "build", "release")
WORK = os.path.join(BUILD, "bench-work")   # all that a run writes; removed at its end


class Trouble(Exception):
    """A row that cannot be measured; the text says why."""


class Row:
    """One line of the result. figures and references: one number for each turn; references may be empty.

    The ratio is that of the medians, or what a row without a reference says; `better` is "more" or "less".
    """

    def __init__(self, name, unit, goal, figures, references=(), ratio=None, figure=None, reference=None,
                 better="more", fine=True, note=""):
        self.name, self.unit, self.goal, self.note = name, unit, goal, note
        self.figure = statistics.median(figures) if figure is None else figure
        self.reference = statistics.median(references) if references else reference
        self.ratio = self.figure / self.reference if ratio is None and self.reference else ratio
        self.spread = max(spread(figures), spread(references))
        reached = self.ratio if references else self.figure
        good = reached >= goal if better == "more" else reached <= goal
        self.ok = bool(good and fine and self.spread <= MAX_SPREAD)

    def as_json(self):
        return {"name": self.name, "figure": rounded(self.figure), "unit": self.unit, "reference": rounded(self.reference),
                "ratio": rounded(self.ratio), "goal": self.goal, "spread": rounded(self.spread), "ok": self.ok}


def spread(values):
    values = list(values)
    return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else 0.0


def rounded(value):
    return None if value is None else float("%.4g" % value)


def say(text):
    print("  " + text, file=sys.stderr, flush=True)


def turns(measure, count=TURNS, warm=True):
    """Runs measure(number) for a warm-up and `count` turns; returns the turns' results."""
    results = []
    for number in range(0 if warm else 1, count + 1):
        result = measure(number)
        if number:
            results.append(result)
        say("%s %s" % ("turn %d" % number if number else "warm-up", " ".join(
            "%s=%.4g" % pair for pair in result.items())))
    return results


# ---- processes ----

def cpu_seconds(pid):
    """CPU time of a process and all its threads, dead ones too, from its POSIX CPU clock."""
    return time.clock_gettime((~pid << 3) | 2)


def program(name):
    return os.path.join(BUILD, "bench", name)


def service_program(name):
    return os.path.join(stack.bin_dir(), name)


def run_json(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    try:
        value = json.loads(done.stdout)
    except ValueError:
        value = None
    if done.returncode or value is None:
        raise Trouble("%s ended with %d: %s" % (os.path.basename(command[0]), done.returncode, done.stdout[:200]))
    return value


def wait_for(what, look, seconds=120.0, pause=0.05):
    """Calls look() until it returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(pause)
    raise Trouble("not seen within %d s: %s" % (seconds, what))


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def sluice_stack(name, without=(), settings=(), user="demo"):
    """A stack by `./sluice up`; gives stack.json's content."""
    state = os.path.join(WORK, name)
    command = [sys.executable, os.path.join(ROOT, "sluice")]
    words = ["up", "--detach", "--state", state, "--user", user, "--bin", stack.bin_dir()]
    for one in without:
        words += ["--without", one]
    for one in settings:
        words += ["--set", one]
    done = subprocess.run(command + words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    try:
        if done.returncode:
            raise Trouble("the stack does not start:\n" + done.stdout)
        yield stack.read_json(os.path.join(state, "stack.json"))
    except BaseException:
        if os.environ.get("BENCH_KEEP_LOGS"):
            shutil.copytree(os.path.join(state, "logs"), os.environ["BENCH_KEEP_LOGS"], dirs_exist_ok=True)
        raise
    finally:
        subprocess.run(command + ["down", "--state", state], stdout=subprocess.DEVNULL, check=False)
        shutil.rmtree(state, ignore_errors=True)


def clear_work():
    """Stops what a killed run has left behind, and removes its files."""
    for path in glob.glob(os.path.join(WORK, "*", "stack.json")):
        subprocess.run([sys.executable, os.path.join(ROOT, "sluice"), "down", "--state", os.path.dirname(path)],
                       stdout=subprocess.DEVNULL, check=False)
    shutil.rmtree(WORK, ignore_errors=True)


class Service:
    """One service by itself, on ports of its own; `options` by their keys."""

    def __init__(self, service, label, options):
        self.name = label
        self.log = os.path.join(WORK, label + ".log")
        values = {"admin.listen": "127.0.0.1:0", "log.levels": "info"}
        values.update(options)
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
        env.update({"SLUICE_" + k.replace(".", "_").replace("-", "_").upper(): str(v) for k, v in values.items()})
        os.makedirs(WORK, exist_ok=True)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([service_program(service)], env=env, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, cwd=WORK)
        self.pid = self.process.pid

    def __enter__(self):
        try:
            self.admin = "http://127.0.0.1:%d" % wait_for(self.name + " listening", lambda: self.port("admin"), 30)
            wait_for(self.name + " ready", lambda: http.ready(self.admin)[0], 60)
        except BaseException:
            self.stop()
            raise
        return self

    def port(self, what):
        if self.process.poll() is not None:
            with open(self.log, encoding="utf-8", errors="replace") as f:
                raise Trouble("%s ended with %d:\n%s" % (self.name, self.process.returncode, f.read()[-2000:]))
        with open(self.log, encoding="utf-8", errors="replace") as f:
            for line in f:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if event.get("event") == "listening" and event.get("what") == what:
                    return event["port"]
        return None

    def state(self):
        try:
            return http.get_json(self.admin + "/debug/state")
        except http.HttpError:
            return {}

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __exit__(self, *_):
        self.stop()


class Duck:
    """ref_duck: DuckDB with nothing around it."""

    def __init__(self):
        self.process = subprocess.Popen([program("ref_duck")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def run(self, sql):
        self.process.stdin.write(" ".join(sql.split()) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise Trouble("ref_duck: %s\n%s" % (answer["error"], sql))
        return answer


# ---- inputs ----

def generated(rows, seed=1):
    """{dataset: its records as lines of JSON} from the emulator's generator."""
    out = {}
    for dataset in DATASETS:
        text = subprocess.run([service_program("sluice-emulator"), "--rows", str(rows), "--seed", str(seed), "--print", dataset],
                              stdout=subprocess.PIPE, check=True).stdout
        out[dataset] = text.rstrip(b"\n").split(b"\n")
    return out


def write_raw(path, rows, seed, user="demo"):
    """Lines `topic TAB record`, post by post, for ref_kafka; returns how many."""
    lines = generated(rows, seed)
    tags = [(user + "." + d).encode() + b"\t" for d in DATASETS]
    with open(path, "wb") as f:
        for group in zip(*(lines[d] for d in DATASETS)):
            f.write(b"".join(tag + line + b"\n" for tag, line in zip(tags, group)))
    return rows * len(DATASETS)


def write_posts(path, rows, batch, seed=1, user="demo"):
    """Lines `path TAB body` of produce requests with `batch` records, for load_http; returns (requests, records)."""
    lines, requests = generated(rows, seed), 0
    with open(path, "wb") as f:
        for first in range(0, rows, batch):
            for dataset in DATASETS:
                body = b",".join(b'{"value":%s}' % line for line in lines[dataset][first:first + batch])
                f.write(b"/topics/%s.%s\t{\"records\":[%s]}\n" % (user.encode(), dataset.encode(), body))
                requests += 1
    return requests, rows * len(DATASETS)


def work_path(name):
    os.makedirs(WORK, exist_ok=True)
    return os.path.join(WORK, name)
