"""The runner: starts Kafka, Redis and the services, waits for them, restarts what dies, stops all in order.

state of a unit   waits for            then
NEW               start()              RUNNING
RUNNING           the process ends     WAITING (or STOPPED while the runner stops)
WAITING           its restart delay    RUNNING

The delay before a restart is 0.1 s, doubles to 2 s, and is forgotten after 10 s of running.
DIR/env/NAME.json, a JSON object of variables, is given to the next start of that unit and then removed:
an end that was prepared in this way is no crash loop, and does not lengthen the delay.
SPDX-License-Identifier: Apache-2.0
"""
import os
import select
import signal
import subprocess
import sys
import time

from . import http, kafka, redis, stack
from .stack import Trouble, join_name, split_name

FIRST_DELAY, MAX_DELAY, FORGOTTEN_AFTER = 0.1, 2.0, 10.0
FATAL_CODES = {64: "usage", 71: "a port could not be opened", 73: "a file could not be made", 78: "configuration"}
SECRETS = ("redis.url",)
STOP_ORDER = ("gateway", "producer", "cleaner", "sink-s3", "query-api", "redis", "kafka")
START_LIMIT = 90.0


class Options:
    """What `up` and `demo` are told; see cli for the flags."""

    def __init__(self, state, user="demo", bin=None, replicas=(), settings=(), without=(), env=(),
                 start_limit=START_LIMIT):
        self.state = state
        self.user = user
        self.bin = bin
        self.replicas = dict(replicas)
        self.settings = list(settings)   # (name, option, value)
        self.without = set(without)
        self.env = list(env)             # (name, variable, value): for the first start only
        self.start_limit = start_limit


def parse_dotted(text, flag):
    """'sink-s3#2.flush.interval=100ms' -> ('sink-s3#2', 'flush.interval', '100ms')."""
    left, equals, value = text.partition("=")
    name, dot, option = left.partition(".")
    known = stack.SERVICES + ("kafka", "redis")
    if not equals or not dot or not option:
        raise Trouble("%s %s: write SERVICE.OPTION=VALUE, for example sink-s3.flush.interval=100ms" % (flag, text))
    if name.partition("#")[0] not in known:
        raise Trouble("%s %s: no such service; there are %s" % (flag, text, ", ".join(known)))
    return name, option, value


def parse_replicas(text):
    name, _, number = text.partition("=")
    if name not in stack.SERVICES or not number.isdigit() or not 1 <= int(number) <= 16:
        raise Trouble("--replicas %s: write SERVICE=N with one of %s and N from 1 to 16" % (text, ", ".join(stack.SERVICES)))
    return name, int(number)


class Unit:
    """One process under watch."""

    def __init__(self, name, command, cwd, env, log, first_env=None, next_env=None):
        self.name = name
        self.next_env = next_env   # the path of what the next start alone gets
        self.command = command
        self.cwd = cwd
        self.env = env
        self.first_env = first_env or {}
        self.log = log
        self.process = None
        self.started = 0.0
        self.delay = 0.0
        self.due = None          # when to start again, None while it runs
        self.restarts = 0
        self.last_exit = None

    def start(self):
        env = dict(self.env)
        env.update(self.first_env)
        self.first_env = {}
        env.update(self._take_next_env())
        with open(self.log, "ab") as log:
            try:
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


def exit_text(code):
    if code is not None and code < 0:
        try:
            return "killed by %s" % signal.Signals(-code).name
        except ValueError:
            return "killed by signal %d" % -code
    return "exit code %s%s" % (code, " (%s)" % FATAL_CODES[code] if code in FATAL_CODES else "")


