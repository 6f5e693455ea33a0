"""What all five services have in common, asked of the real programs: options and their three spellings, secrets, exit codes,
log lines, the admin port, the metrics' texts, drain, and the files beside the code that speak of them.

No service has its peers here: each must start, say what it misses, and end well all the same.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest

from support.service import BIN, DEADLINE, Service, clean_env, until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVICES = ("gateway", "producer", "cleaner", "sink-s3", "query-api")
ADMIN_PORTS = {"gateway": 9101, "producer": 9102, "cleaner": 9103, "sink-s3": 9104, "query-api": 9105}
COMMON = ("user", "admin.listen", "log.levels", "memory.max", "drain.timeout", "loop.stall")
CANARY = "canary-9f3b71"

each = pytest.mark.parametrize("service", SERVICES)


def run(service, *args, env=None):
    return subprocess.run([os.path.join(BIN, service), *args], capture_output=True, text=True, timeout=DEADLINE,
                          env=clean_env(**(env or {})), stdin=subprocess.DEVNULL, check=False)


def config_of(service, *args, env=None):
    done = run(service, "--print-config", *args, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def closed_port():
    """A port of loopback at which nobody listens; bound by nobody else while the socket is open."""
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    return s, s.getsockname()[1]


class Process(Service):
    """A service without its peers, on ports of its own."""

    def __init__(self, service, tmp_path, *args, env=None):
        self.reserved, port = closed_port()
        flags = {}
        for key in config_of(service):
            if key.endswith(".listen"):
                flags[key] = "127.0.0.1:0"
            elif key in ("kafka.brokers", "producers", "announce.from"):
                flags[key] = f"127.0.0.1:{port}"
            elif key == "lake.url":
                flags[key] = f"file://{tmp_path}/lake"
        if service == "sink-s3":
            env = {"SLUICE_REDIS_URL": f"redis://127.0.0.1:{port}", **(env or {})}
        super().__init__(service, *args, env=env, popen={"stdout": subprocess.PIPE}, **flags)

    def __exit__(self, *_):
        super().__exit__(*_)
        self.reserved.close()

    def await_state(self):
        """The service's state, once its start is through."""
        def begun():
            status, text = self.ask("/readyz")
            ready = json.loads(text)
            return (status, ready) if ready["state"] != "starting" else None
        return until("the end of its start", begun)


# Options

@each
def test_help_names_every_option(service):
    done = run(service, "--help")
    assert done.returncode == 0 and done.stderr == ""
    for key in config_of(service):
        assert re.search(rf"^  (--)?{re.escape(key)}[=,]", done.stdout, re.M), key
    assert set(COMMON) <= set(config_of(service))


@each
def test_version(service):
    text, form = run(service, "--version"), run(service, "--version=json")
    assert text.returncode == form.returncode == 0
    version = json.loads(form.stdout)
    assert version["name"] == service
    assert text.stdout.startswith(f"{service} {version['version']} ({version['revision']})\n")
    for name, of in version["libraries"].items():
        assert of and f"  {name} {of}\n" in text.stdout
    assert "libuv" in version["libraries"]


@each
def test_defaults(service):
    c = config_of(service)
    assert c["user"] == "demo" and c["admin.listen"] == f"127.0.0.1:{ADMIN_PORTS[service]}"
    assert c["drain.timeout"] == "10s" and c["loop.stall"] == "30s" and c["log.levels"] == "info"


@each
def test_wrong_command_lines_are_refused(service):
    for args, text in ((["--admin.lisen=127.0.0.1:1"], "did you mean admin.listen?"), (["stray"], "unexpected argument"),
                       (["--memory.max=lots"], "memory.max: 'lots' is not allowed: a size"), (["--user"], "needs a value"),
                       (["--drain.timeout=10"], "a duration")):
        done = run(service, *args)
        assert done.returncode == 64 and text in done.stderr and done.stdout == "", (args, done.stderr)


@each
def test_wrong_configurations_are_refused(service, tmp_path):
    file = tmp_path / "c.json"
    for text, says in (('{\n "memory.max": "lots"\n}', ":2: memory.max: 'lots'"), ('{\n\n "memry.max": 1}', ":3: unknown key 'memry.max'; did you mean memory.max?"),
                       ('{"user": "a",\n"user": "b"}', ":2: duplicate"), ("{", ":1: "), ('{"user": {}}', "user"),
                       ('{"user": "a.b"}', "user: 'a.b'"), ('{"log.levels": "loud"}', "log.levels: 'loud'")):
        file.write_text(text)
        done = run(service, "--check-config", f"--config={file}")
        assert done.returncode == 78 and says in done.stderr, (text, done.stderr)
    assert run(service, "--check-config", env={"SLUICE_MEMORY_MAX": "lots"}).returncode == 78
    assert run(service, "--check-config", f"--config={tmp_path}/none").returncode == 78


