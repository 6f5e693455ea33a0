"""A table written by our code, read by three readers that are not ours: delta-rs, PyArrow, and DuckDB's delta extension.

SPDX-License-Identifier: Apache-2.0
"""
import datetime
import glob
import json
import os
import shutil
import subprocess
import time
import urllib.parse

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


def read(lake, *version):
    """What our code makes of the table: its state, or the error that it ends with."""
    program = os.path.join(BUILD, "tests", "read_table")
    done = subprocess.run([program, str(lake), "delta/types_table", *map(str, version)], capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout)
    assert done.returncode == (1 if "error" in found else 0), done.stderr
    return found


def assert_same_state(lake, version=None):
    """Our reading of the log and delta-rs' agree: version, files, counts, positions."""
    theirs = deltalake.DeltaTable(table_of(lake), version=version)
    ours = read(lake, *([] if version is None else [version]))
    assert "error" not in ours, ours
    assert ours["version"] == theirs.version() and ours["id"] == str(theirs.metadata().id)
    files = {urllib.parse.unquote(os.path.relpath(uri.removeprefix("file://"), table_of(lake))) for uri in theirs.file_uris()}
    assert {f["path"] for f in ours["files"]} == files
    actions = pyarrow.table(theirs.get_add_actions(flatten=True)).to_pylist()
    assert ours["rows"] == sum(a["num_records"] for a in actions)
    assert sum(f["bytes"] for f in ours["files"]) == sum(a["size_bytes"] for a in actions)
    for app, position in ours["txns"].items():
        assert theirs.transaction_version(app) == position
    return ours


def days_ago(table, versions, days):
    for version in versions:
        then = time.time() - days * 86400
        os.utime(os.path.join(table, "_delta_log", f"{version:020}.json"), (then, then))


def delete_some(table, rows):
    table.delete("id < 40")
    return {i: r for i, r in rows.items() if i >= 40}


def delete_file(table, rows):
    table.delete("id >= 300 AND id < 600")
    return {i: r for i, r in rows.items() if not 300 <= i < 600}


def update_some(table, rows):
    table.update(predicate="id = 700", updates={"text": "'by another hand'"})
    return {i: (r[:2] + ("by another hand",) + r[3:] if i == 700 else r) for i, r in rows.items()}


def compact(table, rows):
    table.optimize.compact()
    return rows


def z_order(table, rows):
    table.optimize.z_order(["small"])
    return rows


def vacuum(table, rows):
    assert table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    return rows


def checkpoint(table, rows):
    table.create_checkpoint()
    return rows


def clean_up(table, rows):
    table.create_checkpoint()
    path = table.table_uri.removeprefix("file://").rstrip("/")
    days_ago(path, range(table.version() - 1), 40)
    table.cleanup_metadata()
    assert not os.path.exists(os.path.join(path, "_delta_log", f"{0:020}.json"))
    return rows


def describe(table, rows):
    table.alter.set_table_properties({"delta.appendOnly": "false", "delta.logRetentionDuration": "interval 10 days"})
    return rows


def restore(table, rows):
    table.delete("id >= 900")
    table.restore(table.version() - 1)
    return rows


OPERATIONS = (delete_some, checkpoint, update_some, compact, delete_file, z_order, describe, restore, vacuum, clean_up, delete_file)


def test_tables_that_others_rewrite(lake, tmp_path):
    """Whatever delta-rs does to the table, our code reads it as delta-rs does, and goes on writing."""
    folder = tmp_path / "lake"
    shutil.copytree(str(lake), str(folder))
    rows = {i: row(i) for i in range(ROWS * COMMITS)}
    for n, operation in enumerate(OPERATIONS):
        rows = operation(deltalake.DeltaTable(table_of(folder)), rows)
        before = assert_same_state(folder)
        assert before["writable"] is None
        first = 100000 + 100 * n
        assert write(folder, first, 30, 2) == before["version"] + 2
        rows.update({i: row(i) for i in range(first, first + 60)})
        after = assert_same_state(folder)
        assert after["txns"]["sluice:kafka:demo.types:0:G"] == first + 60
        assert by_delta_rs(table_of(folder)) == sorted(rows.values()), operation.__name__
    assert by_duckdb(connect(), table_of(folder)) == sorted(rows.values())
    # And the versions that are still to be had.
    latest = deltalake.DeltaTable(table_of(folder)).version()
    first = min(int(f[:20]) for f in os.listdir(os.path.join(table_of(folder), "_delta_log")) if f.endswith(".checkpoint.parquet"))
    for version in {*range(first, latest, 3), latest}:
        assert_same_state(folder, version)
    assert read(folder, first - 1)["error"] == "ERR_NOT_FOUND" and read(folder, latest + 1)["error"] == "ERR_NOT_FOUND"