class Runner:
    """Owns all processes of one stack. Everything runs on the thread that calls run()."""

    def __init__(self, options, say=None):
        self.options = options
        self.state = options.state
        self.say = say or (lambda text: print(text, flush=True))
        self.units = {}
        self.stopping = False
        self.hurry = False
        self.stack = {}
        self.ports = None
        self.lock = stack.Lock(self.state)
        self.took = 0.0
        self._held = False       # whether the state folder is ours, and with it what runs there
        self._wake_r, self._wake_w = None, None

    # --- the plan --------------------------------------------------------------------------------

    def _folder(self, name):
        path = os.path.join(self.state, name)
        os.makedirs(path, exist_ok=True)
        return path

    def _log(self, name):
        return os.path.join(self.state, "logs", name + ".log")

    def _next_env(self, name):
        return os.path.join(self.state, "env", name + ".json")

    def _names(self, service):
        if service in self.options.without:
            return []
        return [join_name(service, i + 1) for i in range(self.options.replicas.get(service, 1))]

    def _address(self, name, key, option):
        """The address of one listener: as set by --set, else the last one, the default, a free one."""
        service, number = split_name(name)
        given = self._settings(name).get(option)
        what = "%s.%s" % (name, key)
        if given is not None:
            host, _, port = given.rpartition(":")
            if not host or not port.isdigit():
                raise Trouble("--set %s.%s=%s: write HOST:PORT" % (name, option, given))
            if int(port):
                return "%s:%d" % (host, self.ports.force(what, int(port)))
            return "%s:%d" % (host, self.ports.pick(what))
        default = stack.DEFAULT_PORTS.get("%s.%s" % (service, key)) if number == 1 else None
        return "127.0.0.1:%d" % self.ports.pick(what, default)

    def _settings(self, name):
        service, number = split_name(name)
        out = {}
        for who, option, value in self.options.settings:
            if who in (service, name) or (number == 1 and who == service + "#1"):
                out[option] = value
        return out

    def _first_env(self, name):
        service, number = split_name(name)
        return {var: value for who, var, value in self.options.env
                if who in (service, name) or (number == 1 and who == service + "#1")}

    def _environment(self, own=None):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLUICE_", "_SLUICE_"))}
        env[stack.MARKER] = self.state
        env["TMPDIR"] = self._folder("tmp")
        for option, value in (own or {}).items():
            env["SLUICE_" + option.replace(".", "_").replace("-", "_").upper()] = value
        return env

    def plan(self):
        """Chooses addresses and lays out all units; starts nothing."""
        o = self.options
        self._folder("logs")
        self._folder("lake")
        self.ports = stack.Ports(stack.read_json(os.path.join(self.state, "ports.json")))
        kafka_port = self.ports.pick("kafka", stack.DEFAULT_PORTS["kafka"])
        controller = self.ports.pick("kafka.controller", stack.DEFAULT_PORTS["kafka.controller"])
        redis_port = self.ports.pick("redis", stack.DEFAULT_PORTS["redis"])
        listens = {}
        for service in stack.SERVICES:
            for name in self._names(service):
                listens[name] = {"admin.listen": self._address(name, "admin", "admin.listen")}
                for key, option in (("http", "http.listen"), ("bus", "bus.listen"), ("announce", "announce.listen")):
                    if "%s.%s" % (service, key) in stack.DEFAULT_PORTS:
                        listens[name][option] = self._address(name, key, option)
        gateway = listens.get("gateway", {}).get("http.listen")
        query = listens.get("query-api", {}).get("http.listen")
        self.stack = {
            "user": o.user, "state": self.state,
            "gateway": "http://" + gateway if gateway else None,
            "query_api": "http://" + query if query else None,
            "kafka": "127.0.0.1:%d" % kafka_port, "redis": "127.0.0.1:%d" % redis_port,
            "lake": self._settings("sink-s3").get("lake.url", "file://" + os.path.join(self.state, "lake")),
            "admin": {name: "http://" + own["admin.listen"] for name, own in listens.items()},
            "pids": {}, "restarts": {}, "runner": os.getpid(), "bin": None,
        }
        for name in ("kafka", "redis"):
            if name in o.without:
                continue
            settings = self._settings(name)
            part = (kafka.Kafka(self.state, kafka_port, controller, settings) if name == "kafka"
                    else redis.Redis(self.state, redis_port, settings))
            (kafka if name == "kafka" else redis).check()
            unit = Unit(name, part.command(), part.cwd, self._environment(), self._log(name), self._first_env(name),
                        self._next_env(name))
            unit.part = part
            self.units[name] = unit
        common = {"user": o.user}
        shared = {
            "gateway": {"producers": ",".join(listens[n]["bus.listen"] for n in self._names("producer"))},
            "producer": {"kafka.brokers": self.stack["kafka"]},
            "cleaner": {"kafka.brokers": self.stack["kafka"]},
            "sink-s3": {"kafka.brokers": self.stack["kafka"], "lake.url": self.stack["lake"],
                        "redis.url": "redis://" + self.stack["redis"]},
            "query-api": {"lake.url": self.stack["lake"], "spill.dir": os.path.join(self.state, "tmp"),
                          "announce.from": ",".join(listens[n]["announce.listen"] for n in self._names("sink-s3"))},
        }
        if listens:
            self.stack["bin"] = stack.bin_dir(o.bin)
        for name, own in listens.items():
            service, number = split_name(name)
            program = os.path.join(self.stack["bin"], service)
            if not os.access(program, os.X_OK):
                raise Trouble("%s is missing: build it first (`make`), or leave it out with --without %s" % (program, service))
            values = dict(common, **shared[service])
            values.update(own)
            if service in ("cleaner", "sink-s3"):
                values["replica"] = str(number - 1)
            values = {k: v for k, v in values.items() if v}
            settings = {k: v for k, v in self._settings(name).items() if k not in own}
            # Flags, since a service refuses those it does not know; but for secrets, which it takes from elsewhere only.
            values.update({k: v for k, v in settings.items() if k in SECRETS})
            flags = ["--%s=%s" % pair for pair in settings.items() if pair[0] not in SECRETS]
            unit = Unit(name, [program] + flags, self._folder("tmp"), self._environment(values),
                        self._log(name), self._first_env(name), self._next_env(name))
            self.units[name] = unit

    def save(self):
        self.stack["pids"] = {n: u.pid() for n, u in self.units.items() if u.pid()}
        self.stack["restarts"] = {n: u.restarts for n, u in self.units.items()}
        stack.write_json(os.path.join(self.state, "stack.json"), self.stack)

    # --- start -----------------------------------------------------------------------------------

    def open(self):
        """Takes the state folder, ends what a killed runner left there, and starts everything.

        Raises Trouble, with everything stopped again, when something is not ready in time.
        """
        os.makedirs(self.state, exist_ok=True)
        for _ in range(40):
            if self.lock.take():
                break
            if self.lock.holder():
                raise Trouble("a runner (process %d) is already up in %s: use it, or stop it with `./sluice down --state %s`"
                              % (self.lock.holder(), self.state, self.state))
            time.sleep(0.05)
        else:
            raise Trouble("%s cannot be locked" % self.lock.path)
        self._held = True
        self._wake_r, self._wake_w = os.pipe()
        for fd in (self._wake_r, self._wake_w):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            stack.clean_leftovers(self.state, self.say)
            self.plan()
            self._start_all()
        except BaseException:
            self.close()
            raise

    def _on_signal(self, number, _frame):
        if self.stopping and number == signal.SIGINT:
            self.hurry = True
        self.stopping = True

    def stop(self):
        """Asks run() to end; may be called from any thread."""
        self.stopping = True
        if self._wake_w is not None:
            os.write(self._wake_w, b"x")

    def _start_all(self):
        began = time.monotonic()
        for name in ("redis", "kafka"):
            if name in self.units:
                unit = self.units[name]
                unit.part.prepare(unit.log)
                unit.start()
        self.save()
        for name in ("redis", "kafka"):
            if name in self.units:
                self._wait(began, {name: self.units[name].part.answers})
        services = [n for n in self.units if n not in ("kafka", "redis")]
        for name in sorted(services, key=lambda n: -STOP_ORDER.index(split_name(n)[0])):
            self.units[name].start()
        self.save()
        stack.write_json(os.path.join(self.state, "ports.json"), self.ports.taken)
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
                text = ["not ready after %d s:" % self.options.start_limit]
                for name in waiting:
                    text.append("  %s: %s; the end of %s:" % (name, why.get(name), self.units[name].log))
                    text += ["    " + line for line in stack.tail(self.units[name].log)]
                raise Trouble("\n".join(text))
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
            try:
                while os.read(self._wake_r, 512):
                    pass
            except BlockingIOError:
                pass
        changed = False
        now = time.monotonic()
        for unit in self.units.values():
            if unit.exited():
                if starting and unit.last_exit in FATAL_CODES and unit.restarts == 0:
                    raise Trouble("%s did not start: %s; the end of %s:\n%s"
                                  % (unit.name, exit_text(unit.last_exit), unit.log,
                                     "\n".join("    " + line for line in stack.tail(unit.log))))
                if not self.stopping:
                    unit.plan_restart(now)
                    self.say("%s %s ended (%s), starts again in %.1f s"
                             % (time.strftime("%H:%M:%S"), unit.name, exit_text(unit.last_exit), unit.delay))
                changed = True
            if unit.due is not None and now >= unit.due and not self.stopping:
                try:
                    unit.start()
                except Trouble as e:
                    self.say(str(e))
                    unit.plan_restart(now)
                changed = True
        if changed:
            self.save()

    def run(self):
        """Watches until a signal or stop()."""
        while not self.stopping:
            self.tick(1.0)

    # --- stop ------------------------------------------------------------------------------------

    def close(self):
        """Stops everything in the order of the data and gives the state folder back. Twice is fine."""
        if not self._held:
            return
        self._held = False
        self.stopping = True
        for service in STOP_ORDER:
            units = [u for n, u in self.units.items() if split_name(n)[0] == service and u.running()]
            self._end(units, 15.0 if service == "kafka" else 12.0)
        stack.clean_leftovers(self.state)
        try:
            os.unlink(os.path.join(self.state, "stack.json"))
        except OSError:
            pass
        if self.ports:
            self.ports.release()
        self.lock.drop()

    def _end(self, units, grace):
        for unit in units:
            for number in (signal.SIGTERM, signal.SIGCONT):
                try:
                    unit.process.send_signal(number)
                except OSError:
                    pass
        end = time.monotonic() + grace
        for unit in units:
            while unit.process.poll() is None and time.monotonic() < end and not self.hurry:
                try:
                    unit.process.wait(0.1)
                except subprocess.TimeoutExpired:
                    pass
            if unit.process.poll() is None:
                if not self.hurry:
                    self.say("%s did not end within %d s: killed" % (unit.name, grace))
                unit.process.kill()
                unit.process.wait()


