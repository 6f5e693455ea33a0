"""query-api's limits: queue, time, memory, spill, rows, bytes; how it drains; its configuration and its metrics.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess

import deltalake
import pyarrow as pa
import pytest

from support import expected
from support.querying import NAMES, SCHEMAS, Api, Data, commit, problem, table_path, two_versions, write
from support.service import BIN, DEADLINE, ROOT, clean_env, until


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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return two_versions(tmp_path_factory.mktemp("data") / "lake")


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
    s = socket.create_connection(("127.0.0.1", a.port_of("http")))
    s.sendall(f"GET /v1/questions/{SLOW_NAME}?dedup=off HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    until("the question to be taken", lambda: a.metric("sluice_http_in_flight_requests") > before)
    return s


def test_queue_bound_leaving_clients_and_drain(slow_lake):
    with Api(slow_lake, query__parallel=1, query__queue__max=1, query__timeout="1h") as a:
        running = start_slow(a)
        until("it to run", lambda: a.metric("sluice_query_running") == 1)
        waiting = start_slow(a)
        assert a.metric("sluice_query_waiting") == 1
        refused = a.ask_question(SLOW_NAME, **SLOW)
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
        a.send(signal.SIGTERM)
        a.event("draining")
        a.send(signal.SIGTERM)  # cuts the drain short
        assert a.wait() == 0
        last.close()


def test_drain_finishes_what_was_asked(slow_lake):
    with Api(slow_lake, query__timeout="2s", drain__timeout="80s") as a:
        s = start_slow(a)
        a.send(signal.SIGTERM)
        s.settimeout(DEADLINE)
        text = b"".join(iter(lambda: s.recv(65536), b"")).decode()
        assert text.startswith("HTTP/1.1 504 ") and "query-timeout" in text
        assert a.wait() == 0


def test_time_limit(slow_lake):
    with Api(slow_lake, query__parallel=1, query__timeout="300ms") as a:
        body = problem(a.ask_question(SLOW_NAME, **SLOW), 504, "query-timeout")
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
        answer = a.ask_question("median-followers-by-age", dedup="off")
        assert answer.status_code == 507
        problem(answer, 507, answer.json()["type"].rsplit(":", 1)[1])
        assert answer.json()["type"].rsplit(":", 1)[1] in ("spill-full", "out-of-memory")
        assert a.metric("sluice_http_rejected_total", reason="spill-full") + a.metric("sluice_http_rejected_total", reason="out-of-memory") == 1
        assert a.ask_question("top-user-country", dedup="off").status_code == 200, "others go on"
        assert a.metric("sluice_query_memory_max_bytes") == 8 << 20
    with Api(lake) as a:
        assert a.rows("median-followers-by-age") == [{"age_group": "18-24", "median_follower_count": (n - 1) / 2}]
        assert 0 < a.metric("sluice_query_memory_bytes") < 128 << 20


def test_what_a_question_used_is_given_back(wide_lake):
    # A sanitizer would keep what was freed as well.
    options = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64"
    with Api(wide_lake.lake, query__memory="64MiB", env={"ASAN_OPTIONS": options.lstrip(":")}) as a:
        start = a.own_bytes()
        for i in range(20):
            assert a.ask_question(("median-followers-by-age", "users-joined-by-year", "popular-category-by-age")[i % 3], dedup="off").status_code == 200
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
        body = problem(a.ask_question("top-user-by-country"), 422, "too-many-rows")
        assert "query.rows.max" in body["detail"]
        assert len(a.rows("top-user-by-country", limit=want - 1)) == want - 1
    with Api(data.lake, query__rows__max=want) as a:
        assert len(a.rows("top-user-by-country")) == want
    with Api(data.lake, answer__max="4KiB") as a:
        assert "answer.max" in problem(a.ask_question("category-posts-by-year", from_=1, to_=9999), 422, "too-many-rows")["detail"]
        assert a.ask_question("top-user-country").status_code == 200


# ---- the program ----

def test_defaults_and_bad_configurations(tmp_path):
    program = os.path.join(BIN, "query-api")
    env = clean_env()
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
        a.ask_question("top-user-country")
        text = a.ask("/metrics")[1]
        for name in METRICS:
            assert f"# TYPE {name} " in text, name
        for label, values in (("question", NAMES), ("route", ["questions", "question", "tables", "table", "openapi"])):
            assert set(values) <= set(re.findall(r'%s="([^"]*)"' % label, text))
        assert a.metric("sluice_query_duration_seconds_count", question="top-user-country") == 1
        assert a.metric("sluice_http_requests_total", route="question", code="200") == 1
        assert a.metric("sluice_table_rows", table="pin") == 1200 and a.metric("sluice_table_files", table="pin") == 2
        assert a.metric("sluice_table_last_commit_timestamp_seconds", table="pin") > 1.6e9
        assert a.tables()["pin"]["version"] == 1 and a.tables()["pin"]["rows"] == 1200
        assert a.tables()["dead"]["version"] == -1
        kinds = {k.rsplit(":", 1)[1] for k in a.get("/openapi.json").json()["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]}
        assert kinds == set(re.findall(r'sluice_http_rejected_total\{reason="([^"]*)"', text))
    assert [p.name for p in spill.iterdir()] == ["other"]