def test_a_table_that_was_replaced(lake, tmp_path):
    """CREATE OR REPLACE of the same columns: another id, no rows, and the writing goes on."""
    folder = tmp_path / "lake"
    shutil.copytree(str(lake), str(folder))
    old = read(folder)
    schema = deltalake.DeltaTable(table_of(folder)).schema()
    deltalake.DeltaTable.create(table_of(folder), schema=schema, mode="overwrite")
    new = assert_same_state(folder)
    assert new["id"] != old["id"] and new["rows"] == 0 and new["writable"] is None
    write(folder, 0, 20, 2)
    assert by_delta_rs(table_of(folder)) == [row(i) for i in range(40)]
    assert_same_state(folder)
    assert read(folder, old["version"]) == old


@pytest.mark.parametrize("change, word", [
    (lambda t: t.alter.add_columns(deltalake.Field("more", "string")), "column more"),
    (lambda t: t.alter.add_constraint({"positive": "id >= 0"}), "protocol 1/3"),
    (lambda t: t.alter.add_feature(deltalake.TableFeatures.ChangeDataFeed, allow_protocol_versions_increase=True), "changeDataFeed"),
    (lambda t: t.alter.set_table_properties({"delta.setTransactionRetentionDuration": "interval 7 days"}), "setTransactionRetentionDuration"),
])
def test_what_a_writer_must_not_take_on(lake, tmp_path, change, word):
    """The table reads on; writing is refused by name, and nothing was written."""
    folder = tmp_path / "lake"
    shutil.copytree(str(lake), str(folder))
    change(deltalake.DeltaTable(table_of(folder)))
    version = assert_same_state(folder)["version"]
    with pytest.raises(AssertionError, match=word):
        write(folder, 0, 20, 1)
    assert deltalake.DeltaTable(table_of(folder)).version() == version


def test_a_table_that_nobody_should_misread(lake, tmp_path):
    folder = tmp_path / "lake"
    shutil.copytree(str(lake), str(folder))
    deltalake.DeltaTable(table_of(folder)).alter.add_feature(deltalake.TableFeatures.DeletionVectors, allow_protocol_versions_increase=True)
    found = read(folder)
    assert found["error"] == "ERR_UNSUPPORTED" and "deletionVectors" in found["text"] and f"version {COMMITS + 1}" in found["text"]
    assert "error" not in read(folder, COMMITS)


# The leaves of a checkpoint that Spark wrote (path, physical type, definition and repetition level), without what is not written here.
SPARK_LAYOUT = """
txn.appId BYTE_ARRAY 2 0
txn.version INT64 2 0
txn.lastUpdated INT64 2 0
add.path BYTE_ARRAY 2 0
add.partitionValues.key_value.key BYTE_ARRAY 3 1
add.partitionValues.key_value.value BYTE_ARRAY 4 1
add.size INT64 2 0
add.modificationTime INT64 2 0
add.dataChange BOOLEAN 2 0
add.tags.key_value.key BYTE_ARRAY 3 1
add.tags.key_value.value BYTE_ARRAY 4 1
add.stats BYTE_ARRAY 2 0
remove.path BYTE_ARRAY 2 0
remove.deletionTimestamp INT64 2 0
remove.dataChange BOOLEAN 2 0
remove.extendedFileMetadata BOOLEAN 2 0
remove.partitionValues.key_value.key BYTE_ARRAY 3 1
remove.partitionValues.key_value.value BYTE_ARRAY 4 1
remove.size INT64 2 0
metaData.id BYTE_ARRAY 2 0
metaData.name BYTE_ARRAY 2 0
metaData.description BYTE_ARRAY 2 0
metaData.format.provider BYTE_ARRAY 3 0
metaData.format.options.key_value.key BYTE_ARRAY 4 1
metaData.format.options.key_value.value BYTE_ARRAY 5 1
metaData.schemaString BYTE_ARRAY 2 0
metaData.partitionColumns.list.element BYTE_ARRAY 4 1
metaData.configuration.key_value.key BYTE_ARRAY 3 1
metaData.configuration.key_value.value BYTE_ARRAY 4 1
metaData.createdTime INT64 2 0
protocol.minReaderVersion INT32 2 0
protocol.minWriterVersion INT32 2 0
protocol.readerFeatures.list.element BYTE_ARRAY 4 1
protocol.writerFeatures.list.element BYTE_ARRAY 4 1
"""


def test_checkpoints_have_the_layout_of_sparks(lake):
    schema = pyarrow.parquet.ParquetFile(os.path.join(table_of(lake), "_delta_log", f"{10:020}.checkpoint.parquet")).schema
    leaves = (schema.column(i) for i in range(len(schema)))
    ours = "".join(f"{c.path} {c.physical_type} {c.max_definition_level} {c.max_repetition_level}\n" for c in leaves)
    assert ours == SPARK_LAYOUT.lstrip()
