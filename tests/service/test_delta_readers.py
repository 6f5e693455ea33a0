"""A table written by our code, read by three readers that are not ours: delta-rs, PyArrow, and DuckDB's delta extension.

SPDX-License-Identifier: Apache-2.0
"""
import datetime
import glob
import json
import os
import shutil
import subprocess

import deltalake
import duckdb
import duckdb_extension_delta
import pyarrow
import pyarrow.parquet
import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("SLUICE_BUILD", os.path.join(ROOT, "build", "test"))
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
COLUMNS = ["id", "small", "text", "moment", "place", "raw"]
ROWS, COMMITS = 300, 12


def row(i):
    text = f"row {i} ö😀 of a text that is longer than thirty-two characters"
    values = [i, i * 7919 % 2001 - 1000, text, EPOCH + datetime.timedelta(milliseconds=(i - 500) * 86400123),
              [i % 180 - 90.5, i % 360 - 180.25], b"row "]
    return tuple(None if c and (i + c) % 7 == 0 else v for c, v in enumerate(values))


def write(lake, first, rows, commits):
    program = os.path.join(BUILD, "tests", "write_table")
    done = subprocess.run([program, str(lake), str(first), str(rows), str(commits)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lake")
    assert write(folder, 0, ROWS, COMMITS) == COMMITS
    return folder


def table_of(lake):
    return os.path.join(str(lake), "delta", "types_table")


def connect():
    con = duckdb.connect(config={"allow_unsigned_extensions": "false", "autoinstall_known_extensions": "false"})
    extension, = glob.glob(os.path.join(os.path.dirname(duckdb_extension_delta.__file__), "extensions", "*", "delta.duckdb_extension"))
    con.execute(f"LOAD '{extension}'")
    con.execute("SET TimeZone = 'UTC'")
    return con


def normal(value):
    return value.astimezone(datetime.timezone.utc) if isinstance(value, datetime.datetime) else value


def rows_of(arrow):
    return sorted(tuple(normal(r[c]) for c in COLUMNS) for r in arrow.to_pylist())


def by_delta_rs(table, **version):
    return rows_of(pyarrow.table(deltalake.DeltaTable(table, **version).to_pyarrow_table()))


def by_duckdb(con, table, where="true"):
    found = con.execute(f"SELECT {', '.join(COLUMNS)} FROM delta_scan('{table}') WHERE {where}").fetchall()
    return sorted(tuple(normal(v) for v in r) for r in found)


def test_delta_rs_reads_every_row_and_version(lake):
    table = table_of(lake)
    assert by_delta_rs(table) == [row(i) for i in range(ROWS * COMMITS)]
    for version in (0, 1, 5, 7, 11):
        assert by_delta_rs(table, version=version) == [row(i) for i in range(ROWS * version)]
    found = deltalake.DeltaTable(table)
    assert found.version() == COMMITS
    assert found.transaction_version("sluice:kafka:demo.types:0:G") == ROWS * COMMITS
    assert (found.protocol().min_reader_version, found.protocol().min_writer_version) == (1, 2)
    history = found.history()
    assert history[0]["operation"] == "STREAMING UPDATE" and history[-1]["operation"] == "CREATE TABLE"


def test_statistics_mean_the_same_to_delta_rs(lake):
    actions = pyarrow.table(deltalake.DeltaTable(table_of(lake)).get_add_actions(flatten=True)).to_pylist()
    assert len(actions) == COMMITS
    for a in actions:
        rows = [row(i) for i in range(a["min.id"], a["max.id"] + 1)]
        assert a["num_records"] == len(rows) == ROWS
        for c, name in enumerate(COLUMNS[:4]):
            present = [r[c] for r in rows if r[c] is not None]
            assert a[f"null_count.{name}"] == len(rows) - len(present)
            low, high = normal(a[f"min.{name}"]), normal(a[f"max.{name}"])
            if name == "text":
                assert low <= min(present) and high >= max(present) and len(low) == 32
            elif name == "moment":
                assert low == min(present) and high == max(present)
            else:
                assert (low, high) == (min(present), max(present))


def test_duckdb_reads_every_row_and_skips_rightly(lake):
    con, table = connect(), table_of(lake)
    assert by_duckdb(con, table) == [row(i) for i in range(ROWS * COMMITS)]
    assert by_duckdb(con, table, "id BETWEEN 299 AND 301") == [row(i) for i in (299, 300, 301)]
    for i in (0, 123, ROWS, ROWS * COMMITS - 1):
        text, at = row(i)[2], row(i)[3]
        if text is not None:
            assert by_duckdb(con, table, f"text = '{text}'") == [row(i)]
        if at is not None:
            assert by_duckdb(con, table, f"moment = TIMESTAMPTZ '{at.isoformat()}'") == [row(i)]
    types = {r[0]: r[1] for r in con.execute(f"DESCRIBE SELECT * FROM delta_scan('{table}')").fetchall()}
    assert types == {"id": "BIGINT", "small": "INTEGER", "text": "VARCHAR", "moment": "TIMESTAMP WITH TIME ZONE",
                     "place": "DOUBLE[]", "raw": "BLOB"}


def test_checkpoint_alone_is_enough(lake, tmp_path):
    table = str(tmp_path / "t")
    shutil.copytree(table_of(lake), table)
    for version in range(10):
        os.remove(os.path.join(table, "_delta_log", f"{version:020}.json"))
    with open(os.path.join(table, "_delta_log", "_last_checkpoint"), encoding="utf-8") as f:
        assert json.load(f)["version"] == 10
    expected = [row(i) for i in range(ROWS * COMMITS)]
    assert by_delta_rs(table) == expected
    assert by_duckdb(connect(), table) == expected
    assert deltalake.DeltaTable(table).transaction_version("sluice:kafka:demo.types:0:G") == ROWS * COMMITS


def test_pyarrow_reads_the_files(lake):
    files = sorted(glob.glob(os.path.join(table_of(lake), "*.parquet")))
    assert len(files) == COMMITS
    rows = sorted(r for f in files for r in rows_of(pyarrow.parquet.read_table(f)))
    assert rows == [row(i) for i in range(ROWS * COMMITS)]
    one = pyarrow.parquet.ParquetFile(files[0])
    assert one.metadata.format_version == "1.0"
    assert str(one.schema_arrow.field("moment").type) == "timestamp[us, tz=UTC]"
    assert {one.metadata.row_group(0).column(i).compression for i in range(len(COLUMNS))} == {"ZSTD"}
    checkpoint = pyarrow.parquet.read_table(os.path.join(table_of(lake), "_delta_log", f"{10:020}.checkpoint.parquet"))
    assert [f.name for f in checkpoint.schema] == ["txn", "add", "remove", "metaData", "protocol"]
    kinds = [k for r in checkpoint.to_pylist() for k, v in r.items() if v is not None]
    assert {k: kinds.count(k) for k in kinds} == {"protocol": 1, "metaData": 1, "txn": 1, "add": 10}


def test_a_rival_writer_in_the_same_table(lake, tmp_path):
    folder = tmp_path / "lake"
    shutil.copytree(str(lake), str(folder))
    table = table_of(folder)
    schema = pyarrow.schema([("id", pyarrow.int64()), ("small", pyarrow.int32()), ("text", pyarrow.string()),
                             ("moment", pyarrow.timestamp("us", "UTC")), ("place", pyarrow.list_(pyarrow.float64())),
                             ("raw", pyarrow.binary())])
    theirs = [row(i) for i in range(100000, 100010)]
    deltalake.write_deltalake(table, pyarrow.Table.from_pylist([dict(zip(COLUMNS, r)) for r in theirs], schema=schema), mode="append")
    deltalake.DeltaTable(table).create_checkpoint()
    assert write(folder, 50000, 20, 3) == COMMITS + 4
    expected = sorted([row(i) for i in range(ROWS * COMMITS)] + theirs + [row(i) for i in range(50000, 50060)])
    assert by_delta_rs(table) == expected
    deltalake.DeltaTable(table).optimize.compact()
    assert write(folder, 60000, 20, 1) == COMMITS + 6
    expected = sorted(expected + [row(i) for i in range(60000, 60020)])
    assert by_delta_rs(table) == expected
    assert by_duckdb(connect(), table) == expected
