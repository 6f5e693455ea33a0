"""plan: what a stack consists of: which processes, with which addresses, options and environment.

SPDX-License-Identifier: Apache-2.0
"""
import os
import subprocess

from . import kafka, redis, stack
from .stack import Trouble, Usage, join_name, split_name
from .unit import Unit

START_LIMIT = 90.0
SECRETS = ("redis.url",)
PARTS = {"kafka": kafka, "redis": redis}
# The listeners of a service: (name in DEFAULT_PORTS, option).
LISTENERS = (("admin", "admin.listen"), ("http", "http.listen"), ("bus", "bus.listen"), ("announce", "announce.listen"))


class Options:
    """What `up` and `demo` are told; see cli for the flags."""

    def __init__(self, state, user="demo", bin=None, replicas=(), settings=(), without=(), env=(), start_limit=START_LIMIT):
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
    if not equals or not dot or not option:
        raise Usage("%s %s: write SERVICE.OPTION=VALUE, for example sink-s3.flush.interval=100ms" % (flag, text))
    if name.partition("#")[0] not in stack.WAY:
        raise Usage("%s %s: no such service; there are %s" % (flag, text, ", ".join(stack.WAY)))
    return name, option, value


def parse_replicas(text):
    name, _, number = text.partition("=")
    if name not in stack.SERVICES or not number.isdigit() or not 1 <= int(number) <= 16:
        raise Usage("--replicas %s: write SERVICE=N with one of %s and N from 1 to 16" % (text, ", ".join(stack.SERVICES)))
    return name, int(number)


