"""query-api, the real program, on tables written by deltalake and by hand: answers, formats, validators, problems, limits, following.

The right answers come from tests/support/expected.py, which knows neither SQL nor the product.
SPDX-License-Identifier: Apache-2.0
"""
import csv
import datetime
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))

pa = pytest.importorskip("pyarrow")
deltalake = pytest.importorskip("deltalake")
requests = pytest.importorskip("requests")

from support import expected  # noqa: E402

BIN = os.environ.get("SLUICE_BIN", os.path.join(ROOT, "build", "test", "bin"))
DEADLINE = 90
UTC = datetime.timezone.utc
INSTANT = pa.timestamp("us", tz="UTC")
PROVENANCE = [("_source", pa.string()), ("_position", pa.int64()), ("_item", pa.int32()), ("_ingested_at", INSTANT)]
SCHEMAS = {
    "pin": pa.schema([("ind", pa.int64()), ("unique_id", pa.string()), ("title", pa.string()), ("description", pa.string()),
                      ("follower_count", pa.int64()), ("poster_name", pa.string()), ("tag_list", pa.string()),
                      ("is_image_or_video", pa.string()), ("image_src", pa.string()), ("save_location", pa.string()),
                      ("category", pa.string())] + PROVENANCE),
    "geo": pa.schema([("ind", pa.int64()), ("country", pa.string()), ("coordinates", pa.list_(pa.float64())),
                      ("timestamp", INSTANT)] + PROVENANCE),
    "user": pa.schema([("ind", pa.int64()), ("user_name", pa.string()), ("age", pa.int32()), ("date_joined", INSTANT)] + PROVENANCE),
    "dead": pa.schema(PROVENANCE + [("dataset", pa.string()), ("reason", pa.string()), ("detail", pa.string()),
                                    ("key", pa.binary()), ("value", pa.binary())]),
}
NAMES = ["popular-category-by-country", "category-posts-by-year", "top-user-by-country", "top-user-country", "popular-category-by-age",
         "median-followers-by-age", "users-joined-by-year", "median-followers-by-joining-year", "median-followers-by-joining-year-and-age"]
METRICS = ["sluice_http_requests_total", "sluice_http_request_duration_seconds", "sluice_http_in_flight_requests",
           "sluice_http_connections", "sluice_http_rejected_total", "sluice_query_duration_seconds", "sluice_query_rows_total",
           "sluice_query_cancelled_total", "sluice_query_cache_revalidations_total", "sluice_query_running", "sluice_query_waiting",
           "sluice_query_newest_searches_total", "sluice_table_version", "sluice_table_rows", "sluice_table_files",
           "sluice_table_last_commit_timestamp_seconds", "sluice_table_age_seconds", "sluice_table_log_reads_total",
           "sluice_table_refreshes_total", "sluice_table_refresh_failures_total", "sluice_table_announcements_total",
           "sluice_table_publishers", "sluice_query_memory_bytes", "sluice_query_memory_max_bytes"]
DEFAULTS = {"http.listen": "127.0.0.1:8080", "http.h2c": True, "http.request_timeout": "30s", "cors.origins": "*",
            "lake.url": "file:///var/lib/sluice", "announce.from": "127.0.0.1:7710", "poll.interval": "1s", "query.threads": 2,
            "query.parallel": 2, "query.queue.max": 64, "query.timeout": "30s", "query.rows.max": 1000000, "query.memory": "128MiB",
            "answer.max": "16MiB", "spill.dir": "", "spill.max": "1GiB", "body.max": "64KiB", "headers.max": "16KiB",
            "connections.max": 1000}


def until(what, condition, deadline=DEADLINE):
    """Waits for a condition and returns what it returned."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


class Api:
    """One query-api on ports of its own."""

    def __init__(self, lake, ready=True, more_env=None, **options):
        self.lake = str(lake)
        flags = {"http.listen": "127.0.0.1:0", "admin.listen": "127.0.0.1:0", "lake.url": "file://" + self.lake, "announce.from": "",
                 "poll.interval": "50ms", "query.timeout": "80s", "spill.dir": os.path.join(os.path.dirname(self.lake), "spill")}
        flags.update({k.replace("__", "."): v for k, v in options.items()})
        env = {k: v for k, v in os.environ.items() if not (k.startswith("SLUICE_") and k != "SLUICE_CACHE")}
        env.update(more_env or {})
        self.lines, self.ports = [], {}
        self.process = subprocess.Popen([os.path.join(BIN, "query-api"), *(f"--{k}={v}" for k, v in flags.items())], env=env,
                                        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()
        self.session = requests.Session()
        self.session.trust_env = False
        until("its ports", lambda: self.process.poll() is not None or {"http", "admin"} <= set(self.ports))
        assert self.process.poll() is None, "\n".join(self.lines)
        self.url = f"http://127.0.0.1:{self.ports['http']}"
        self.admin = f"http://127.0.0.1:{self.ports['admin']}"
        if ready:
            until("readiness", lambda: self.session.get(self.admin + "/readyz", timeout=DEADLINE).status_code == 200)

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("event") == "listening":
                self.ports[event["what"]] = event["port"]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            rc = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        if kind is None:
            assert rc == 0, f"exit code {rc}\n" + "\n".join(self.lines[-60:])

    def get(self, path, headers=None, **params):
        params = {k.rstrip("_"): v for k, v in params.items()}
        return self.session.get(self.url + path, params=params, headers=headers, timeout=DEADLINE)

    def ask(self, name, headers=None, **params):
        return self.get("/v1/questions/" + name, headers, **params)

    def rows(self, name, **params):
        answer = self.ask(name, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def metric(self, name, **labels):
        total = 0.0
        for line in self.session.get(self.admin + "/metrics", timeout=DEADLINE).text.splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found.group(1) == name:
                have = dict(re.findall(r'(\w+)="([^"]*)"', found.group(2) or ""))
                if all(have.get(k) == v for k, v in labels.items()):
                    total += float(found.group(3))
        return total

    def state(self):
        return self.session.get(self.admin + "/debug/state", timeout=DEADLINE).json()["query-api"]

    def own_bytes(self):
        """Resident memory without pages of files."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as f:
            pages = f.read().split()
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGESIZE")

    def version(self, table):
        return self.state()["tables"][table]["version"]

    def wait_version(self, table, version):
        until(f"version {version} of {table}", lambda: self.version(table) == version)


