"""querying: a query-api of its own for a test, and tables for it, written by deltalake and by hand.

SPDX-License-Identifier: Apache-2.0
"""
import datetime
import json
import os
import random
import signal
import uuid

import deltalake
import pyarrow as pa
import requests

from support.service import DEADLINE, Service, until

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


class Api(Service):
    """One query-api on ports of its own; it must end well. `http`: where it answers questions."""

    def __init__(self, lake, ready=True, env=None, **options):
        lake = str(lake)
        super().__init__("query-api", env=env, **{
            "http__listen": "127.0.0.1:0", "lake__url": "file://" + lake, "announce__from": "", "poll__interval": "50ms",
            "query__timeout": "80s", "spill__dir": os.path.join(os.path.dirname(lake), "spill"), **options})
        self.session = requests.Session()
        self.session.trust_env = False
        self.http = "http://127.0.0.1:%d" % self.port_of("http")
        if ready:
            self.until_ready()

    def __exit__(self, kind, *rest):
        try:
            if kind is None:
                if self.process.poll() is None:
                    self.send(signal.SIGTERM)
                code = self.wait()
                assert code == 0, f"exit code {code}\n{self.last()}"
        finally:
            super().__exit__(kind, *rest)

    def get(self, path, headers=None, **params):
        params = {k.rstrip("_"): v for k, v in params.items()}
        return self.session.get(self.http + path, params=params, headers=headers, timeout=DEADLINE)

    def ask_question(self, name, headers=None, **params):
        return self.get("/v1/questions/" + name, headers, **params)

    def rows(self, name, **params):
        answer = self.ask_question(name, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def tables(self):
        return self.state()["query-api"]["tables"]

    def own_bytes(self):
        """Resident memory without pages of files."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as f:
            pages = f.read().split()
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGESIZE")

    def version(self, table):
        return self.tables()[table]["version"]

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


def two_versions(lake):
    """Three tables of two versions each; rows of the second version win over some of the first."""
    parts = [generated(1, 900, 700), generated(2, 300, 700, part=4)]
    for part in parts:
        for table in ("pin", "geo", "user"):
            write(lake, table, part[table])
    return Data(lake, parts)


def same(name, got, want):
    assert got == want, f"{name}: first difference at {next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))}"


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