@each
def test_every_option_has_three_spellings(service, tmp_path):
    config = config_of(service)
    file = tmp_path / "c.json"
    file.write_text(json.dumps(config))
    env, flags = {}, []
    for key, value in config.items():
        text = value if isinstance(value, str) else json.dumps(value)
        env["SLUICE_" + re.sub("[.-]", "_", key).upper()] = text
        if key != "redis.url":
            flags.append(f"--{key}={text}")
    def sources(*args, env=None):
        done = run(service, "--print-config=sources", *args, env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    for key, of in sources(f"--config={file}").items():
        assert of["source"].startswith(f"{file}:"), key
    for key, of in sources(f"--config={file}", env=env).items():
        assert of["source"] == "SLUICE_" + re.sub("[.-]", "_", key).upper(), key
    for key, of in sources(f"--config={file}", *flags, env=env).items():
        assert of["source"] == (f"--{key}" if key != "redis.url" else "SLUICE_REDIS_URL"), key


@each
def test_a_printed_configuration_can_be_fed_back(service, tmp_path):
    first = run(service, "--print-config", "--drain.timeout=1500ms", "--memory.max=300MiB")
    file = tmp_path / "c.json"
    file.write_text(first.stdout)
    second = run(service, "--print-config", f"--config={file}")
    assert first.returncode == second.returncode == 0 and first.stdout == second.stdout
    assert json.loads(first.stdout)["drain.timeout"] == "1500ms"


@each
def test_unknown_variables_are_a_warning(service):
    done = run(service, "--check-config", env={"SLUICE_MEMRY_MAX": "1"})
    assert done.returncode == 0 and "SLUICE_MEMRY_MAX" in done.stderr


@each
def test_the_sample_configuration_is_valid(service):
    done = run(service, "--check-config", f"--config={ROOT}/services/{service}/{service}.json")
    assert done.returncode == 0, done.stderr


def test_secrets_stay_secret(tmp_path):
    secret = f"redis://:{CANARY}@127.0.0.1:1"
    done = run("sink-s3", f"--redis.url={secret}")
    assert done.returncode == 64 and "redis.url_file" in done.stderr and CANARY not in done.stderr
    env = {"SLUICE_REDIS_URL": secret}
    done = run("sink-s3", "--print-config", env=env)
    assert json.loads(done.stdout)["redis.url"] == "***" and CANARY not in done.stdout + done.stderr
    file = tmp_path / "c.json"
    file.write_text(done.stdout)
    done = run("sink-s3", "--check-config", f"--config={file}")
    assert done.returncode == 78 and "masked" in done.stderr
    kept = tmp_path / "secret"
    kept.write_text(secret + "\n")
    done = run("sink-s3", "--print-config", f"--redis.url_file={kept}")
    assert json.loads(done.stdout)["redis.url_file"] == str(kept) and CANARY not in done.stdout
    done = run("sink-s3", "--check-config", f"--redis.url_file={kept}", env={"SLUICE_REDIS_URL": f"http://{CANARY}"})
    assert CANARY not in done.stdout + done.stderr
    with Process("sink-s3", tmp_path, f"--redis.url_file={kept}", "--log.levels=trace") as p:
        p.await_state()
        seen = "".join(p.ask(path)[1] for path in ("/readyz", "/metrics", "/version", "/debug/state"))
        p.process.send_signal(signal.SIGUSR1)
        p.event("state_dumped")
        p.end()
        assert CANARY not in seen and CANARY not in "".join(p.lines)


# Life

@each
def test_lives_without_its_peers(service, tmp_path):
    with Process(service, tmp_path) as p:
        status, ready = p.await_state()
        assert status == (200 if ready["ready"] else 503)
        for check in ready["checks"]:
            assert check["name"] and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", check["since"])
            assert check["ok"] in (True, False) and isinstance(check["detail"], str)
        if service in ("producer", "cleaner", "sink-s3"):
            assert status == 503 and any("kafka" in c["name"] and not c["ok"] for c in ready["checks"]), ready
        status, headers, text = p.ask_whole("/livez")
        assert status == 200 and json.loads(text)["live"] is True
        assert headers["Content-Type"] == "application/json" and headers["Cache-Control"] == "no-store"
        status, text = p.ask("/version")
        assert status == 200 and json.loads(text) == json.loads(run(service, "--version=json").stdout)
        status, text = p.ask("/debug/state")
        assert status == 200 and json.loads(text)["service"] == service
        for path, method, want in (("/nothing", "GET", 404), ("/livez", "POST", 405), ("/orders/nothing", "POST", 404),
                                   ("/orders/nothing", "GET", 405)):
            status, text = p.ask(path, method)
            assert status == want and json.loads(text)["error"], (path, method)
        p.end()
        entries = [json.loads(line) for line in p.lines]
        for e in entries:
            assert list(e)[:5] == ["ts", "level", "service", "module", "event"], e
            assert e["service"] == service and re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", e["event"]), e
        events = [e["event"] for e in entries]
        assert events.index("draining") < events.index("stopped") and "handle_left_open" not in events
        assert p.process.stdout.read() == ""


@each
def test_drains_on_sigint_and_prints_its_state(service, tmp_path):
    with Process(service, tmp_path, "--drain.timeout=2s") as p:
        p.await_state()
        p.process.send_signal(signal.SIGUSR1)
        state = json.loads(p.event("state_dumped")["state"])
        assert state["service"] == service and state["memory"]["max"] > 0
        p.end(signal.SIGINT)


@each
def test_an_address_in_use_is_exit_71(service, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with Process(service, tmp_path, f"--admin.listen=127.0.0.1:{taken.getsockname()[1]}") as p:
            assert p.wait() == 71
            entry = p.event("start_failed")
            assert entry["level"] == "error" and "EADDRINUSE" in json.dumps(entry)


@pytest.mark.parametrize("service,key", [("gateway", "http.listen"), ("producer", "bus.listen"), ("query-api", "http.listen"),
                                         ("sink-s3", "announce.listen")])
def test_a_service_address_in_use_is_exit_71(service, key, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with Process(service, tmp_path, f"--{key}=127.0.0.1:{taken.getsockname()[1]}") as p:
            assert p.wait() == 71


# Metrics

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*\})? (NaN|[+-]Inf|-?[0-9.]+(?:e[+-]?[0-9]+)?)')


def families(text):
    """Name -> kind; every line is checked on the way."""
    kinds, helped = {}, set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped.add(line.split()[2])
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name in helped and name not in kinds, line
            kinds[name] = kind
        elif not line.startswith("#"):
            m = SAMPLE.fullmatch(line)
            assert m, line
            base = re.sub("_(bucket|sum|count)$", "", m[1]) if m[1] not in kinds else m[1]
            assert base in kinds or re.sub("_total$", "", base) in kinds, line
    return kinds


@each
def test_metrics(service, tmp_path):
    with Process(service, tmp_path) as p:
        p.await_state()
        status, headers, text = p.ask_whole("/metrics")
        assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        kinds = families(text)
        for name, kind in (("process_cpu_seconds_total", "counter"), ("process_resident_memory_bytes", "gauge"),
                           ("process_open_fds", "gauge"), ("process_max_fds", "gauge"), ("process_start_time_seconds", "gauge"),
                           ("sluice_build_info", "gauge"), ("sluice_ready", "gauge"), ("sluice_log_lines_total", "counter"),
                           ("sluice_event_loop_lag_seconds", "histogram"), ("sluice_memory_bytes", "gauge"),
                           ("sluice_memory_peak_bytes", "gauge"), ("sluice_memory_budget_bytes", "gauge"),
                           ("sluice_memory_max_bytes", "gauge"), ("sluice_memory_refusals_total", "counter")):
            assert kinds.get(name) == kind, name
        table = re.findall(r"^\| `([a-z0-9_]+)` \| (\w+)", run(service, "--dump-metrics-markdown").stdout, re.M)
        assert dict(table) == kinds and len(table) == len(kinds)
        promtool = shutil.which("promtool")
        if promtool:
            done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=DEADLINE, check=False)
            assert done.returncode == 0 and done.stderr == "", done.stderr + done.stdout
        status, headers, text = p.ask_whole("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"})
        assert status == 200 and headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert text.endswith("\n# EOF\n")
        kinds = families(text)
        assert kinds["sluice_log_lines"] == "counter" and not any(n.endswith("_total") for n in kinds)
        p.end()


@each
def test_option_table_for_the_docs(service):
    table = re.findall(r"^\| `([a-z0-9._]+)` \| `(SLUICE_[A-Z0-9_]+)`", run(service, "--dump-options-markdown").stdout, re.M)
    assert [key for key, _ in table] == list(config_of(service))