class Plan:
    """Chooses addresses and lays out all units; starts nothing.

    `ports` are reserved until release(); `stack` is what stack.json will say; `units` is {name: Unit}.
    """

    def __init__(self, options):
        self.options = options
        self.state = options.state
        self.units = {}
        self.stack = {}
        self._folder("logs")
        self._folder("lake")
        self.ports = stack.Ports(stack.read_json(os.path.join(self.state, "ports.json")))
        try:
            self._lay_out()
        except BaseException:
            self.ports.release()
            raise

    def _folder(self, name):
        path = os.path.join(self.state, name)
        os.makedirs(path, exist_ok=True)
        return path

    def _names(self, service):
        if service in self.options.without:
            return []
        return [join_name(service, i + 1) for i in range(self.options.replicas.get(service, 1))]

    @staticmethod
    def _given(triples, name):
        """What was said of one process: of its service, of it alone; the first one is SERVICE#1 too."""
        service, number = split_name(name)
        return {what: value for who, what, value in triples
                if who in (service, name) or (number == 1 and who == service + "#1")}

    def _settings(self, name):
        return self._given(self.options.settings, name)

    def _address(self, name, key, option):
        """The address of one listener: as set by --set, else the last one, the default, a free one."""
        service, number = split_name(name)
        given = self._settings(name).get(option)
        what = "%s.%s" % (name, key)
        if given is not None:
            host, _, port = given.rpartition(":")
            if not host or not port.isdigit():
                raise Usage("--set %s.%s=%s: write HOST:PORT" % (name, option, given))
            if int(port):
                return "%s:%d" % (host, self.ports.force(what, int(port)))
            return "%s:%d" % (host, self.ports.pick(what))
        default = stack.DEFAULT_PORTS.get("%s.%s" % (service, key)) if number == 1 else None
        return "127.0.0.1:%d" % self.ports.pick(what, default)

    def _listens(self):
        """{name: {option: address}} of all services."""
        return {name: {option: self._address(name, key, option) for key, option in LISTENERS
                       if "%s.%s" % (service, key) in stack.DEFAULT_PORTS}
                for service in stack.SERVICES for name in self._names(service)}

    def _environment(self, own=None):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLUICE_", "_SLUICE_"))}
        env[stack.MARKER] = self.state
        env["TMPDIR"] = self._folder("tmp")
        for option, value in (own or {}).items():
            env["SLUICE_" + option.replace(".", "_").replace("-", "_").upper()] = value
        return env

    def _unit(self, name, command, cwd, env, part=None):
        self.units[name] = Unit(name, command, cwd, env, os.path.join(self.state, "logs", name + ".log"),
                                self._given(self.options.env, name), os.path.join(self.state, "env", name + ".json"), part)

    def _lay_out(self):
        ports = {what: self.ports.pick(what, stack.DEFAULT_PORTS[what]) for what in ("kafka", "kafka.controller", "redis")}
        listens = self._listens()
        self._describe(ports, listens)
        self._lay_out_parts(ports)
        if listens:
            self.stack["bin"] = stack.bin_dir(self.options.bin)
        shared = self._shared(listens)
        for name, own in listens.items():
            self._lay_out_service(name, own, shared[split_name(name)[0]])

    def _describe(self, ports, listens):
        self.stack = {
            "user": self.options.user, "state": self.state, "gateway": None, "query_api": None,
            "kafka": "127.0.0.1:%d" % ports["kafka"], "redis": "127.0.0.1:%d" % ports["redis"],
            "lake": self._settings("sink-s3").get("lake.url", "file://" + os.path.join(self.state, "lake")),
            "admin": {name: "http://" + own["admin.listen"] for name, own in listens.items()},
            "pids": {}, "restarts": {}, "runner": os.getpid(), "bin": None,
        }
        for name, own in listens.items():
            if "http.listen" in own:
                self.stack[name.replace("-", "_")] = "http://" + own["http.listen"]

    def _lay_out_parts(self, ports):
        for name, module in PARTS.items():
            if name in self.options.without:
                continue
            module.check()
            settings = self._settings(name)
            part = (kafka.Kafka(self.state, ports["kafka"], ports["kafka.controller"], settings) if name == "kafka"
                    else redis.Redis(self.state, ports["redis"], settings))
            self._unit(name, part.command(), part.cwd, self._environment(), part)

    def _shared(self, listens):
        """{service: options} that the stack as a whole decides."""
        def addresses(service, option):
            return ",".join(listens[n][option] for n in self._names(service))
        brokers, lake = {"kafka.brokers": self.stack["kafka"]}, {"lake.url": self.stack["lake"]}
        return {
            "gateway": {"producers": addresses("producer", "bus.listen")},
            "producer": brokers,
            "cleaner": brokers,
            "sink-s3": {**brokers, **lake, "redis.url": "redis://" + self.stack["redis"]},
            "query-api": {**lake, "spill.dir": os.path.join(self.state, "tmp"), "announce.from": addresses("sink-s3", "announce.listen")},
        }

    def _lay_out_service(self, name, own, shared):
        service, number = split_name(name)
        program = os.path.join(self.stack["bin"], service)
        if not os.access(program, os.X_OK):
            raise Trouble("%s is missing: build it first (`make build`), or leave it out with --without %s" % (program, service))
        values = {"user": self.options.user, **shared, **own}
        if service in ("cleaner", "sink-s3"):
            values["replica"] = str(number - 1)
        values = {k: v for k, v in values.items() if v}
        settings = {k: v for k, v in self._settings(name).items() if k not in own}
        # Flags, since a service refuses those it does not know; but for secrets, which it takes from elsewhere only.
        values.update({k: v for k, v in settings.items() if k in SECRETS})
        flags = ["--%s=%s" % pair for pair in settings.items() if pair[0] not in SECRETS]
        self._unit(name, [program] + flags, self._folder("tmp"), self._environment(values))

    def check_settings(self):
        """Lets every service that was given options with --set say whether it takes them, before anything is started."""
        for name, unit in self.units.items():
            if unit.part is None and self._settings(name):
                done = subprocess.run(unit.command + ["--check-config"], cwd=unit.cwd, env=unit.env, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
                if done.returncode:
                    said = done.stdout.decode("utf-8", "replace").strip().splitlines()
                    raise Usage("%s does not take its options (--set):\n%s" % (name, "\n".join("    " + line for line in said)))
