"""Others' software reads what the running stack leaves: tables, topics and metrics.

Tables: deltalake (delta-rs), PyArrow, DuckDB's delta extension. Topics: kafka-python and kcat. /metrics: promtool.
SPDX-License-Identifier: Apache-2.0
"""
import glob
import json
import os
import shutil
import subprocess

import deltalake
import duckdb
import duckdb_extension_delta
import pyarrow
import pyarrow.dataset
import pytest

import rig
from sluice import http, rules
from support import evidence

PROVENANCE = ["_source", "_position", "_item", "_ingested_at"]
ROWS, VERSIONS = 120, 5


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    settings = rig.FLUSH + ["sink-s3.checkpoint.interval=4"]
    with rig.Stack(tmp_path_factory.mktemp("readers"), settings=settings) as s:
        for n in range(VERSIONS):   # each round is in the tables before the next one begins: a version of its own
            s.post("--rows", ROWS // VERSIONS, "--seed", 5 + n)
            for text in ('{"records":[{"value":null}]}', '{"records":[{"key":{"k":%d},"value":[1]}]}' % n):
                assert s.post_raw(s.topic("pin"), text.encode())[0] == 200
            s.settle()
        yield s


@pytest.fixture(scope="module")
def expected(stack):
    return evidence.expected_tables(stack.value)


def columns(dataset):
    return (list(rules.COLUMNS[dataset]) + PROVENANCE if dataset != "dead"
            else PROVENANCE + ["dataset", "reason", "detail", "key", "value"])


def wanted(expected, dataset):
    tables, dead = expected
    return dead if dataset == "dead" else tables[dataset]


@pytest.mark.parametrize("dataset", list(rig.DATASETS) + ["dead"])
def test_tables_by_deltalake(stack, expected, dataset):
    table = deltalake.DeltaTable(stack.table(dataset))
    assert [f.name for f in table.schema().fields] == columns(dataset)
    assert not evidence.differences(wanted(expected, dataset), evidence.read_table(stack.value, dataset))
    # Each version that is there can be read, and only ever has more rows.
    counts = [deltalake.DeltaTable(stack.table(dataset), version=v).to_pyarrow_table().num_rows for v in range(table.version() + 1)]
    assert counts == sorted(counts) and counts[-1] == len(wanted(expected, dataset))
    assert counts[0] == 0 or dataset == "dead"


def test_checkpoints_are_there(stack):
    assert glob.glob(os.path.join(stack.table("pin"), "_delta_log", "*.checkpoint*.parquet"))
    assert os.path.exists(os.path.join(stack.table("pin"), "_delta_log", "_last_checkpoint"))


@pytest.mark.parametrize("dataset", rig.DATASETS)
def test_tables_by_pyarrow(stack, expected, dataset):
    """The data files alone, by PyArrow's own reader, with a filter that statistics and pages answer."""
    files = deltalake.DeltaTable(stack.table(dataset)).file_uris()
    data = pyarrow.dataset.dataset(files, format="parquet")
    assert data.schema.names == columns(dataset)
    rows = sorted(data.to_table().to_pylist(), key=evidence.place)
    assert not evidence.differences(wanted(expected, dataset), rows)
    half = data.to_table(filter=pyarrow.compute.field("_position") >= ROWS // 2).num_rows
    assert half == sum(r["_position"] >= ROWS // 2 for r in wanted(expected, dataset))


def test_tables_by_duckdb(stack, expected):
    con = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    extension, = glob.glob(os.path.join(os.path.dirname(duckdb_extension_delta.__file__), "extensions", "*", "delta.duckdb_extension"))
    con.execute("LOAD '%s'" % extension)
    con.execute("SET TimeZone = 'UTC'")
    for dataset in list(rig.DATASETS) + ["dead"]:
        names = [c for c in columns(dataset) if c != "detail"]
        found = con.execute("SELECT %s FROM delta_scan('%s')" % (", ".join('"%s"' % n for n in names), stack.table(dataset))).fetchall()
        rows = [dict(zip(names, r)) for r in found]
        for row in rows:
            for name, value in row.items():
                if hasattr(value, "astimezone"):
                    row[name] = value.astimezone(evidence.UTC)
        assert not evidence.differences(wanted(expected, dataset), rows), dataset
    con.close()


def test_raw_topics_by_python_and_kcat(stack):
    assert shutil.which("kcat"), "kcat is not installed: scripts/setup does it"
    lines = rig.ledger_lines(stack.path("ledger.jsonl"))
    for dataset in rig.DATASETS:
        topic = stack.topic(dataset)
        mine = {x["offset"]: x["value"] for x in lines if x["dataset"] == dataset}
        python = {m.offset: m.value for _, m in evidence.raw_records(stack.value, topic)}
        done = subprocess.run(["kcat", "-b", stack.value["kafka"], "-C", "-t", topic, "-e", "-q", "-J", "-o", "beginning"],
                              capture_output=True, timeout=120, check=True)
        kcat = {m["offset"]: m for m in map(json.loads, done.stdout.splitlines())}
        assert set(kcat) == set(python) >= set(mine)
        for offset, value in mine.items():
            # Byte for byte what the emulator says it sent; kcat shows it as a string of JSON.
            assert python[offset] == value.encode() and kcat[offset]["payload"] == value
            headers = dict(zip(kcat[offset]["headers"][::2], kcat[offset]["headers"][1::2]))
            assert headers["sluice-ingested-at"].isdigit()


def test_dead_topic_by_kcat(stack, expected):
    topic = stack.value["user"] + ".dead"
    done = subprocess.run(["kcat", "-b", stack.value["kafka"], "-C", "-t", topic, "-e", "-q", "-J", "-o", "beginning"],
                          capture_output=True, timeout=120, check=True)
    seen, values = set(), set()
    for m in map(json.loads, done.stdout.splitlines()):
        h = dict(zip(m["headers"][::2], m["headers"][1::2]))
        seen.add((h["sluice-source"], int(h["sluice-position"]), int(h["sluice-item"]), h["sluice-reason"]))
        values.add((m["payload"], m["key"]))
    assert seen == {evidence.place(r) + (r["reason"],) for r in expected[1]}
    assert values == {tuple(None if x is None else x.decode() for x in (r["value"], r["key"])) for r in expected[1]}


@pytest.mark.parametrize("service", rig.SERVICES)
def test_metrics_by_promtool(stack, service):
    assert shutil.which("promtool"), "promtool is not installed: scripts/setup does it"
    status, headers, text = http.request("GET", stack.admin(service) + "/metrics", timeout=30)
    assert status == 200 and headers["content-type"].startswith("text/plain")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    names = {line.split()[2] for line in text.decode().splitlines() if line.startswith("# TYPE")}
    assert names and all(n.startswith(("sluice_", "process_")) for n in names), names
    # Each metric of the documentation's table that every service has is there.
    assert {"sluice_build_info"} <= names or any(n.startswith("sluice_build") for n in names), names
