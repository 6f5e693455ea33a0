"""query-api, the real program, on tables written by deltalake: answers, formats, problems, descriptions, validators, versions.

The right answers come from tests/support/expected.py, which knows neither SQL nor the product. How it follows tables:
test_query_tables.py; its limits and its configuration: test_query_limits.py.

SPDX-License-Identifier: Apache-2.0
"""
import csv
import datetime
import io
import json
import os
import random
import shutil
import socket
import threading
import uuid

import deltalake
import pytest
import requests

from sluice import rules
from support import expected
from support.querying import NAMES, SCHEMAS, UTC, Api, generated, problem, same, table_path, two_versions, write
from support.service import DEADLINE, ROOT, until


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return two_versions(tmp_path_factory.mktemp("data") / "lake")


@pytest.fixture(scope="module")
def api(data):
    with Api(data.lake) as a:
        yield a


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
        answer = api.ask_question(name, dedup=dedup, **variant)
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
    answer = api.ask_question("top-user-by-country", {"Accept": "application/x-ndjson"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.content.decode().split("\n")[:-1]]
    assert lines[:-1] == want and lines[-1] == {"end": True, "rows": len(want)}
    answer = api.ask_question("top-user-by-country", {"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv; header=present")
    text = answer.content.decode()
    assert text.endswith("\r\n")
    table = list(csv.reader(io.StringIO(text, newline="")))
    assert table[0] == ["country", "poster_name", "follower_count"]
    assert table[1:] == [["" if v is None else str(v) for v in row.values()] for row in want]
    assert '"Bob, the ""2nd"""' in text and '"Zoë\n"' in text
    json_answer = api.ask_question("top-user-by-country", format="json")
    assert json_answer.headers["content-type"] == "application/json" and json_answer.headers["vary"] == "Accept"
    assert json_answer.json()["meta"] == [{"name": "country", "type": "VARCHAR"}, {"name": "poster_name", "type": "VARCHAR"},
                                          {"name": "follower_count", "type": "BIGINT"}]
    for accept, kind in (("*/*", "application/json"), ("text/*", "text/csv"), ("application/json;q=0.2, text/csv;q=0.8", "text/csv"),
                         ("text/html, application/xhtml+xml, */*;q=0.1", "application/json"), ("application/ndjson", "application/x-ndjson"),
                         ("application/json;q=0, */*", "application/x-ndjson"), ("TEXT/CSV; charset=utf-8", "text/csv")):
        assert api.ask_question("top-user-country", {"Accept": accept}).headers["content-type"].startswith(kind), accept
    assert api.ask_question("top-user-country", {"Accept": "image/png"}, format="csv").status_code == 200, "format= goes first"
    for accept in ("image/png", "application/json;q=0", "text/html"):
        body = problem(api.ask_question("top-user-country", {"Accept": accept}), 406, "not-acceptable")
        assert len(body["allowed"]) == 3
    assert problem(api.get("/v1/tables", {"Accept": "text/csv"}), 406, "not-acceptable")["allowed"] == ["application/json"]


def test_a_long_answer_arrives_whole_and_a_client_that_leaves_it_is_forgotten(tmp_path):
    lake = tmp_path / "lake"
    pins = [{"ind": i, "follower_count": i, "poster_name": "name %06d" % i + "x" * 200} for i in range(20000)]
    write(lake, "pin", pins)
    write(lake, "geo", [{"ind": i, "country": "country %06d" % i} for i in range(20000)])
    with Api(lake, http__request_timeout="60s") as a:
        for kind in ("json", "ndjson", "csv"):
            answer = a.ask_question("top-user-by-country", format=kind)
            assert answer.status_code == 200 and len(answer.content) > 4 << 20
            last = answer.content.decode().rstrip().rsplit("\n", 1)[1]
            assert kind != "ndjson" or json.loads(last) == {"end": True, "rows": 20000}
            assert kind != "json" or len(answer.json()["data"]) == 20000
        with socket.create_connection(("127.0.0.1", a.port_of("http"))) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.sendall(b"GET /v1/questions/top-user-by-country?format=ndjson HTTP/1.1\r\nHost: x\r\n\r\n")
            assert s.recv(4096).startswith(b"HTTP/1.1 200 ")
            assert a.metric("sluice_http_in_flight_requests") == 1
        until("the request to be forgotten", lambda: a.metric("sluice_http_in_flight_requests") == 0)
        assert a.ask_question("top-user-country").status_code == 200
    with Api(lake, http__request_timeout="1s") as a, socket.create_connection(("127.0.0.1", a.port_of("http"))) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.sendall(b"GET /v1/questions/top-user-by-country HTTP/1.1\r\nHost: x\r\n\r\n")
        a.event("client_stalled")
        until("the request to be forgotten", lambda: a.metric("sluice_http_in_flight_requests") == 0)


# ---- problems ----

def test_wrong_requests(api):
    body = problem(api.ask_question("top-user-country", colour="red"), 400, "unknown-parameter")
    assert body["allowed"] == ["dedup", "limit", "version", "tables", "format"] and "colour" in body["detail"]
    assert "from" in problem(api.ask_question("category-posts-by-year", median="lower"), 400, "unknown-parameter")["allowed"]
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
        body = problem(api.ask_question(name, **given), 400, "bad-value")
        assert body.get("allowed") == allowed, given
        assert list(given)[0] in body["detail"]
    twice = requests.get(api.http + "/v1/questions/top-user-country?limit=1&limit=2", timeout=DEADLINE)
    problem(twice, 400, "bad-value")
    with socket.create_connection(("127.0.0.1", api.port_of("http"))) as s:  # requests would mend the broken escape
        s.sendall(b"GET /v1/questions/top-user-country?limit=%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        s.settimeout(DEADLINE)
        text = b"".join(iter(lambda: s.recv(65536), b""))
        assert text.startswith(b"HTTP/1.1 400 ") and b"unknown-parameter" in text
    assert problem(api.ask_question("no-such-question"), 404, "unknown-question")["allowed"] == NAMES
    problem(api.get("/v1/tables/nothing"), 404, "unknown-table")
    for path in ("/", "/v1", "/v1/questions/", "/v1/questions/a/b", "/v1/tables/", "/v2/questions"):
        problem(api.get(path), 404, "not-found")
    problem(api.ask_question("top-user-country", tables="batch"), 404, "table-not-there")
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = api.session.request(method, api.http + "/v1/questions", timeout=DEADLINE)
        problem(answer, 405, "method-not-allowed")
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    big = api.session.post(api.http + "/v1/questions", data=b"x" * (70 << 10), timeout=DEADLINE)
    assert big.status_code == 413 and big.headers["content-type"] == "application/problem+json" and big.json()["status"] == 413
    assert api.get("/v1/questions", {"X-Long": "x" * (17 << 10)}).status_code == 431
    assert api.metric("sluice_http_rejected_total", reason="bad-value") >= 20
    assert api.metric("sluice_http_rejected_total", reason="unknown-parameter") >= 3


def test_heads_options_origins_and_request_ids(api, data):
    answer = api.session.head(api.http + "/v1/questions/top-user-country", timeout=DEADLINE)
    assert answer.status_code == 200 and answer.content == b"" and answer.headers["etag"]
    answer = api.session.options(api.http + "/v1/questions/top-user-country", headers={"Origin": "http://page"}, timeout=DEADLINE)
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
        first = a.ask_question("popular-category-by-country")
        tag = first.headers["etag"]
        assert first.headers["sluice-table-versions"] == "pin=1, geo=1" and "no-cache" in first.headers["cache-control"]
        ran = a.metric("sluice_query_duration_seconds_count")
        rows = a.metric("sluice_query_rows_total")
        for field in (tag, tag[2:], f'"x", {tag}', "*"):
            again = a.ask_question("popular-category-by-country", {"If-None-Match": field})
            assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == tag
            assert again.headers["sluice-table-versions"] == "pin=1, geo=1"
        assert a.metric("sluice_query_duration_seconds_count") == ran and a.metric("sluice_query_rows_total") == rows
        assert a.metric("sluice_query_cache_revalidations_total", result="unchanged") == 4
        others = [a.ask_question("popular-category-by-country", limit=1), a.ask_question("popular-category-by-country", format="csv"),
                  a.ask_question("popular-category-by-country", dedup="off"), a.ask_question("top-user-country")]
        assert len({tag, *(o.headers["etag"] for o in others)}) == 5
        assert a.ask_question("popular-category-by-country", dedup="on", tables="stream").headers["etag"] == tag
        assert a.ask_question("popular-category-by-country", version="pin:1").headers["etag"] == tag
        write(lake, "pin", data.parts[1]["pin"][:5])
        a.wait_version("pin", 2)
        changed = a.ask_question("popular-category-by-country", {"If-None-Match": tag})
        assert changed.status_code == 200 and changed.headers["etag"] != tag
        assert changed.headers["sluice-table-versions"] == "pin=2, geo=1"
        assert a.metric("sluice_query_cache_revalidations_total", result="changed") == 1
        users = a.ask_question("users-joined-by-year")
        assert users.headers["sluice-table-versions"] == "user=1"


def test_older_versions(api, data):
    old = expected.answer("top-user-by-country", *data.tables(1))
    answer = api.ask_question("top-user-by-country", version="pin:0,geo:0")
    same("version 0", answer.json()["data"], old)
    assert answer.headers["sluice-table-versions"] == "pin=0, geo=0"
    assert answer.json()["statistics"]["table_versions"] == {"pin": 0, "geo": 0}
    pin, geo, user = data.tables()
    same("pin 0", api.rows("top-user-by-country", version="pin:0"), expected.answer("top-user-by-country", data.tables(1)[0], geo, user))
    same("all three named", api.rows("top-user-by-country", version="pin:0,geo:0,user:0", dedup="off"),
         expected.answer("top-user-by-country", *data.tables(1), dedup="off"))
    tag = answer.headers["etag"]
    assert api.ask_question("top-user-by-country", {"If-None-Match": tag}, version="geo:0,pin:0").status_code == 304
    body = problem(api.ask_question("top-user-by-country", version="pin:2"), 410, "version-gone")
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
        problem(a.ask_question("top-user-country", version="pin:0"), 410, "version-gone")
        deltalake.DeltaTable(path).create_checkpoint()
        os.remove(os.path.join(path, "_delta_log", "%020d.json" % 0))
        problem(a.ask_question("top-user-country", version="pin:1"), 410, "version-gone")
        assert a.ask_question("top-user-country", version="pin:2").status_code == 200
    with Api(lake) as a:
        same("from the checkpoint", a.rows("top-user-country"), expected.answer("top-user-country", *data.tables()))


def test_many_at_once(api, data):
    want = {name: expected.answer(name, *data.tables()) for name in NAMES}
    wrong = []

    def run(seed):
        session = requests.Session()
        session.trust_env = False
        for name in random.Random(seed).sample(NAMES, len(NAMES)):
            version = {"version": "pin:1,geo:1,user:1"} if seed % 2 else {}
            answer = session.get(f"{api.http}/v1/questions/{name}", params=version, timeout=DEADLINE)
            if answer.status_code != 200 or answer.json()["data"] != want[name]:
                wrong.append((name, answer.status_code))
    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
