"""query-api follows the tables: new versions, announcements, tables that come, go and are made anew, logs and files that are broken.

SPDX-License-Identifier: Apache-2.0
"""
import os
import shutil
import socket
import struct

import deltalake
import pytest

from support import expected
from support.querying import NAMES, Api, commit, problem, same, table_path, two_versions, write
from support.service import DEADLINE, until


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return two_versions(tmp_path_factory.mktemp("data") / "lake")


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
            answer = a.ask_question(name)
            assert answer.status_code == 200 and answer.json()["data"] == [] and "sluice-table-versions" not in answer.headers
        assert [m["type"] for m in a.ask_question("top-user-by-country").json()["meta"]] == ["VARCHAR", "VARCHAR", "BIGINT"]
        assert a.ask_question("top-user-country", format="csv").text == "country,follower_count\r\n"
        assert a.ask_question("top-user-country", format="ndjson").text == '{"end":true,"rows":0}\n'
        problem(a.ask_question("top-user-country", version="pin:0"), 410, "version-gone")
        write(lake, "geo", data.parts[0]["geo"])
        write(lake, "pin", data.parts[0]["pin"])
        a.wait_version("pin", 0)
        a.wait_version("geo", 0)
        first = a.ask_question("top-user-country")
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
        anew = a.ask_question("top-user-country")
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
        until("the batch tables", lambda: a.ask_question("top-user-country", tables="batch").status_code == 200)
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
        until("the check to fail", lambda: not a.ready()[1]["lake"][0])
        status, checks = a.ready()
        assert status == 503 and "demo_pin_table" in checks["lake"][1]
        same("the last version", a.rows("top-user-country"), expected.answer("top-user-country", *data.tables()))
        answer = until("an age", lambda: next((r for r in [a.ask_question("top-user-country")] if "sluice-data-age" in r.headers), None))
        assert int(answer.headers["sluice-data-age"]) >= 5 and answer.json()["statistics"]["data_age_ms"] >= 5000
        assert answer.headers["sluice-table-versions"] == "pin=1, geo=1"
        assert a.metric("sluice_table_refresh_failures_total") > 0 and a.metric("sluice_table_age_seconds", table="pin") >= 5
        assert a.get("/v1/tables/pin").json()["trouble"]
        os.remove(log)
        a.until_ready()
        assert "sluice-data-age" not in a.ask_question("top-user-country").headers


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
        until("the first look", lambda: "starting" not in a.ask_question("top-user-country").text)
        body = a.ask_question("top-user-country")
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
        problem(a.ask_question("top-user-country"), 503, "table-unavailable")
        until("the log to be read anew", lambda: a.metric("sluice_table_log_reads_total", table="pin") >= reads + 2)
        os.rename(path + ".away", path)
        same("back", a.rows("top-user-country"), expected.answer("top-user-country", *data.tables()))