def problem(answer, status, kind):
    """Checks a problem's form and returns it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == "urn:sluice:problem:" + kind and body["status"] == status and body["title"] and body["detail"]
    assert body["instance"] == answer.headers["x-request-id"]
    return body


def table_path(lake, table, user="demo"):
    return os.path.join(str(lake), "delta", f"{user}_{table}_table")


def write(lake, table, rows, path=None, **more):
    full = [{name: row.get(name) for name in SCHEMAS[table].names} for row in rows]
    deltalake.write_deltalake(path or table_path(lake, table), pa.Table.from_pylist(full, schema=SCHEMAS[table]), mode="append", **more)


def generated(seed, n, keys, part=0):
    """Rows with duplicate keys, nulls in every column that is asked for, ties, ages outside and equal times of arrival."""
    r = random.Random(seed)
    start = datetime.datetime(2024, 1, 1, tzinfo=UTC)
    out = {}
    for table in ("pin", "geo", "user"):
        rows = []
        for i in range(n):
            day = datetime.datetime(r.randrange(2013, 2025), r.choice([1, 6, 12]), 1, tzinfo=UTC)
            edge = day.replace(month=12, day=31, hour=23, minute=59, second=59, microsecond=999000)
            rows.append({
                "ind": r.randrange(keys), "_source": f"kafka:demo.{table}:{r.randrange(2)}:Id", "_position": part * n + i, "_item": 0,
                "_ingested_at": start + datetime.timedelta(seconds=r.randrange(n // 4 + 1)),
                "follower_count": r.choice([None, 0, 1, 7, 940, 136000, 136000, 6000000, r.randrange(10 ** 9)]),
                "poster_name": r.choice([None, "Ann", "Bob, the \"2nd\"", "Zoë\n", "p%d" % r.randrange(40)]),
                "category": r.choice([None, "art", "art", "quotes", "travel", "tattoos", "home-decor"]),
                "country": r.choice([None, "Chad", "Åland", "Bonaire, Saba", "Albania", "c%d" % r.randrange(30)]),
                "coordinates": r.choice([None, [1.5, -2.25]]), "timestamp": r.choice([None, day, edge]),
                "age": r.choice([None, 0, 17, 18, 24, 25, 35, 36, 50, 51, 99, 150]),
                "user_name": r.choice([None, "A B", "C D", "u%d" % r.randrange(20)]), "date_joined": r.choice([None, day, edge, edge])})
        out[table] = rows
    return out


class Data:
    def __init__(self, lake, parts):
        self.lake, self.parts = lake, parts

    def tables(self, upto=None):
        return [[row for part in self.parts[:upto] for row in part[t]] for t in ("pin", "geo", "user")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three tables of two versions each; rows of the second version win over some of the first."""
    lake = tmp_path_factory.mktemp("data") / "lake"
    parts = [generated(1, 900, 700), generated(2, 300, 700, part=4)]
    for part in parts:
        for table in ("pin", "geo", "user"):
            write(lake, table, part[table])
    return Data(lake, parts)


@pytest.fixture(scope="module")
def api(data):
    with Api(data.lake) as a:
        yield a


def same(name, got, want):
    assert got == want, f"{name}: first difference at {next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))}"


# ---- answers ----

@pytest.mark.parametrize("dedup", ["on", "off"])
@pytest.mark.parametrize("name", NAMES)
def test_the_nine_answers(api, data, name, dedup):
    tables = data.tables()
    variants = [{}, {"limit": 3}, {"limit": 0}]
    if name in expected.YEARS:
        variants += [{"from_": 2016, "to_": 2016}, {"from_": 1, "to_": 9999}, {"from_": 2030, "to_": 2040}]
    if "median" in name:
        variants += [{"median": "lower"}, {"median": "interpolated"}]
    if name == "category-posts-by-year":
        variants += [{"top": 1}, {"top": "all"}]
    if name == "users-joined-by-year":
        variants += [{"distinct": "person"}, {"distinct": "row"}]
    for variant in variants:
        given = {k.rstrip("_"): v for k, v in variant.items()}
        answer = api.ask(name, dedup=dedup, **variant)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        same(f"{name} {given}", body["data"], expected.answer(name, *tables, dedup=dedup, **given))
        assert body["rows"] == len(body["data"])
        assert body["statistics"].get("left_out") == expected.left_out(name, *tables, dedup=dedup, **given)
        assert body["statistics"]["elapsed_ms"] > 0
        assert [m["name"] for m in body["meta"]] == list(body["data"][0]) if body["data"] else body["meta"]
    assert expected.answer(name, *tables, dedup="on") != expected.answer(name, *tables, dedup="off") or name == "top-user-country"


def test_the_real_posts(tmp_path):
    """The washed rows of the 877 posts, when they are at hand."""
    folder = os.path.join(ROOT, "..", "shared", "data", "posts")
    if not os.path.isdir(folder):
        pytest.skip("the real posts are not here")
    sys.path.insert(0, os.path.join(ROOT, "tools"))
    from sluice import rules
    tables, epoch = {}, datetime.datetime(1970, 1, 1, tzinfo=UTC)
    for table in ("pin", "geo", "user"):
        with open(os.path.join(folder, table + ".jsonl"), "rb") as f:
            washed = [rules.wash(table, line.rstrip(b"\n"))[0] for line in f]
        assert len(washed) == 877 and all(kind == "row" for kind, _ in washed)
        tables[table] = [dict(zip(rules.COLUMNS[table], values), _source="kafka:demo.%s:0:Id" % table, _position=i, _item=0,
                              _ingested_at=epoch) for i, (_, values) in enumerate(washed)]
        for row in tables[table]:
            for column in ("timestamp", "date_joined"):
                if row.get(column) is not None:
                    row[column] = epoch + datetime.timedelta(milliseconds=row[column])
        write(tmp_path / "lake", table, tables[table])
    with Api(tmp_path / "lake") as a:
        for name in NAMES:
            same(name, a.rows(name), expected.answer(name, tables["pin"], tables["geo"], tables["user"]))


def test_newest_decides_by_every_tie_breaker(tmp_path):
    lake, at = tmp_path / "lake", datetime.datetime(2024, 1, 1, tzinfo=UTC)
    def pin(ind, count, source="b", position=5, item=0, seconds=0):
        return {"ind": ind, "follower_count": count, "_source": source, "_position": position, "_item": item,
                "_ingested_at": at + datetime.timedelta(seconds=seconds)}
    pins = [pin(1, 10, seconds=1), pin(1, 99, source="z", position=9), pin(2, 11, source="b"), pin(2, 99, source="B", position=9),
            pin(3, 12, position=6), pin(3, 99, item=4), pin(4, 13, item=1), pin(4, 99), pin(5, 14)]
    write(lake, "pin", pins[:4])
    write(lake, "pin", pins[4:])
    write(lake, "geo", [{"ind": i, "country": "c%d" % i, "_source": "s", "_position": i, "_item": 0, "_ingested_at": at} for i in range(1, 6)])
    with Api(lake) as a:
        assert [r["follower_count"] for r in a.rows("top-user-by-country")] == [10, 11, 12, 13, 14]
        assert [r["follower_count"] for r in a.rows("top-user-by-country", dedup="off")] == [99, 99, 99, 99, 14]
        assert a.metric("sluice_query_newest_searches_total") == 2
        a.rows("top-user-by-country")
        assert a.metric("sluice_query_newest_searches_total") == 2, "once per table version"
        write(lake, "pin", [pin(5, 1, seconds=9)])
        a.wait_version("pin", 2)
        assert a.rows("top-user-by-country")[-1]["follower_count"] == 1
        assert a.metric("sluice_query_newest_searches_total") == 3


