"""service: one of our programs as a process, with its log lines, its ports and its admin port.

SPDX-License-Identifier: Apache-2.0
"""
import http.client
import json
import os
import signal
import subprocess
import threading
import time

from sluice import http as sluice_http

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("SLUICE_BIN", os.path.join(ROOT, "build", "test", "bin"))
DEADLINE = 120


def clean_env(**extra):
    """The environment without what belongs to the suite or to somebody's stack."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}, **extra}


def until(what, check, deadline=DEADLINE, errors=(OSError, sluice_http.HttpError), every=0.02):
    """Waits until check() is true (errors of a peer that is not there yet count as false) and returns its value. Tests wait by this
    and nothing else: for a condition, looked at every `every` seconds, and not longer than `deadline`."""
    end = time.monotonic() + deadline
    while True:
        try:
            value = last = check()
        except errors as e:
            value, last = None, e
        if value:
            return value
        assert time.monotonic() < end, f"waited {deadline} s for {what}; last: {last!r}"
        time.sleep(every)


class Service:
    """A program that was started with these flags; `options` are flags too, with `__` for the dot; `popen`: for subprocess.Popen."""

    def __init__(self, name, *flags, env=None, popen=None, **options):
        self.name = name
        options = {"admin__listen": "127.0.0.1:0", **options}
        flags = [f"--{k.replace('__', '.')}={v}" for k, v in options.items()] + list(flags)
        # SIGXFSZ stays ignored, as Python has it: a full disk is an error of write, not the end.
        popen = {"stdout": subprocess.DEVNULL, "restore_signals": False, **(popen or {})}
        self.process = subprocess.Popen([os.path.join(BIN, name), *flags], env=clean_env(**(env or {})), stdin=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True, **popen)
        self.lines, self.cond, self.ended, self.ports = [], threading.Condition(), False, {}
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self.cond:
                self.lines.append(line)
                self.cond.notify_all()
        with self.cond:
            self.ended = True
            self.cond.notify_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stderr.close()
        if self.process.stdout:
            self.process.stdout.close()

    def last(self, n=60):
        """The end of its log, for people."""
        with self.cond:
            return "".join(self.lines[-n:])

    def events(self, event, **pairs):
        with self.cond:
            lines = list(self.lines)
        entries = [json.loads(line) for line in lines if f'"{event}"' in line]
        return [e for e in entries if e["event"] == event and all(e.get(k) == v for k, v in pairs.items())]

    def event(self, event, n=1, **pairs):
        """The n-th log line of this kind, as soon as it is there."""
        end = time.monotonic() + DEADLINE
        while True:
            ended = self.ended
            found = self.events(event, **pairs)
            if len(found) >= n:
                return found[n - 1]
            assert not ended, f"{self.name} ended without {event}:\n{self.last()}"
            assert time.monotonic() < end, f"{self.name}: no {event} {pairs}:\n{self.last()}"
            with self.cond:
                self.cond.wait(0.2)

    def port_of(self, what):
        """Where it listens for "admin", "http", "bus", …"""
        if what not in self.ports:
            self.ports[what] = self.event("listening", what=what)["port"]
        return self.ports[what]

    def url(self):
        return f"http://127.0.0.1:{self.port_of('admin')}"

    def ask(self, path, method="GET", body=None, headers=None):
        """(status, text) of the admin port."""
        status, _, text = self.ask_whole(path, method, body, headers)
        return status, text

    def ask_whole(self, path, method="GET", body=None, headers=None):
        """(status, headers, text) of the admin port."""
        c = http.client.HTTPConnection("127.0.0.1", self.port_of("admin"), timeout=DEADLINE)
        try:
            c.request(method, path, body=body, headers=headers or {})
            r = c.getresponse()
            return r.status, r.headers, r.read().decode()
        finally:
            c.close()

    def state(self):
        return json.loads(self.ask("/debug/state")[1])

    def ready(self):
        """(status, {check: (ok, detail)})"""
        status, text = self.ask("/readyz")
        return status, {c["name"]: (c["ok"], c["detail"]) for c in json.loads(text)["checks"]}

    def until_ready(self):
        until(f"{self.name} to be ready", lambda: self.ready()[0] == 200)
        return self

    def metric(self, metric, **labels):
        """The sum over the series that have these labels."""
        return sum(v for n, has, v in sluice_http.metrics(self.url(), timeout=DEADLINE)
                   if n == metric and all(has.get(k) == v2 for k, v2 in labels.items()))

    def send(self, number):
        self.process.send_signal(number)

    def wait(self):
        """Its exit code."""
        code = self.process.wait(timeout=DEADLINE)
        self.reader.join()
        return code

    def end(self, number=signal.SIGTERM, drained=True):
        """It must end with exit code 0, whatever the sanitizers would say included; and whether it drained in time must be so."""
        if self.process.poll() is None:
            self.send(number)
        code = self.wait()
        assert code == 0, f"{self.name}: exit code {code}\n{self.last()}"
        assert not self.events("handle_left_open") and bool(self.events("drain_timed_out")) != drained, self.last()
