"""unit: one process under watch, and when it is started again.

state     waits for            then
NEW       start()              RUNNING
RUNNING   the process ends     WAITING (or nothing more, while the runner stops)
WAITING   its restart delay    RUNNING

The delay before a restart is 0.1 s, doubles to 2 s, and is forgotten after 10 s of running.
DIR/env/NAME.json, a JSON object of variables, is given to the next start of that unit and then removed:
an end that was prepared in this way is no crash loop, and does not lengthen the delay.
SPDX-License-Identifier: Apache-2.0
"""
import os
import signal
import subprocess
import time

from . import stack
from .stack import Trouble

FIRST_DELAY, MAX_DELAY, FORGOTTEN_AFTER = 0.1, 2.0, 10.0
FATAL_CODES = {64: "usage", 71: "a port could not be opened", 73: "a file could not be made", 78: "configuration"}


class Unit:
    """One process: how to start it, and what became of it."""

    def __init__(self, name, command, cwd, env, log, first_env=None, next_env=None, part=None):
        self.name = name
        self.command = command
        self.cwd = cwd
        self.env = env
        self.log = log
        self.first_env = first_env or {}
        self.next_env = next_env   # the path of what the next start alone gets
        self.part = part           # of Kafka and Redis: how to prepare and to ask it
        self.process = None
        self.started = 0.0
        self.delay = 0.0
        self.due = None            # when to start again, None while it runs
        self.restarts = 0
        self.last_exit = None
        self.log_begins = os.path.getsize(log) if os.path.exists(log) else 0   # of this run's lines

    def start(self):
        try:
            env = {**self.env, **self.first_env, **self._take_next_env()}
            self.first_env = {}
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen(self.command, cwd=self.cwd, env=env, stdin=subprocess.DEVNULL,
                                                stdout=log, stderr=log, start_new_session=True)
        except OSError as e:
            raise Trouble("%s cannot be started: %s" % (self.name, e)) from e
        self.started = time.monotonic()
        self.due = None

    def _take_next_env(self):
        given = stack.read_json(self.next_env) if self.next_env else None
        if not isinstance(given, dict):
            return {}
        os.unlink(self.next_env)
        return {str(k): str(v) for k, v in given.items()}

    def running(self):
        return self.process is not None and self.process.returncode is None

    def exited(self):
        """True once, when the process has ended since the last look."""
        if self.process is None or self.process.poll() is None:
            return False
        self.last_exit = self.process.returncode
        self.process = None
        return True

    def hopeless(self):
        """Whether an end during the first start says that another try is no use.

        A service says so itself by its exit code. Kafka and Redis end with 1 for everything, so that they get three tries.
        """
        if self.part is None:
            return self.last_exit in FATAL_CODES and self.restarts == 0
        return self.last_exit > 0 and self.restarts >= 2

    def plan_restart(self, now):
        prepared = self.next_env and os.path.exists(self.next_env)
        if now - self.started >= FORGOTTEN_AFTER or self.delay == 0.0 or prepared:
            self.delay = FIRST_DELAY
        else:
            self.delay = min(MAX_DELAY, self.delay * 2)
        self.due = now + self.delay
        self.restarts += 1

    def pid(self):
        return self.process.pid if self.process else 0

    def last_words(self):
        """The end of its log, as far as this run wrote it."""
        return "the end of %s:\n%s" % (self.log, "\n".join("    " + line for line in stack.tail(self.log, since=self.log_begins)))


def exit_text(code):
    if code is not None and code < 0:
        try:
            return "killed by %s" % signal.Signals(-code).name
        except ValueError:
            return "killed by signal %d" % -code
    return "exit code %s%s" % (code, " (%s)" % FATAL_CODES[code] if code in FATAL_CODES else "")