def addresses(value):
    """The lines that tell a person where things are."""
    rows = [("gateway", value.get("gateway")), ("query-api", value.get("query_api")), ("kafka", value.get("kafka")),
            ("redis", value.get("redis")), ("tables", value.get("lake")),
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
        _report_ready(b"ok\n")
        runner.run()
        runner.say("stopping")
    except Trouble as e:
        _report_ready(str(e).encode())
        raise
    except KeyboardInterrupt:
        pass
    finally:
        runner.close()
    return 0


def _report_ready(text):
    fd = os.environ.pop("_SLUICE_READY_FD", None)
    if fd:
        os.write(int(fd), text)
        os.close(int(fd))


def up_detached(options, argv):
    """Starts the runner in a session of its own; returns once it is ready or has failed."""
    os.makedirs(os.path.join(options.state, "logs"), exist_ok=True)
    log = os.path.join(options.state, "logs", "runner.log")
    r, w = os.pipe()
    env = dict(os.environ, _SLUICE_READY_FD=str(w))
    with open(log, "ab") as f:
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
    if text != "ok\n":
        process.wait()
        raise Trouble(text or "the runner ended before the stack was ready; the end of %s:\n%s"
                      % (log, "\n".join("    " + line for line in stack.tail(log))))
    print("up in %s; stop it with `./sluice down%s`" % (
        options.state, "" if options.state == stack.state_dir() else " --state " + options.state))
    for line in addresses(stack.load(options.state)):
        print(line)
    return 0
