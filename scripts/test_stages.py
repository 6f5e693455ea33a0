"""Runs the stages of `make test` one after the other, stops at the first that fails, and says what took how long.

What a stage prints is kept in build/logs/<stage>.log, and shown when it fails. The last line is "N passed, N failed".
Stages may be named on the command line: only those run.
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import glob
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOGS = os.path.join("build", "logs")

# What FAST=1 leaves out of tests/service: real Kafka, or more than half a minute.
SERVICE_SLOW = ["test_cleaner.py", "test_sink.py", "test_tool_runner.py", "test_query_api.py", "test_emulator.py"]
# Every file of tests/e2e stands in one of these lists, in the order in which they run. LONG ones run by `make chaos`.
E2E = [
    "test_whole_way.py",
    "test_shapes.py",
    "test_client_script.py",
    "test_front_door.py",
    "test_readers.py",
    "test_surface.py",
    "test_verify_planted.py",
    "test_replicas.py",
    "test_producer_faults.py",
    "test_faults.py",
    "test_limits.py",
    "test_kills.py",
]
E2E_LONG = []
# The one that also runs under the sanitizers by default.
E2E_SAN = ["test_client_script.py"]

MODEL_PROCESSES = 2
MODEL_SCHEDULES = 5000


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
        self.log = os.path.join(LOGS, name.replace(" ", "-") + ".log")

    def command(self, log, *argv, env=None):
        """Runs a program with its output in the log; a whole process group is ended at the time limit."""
        log.write(("$ " + " ".join(argv) + "\n").encode())
        log.flush()
        process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   env={**os.environ, **(env or {})}, start_new_session=True)
        try:
            return process.wait(timeout=self.limit_s)
        except subprocess.TimeoutExpired:
            log.write(f"\nended after {self.limit_s} s: the time limit of this stage\n".encode())
            return 124
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def count(self, ok):
        """Counts one check that is not a test program of its own."""
        if ok:
            self.passed += 1
        else:
            self.failed += 1
        return ok


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
    rc = stage.command(log, "ctest", "--test-dir", "build/dev", "-j", "2", "--output-on-failure", "--no-tests=error")
    with open(stage.log, encoding="utf-8", errors="replace") as f:
        found = re.findall(r"(\d+) tests? failed out of (\d+)", f.read())
    if found:
        stage.failed += int(found[-1][0])
        stage.passed += int(found[-1][1]) - int(found[-1][0])
    return rc == 0


def pytest(files, preset):
    """Runs test files with the programs of one preset; several runs per stage add up."""
    def run(stage, log):
        if not files:
            log.write(b"none of the files that scripts/test_stages.py lists for this stage is there\n")
            return False
        report = os.path.abspath(stage.log.replace(".log", ".xml"))
        if os.path.exists(report):
            os.remove(report)
        env = {**(sanitizer_env() if preset == "dev" else {}),
               "SLUICE_BIN": os.path.join(ROOT, "build", preset, "bin"),
               "SLUICE_BUILD": os.path.join(ROOT, "build", preset),
               "PYTHONPATH": os.pathsep.join(os.path.join(ROOT, d) for d in ("tools", "tests")),
               "PYTHONDONTWRITEBYTECODE": "1"}
        rc = stage.command(log, sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--durations=10",
                           "-o", "faulthandler_timeout=900", "-o", "junit_logging=no", "--junitxml=" + report, *files,
                           env=env)
        if os.path.exists(report):
            for suite in ET.parse(report).getroot().iter("testsuite"):
                bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
                skipped = int(suite.get("skipped", 0))
                stage.failed += bad
                stage.skipped += skipped
                stage.passed += int(suite.get("tests", 0)) - bad - skipped
        return rc == 0
    return run


def model(stage, log):
    """The schedules in processes side by side, each with seeds of its own."""
    program = "build/dev/bin/model"
    running = []
    for n in range(MODEL_PROCESSES):
        path = stage.log.replace(".log", f"-{n}.log")
        with open(path, "wb") as out:
            running.append((path, subprocess.Popen(
                [program, "--schedules", str(MODEL_SCHEDULES), "--seed", str(1 + n * MODEL_SCHEDULES)], stdout=out,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**os.environ, **sanitizer_env()})))
    deadline = time.monotonic() + stage.limit_s
    ok = True
    for path, process in running:
        try:
            rc = process.wait(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            rc = process.wait()
        ok = stage.count(rc == 0) and ok
        with open(path, "rb") as f:
            f.seek(max(0, os.path.getsize(path) - 20000))
            log.write(f"{program}: exit code {rc}; all of it: {path}\n".encode() + f.read())
    return ok


def e2e_files(names, stage_list=False):
    if stage_list:
        there = {os.path.basename(p) for p in glob.glob("tests/e2e/test_*.py")}
        unlisted = sorted(there - set(E2E) - set(E2E_LONG))
        if unlisted:
            sys.exit(f"tests/e2e: {', '.join(unlisted)} must be listed in scripts/test_stages.py")
    return [os.path.join("tests", "e2e", name) for name in names if os.path.exists(os.path.join("tests", "e2e", name))]


def service_files():
    if not os.environ.get("FAST"):
        return ["tests/service"]
    return sorted(p for p in glob.glob("tests/service/test_*.py") if os.path.basename(p) not in SERVICE_SLOW)


def stages():
    san_files = E2E if os.environ.get("SAN") == "all" else E2E_SAN
    return [
        Stage("build dev", build_dev),
        Stage("lint", lint),
        Stage("unit", unit, needs="tests/unit/test_*.c"),
        Stage("service", pytest(service_files(), "dev"), needs="tests/service/test_*.py"),
        Stage("model", model, needs="tests/model/*.c", slow=True),
        Stage("planted", pytest(["tests/model/test_planted.py"], "dev"), needs="tests/model/test_planted.py", slow=True),
        Stage("build test", build("test", "all"), slow=True),
        Stage("e2e", pytest(e2e_files(E2E, True), "test"), needs="tests/e2e/test_*.py", slow=True, limit_s=3000),
        Stage("e2e san", pytest(e2e_files(san_files), "dev"), needs="tests/e2e/test_*.py", slow=True, limit_s=3000),
    ]


def tail(path, lines):
    with open(path, encoding="utf-8", errors="replace") as f:
        return "".join(f.readlines()[-lines:])


def table(all_stages, set_up_s):
    print(f"\n{'stage':<12} {'seconds':>8}  {'verdict':<10} passed failed skipped")
    print(f"{'set-up':<12} {set_up_s:>8.0f}  ok")
    for s in all_stages:
        print(f"{s.name:<12} {s.seconds:>8.0f}  {s.verdict:<10} {s.passed:>6} {s.failed:>6} {s.skipped:>7}")
    passed, failed, skipped = (sum(getattr(s, k) for s in all_stages) for k in ("passed", "failed", "skipped"))
    print(f"{'all':<12} {sum(s.seconds for s in all_stages) + set_up_s:>8.0f}\n")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set-up-seconds", type=float, default=0)
    parser.add_argument("stage", nargs="*", help="only these stages, by name")
    args = parser.parse_args()
    os.chdir(ROOT)
    os.makedirs(LOGS, exist_ok=True)
    sys.stdout.reconfigure(line_buffering=True)
    fast = bool(os.environ.get("FAST"))
    chosen = stages()
    unknown = set(args.stage) - {s.name for s in chosen}
    if unknown:
        sys.exit(f"no such stage: {', '.join(sorted(unknown))} (there are: {', '.join(s.name for s in chosen)})")
    failed = None
    for stage in chosen:
        if args.stage and stage.name not in args.stage:
            stage.verdict = "left out"
            continue
        if fast and stage.slow:
            stage.verdict = "FAST"
            continue
        if stage.needs and not glob.glob(stage.needs):
            print(f"=== {stage.name}: LEFT OUT, there is no {stage.needs}")
            stage.verdict = "LEFT OUT"
            continue
        print(f"=== {stage.name} …")
        began = time.monotonic()
        with open(stage.log, "wb") as log:
            ok = stage.run(stage, log)
        stage.seconds = time.monotonic() - began
        stage.verdict = "ok" if ok else "FAILED"
        print(f"=== {stage.name}: {stage.verdict} after {stage.seconds:.0f} s")
        if not ok:
            failed = stage
            # A stage that broke before its first test counts as one failure.
            stage.failed = max(stage.failed, 1)
            print(tail(stage.log, 200))
            print(f"=== all of it: {stage.log}")
            break
    table(chosen, args.set_up_seconds)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
