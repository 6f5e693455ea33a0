"""The runner: starts Kafka, Redis and the services, waits for them, restarts what dies, stops all in order.

SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import time

from . import http, stack
from .plan import Plan
from .stack import Trouble, split_name
from .unit import exit_text

STOP_ORDER = stack.SERVICES + ("redis", "kafka")


class Runner:
    """Owns all processes of one stack. Everything runs on the thread that calls run()."""

    def __init__(self, options, say=None):
        self.options = options
        self.state = options.state
        self._say = say or (lambda text: print(text, flush=True))
        self.plan = None
        self.stopping = False
        self.interrupted = False   # stopping, because a signal came
        self.hurry = False
        self.lock = stack.Lock(self.state)
        self.took = 0.0
        self._held = False         # whether the state folder is ours, and with it what runs there
        self._saved = True         # whether stack.json says what is
        self._wake_r, self._wake_w = None, None

    def say(self, text):
        with contextlib.suppress(OSError):  # a full disk or a terminal that is gone
            self._say(text)

    @property
    def units(self):
        return self.plan.units if self.plan else {}

    @property
    def stack(self):
        return self.plan.stack

    def save(self):
        self.stack["pids"] = {n: u.pid() for n, u in self.units.items() if u.pid()}
        self.stack["restarts"] = {n: u.restarts for n, u in self.units.items()}
        stack.write_json(os.path.join(self.state, "stack.json"), self.stack)

    def _save_later(self):
        """Saves; where the disk is full, the next round tries again, and the processes are watched all the same."""
        try:
            self.save()
            self._saved = True
        except OSError as e:
            if self._saved:
                self.say("stack.json cannot be written, and is not true until it can be: %s" % e)
            self._saved = False

    # --- start -----------------------------------------------------------------------------------

    def open(self):
        """Takes the state folder, ends what a killed runner left there, and starts everything.

        Raises Trouble, with everything stopped again, when something is not ready in time.
        """
        take_folder(self.state)
        self._lock()
        self._held = True
        self._catch_signals()
        try:
            stack.clean_leftovers(self.state, self.say)
            self.plan = Plan(self.options)
            self.plan.check_settings()
            self._start_all()
        except KeyboardInterrupt:
            self.close()
            self.say("stopped before everything was ready; nothing is left running")
            raise
        except BaseException:
            self.close()
            raise

    def _lock(self):
        for _ in range(40):
            if self.lock.take():
                return
            already_up(self.lock)
            time.sleep(0.05)
        raise Trouble("%s cannot be locked" % self.lock.path)

    def _catch_signals(self):
        self._wake_r, self._wake_w = os.pipe()
        for fd in (self._wake_r, self._wake_w):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number, _frame):
        if self.stopping and number == signal.SIGINT:
            self.hurry = True
        self.stopping = self.interrupted = True

    def stop(self):
        """Asks run() to end; may be called from any thread."""
        self.stopping = True
        if self._wake_w is not None:
            os.write(self._wake_w, b"x")

    def _start_all(self):
        began = time.monotonic()
        parts = [u for u in self.units.values() if u.part]
        for unit in parts:
            unit.part.prepare(unit.log)
            unit.start()
        self.save()
        self._wait(began, {u.name: u.part.answers for u in parts})
        services = [n for n, u in self.units.items() if not u.part]
        for name in sorted(services, key=lambda n: -STOP_ORDER.index(split_name(n)[0])):
            self.units[name].start()
        self.save()
        stack.write_json(os.path.join(self.state, "ports.json"), self.plan.ports.taken)
        self._wait(began, {n: (lambda n=n: http.ready(self.stack["admin"][n])) for n in services})
        self.took = time.monotonic() - began

    def _wait(self, began, checks):
        """Waits until every check is true; a check returns a bool or (bool, reason)."""
        waiting, why = dict(checks), {}
        while waiting and not self.stopping:
            self.tick(0.05, starting=True)
            for name in list(waiting):
                result = waiting[name]() if self.units[name].running() else (False, "not running")
                ok, why[name] = result if isinstance(result, tuple) else (result, "does not answer yet")
                if ok:
                    del waiting[name]
            if waiting and time.monotonic() - began > self.options.start_limit:
                raise Trouble("\n".join(["not ready after %d s:" % self.options.start_limit] + [
                    "  %s: %s; %s" % (name, why.get(name), self.units[name].last_words()) for name in waiting]))
        if self.stopping:
            raise KeyboardInterrupt

    # --- watch -----------------------------------------------------------------------------------

    def tick(self, wait, starting=False):
        """One round: waits for a signal or a due restart, notices ends, starts again what is due."""
        now = time.monotonic()
        for unit in self.units.values():
            if unit.due is not None:
                wait = min(wait, max(0.0, unit.due - now))
        if select.select([self._wake_r], [], [], wait)[0]:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._wake_r, 512):
                    pass
        changed = not self._saved
        for unit in self.units.values():
            changed = self._look_after(unit, starting) or changed
        if changed:
            self._save_later()

    def _look_after(self, unit, starting):
        """Whether the unit ended or was started again."""
        changed, now = unit.exited(), time.monotonic()
        if changed:
            if starting and unit.hopeless():
                raise Trouble("%s did not start: %s; %s" % (unit.name, exit_text(unit.last_exit), unit.last_words()))
            if not self.stopping:
                unit.plan_restart(now)
                self.say("%s %s ended (%s), starts again in %.1f s"
                         % (time.strftime("%H:%M:%S"), unit.name, exit_text(unit.last_exit), unit.delay))
        if unit.due is not None and now >= unit.due and not self.stopping:
            try:
                unit.start()
            except Trouble as e:
                self.say(str(e))
                unit.plan_restart(now)
            changed = True
        return changed

    def run(self):
        """Watches until a signal, stop(), or the end of the state folder."""
        while not self.stopping:
            self.tick(1.0)
            if not self.lock.held():
                self.say("%s was removed: everything that ran in it is stopped" % self.state)
                self.stopping = True

    # --- stop ------------------------------------------------------------------------------------

    def close(self):
        """Stops everything in the order of the data and gives the state folder back. Twice is fine."""
        if not self._held:
            return
        self._held = False
        self.stopping = True
        ours = self.lock.held()   # or another runner's by now
        for service in STOP_ORDER:
            units = [u for n, u in self.units.items() if split_name(n)[0] == service and u.running()]
            self._end(units, 15.0 if service == "kafka" else 12.0)
        if ours:
            stack.clean_leftovers(self.state)
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.state, "stack.json"))
        if self.plan:
            self.plan.ports.release()
        self.lock.drop()

    def _end(self, units, grace):
        for unit in units:
            for number in (signal.SIGTERM, signal.SIGCONT):
                with contextlib.suppress(OSError):
                    unit.process.send_signal(number)
        end = time.monotonic() + grace
        for unit in units:
            while unit.process.poll() is None and time.monotonic() < end and not self.hurry:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    unit.process.wait(0.1)
            if unit.process.poll() is None:
                if not self.hurry:
                    self.say("%s did not end within %d s: killed" % (unit.name, grace))
                unit.process.kill()
                unit.process.wait()


def take_folder(state):
    """Makes the state folder, or says why it cannot be one."""
    try:
        os.makedirs(os.path.join(state, "logs"), exist_ok=True)
        if not os.access(state, os.W_OK):
            raise PermissionError(errno.EACCES, "it cannot be written to")
    except OSError as e:
        raise Trouble("%s cannot be a state folder: %s; name another one with --state DIR" % (state, e.strerror)) from e


def already_up(lock):
    """Raises Trouble where a runner lives."""
    holder = lock.holder()
    if holder:
        state = os.path.dirname(lock.path)
        raise Trouble("a runner (process %d) is already up in %s: use it, or stop it with `./sluice down%s`"
                      % (holder, state, stack.state_flag(state)))


def addresses(value):
    """The lines that tell a person where things are."""
    rows = [(name.replace("_", "-"), value[name]) for name in sorted(value) if name.partition("#")[0] in ("gateway", "query_api")]
    rows += [("kafka", value.get("kafka")), ("redis", value.get("redis")), ("tables", value.get("lake")),
             ("logs", os.path.join(value.get("state", ""), "logs"))]
    return ["  %-10s %s" % row for row in rows if row[1]]


def up(options):
    """`up` in the foreground."""
    runner = Runner(options)
    try:
        runner.open()
        runner.say("up after %.1f s" % runner.took)
        for line in addresses(runner.stack):
            runner.say(line)
        _report_ready(0)
        runner.run()
        runner.say("stopping")
    except (Trouble, OSError) as e:
        _report_ready(getattr(e, "code", 1), str(e))
        raise
    finally:
        runner.close()
    return 0


def _report_ready(code, text=""):
    """Tells the one that waits in up_detached how it went: the exit code, and what is to be said."""
    fd = os.environ.pop("_SLUICE_READY_FD", None)
    if fd:
        os.write(int(fd), ("%d %s" % (code, text)).encode())
        os.close(int(fd))


def up_detached(options, argv):
    """Starts the runner in a session of its own; returns once it is ready or has failed."""
    take_folder(options.state)
    already_up(stack.Lock(options.state))
    log = os.path.join(options.state, "logs", "runner.log")
    r, w = os.pipe()
    env = dict(os.environ, _SLUICE_READY_FD=str(w))
    with open(log, "ab") as f:
        begins = f.tell()
        process = subprocess.Popen([sys.executable, os.path.join(stack.ROOT, "sluice")] + argv, env=env, pass_fds=[w],
                                   stdin=subprocess.DEVNULL, stdout=f, stderr=f, start_new_session=True, cwd="/")
    os.close(w)
    with os.fdopen(r, "rb") as f:
        try:
            text = f.read().decode("utf-8", "replace")
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    code, _, text = text.partition(" ")
    if code != "0":
        process.wait()
        trouble = Trouble(text or "the runner ended before the stack was ready; the end of %s:\n%s"
                          % (log, "\n".join("    " + line for line in stack.tail(log, since=begins))))
        trouble.code = int(code or Trouble.code)
        raise trouble
    print("up in %s; stop it with `./sluice down%s`" % (options.state, stack.state_flag(options.state)))
    for line in addresses(stack.load(options.state)):
        print(line)
    return 0
