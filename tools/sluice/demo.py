"""demo: everything once: up, post generated posts, settle, the nine answers, the addresses.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import subprocess
import sys
import threading
import time

from . import ask, runner, settle, stack
from .stack import Trouble


class Progress:
    """A bar on a terminal; elsewhere one line for every tenth."""

    def __init__(self, label, out=None):
        self.label = label
        self.out = out or sys.stdout
        self.tenth = -1

    def show(self, done, total):
        if not total:
            return
        share = min(1.0, done / total)
        if self.out.isatty():
            full = int(40 * share)
            self.out.write("\r%s [%s%s] %3d %%  %d of %d" % (self.label, "#" * full, "." * (40 - full), 100 * share, done, total))
        elif int(share * 10) > self.tenth:
            self.tenth = int(share * 10)
            self.out.write("%s %d %% (%d of %d)\n" % (self.label, 100 * share, done, total))
        self.out.flush()

    def end(self):
        if self.out.isatty():
            self.out.write("\n")


def emulator(value, bin_dir=None):
    program = os.path.join(value.get("bin") or stack.bin_dir(bin_dir), "sluice-emulator")
    if not os.access(program, os.X_OK):
        raise Trouble("%s is missing: build it first (`make`)" % program)
    return [program, "--gateway", value["gateway"], "--user", value["user"]]


def post_command(state, args):
    """`post`: becomes the emulator."""
    value = stack.load(state)
    if not value.get("gateway"):
        raise Trouble("this stack has no gateway to post to")
    line = emulator(value) + args
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
    os.execve(line[0], line, env)


class Demo(threading.Thread):
    """What happens while the runner watches the processes on the main thread."""

    def __init__(self, run, rows, once):
        super().__init__(daemon=True)
        self.run_of = run
        self.rows = rows
        self.once = once
        self.failure = None
        self.child = None

    def run(self):
        try:
            self._story()
        except (Trouble, OSError) as e:
            self.failure = str(e)
        except Exception as e:  # noqa: BLE001 - the main thread must hear of it, whatever it is
            self.failure = "%s: %s" % (type(e).__name__, e)
        if self.once or self.failure:
            self.run_of.stop()

    def _story(self):
        value = self.run_of.stack
        self._post(value)
        bar = Progress("settling")
        wait, behind = settle.settle(value, 120, bar.show)
        bar.end()
        if behind:
            raise Trouble("not settled after 120 s:\n  " + "\n  ".join(behind))
        for name in ask.questions(value):
            ask.show(value, name, [], ask.SHORT)
        print("\n%d posts (%d records) went from HTTP through Kafka into the tables; the nine answers came from there"
              % (self.rows, wait.total()))
        for line in runner.addresses(value):
            print(line)
        print("  %-10s %s/v1/questions" % ("questions", value["query_api"]))
        if not self.once:
            print("\nstays up until Ctrl-C; try `./sluice status` or `./sluice ask top-user-country` in another terminal")
        sys.stdout.flush()

    def _post(self, value):
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
        env[stack.MARKER] = self.run_of.state
        line = emulator(value) + ["--rows", str(self.rows), "--connections", "32", "--progress=json"]
        log = os.path.join(self.run_of.state, "logs", "emulator.log")
        bar, failed, began = Progress("posting"), None, time.monotonic()
        with open(log, "ab") as f:
            self.child = subprocess.Popen(line, env=env, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.PIPE,
                                          start_new_session=True)
            last = {}
            for raw in self.child.stderr:
                try:
                    event = json.loads(raw)
                except ValueError:
                    event = None
                if isinstance(event, dict) and event.get("event") == "progress":
                    last = event
                    bar.show(event.get("sent", 0), event.get("planned", 0))
                else:
                    f.write(raw)
                    f.flush()
            failed = self.child.wait()
        bar.end()
        if self.run_of.stopping:
            raise Trouble("stopped while posting")
        if failed:
            raise Trouble("the emulator ended with exit code %d; the end of %s:\n%s"
                          % (failed, log, "\n".join("    " + x for x in stack.tail(log))))
        print("posted %s records, %s ok, in %.1f s" % (last.get("sent", "?"), last.get("ok", "?"), time.monotonic() - began))
        sys.stdout.flush()


def main(options, rows, once):
    run = runner.Runner(options)
    demo = None
    try:
        run.say("starting Kafka, Redis and the services in %s" % options.state)
        run.open()
        run.say("up after %.1f s" % run.took)
        demo = Demo(run, rows, once)
        demo.start()
        run.run()
    except KeyboardInterrupt:
        return 130
    finally:
        if demo and demo.child and demo.child.poll() is None:
            demo.child.terminate()
        run.close()
    if demo.failure and not demo.failure.startswith("stopped"):
        raise Trouble(demo.failure)
    if once and demo.is_alive():
        return 130
    print("stopped; nothing is left running, the data stays in %s" % options.state)
    return 0
