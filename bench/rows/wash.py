"""cleaner, sink, sink-marks: CPU of the back half, on real Kafka and Redis.

A turn feeds new posts while the service under measure is stopped, lets it go on, and takes its CPU until it has dealt with all.
SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import glob
import os
import signal
import statistics

from sluice import http

from . import common
from .common import DATASETS, Row

POSTS = 100000   # per turn: one flush of 100 000 rows for each table
FEEDS = 3        # of POSTS in one turn: a turn of about a second is all noise
LONG = "60s"     # stopped services stay in their groups


def _cleaner_done(s, end):
    state = http.get_json(s["admin"]["cleaner"] + "/debug/state")["cleaner"]
    return len(state["sources"]) == len(DATASETS) and all(one["confirmed"] >= end for one in state["sources"])


def _feed(s, number):
    """Makes a turn's posts, feeds them, and has the cleaner work them off; returns (path, CPU of the cleaner)."""
    path = common.work_path("raw.tsv")
    common.write_raw(path, POSTS, 100 + number)
    pid = s["pids"]["cleaner"]
    with common.stopped(pid):
        common.run_json(common.program("ref_kafka"), s["kafka"], path)
        before = common.cpu_seconds(pid)
    end = (number + 1) * POSTS
    common.wait_for("the cleaner at %d" % end, lambda: _cleaner_done(s, end), 120, 0.1)
    return path, common.cpu_seconds(pid) - before


def cleaner(_wanted):
    records = FEEDS * POSTS * len(DATASETS)
    with common.sluice_stack("wash", ("gateway", "sink-s3", "query-api", "redis"),
                             ["cleaner.kafka.session_timeout=" + LONG]) as s:
        def measure(number):
            cpu, path = 0.0, None
            for feed in range(FEEDS):
                path, spent = _feed(s, FEEDS * number + feed)
                cpu += spent
            walked = common.run_json(common.program("ref_json"), path, "9")
            return {"cleaner": records / cpu, "simdjson": walked["records"] / walked["cpu_s"]}
        turns = common.turns(measure)
    return [Row("cleaner", "records/CPU s", 0.12, [t["cleaner"] for t in turns], [t["simdjson"] for t in turns])]


class Sink(common.Service):
    """A sink with a group and a lake of its own."""

    def __init__(self, s, label, copies):
        self.lake = common.work_path("lake-" + label)
        super().__init__("sink-s3", label, {
            "user": s["user"], "kafka.brokers": s["kafka"], "kafka.group": "bench-" + label, "kafka.session_timeout": LONG,
            "lake.url": "file://" + self.lake, "redis.url": "redis://" + s["redis"], "copies": copies,
            "flush.interval": "5s", "flush.rows": str(POSTS), "flush.bytes": "512MiB", "memory.max": "2GiB",
            "announce.listen": "127.0.0.1:0"})

    def reached(self, end):
        tables = self.state().get("sink", {}).get("tables", {})
        return all(sum((tables.get(d) or {}).get("sources", {}).values()) >= end for d in DATASETS)

    def work_off(self, end):
        before = common.cpu_seconds(self.pid)
        os.kill(self.pid, signal.SIGCONT)
        common.wait_for("%s at %d" % (self.name, end), lambda: self.reached(end), 120, 0.1)
        return common.cpu_seconds(self.pid) - before

    def newest_files(self):
        """The data file of each table's last commit."""
        found = {}
        for d in DATASETS:
            files = glob.glob("%s/delta/*_%s_table/*.parquet" % (self.lake, d))
            found[d] = max(files, key=os.path.getmtime)
        return found


def _copy(duck, files):
    """Rows per CPU second of DuckDB's COPY of the same rows, from tables of its own."""
    rows, cpu = 0, 0.0
    for d, path in files.items():
        duck.run("CREATE OR REPLACE TABLE t_%s AS SELECT * FROM read_parquet('%s')" % (d, path))
    for d in files:
        out = common.work_path("copy.parquet")
        done = duck.run("COPY t_%s TO '%s' (FORMAT parquet, PARQUET_VERSION V1, COMPRESSION zstd)" % (d, out))
        cpu += done["cpu_s"]
        rows += POSTS
        os.unlink(out)
    return rows / cpu


def sinks(wanted):
    rows = POSTS * len(DATASETS)
    with common.sluice_stack("sinks", ("gateway", "sink-s3", "query-api"),
                             ["cleaner.kafka.session_timeout=" + LONG]) as s:
        kinds = [("keep", "sink")] + ([("drop", "marks")] if "sink-marks" in wanted else [])
        with contextlib.ExitStack() as exits:
            running = {label: exits.enter_context(Sink(s, label, copies)) for copies, label in kinds}
            duck = exits.enter_context(common.Duck())   # as long-lived as what it is compared with
            duck.run("SET threads=1")

            def measure(number):
                spent, copied = dict.fromkeys(running, 0.0), []
                for feed in range(FEEDS * number, FEEDS * (number + 1)):
                    for sink in running.values():
                        os.kill(sink.pid, signal.SIGSTOP)
                    _feed(s, feed)
                    for label, sink in running.items():
                        spent[label] += sink.work_off((feed + 1) * POSTS)
                    copied.append(_copy(duck, running["sink"].newest_files()))
                return dict({label: FEEDS * rows / cpu for label, cpu in spent.items()}, copy=statistics.harmonic_mean(copied))
            turns = common.turns(measure)
    result = [Row("sink", "rows/CPU s", 0.80, [t["sink"] for t in turns], [t["copy"] for t in turns])]
    if "marks" in turns[0]:
        result.append(Row("sink-marks", "rows/CPU s", 0.60, [t["marks"] for t in turns], [t["sink"] for t in turns]))
    return result
