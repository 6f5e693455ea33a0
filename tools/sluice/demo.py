"""demo: everything once: up, post generated posts, settle, the nine answers, the addresses. And post: the emulator alone.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import subprocess
import sys
import threading
import time

from . import ask, runner, settle, stack, terminal
from .stack import Trouble

SETTLE_LIMIT = 120


def emulator(value):
    program = os.path.join(value.get("bin") or stack.bin_dir(), "sluice-emulator")
    if not os.access(program, os.X_OK):
        raise Trouble("%s is missing: build it first (`make build`)" % program)
    return [program, "--gateway", value["gateway"], "--user", value["user"]]


def clean_environment():
    """Without our own variables: the emulator is told everything by flags."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}


def post_command(state, args):
    """`post`: becomes the emulator."""
    value = stack.load(state)
    if not value.get("gateway"):
        raise Trouble("this stack has no gateway to post to")
    line = emulator(value) + args
    os.execve(line[0], line, clean_environment())


class Demo(threading.Thread):
    """What happens while the runner watches the processes on the main thread."""

    def __init__(self, run, rows, once):
        super().__init__(daemon=True)
        self.run_of = run
        self.rows = rows
        self.once = once
        self.told = False      # whether the story came to its end
        self.failure = None
        self.child = None

    def run(self):
        try:
            self._story(self.run_of.stack)
            self.told = True
        except (Trouble, OSError) as e:
            self.failure = str(e)
        except Exception as e:  # noqa: BLE001 - the main thread must hear of it, whatever it is
            self.failure = "%s: %s" % (type(e).__name__, e)
        if self.once or self.failure:
            self.run_of.stop()

    def _story(self, value):
        self._post(value)
        total = self._settle(value)
        for name in ask.questions(value):
            ask.show(value, name, [], ask.SHORT)
        records = 3 * self.rows
        print("\n%d posts (%d records) went from HTTP through Kafka into the tables%s; the nine answers came from there"
              % (self.rows, records, ", to the %d that were there" % (total - records) if total > records else ""))
        for line in runner.addresses(value):
            print(line)
        print("  %-10s %s/v1/questions" % ("questions", value["query_api"]))
        if not self.once:
            print("\nstays up until Ctrl-C; try `./sluice status` or `./sluice ask top-user-country` in another terminal")
        sys.stdout.flush()

    def _post(self, value):
        line = emulator(value) + ["--rows", str(self.rows), "--connections", "32", "--progress=json"]
        log = os.path.join(self.run_of.state, "logs", "emulator.log")
        began, last, bar = time.monotonic(), {}, terminal.Progress("posting")
        with open(log, "ab") as f:
            begins = f.tell()
            self.child = subprocess.Popen(line, env={**clean_environment(), stack.MARKER: self.run_of.state}, stdin=subprocess.DEVNULL,
                                          stdout=f, stderr=subprocess.PIPE, start_new_session=True)
            for raw in self.child.stderr:
                event = _progress(raw)
                if event:
                    last = event
                    bar.show(event.get("sent", 0), event.get("planned", 0))
                else:
                    f.write(raw)
                    f.flush()
            failed = self.child.wait()
        bar.end()
        if failed:
            raise Trouble("the emulator ended with exit code %d; the end of %s:\n%s"
                          % (failed, log, "\n".join("    " + x for x in stack.tail(log, since=begins))))
        print("posted %s records, %s ok, in %.1f s" % (last.get("sent", "?"), last.get("ok", "?"), time.monotonic() - began))
        sys.stdout.flush()

    def _settle(self, value):
        bar = terminal.Progress("settling")
        try:
            wait, behind = settle.settle(value, SETTLE_LIMIT, bar.show, lambda: self.run_of.stopping)
        finally:
            bar.end()
        if behind:
            raise Trouble("not settled after %d s:\n  %s" % (SETTLE_LIMIT, "\n  ".join(behind)))
        return wait.total()


def _progress(raw):
    """The emulator's progress event, or None for any other line."""
    try:
        event = json.loads(raw)
    except ValueError:
        return None
    return event if isinstance(event, dict) and event.get("event") == "progress" else None


def main(options, rows, once):
    run = runner.Runner(options)
    demo = None
    run.say("starting Kafka, Redis and the services in %s" % options.state)
    try:
        run.open()
        run.say("up after %.1f s" % run.took)
        demo = Demo(run, rows, once)
        demo.start()
        run.run()
    finally:
        if demo and demo.child and demo.child.poll() is None:
            demo.child.terminate()
        run.close()
    demo.join(5)
    if demo.failure and not run.interrupted:
        raise Trouble(demo.failure)
    print("%s; nothing is left running, the data stays in %s" % ("stopped" if demo.told else "stopped before the answers came", options.state))
    return 0 if demo.told else 130
