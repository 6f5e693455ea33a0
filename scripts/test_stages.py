"""Runs the stages of `make test`, stops when one has failed, and says what took how long.

Stages of one row of plan() run side by side: together they keep two cores busy, most of them wait. What a stage prints is kept in
build/logs/<stage>.log, and shown when it fails. The last line is "N passed, N failed". Stages may be named on the command line:
only those run.
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import glob
import os
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOGS = os.path.join("build", "logs")

# What FAST=1 leaves out of tests/service: real Kafka, or more than half a minute.
SERVICE_SLOW = ["test_cleaner.py", "test_sink.py", "test_tool_runner.py", "test_query_api.py", "test_query_tables.py",
                "test_query_limits.py", "test_emulator.py"]
# The longest of tests/service, longest first: they start first, so that none is left over at the end.
SERVICE_LONG = ["test_tool_runner.py", "test_query_api.py", "test_query_limits.py", "test_query_tables.py", "test_cleaner.py",
                "test_sink.py", "test_producer.py", "test_emulator.py", "test_conventions.py", "test_delta_readers.py"]
# Every file of tests/e2e stands in one of these lists. The first are run two at a time, in this order.
E2E = [
    "test_whole_way.py",
    "test_verify_planted.py",
    "test_surface.py",
    "test_shapes.py",
    "test_readers.py",
    "test_client_script.py",
    "test_front_door.py",
]
# These break things by the clock: they have the machine for themselves.
E2E_ALONE = [
    "test_replicas.py",
    "test_producer_faults.py",
    "test_faults.py",
    "test_limits.py",
    "test_kills.py",
]
# The one that also runs under the sanitizers by default.
E2E_SAN = ["test_client_script.py"]

MODEL_PROCESSES = 2
MODEL_SCHEDULES = 5000
UNIT_PROCESSES = 4  # librdkafka's rebalances wait most of the time


class Processes:
    """What runs now, so that all of it can be ended: each in a process group of its own."""

    def __init__(self):
        self.lock = threading.Lock()
        self.running = set()
        self.over = False

    def run(self, argv, log, limit_s, env=None):
        """The exit code; 124 when the limit was over."""
        with self.lock:
            if self.over:
                return 130
            process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                       env={**os.environ, **(env or {})}, start_new_session=True)
            self.running.add(process)
        try:
            return process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            log.write(f"\nended after {limit_s:.0f} s: the time limit of this stage\n".encode())
            return 124
        finally:
            self.end(process)
            with self.lock:
                self.running.discard(process)

    @staticmethod
    def end(process):
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                try:
                    os.killpg(process.pid, number)
                    process.wait(timeout=30)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    pass

    def end_all(self):
        with self.lock:
            self.over = True
            left = list(self.running)
        for process in left:
            self.end(process)


processes = Processes()


def say(line):
    """A whole line at once: others speak at the same time."""
    sys.stdout.write(line + "\n")


class Stage:
    """One row of the table."""

    def __init__(self, name, run, needs=None, slow=False, limit_s=1800):
        self.name = name
        self.run = run
        self.needs = needs
        self.slow = slow
        self.limit_s = limit_s
        self.seconds = 0.0
        self.passed = self.failed = self.skipped = 0
        self.verdict = "not run"
        self.log = self.log_of("")
        self.bad_log = None  # of the part that failed, when the stage has parts
        self.lock = threading.Lock()

    def log_of(self, part):
        return os.path.join(LOGS, self.name.replace(" ", "-") + part + ".log")

    def command(self, log, *argv, env=None):
        """Runs a program with its output in the log; a whole process group is ended at the time limit."""
        log.write(("$ " + " ".join(argv) + "\n").encode())
        log.flush()
        return processes.run(argv, log, self.limit_s, env)

    def count(self, ok):
        """Counts one check that is not a test program of its own."""
        with self.lock:
            if ok:
                self.passed += 1
            else:
                self.failed += 1
        return ok

    def parts(self, work, workers, names):
        """Does work(name, log) for each of the names, some at a time, each with a log of its own; none is begun after a failure."""
        left = list(names)

        def worker():
            while True:
                with self.lock:
                    if not left or self.bad_log:
                        return
                    name = left.pop(0)
                path = self.log_of("-" + name.replace(".py", ""))
                ok = False
                try:
                    with open(path, "wb") as log:
                        ok = work(name, log)
                finally:
                    with self.lock:
                        self.bad_log = self.bad_log or (None if ok else path)
        side_by_side([worker] * workers)
        return not self.bad_log

    def go(self):
        say(f"=== {self.name} …")
        began = time.monotonic()
        with open(self.log, "wb") as log:
            ok = self.run(self, log)
        self.seconds = time.monotonic() - began
        self.verdict = "ok" if ok else "FAILED"
        # A stage that broke before its first test counts as one failure.
        self.failed = max(self.failed, 0 if ok else 1)
        say(f"=== {self.name}: {self.verdict} after {self.seconds:.0f} s")


def side_by_side(functions):
    """Runs them in threads to their end; what ends this thread ends their processes."""
    threads = [threading.Thread(target=f) for f in functions]
    for t in threads:
        t.start()
    try:
        for t in threads:
            t.join()
    except BaseException:
        processes.end_all()
        for t in threads:
            t.join()
        raise


def sanitizer_env():
    env = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    suppressions = os.path.join(ROOT, "tests", "support", "lsan.supp")
    if os.path.exists(suppressions):
        env["LSAN_OPTIONS"] = "suppressions=" + suppressions
    return env


def build(preset, *targets):
    def run(stage, log):
        return stage.count(stage.command(log, "scripts/build", preset, *targets) == 0)
    return run


def build_dev(stage, log):
    targets = ["all", "link-checks"]
    if glob.glob("tests/model/*.c") and not os.environ.get("FAST"):
        targets.append("model")
    return build("dev", *targets)(stage, log)


def lint(stage, log):
    ok = stage.count(stage.command(log, "scripts/lint") == 0)
    bins = "build/dev/bin"
    ok = stage.count(stage.command(log, sys.executable, "scripts/gen_docs", "--bin", bins, "--check",
                                   env=sanitizer_env()) == 0) and ok
    return stage.count(stage.command(log, sys.executable, "scripts/coverage_list", "--bin", bins,
                                     env=sanitizer_env()) == 0) and ok


def unit(stage, log):
    rc = stage.command(log, "ctest", "--test-dir", "build/dev", "-j", str(UNIT_PROCESSES), "--output-on-failure", "--no-tests=error")
    with open(stage.log, encoding="utf-8", errors="replace") as f:
        found = re.findall(r"(\d+) tests? failed out of (\d+)", f.read())
    if found:
        stage.failed += int(found[-1][0])
        stage.passed += int(found[-1][1]) - int(found[-1][0])
    return rc == 0


def count_report(stage, report):
    """Adds what pytest has written of one run."""
    if not os.path.exists(report):
        return
    for suite in ET.parse(report).getroot().iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        with stage.lock:
            stage.failed += bad
            stage.skipped += skipped
            stage.passed += int(suite.get("tests", 0)) - bad - skipped


def pytest(files, preset, workers=1):
    """Runs test files with the programs of one preset, a run for each file and as many at a time as there are workers."""
    env = {**(sanitizer_env() if preset == "dev" else {}),
           "SLUICE_BIN": os.path.join(ROOT, "build", preset, "bin"),
           "SLUICE_BUILD": os.path.join(ROOT, "build", preset),
           "PYTHONPATH": os.pathsep.join(os.path.join(ROOT, d) for d in ("tools", "tests")),
           "PYTHONDONTWRITEBYTECODE": "1"}
    paths = {os.path.basename(path): path for path in files}

    def run(stage, log):
        if not files:
            log.write(b"none of the files that scripts/test_stages.py lists for this stage is there\n")
            return False

        def one(name, part):
            report = os.path.abspath(part.name.replace(".log", ".xml"))
            if os.path.exists(report):
                os.remove(report)
            rc = stage.command(part, sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--durations=10",
                               "-o", "faulthandler_timeout=900", "-o", "junit_logging=no", "--junitxml=" + report, paths[name],
                               env=env)
            count_report(stage, report)
            with stage.lock:
                log.write(f"{name}: exit code {rc}; all of it: {part.name}\n".encode())
            return rc == 0
        return stage.parts(one, workers, list(paths))
    return run


def model(stage, log):
    """The schedules in processes side by side, each with seeds of its own."""
    program = "build/dev/bin/model"

    def one(n, part):
        rc = stage.command(part, program, "--schedules", str(MODEL_SCHEDULES), "--seed", str(1 + int(n) * MODEL_SCHEDULES),
                           env=sanitizer_env())
        with stage.lock:
            log.write(f"{program} {n}: exit code {rc}; all of it: {part.name}\n".encode())
        return stage.count(rc == 0)
    return stage.parts(one, MODEL_PROCESSES, [str(n) for n in range(MODEL_PROCESSES)])


def e2e_files(names):
    there = {os.path.basename(p) for p in glob.glob("tests/e2e/test_*.py")}
    unlisted = sorted(there - set(E2E) - set(E2E_ALONE))
    if unlisted:
        sys.exit(f"tests/e2e: {', '.join(unlisted)} must be listed in scripts/test_stages.py")
    return [os.path.join("tests", "e2e", name) for name in names if name in there]


def service_files():
    there = {os.path.basename(p) for p in glob.glob("tests/service/test_*.py")}
    if os.environ.get("FAST"):
        there -= set(SERVICE_SLOW)
    names = [n for n in SERVICE_LONG if n in there] + sorted(there - set(SERVICE_LONG))
    return [os.path.join("tests", "service", name) for name in names]


def plan():
    """Rows of stages that run side by side, one row after the other."""
    e2e, service, real = "tests/e2e/test_*.py", "tests/service/test_*.py", "tests/model/test_planted.py"
    san_all = os.environ.get("SAN") == "all"
    san = Stage("e2e san", pytest(e2e_files(E2E + E2E_ALONE if san_all else E2E_SAN), "dev"), needs=e2e, slow=True, limit_s=3000)
    return [
        [Stage("build dev", build_dev)],
        [Stage("lint", lint),
         Stage("unit", unit, needs="tests/unit/test_*.c"),
         Stage("service", pytest(service_files(), "dev", workers=2), needs=service)],
        [Stage("model", model, needs="tests/model/*.c", slow=True),
         Stage("planted", pytest([real], "dev"), needs=real, slow=True)],
        [Stage("build test", build("test", "all"), slow=True)],
        [Stage("e2e", pytest(e2e_files(E2E), "test", workers=2), needs=e2e, slow=True, limit_s=3000)],
        [Stage("e2e alone", pytest(e2e_files(E2E_ALONE), "test"), needs=e2e, slow=True, limit_s=3000)],
        [san],
    ]


def tail(path, lines):
    with open(path, encoding="utf-8", errors="replace") as f:
        return "".join(f.readlines()[-lines:])


def table(stages, set_up_s, all_s):
    print(f"\n{'stage':<12} {'seconds':>8}  {'verdict':<10} passed failed skipped")
    print(f"{'set-up':<12} {set_up_s:>8.0f}  ok")
    for s in stages:
        print(f"{s.name:<12} {s.seconds:>8.0f}  {s.verdict:<10} {s.passed:>6} {s.failed:>6} {s.skipped:>7}")
    passed, failed, skipped = (sum(getattr(s, k) for s in stages) for k in ("passed", "failed", "skipped"))
    print(f"{'all':<12} {all_s + set_up_s:>8.0f}\n")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))


def is_to_run(stage, names, fast):
    """Whether it is to run; else its verdict says why not."""
    if names and stage.name not in names:
        stage.verdict = "left out"
    elif fast and stage.slow:
        stage.verdict = "FAST"
    elif stage.needs and not glob.glob(stage.needs):
        print(f"=== {stage.name}: LEFT OUT, there is no {stage.needs}")
        stage.verdict = "LEFT OUT"
    else:
        return True
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set-up-seconds", type=float, default=0)
    parser.add_argument("stage", nargs="*", help="only these stages, by name")
    args = parser.parse_args()
    os.chdir(ROOT)
    os.makedirs(LOGS, exist_ok=True)
    sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows = plan()
    stages = [s for row in rows for s in row]
    unknown = set(args.stage) - {s.name for s in stages}
    if unknown:
        sys.exit(f"no such stage: {', '.join(sorted(unknown))} (there are: {', '.join(s.name for s in stages)})")
    began = time.monotonic()
    failed = []
    for row in rows:
        now = [s for s in row if is_to_run(s, args.stage, bool(os.environ.get("FAST")))]
        if not failed:
            side_by_side([s.go for s in now])
            failed = [s for s in now if s.verdict != "ok"]
    for s in failed:
        print(f"--- {s.name}\n" + tail(s.bad_log or s.log, 200))
        print(f"=== all of it: {s.bad_log or s.log}")
    table(stages, args.set_up_seconds, time.monotonic() - began)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