def test_every_version_of_a_growing_table_is_answered_right(tmp_path):
    lake, rows = tmp_path / "lake", generated(7, 200, 1)
    for table in rows:
        for i, row in enumerate(rows[table]):
            row["ind"] = i * 7 % 200
    sent = {t: [] for t in rows}
    steps = [slice(i * 40, i * 40 + 40) for i in range(5)]
    with Api(lake) as a:
        for number, step in enumerate(steps):
            for table in rows:
                part = rows[table][step]
                if number == 3:  # one older and one newer row of keys that are there already
                    part = part + [{**sent[table][0], "_ingested_at": datetime.datetime(2020, 1, 1, tzinfo=UTC), "age": 19, "country": "x"},
                                   {**sent[table][50], "_ingested_at": datetime.datetime(2030, 1, 1, tzinfo=UTC), "age": 19, "country": "y"}]
                write(lake, table, part)
                sent[table] += part
                a.wait_version(table, number)
            for name in NAMES:
                same(f"{name} at {number}", a.rows(name), expected.answer(name, sent["pin"], sent["geo"], sent["user"]))


# ---- formats ----

def test_formats(api, data):
    want = expected.answer("top-user-by-country", *data.tables())
    answer = api.ask("top-user-by-country", {"Accept": "application/x-ndjson"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.content.decode().split("\n")[:-1]]
    assert lines[:-1] == want and lines[-1] == {"end": True, "rows": len(want)}
    answer = api.ask("top-user-by-country", {"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv; header=present")
    text = answer.content.decode()
    assert text.endswith("\r\n")
    table = list(csv.reader(io.StringIO(text, newline="")))
    assert table[0] == ["country", "poster_name", "follower_count"]
    assert table[1:] == [["" if v is None else str(v) for v in row.values()] for row in want]
    assert '"Bob, the ""2nd"""' in text and '"Zoë\n"' in text
    json_answer = api.ask("top-user-by-country", format="json")
    assert json_answer.headers["content-type"] == "application/json" and json_answer.headers["vary"] == "Accept"
    assert json_answer.json()["meta"] == [{"name": "country", "type": "VARCHAR"}, {"name": "poster_name", "type": "VARCHAR"},
                                          {"name": "follower_count", "type": "BIGINT"}]
    for accept, kind in (("*/*", "application/json"), ("text/*", "text/csv"), ("application/json;q=0.2, text/csv;q=0.8", "text/csv"),
                         ("text/html, application/xhtml+xml, */*;q=0.1", "application/json"), ("application/ndjson", "application/x-ndjson"),
                         ("application/json;q=0, */*", "application/x-ndjson"), ("TEXT/CSV; charset=utf-8", "text/csv")):
        assert api.ask("top-user-country", {"Accept": accept}).headers["content-type"].startswith(kind), accept
    assert api.ask("top-user-country", {"Accept": "image/png"}, format="csv").status_code == 200, "format= goes first"
    for accept in ("image/png", "application/json;q=0", "text/html"):
        body = problem(api.ask("top-user-country", {"Accept": accept}), 406, "not-acceptable")
        assert len(body["allowed"]) == 3
    assert problem(api.get("/v1/tables", {"Accept": "text/csv"}), 406, "not-acceptable")["allowed"] == ["application/json"]


def test_a_long_answer_arrives_whole_and_a_client_that_leaves_it_is_forgotten(tmp_path):
    lake = tmp_path / "lake"
    pins = [{"ind": i, "follower_count": i, "poster_name": "name %06d" % i + "x" * 200} for i in range(20000)]
    write(lake, "pin", pins)
    write(lake, "geo", [{"ind": i, "country": "country %06d" % i} for i in range(20000)])
    with Api(lake, http__request_timeout="60s") as a:
        for kind in ("json", "ndjson", "csv"):
            answer = a.ask("top-user-by-country", format=kind)
            assert answer.status_code == 200 and len(answer.content) > 4 << 20
            last = answer.content.decode().rstrip().rsplit("\n", 1)[1]
            assert kind != "ndjson" or json.loads(last) == {"end": True, "rows": 20000}
            assert kind != "json" or len(answer.json()["data"]) == 20000
        with socket.create_connection(("127.0.0.1", a.ports["http"])) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.sendall(b"GET /v1/questions/top-user-by-country?format=ndjson HTTP/1.1\r\nHost: x\r\n\r\n")
            assert s.recv(4096).startswith(b"HTTP/1.1 200 ")
            assert a.metric("sluice_http_in_flight_requests") == 1
        until("the request to be forgotten", lambda: a.metric("sluice_http_in_flight_requests") == 0)
        assert a.ask("top-user-country").status_code == 200
    with Api(lake, http__request_timeout="1s") as a, socket.create_connection(("127.0.0.1", a.ports["http"])) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.sendall(b"GET /v1/questions/top-user-by-country HTTP/1.1\r\nHost: x\r\n\r\n")
        until("the stalled client to be cut", lambda: any('"client_stalled"' in line for line in a.lines))
        until("the request to be forgotten", lambda: a.metric("sluice_http_in_flight_requests") == 0)


# ---- problems ----

def test_wrong_requests(api):
    body = problem(api.ask("top-user-country", colour="red"), 400, "unknown-parameter")
    assert body["allowed"] == ["dedup", "limit", "version", "tables", "format"] and "colour" in body["detail"]
    assert "from" in problem(api.ask("category-posts-by-year", median="lower"), 400, "unknown-parameter")["allowed"]
    for name, given, allowed in (
            ("top-user-country", {"dedup": "maybe"}, ["on", "off"]), ("median-followers-by-age", {"median": "mean"}, ["interpolated", "lower"]),
            ("category-posts-by-year", {"top": "2"}, ["all", "1"]), ("users-joined-by-year", {"distinct": "x"}, ["row", "person"]),
            ("top-user-country", {"tables": "lake"}, ["stream", "batch"]), ("top-user-country", {"format": "xml"}, ["json", "ndjson", "csv"]),
            ("category-posts-by-year", {"from": "x"}, None), ("category-posts-by-year", {"from": ""}, None),
            ("category-posts-by-year", {"to": "10000"}, None), ("category-posts-by-year", {"from": "0"}, None),
            ("category-posts-by-year", {"from": "-1"}, None), ("category-posts-by-year", {"from": "2020", "to": "2019"}, None),
            ("top-user-country", {"limit": "1.5"}, None), ("top-user-country", {"limit": "99999999999999999999"}, None),
            ("top-user-country", {"version": "pin"}, None), ("top-user-country", {"version": "pin:x"}, None),
            ("top-user-country", {"version": "pin:1,pin:1"}, None), ("top-user-country", {"version": "dead:1"}, None),
            ("top-user-country", {"version": "pin:-1"}, None), ("top-user-country", {"version": ""}, None)):
        body = problem(api.ask(name, **given), 400, "bad-value")
        assert body.get("allowed") == allowed, given
        assert list(given)[0] in body["detail"]
    twice = requests.get(api.url + "/v1/questions/top-user-country?limit=1&limit=2", timeout=DEADLINE)
    problem(twice, 400, "bad-value")
    with socket.create_connection(("127.0.0.1", api.ports["http"])) as s:  # requests would mend the broken escape
        s.sendall(b"GET /v1/questions/top-user-country?limit=%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        s.settimeout(DEADLINE)
        text = b"".join(iter(lambda: s.recv(65536), b""))
        assert text.startswith(b"HTTP/1.1 400 ") and b"unknown-parameter" in text
    assert problem(api.ask("no-such-question"), 404, "unknown-question")["allowed"] == NAMES
    problem(api.get("/v1/tables/nothing"), 404, "unknown-table")
    for path in ("/", "/v1", "/v1/questions/", "/v1/questions/a/b", "/v1/tables/", "/v2/questions"):
        problem(api.get(path), 404, "not-found")
    problem(api.ask("top-user-country", tables="batch"), 404, "table-not-there")
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = api.session.request(method, api.url + "/v1/questions", timeout=DEADLINE)
        problem(answer, 405, "method-not-allowed")
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    big = api.session.post(api.url + "/v1/questions", data=b"x" * (70 << 10), timeout=DEADLINE)
    assert big.status_code == 413 and big.headers["content-type"] == "application/problem+json" and big.json()["status"] == 413
    assert api.get("/v1/questions", {"X-Long": "x" * (17 << 10)}).status_code == 431
    assert api.metric("sluice_http_rejected_total", reason="bad-value") >= 20
    assert api.metric("sluice_http_rejected_total", reason="unknown-parameter") >= 3


def test_heads_options_origins_and_request_ids(api, data):
    answer = api.session.head(api.url + "/v1/questions/top-user-country", timeout=DEADLINE)
    assert answer.status_code == 200 and answer.content == b"" and answer.headers["etag"]
    answer = api.session.options(api.url + "/v1/questions/top-user-country", headers={"Origin": "http://page"}, timeout=DEADLINE)
    assert answer.status_code == 204 and answer.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "If-None-Match" in answer.headers["access-control-allow-headers"]
    answer = api.get("/v1/questions", {"X-Request-Id": "my.id-1_A", "Origin": "http://page"})
    assert answer.headers["x-request-id"] == "my.id-1_A" and answer.headers["access-control-allow-origin"] == "*"
    assert "Sluice-Table-Versions" in answer.headers["access-control-expose-headers"]
    for bad in ("a b", "x" * 65, "<script>"):
        got = api.get("/v1/questions", {"X-Request-Id": bad}).headers["x-request-id"]
        assert uuid.UUID(got)
    with Api(data.lake, cors__origins="http://one,http://two") as a:
        assert a.get("/v1/questions", {"Origin": "http://two"}).headers["access-control-allow-origin"] == "http://two"
        other = a.get("/v1/questions", {"Origin": "http://evil"})
        assert "access-control-allow-origin" not in other.headers and "Origin" in other.headers["vary"]


# ---- lists and the description ----

def test_lists_of_questions_and_tables(api, data):
    listed = api.get("/v1/questions").json()["questions"]
    assert [q["name"] for q in listed] == NAMES
    for q in listed:
        body = api.get(q["url"]).json()
        assert body["meta"] == q["columns"] and sorted(body["statistics"]["table_versions"]) == sorted(q["tables"])
        for p in q["parameters"]:
            for value in p.get("values", []):
                answer = api.get(q["url"], **{p["name"]: value})
                assert answer.status_code == (404 if value == "batch" else 200), (q["name"], p["name"], value)
    tables = api.get("/v1/tables").json()["tables"]
    assert [t["name"] for t in tables] == ["pin", "geo", "user", "dead"]
    pin = api.get("/v1/tables/pin").json()
    assert pin == tables[0]
    have = deltalake.DeltaTable(table_path(data.lake, "pin"))
    assert (pin["table"], pin["exists"], pin["version"], pin["rows"], pin["files"]) == ("demo_pin_table", True, 1, 1200, 2)
    assert pin["bytes"] == sum(os.path.getsize(os.path.join(table_path(data.lake, "pin"), f))
                               for f in os.listdir(table_path(data.lake, "pin")) if f.endswith(".parquet"))
    assert [f["name"] for f in pin["schema"]["fields"]] == SCHEMAS["pin"].names
    assert pin["id"] == str(have.metadata().id)
    committed = datetime.datetime.fromisoformat(pin["last_commit_at"].replace("Z", "+00:00"))
    assert abs(committed.timestamp() * 1000 - have.history(1)[0]["timestamp"]) < 1
    dead = api.get("/v1/tables/dead").json()
    assert not dead["exists"] and dead["version"] is None and dead["rows"] == 0


def test_openapi_is_true(api):
    spec = api.get("/openapi.json").json()
    assert spec["openapi"].startswith("3.1")
    listed = {q["url"]: q for q in api.get("/v1/questions").json()["questions"]}
    assert set(spec["paths"]) == set(listed) | {"/v1/questions", "/v1/tables", "/v1/tables/{table}", "/openapi.json"}
    kinds = set(spec["components"]["schemas"]["Problem"]["properties"]["type"]["enum"])
    assert "urn:sluice:problem:version-gone" in kinds
    for path, item in spec["paths"].items():
        assert list(item) == ["get"]
        params = item["get"].get("parameters", [])
        for p in [p for p in params if p["in"] == "path"]:
            for value in p["schema"]["enum"]:
                assert api.get(path.replace("{%s}" % p["name"], value)).status_code == 200
        if "{" in path:
            continue
        answer = api.get(path)
        assert answer.status_code == 200
        query = [p for p in params if p["in"] == "query"]
        if path in listed:
            assert [p["name"] for p in query] == [p["name"] for p in listed[path]["parameters"]]
            # What the description leaves out is refused, and by what the description says.
            refused = problem(api.get(path, no_such_parameter=1), 400, "unknown-parameter")
            assert refused["allowed"] == [p["name"] for p in query] and "400" in item["get"]["responses"]
            assert set(answer.json()) == set(item["get"]["responses"]["200"]["content"]["application/json"]["schema"]["required"])
        for p in query:
            schema = p["schema"]
            values = schema.get("enum") or [p["example"]]
            for value in values:
                status = api.get(path, **{p["name"]: value}).status_code
                assert str(status) in item["get"]["responses"] and status in (200, 404), (path, p["name"], value)
                assert status == 200 or value == "batch"
            if schema["type"] == "integer":
                assert schema["minimum"] == 0 or api.get(path, **{p["name"]: schema["minimum"] - 1}).status_code == 400
                assert api.get(path, **{p["name"]: schema["maximum"] + 1}).status_code == 400
            if "default" in schema:
                assert api.get(path, **{p["name"]: schema["default"]}).json()["data"] == answer.json()["data"]


# ---- validators and versions ----

def test_unchanged_tables_cost_no_query(tmp_path, data):
    lake = tmp_path / "lake"
    shutil.copytree(data.lake, lake)
    with Api(lake) as a:
        first = a.ask("popular-category-by-country")
        tag = first.headers["etag"]
        assert first.headers["sluice-table-versions"] == "pin=1, geo=1" and "no-cache" in first.headers["cache-control"]
        ran = a.metric("sluice_query_duration_seconds_count")
        rows = a.metric("sluice_query_rows_total")
        for field in (tag, tag[2:], f'"x", {tag}', "*"):
            again = a.ask("popular-category-by-country", {"If-None-Match": field})
            assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == tag
            assert again.headers["sluice-table-versions"] == "pin=1, geo=1"
        assert a.metric("sluice_query_duration_seconds_count") == ran and a.metric("sluice_query_rows_total") == rows
        assert a.metric("sluice_query_cache_revalidations_total", result="unchanged") == 4
        others = [a.ask("popular-category-by-country", limit=1), a.ask("popular-category-by-country", format="csv"),
                  a.ask("popular-category-by-country", dedup="off"), a.ask("top-user-country")]
        assert len({tag, *(o.headers["etag"] for o in others)}) == 5
        assert a.ask("popular-category-by-country", dedup="on", tables="stream").headers["etag"] == tag
        assert a.ask("popular-category-by-country", version="pin:1").headers["etag"] == tag
        write(lake, "pin", data.parts[1]["pin"][:5])
        a.wait_version("pin", 2)
        changed = a.ask("popular-category-by-country", {"If-None-Match": tag})
        assert changed.status_code == 200 and changed.headers["etag"] != tag
        assert changed.headers["sluice-table-versions"] == "pin=2, geo=1"
        assert a.metric("sluice_query_cache_revalidations_total", result="changed") == 1
        users = a.ask("users-joined-by-year")
        assert users.headers["sluice-table-versions"] == "user=1"


def test_older_versions(api, data):
    old = expected.answer("top-user-by-country", *data.tables(1))
    answer = api.ask("top-user-by-country", version="pin:0,geo:0")
    same("version 0", answer.json()["data"], old)
    assert answer.headers["sluice-table-versions"] == "pin=0, geo=0"
    assert answer.json()["statistics"]["table_versions"] == {"pin": 0, "geo": 0}
    pin, geo, user = data.tables()
    same("pin 0", api.rows("top-user-by-country", version="pin:0"), expected.answer("top-user-by-country", data.tables(1)[0], geo, user))
    same("all three named", api.rows("top-user-by-country", version="pin:0,geo:0,user:0", dedup="off"),
         expected.answer("top-user-by-country", *data.tables(1), dedup="off"))
    tag = answer.headers["etag"]
    assert api.ask("top-user-by-country", {"If-None-Match": tag}, version="geo:0,pin:0").status_code == 304
    body = problem(api.ask("top-user-by-country", version="pin:2"), 410, "version-gone")
    assert "the latest is 1" in body["detail"]


def test_a_version_whose_log_or_file_is_gone(tmp_path, data):
    lake = tmp_path / "lake"
    shutil.copytree(data.lake, lake)
    path = table_path(lake, "pin")
    first = deltalake.DeltaTable(path, version=0).file_uris()
    deltalake.DeltaTable(path).optimize.compact()
    with Api(lake) as a:
        assert a.version("pin") == 2
        same("compacted", a.rows("top-user-country"), expected.answer("top-user-country", *data.tables()))
        for uri in first:
            os.remove(uri.replace("file://", ""))
        problem(a.ask("top-user-country", version="pin:0"), 410, "version-gone")
        deltalake.DeltaTable(path).create_checkpoint()
        os.remove(os.path.join(path, "_delta_log", "%020d.json" % 0))
        problem(a.ask("top-user-country", version="pin:1"), 410, "version-gone")
        assert a.ask("top-user-country", version="pin:2").status_code == 200
    with Api(lake) as a:
        same("from the checkpoint", a.rows("top-user-country"), expected.answer("top-user-country", *data.tables()))


# ---- following ----

def commit_text(version, table="pin", adds=(), table_id=None, protocol=None):
    actions = [{"commitInfo": {"timestamp": 1700000000000 + version, "operation": "WRITE", "txnId": str(uuid.uuid4())}}]
    if version == 0:
        kinds = {"int64": "long", "int32": "integer", "string": "string", "timestamp[us, tz=UTC]": "timestamp", "binary": "binary"}
        fields = [{"name": f.name, "nullable": True, "metadata": {},
                   "type": kinds.get(str(f.type), {"type": "array", "elementType": "double", "containsNull": True})} for f in SCHEMAS[table]]
        actions += [{"protocol": protocol or {"minReaderVersion": 1, "minWriterVersion": 2}},
                    {"metaData": {"id": table_id or str(uuid.uuid4()), "format": {"provider": "parquet", "options": {}}, "partitionColumns": [],
                                  "schemaString": json.dumps({"type": "struct", "fields": fields}), "configuration": {}, "createdTime": 1}}]
    actions += [{"txn": {"appId": "sluice:x", "version": version, "lastUpdated": 1}}]
    actions += [{"add": add} for add in adds]
    return "".join(json.dumps(a, separators=(",", ":")) + "\n" for a in actions)


def commit(lake, version, table="pin", **more):
    """One commit by hand, put whole into its place."""
    log = os.path.join(table_path(lake, table), "_delta_log")
    os.makedirs(log, exist_ok=True)
    name = os.path.join(log, "%020d.json" % version)
    with open(name + ".new", "w", encoding="utf-8") as f:
        f.write(commit_text(version, table, **more))
    os.rename(name + ".new", name)


@pytest.mark.parametrize("start", [10, 5000])
def test_a_new_version_costs_one_read(tmp_path, start):
    lake = tmp_path / "lake"
    for version in range(start + 1):
        commit(lake, version)
    with Api(lake) as a:
        a.wait_version("pin", start)
        reads = a.metric("sluice_table_log_reads_total", table="pin")
        assert reads == start + 1
        for more in range(1, 6):
            commit(lake, start + more)
            a.wait_version("pin", start + more)
            assert a.metric("sluice_table_log_reads_total", table="pin") == reads + more
        looks = a.metric("sluice_table_refreshes_total")
        until("more looks", lambda: a.metric("sluice_table_refreshes_total") > looks + 20)
        assert a.metric("sluice_table_log_reads_total", table="pin") == reads + 5, "a look that finds nothing reads nothing"
        assert a.metric("sluice_table_version", table="pin") == start + 5


class Publisher:
    """The announcing end of a sink: SP over TCP, protocol PUB, written out here."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.server.getsockname()[1]
        self.peer = None

    def accept(self):
        self.server.settimeout(DEADLINE)
        self.peer, _ = self.server.accept()
        self.peer.settimeout(DEADLINE)
        self.peer.sendall(b"\0SP\0\0\x20\0\0")
        assert self.peer.recv(8, socket.MSG_WAITALL) == b"\0SP\0\0\x21\0\0"

    def send(self, payload):
        self.peer.sendall(struct.pack(">Q", len(payload)) + payload)

    def announce(self, table, version):
        name = f"demo_{table}_table".encode()
        self.send(b"\x08\x01\x12" + bytes([len(name)]) + name + b"\x18" + bytes([version]))

    def close(self):
        self.server.close()
        if self.peer:
            self.peer.close()


def test_announcements_are_followed_at_once(tmp_path):
    lake, publisher = tmp_path / "lake", Publisher()
    commit(lake, 0)
    with Api(lake, announce__from=publisher.address, poll__interval="1h") as a:
        publisher.accept()
        until("the publisher to be heard", lambda: a.metric("sluice_table_publishers") == 1)
        commit(lake, 1)
        publisher.send(b"\xff\xff no message of ours")
        publisher.announce("pin", 1)
        a.wait_version("pin", 1)
        assert a.metric("sluice_table_announcements_total") == 1
        reads = a.metric("sluice_table_log_reads_total", table="pin")
        publisher.announce("pin", 1)
        until("the second announcement", lambda: a.metric("sluice_table_announcements_total") == 2)
        commit(lake, 2)
        publisher.announce("pin", 2)
        a.wait_version("pin", 2)
        assert a.metric("sluice_table_log_reads_total", table="pin") == reads + 1
        publisher.close()


def test_tables_that_are_not_there_appear_vanish_and_are_made_anew(tmp_path, data):
    lake = tmp_path / "lake"
    with Api(lake) as a:
        for name in NAMES:
            answer = a.ask(name)
            assert answer.status_code == 200 and answer.json()["data"] == [] and "sluice-table-versions" not in answer.headers
        assert [m["type"] for m in a.ask("top-user-by-country").json()["meta"]] == ["VARCHAR", "VARCHAR", "BIGINT"]
        assert a.ask("top-user-country", format="csv").text == "country,follower_count\r\n"
        assert a.ask("top-user-country", format="ndjson").text == '{"end":true,"rows":0}\n'
        problem(a.ask("top-user-country", version="pin:0"), 410, "version-gone")
        write(lake, "geo", data.parts[0]["geo"])
        write(lake, "pin", data.parts[0]["pin"])
        a.wait_version("pin", 0)
        a.wait_version("geo", 0)
        first = a.ask("top-user-country")
        same("found", first.json()["data"], expected.answer("top-user-country", data.parts[0]["pin"], data.parts[0]["geo"], []))
        write(lake, "pin", data.parts[0]["pin"])
        a.wait_version("pin", 1)
        old_id = a.get("/v1/tables/pin").json()["id"]
        shutil.rmtree(table_path(lake, "pin"))
        until("the table to be gone", lambda: a.version("pin") == -1)
        assert a.rows("top-user-country") == []
        write(lake, "pin", data.parts[1]["pin"])
        a.wait_version("pin", 0)
        assert a.get("/v1/tables/pin").json()["id"] != old_id
        anew = a.ask("top-user-country")
        same("anew", anew.json()["data"], expected.answer("top-user-country", data.parts[1]["pin"], data.parts[0]["geo"], []))
        assert anew.headers["sluice-table-versions"] == first.headers["sluice-table-versions"] and anew.headers["etag"] != first.headers["etag"]
        # Replaced between two looks, with a longer log than the old one had.
        new = table_path(tmp_path / "other", "pin")
        for _ in range(3):
            write(tmp_path / "other", "pin", data.parts[0]["pin"][:50])
        os.rename(table_path(lake, "pin"), table_path(lake, "pin") + ".old")
        os.rename(new, table_path(lake, "pin"))
        a.wait_version("pin", 2)
        assert a.get("/v1/tables/pin").json()["rows"] == 150
        same("replaced", a.rows("top-user-country"), expected.answer("top-user-country", data.parts[0]["pin"][:50], data.parts[0]["geo"], []))


def test_batch_tables(tmp_path, data):
    lake = tmp_path / "lake"
    for table in ("pin", "geo", "user"):
        write(lake, table, data.parts[0][table], path=os.path.join(lake, "delta", f"demo_{table}_batch"))
    with Api(lake) as a:
        until("the batch tables", lambda: a.ask("top-user-country", tables="batch").status_code == 200)
        for name in NAMES:
            same(name, a.rows(name, tables="batch"), expected.answer(name, *data.tables(1)))
        assert a.rows("top-user-country") == []
        same("an older version", a.rows("top-user-country", tables="batch", version="pin:0"), expected.answer("top-user-country", *data.tables(1)))


def test_a_log_that_cannot_be_read_is_said_and_the_last_version_answers(tmp_path, data):
    lake = tmp_path / "lake"
    shutil.copytree(data.lake, lake)
    log = os.path.join(table_path(lake, "pin"), "_delta_log", "%020d.json" % 2)
    with Api(lake) as a:
        with open(log, "w", encoding="utf-8") as f:
            f.write("{broken\n")
        check = until("the check to fail", lambda: next((c for c in a.session.get(a.admin + "/readyz", timeout=DEADLINE).json()["checks"]
                                                         if c["name"] == "lake" and not c["ok"]), None))
        assert "demo_pin_table" in check["detail"]
        assert a.session.get(a.admin + "/readyz", timeout=DEADLINE).status_code == 503
        same("the last version", a.rows("top-user-country"), expected.answer("top-user-country", *data.tables()))
        answer = until("an age", lambda: next((r for r in [a.ask("top-user-country")] if "sluice-data-age" in r.headers), None))
        assert int(answer.headers["sluice-data-age"]) >= 5 and answer.json()["statistics"]["data_age_ms"] >= 5000
        assert answer.headers["sluice-table-versions"] == "pin=1, geo=1"
        assert a.metric("sluice_table_refresh_failures_total") > 0 and a.metric("sluice_table_age_seconds", table="pin") >= 5
        assert a.get("/v1/tables/pin").json()["trouble"]
        os.remove(log)
        until("readiness", lambda: a.session.get(a.admin + "/readyz", timeout=DEADLINE).status_code == 200)
        assert "sluice-data-age" not in a.ask("top-user-country").headers


def test_tables_of_strangers_are_refused_by_name(tmp_path):
    lake = tmp_path / "lake"
    commit(lake, 0, protocol={"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
                              "writerFeatures": ["deletionVectors"]})
    commit(lake, 0, table="geo")
    secret = tmp_path / "secret.parquet"
    secret.write_bytes(b"PAR1")
    add = {"path": "../../../secret.parquet", "partitionValues": {}, "size": 4, "modificationTime": 1, "dataChange": True}
    commit(lake, 1, table="geo", adds=[add])
    with Api(lake, ready=False) as a:
        until("the first look", lambda: "starting" not in a.ask("top-user-country").text)
        body = a.ask("top-user-country")
        assert "deletionVectors" in problem(body, 503, "table-unavailable")["detail"]
        assert body.headers["retry-after"] == "1"
        until("geo's trouble", lambda: "outside" in (a.get("/v1/tables/geo").json()["trouble"] or ""))


def test_a_missing_file_is_said_and_looked_for(tmp_path, data):
    lake = tmp_path / "lake"
    shutil.copytree(data.lake, lake)
    path = deltalake.DeltaTable(table_path(lake, "pin")).file_uris()[0].replace("file://", "")
    with Api(lake) as a:
        reads = a.metric("sluice_table_log_reads_total", table="pin")
        os.rename(path, path + ".away")
        problem(a.ask("top-user-country"), 503, "table-unavailable")
        until("the log to be read anew", lambda: a.metric("sluice_table_log_reads_total", table="pin") >= reads + 2)
        os.rename(path + ".away", path)
        same("back", a.rows("top-user-country"), expected.answer("top-user-country", *data.tables()))


# ---- limits ----

SLOW = {"dedup": "off"}
SLOW_NAME = "popular-category-by-country"


@pytest.fixture(scope="module")
def slow_lake(tmp_path_factory):
    """One key 120 000 times in two tables: a join without dedup has more pairs than any test has time for."""
    lake = tmp_path_factory.mktemp("slow") / "lake"
    n = 120000
    for table, more in (("pin", {"category": pa.array(["art", "quotes"] * (n // 2))}), ("geo", {"country": pa.array(["A", "B", "C"] * (n // 3))})):
        columns = {f.name: more.get(f.name, pa.nulls(n, f.type)) for f in SCHEMAS[table]}
        columns["ind"] = pa.array([1] * n, pa.int64())
        deltalake.write_deltalake(table_path(lake, table), pa.table(columns, schema=SCHEMAS[table]))
    return lake


def start_slow(a):
    """Asks the slow question on a connection of its own, and returns that when it runs or waits."""
    before = a.metric("sluice_http_in_flight_requests")
    s = socket.create_connection(("127.0.0.1", a.ports["http"]))
    s.sendall(f"GET /v1/questions/{SLOW_NAME}?dedup=off HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    until("the question to be taken", lambda: a.metric("sluice_http_in_flight_requests") > before)
    return s


def test_queue_bound_leaving_clients_and_drain(slow_lake):
    with Api(slow_lake, query__parallel=1, query__queue__max=1, query__timeout="1h") as a:
        running = start_slow(a)
        until("it to run", lambda: a.metric("sluice_query_running") == 1)
        waiting = start_slow(a)
        assert a.metric("sluice_query_waiting") == 1
        refused = a.ask(SLOW_NAME, **SLOW)
        problem(refused, 503, "too-busy")
        assert refused.headers["retry-after"] == "1"
        assert a.get("/v1/questions").status_code == 200, "what needs no query is answered"
        waiting.close()
        until("the waiting one to be taken out", lambda: a.metric("sluice_query_waiting") == 0)
        assert a.metric("sluice_query_cancelled_total", reason="left") == 1
        running.close()
        until("the running one to be interrupted", lambda: a.metric("sluice_query_running") == 0)
        until("it to be counted", lambda: a.metric("sluice_query_cancelled_total", reason="left") == 2)
        assert a.rows("users-joined-by-year") == [], "the connection goes on"
        last = start_slow(a)
        until("it to run", lambda: a.metric("sluice_query_running") == 1)
        a.process.send_signal(signal.SIGTERM)
        until("draining", lambda: any('"draining"' in line for line in a.lines))
        a.process.send_signal(signal.SIGTERM)  # cuts the drain short
        assert a.process.wait(DEADLINE) == 0
        last.close()


def test_drain_finishes_what_was_asked(slow_lake):
    with Api(slow_lake, query__timeout="2s", drain__timeout="80s") as a:
        s = start_slow(a)
        a.process.send_signal(signal.SIGTERM)
        s.settimeout(DEADLINE)
        text = b"".join(iter(lambda: s.recv(65536), b"")).decode()
        assert text.startswith("HTTP/1.1 504 ") and "query-timeout" in text
        assert a.process.wait(DEADLINE) == 0


def test_time_limit(slow_lake):
    with Api(slow_lake, query__parallel=1, query__timeout="300ms") as a:
        body = problem(a.ask(SLOW_NAME, **SLOW), 504, "query-timeout")
        assert "300 ms" in body["detail"]
        sockets = [start_slow(a) for _ in range(3)]  # one runs, two end while they wait
        for s in sockets:
            s.settimeout(DEADLINE)
            assert s.recv(65536).startswith(b"HTTP/1.1 504 ")
            s.close()
        until("the count", lambda: a.metric("sluice_query_cancelled_total", reason="timeout") == 4)
        until("the end", lambda: a.metric("sluice_query_running") == 0)


@pytest.fixture(scope="module")
def wide_lake(tmp_path_factory):
    """So many rows that an answer needs more memory than a small limit allows."""
    lake, n = tmp_path_factory.mktemp("wide") / "lake", 400000
    for table in ("pin", "user"):
        columns = {f.name: pa.nulls(n, f.type) for f in SCHEMAS[table]}
        columns["ind"] = pa.array(range(n), pa.int64())
        columns.update({"follower_count": pa.array(range(n), pa.int64())} if table == "pin" else
                       {"age": pa.array([20] * n, pa.int32()), "user_name": pa.array(["n" * 60 + str(i) for i in range(n)])})
        deltalake.write_deltalake(table_path(lake, table), pa.table(columns, schema=SCHEMAS[table]))
    return Data(lake, n)


def test_memory_and_spill_limits(wide_lake):
    lake, n = wide_lake.lake, wide_lake.parts
    with Api(lake, query__memory="8MiB", spill__max="1MiB", query__threads=1) as a:
        answer = a.ask("median-followers-by-age", dedup="off")
        assert answer.status_code == 507
        problem(answer, 507, answer.json()["type"].rsplit(":", 1)[1])
        assert answer.json()["type"].rsplit(":", 1)[1] in ("spill-full", "out-of-memory")
        assert a.metric("sluice_http_rejected_total", reason="spill-full") + a.metric("sluice_http_rejected_total", reason="out-of-memory") == 1
        assert a.ask("top-user-country", dedup="off").status_code == 200, "others go on"
        assert a.metric("sluice_query_memory_max_bytes") == 8 << 20
    with Api(lake) as a:
        assert a.rows("median-followers-by-age") == [{"age_group": "18-24", "median_follower_count": (n - 1) / 2}]
        assert 0 < a.metric("sluice_query_memory_bytes") < 128 << 20


def test_what_a_question_used_is_given_back(wide_lake):
    # A sanitizer would keep what was freed as well.
    options = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64"
    with Api(wide_lake.lake, query__memory="64MiB", more_env={"ASAN_OPTIONS": options.lstrip(":")}) as a:
        start = a.own_bytes()
        for i in range(20):
            assert a.ask(("median-followers-by-age", "users-joined-by-year", "popular-category-by-age")[i % 3], dedup="off").status_code == 200
            assert a.own_bytes() - start < 48 << 20, f"after {i + 1} questions"


def test_footers_of_many_small_files_are_not_remembered(tmp_path, data):
    few, many = tmp_path / "few", tmp_path / "many"
    write(few, "user", [next(row for row in data.parts[0]["user"] if row["date_joined"])])
    file = deltalake.DeltaTable(table_path(few, "user")).file_uris()[0].replace("file://", "")
    adds = []
    for i in range(70):
        name = "part-%d.parquet" % i
        os.makedirs(table_path(many, "user"), exist_ok=True)
        shutil.copyfile(file, os.path.join(table_path(many, "user"), name))
        adds.append({"path": name, "partitionValues": {}, "size": os.path.getsize(file), "modificationTime": 1, "dataChange": True})
    commit(many, 0, table="user", adds=adds)
    held = []
    for lake, rows in ((few, 1), (many, 70)):
        with Api(lake) as a:
            for _ in range(2):
                answer = a.rows("users-joined-by-year", dedup="off", from_=1, to_=9999)
                assert sum(row["number_users_joined"] for row in answer) == rows
            held.append(a.metric("sluice_query_memory_bytes"))
    assert held[0] > held[1]


def test_row_and_size_limits(data):
    want = len(expected.answer("top-user-by-country", *data.tables()))
    with Api(data.lake, query__rows__max=want - 1) as a:
        body = problem(a.ask("top-user-by-country"), 422, "too-many-rows")
        assert "query.rows.max" in body["detail"]
        assert len(a.rows("top-user-by-country", limit=want - 1)) == want - 1
    with Api(data.lake, query__rows__max=want) as a:
        assert len(a.rows("top-user-by-country")) == want
    with Api(data.lake, answer__max="4KiB") as a:
        assert "answer.max" in problem(a.ask("category-posts-by-year", from_=1, to_=9999), 422, "too-many-rows")["detail"]
        assert a.ask("top-user-country").status_code == 200


def test_many_at_once(api, data):
    want = {name: expected.answer(name, *data.tables()) for name in NAMES}
    wrong = []

    def run(seed):
        session = requests.Session()
        session.trust_env = False
        for name in random.Random(seed).sample(NAMES, len(NAMES)):
            version = {"version": "pin:1,geo:1,user:1"} if seed % 2 else {}
            answer = session.get(f"{api.url}/v1/questions/{name}", params=version, timeout=DEADLINE)
            if answer.status_code != 200 or answer.json()["data"] != want[name]:
                wrong.append((name, answer.status_code))
    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# ---- the program ----

def test_defaults_and_bad_configurations(tmp_path):
    program = os.path.join(BIN, "query-api")
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
    printed = json.loads(subprocess.run([program, "--print-config"], env=env, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout)
    assert {k: printed[k] for k in DEFAULTS} == DEFAULTS
    with open(os.path.join(ROOT, "services", "query-api", "query-api.json"), encoding="utf-8") as f:
        assert set(json.load(f)) <= set(printed)
    def fails(code, *flags):
        done = subprocess.run([program, "--http.listen=127.0.0.1:0", "--admin.listen=127.0.0.1:0", "--announce.from=", *flags], env=env,
                              capture_output=True, text=True, timeout=DEADLINE, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == code, done.stderr
        return done.stderr
    assert "query.memory" in fails(78, "--query.memory=250MiB")
    fails(78, "--lake.url=ftp://nowhere")
    assert "from 1 to 64" in fails(64, "--query.parallel=0")
    (tmp_path / "file").write_text("")
    fails(73, f"--lake.url=file://{tmp_path}", f"--spill.dir={tmp_path}/file/sub")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        fails(71, f"--lake.url=file://{tmp_path}", f"--http.listen=127.0.0.1:{taken.getsockname()[1]}")


def test_metrics_are_all_there_and_folders_are_left_clean(tmp_path, data):
    spill = tmp_path / "spill"
    spill.mkdir()
    dead = spill / "sluice-query-999999999-abcdef"
    dead.mkdir()
    (dead / "pin.parquet").write_text("left behind")
    (spill / "other").mkdir()
    with Api(data.lake, spill__dir=spill) as a:
        assert not dead.exists() and (spill / "other").exists()
        assert len(list(spill.glob("sluice-query-*"))) == 1
        a.ask("top-user-country")
        text = a.session.get(a.admin + "/metrics", timeout=DEADLINE).text
        for name in METRICS:
            assert f"# TYPE {name} " in text, name
        for label, values in (("question", NAMES), ("route", ["questions", "question", "tables", "table", "openapi"])):
            assert set(values) <= set(re.findall(r'%s="([^"]*)"' % label, text))
        assert a.metric("sluice_query_duration_seconds_count", question="top-user-country") == 1
        assert a.metric("sluice_http_requests_total", route="question", code="200") == 1
        assert a.metric("sluice_table_rows", table="pin") == 1200 and a.metric("sluice_table_files", table="pin") == 2
        assert a.metric("sluice_table_last_commit_timestamp_seconds", table="pin") > 1.6e9
        assert a.state()["tables"]["pin"]["version"] == 1 and a.state()["tables"]["pin"]["rows"] == 1200
        assert a.state()["tables"]["dead"]["version"] == -1
        kinds = {k.rsplit(":", 1)[1] for k in a.get("/openapi.json").json()["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]}
        assert kinds == set(re.findall(r'sluice_http_rejected_total\{reason="([^"]*)"', text))
    assert [p.name for p in spill.iterdir()] == ["other"]
