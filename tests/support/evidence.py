"""evidence: what must be in the tables, computed from the raw topics, and what is there, read by software that is not ours.

Raw records are read by kafka-python and washed by tools/sluice/rules.py; tables are read by deltalake. Nothing here uses
DuckDB or the services' code.
SPDX-License-Identifier: Apache-2.0
"""
import datetime
import json
import os
import re
import urllib.parse

from kafka import KafkaConsumer, TopicPartition

from sluice import http, rules, stack, tables, verify

UTC = datetime.timezone.utc
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
TIMES = ("timestamp", "date_joined")
PROVENANCE = ("_source", "_position", "_item", "_ingested_at")


def time_of(ms):
    return None if ms is None else EPOCH + datetime.timedelta(milliseconds=ms)


def raw_records(value, topic):
    """[(partition, message)] of a whole topic, in the order of offsets."""
    out = []
    for kind, partition, what in verify.raw_records(value["kafka"], topic):
        if kind == "record":
            out.append((partition, what))
    return out


def topic_id(value, topic):
    return verify.topic_ids(value)[topic]


def as_row(dataset, values, source, offset, item, ingested):
    row = dict(zip(rules.COLUMNS[dataset], values))
    for name in TIMES:
        if name in row:
            row[name] = time_of(row[name])
    if row.get("coordinates") is not None:
        row["coordinates"] = list(row["coordinates"])
    row.update(_source=source, _position=offset, _item=item, _ingested_at=time_of(ingested))
    return row


def expected_tables(value, copies="drop"):
    """({dataset: rows}, dead rows) that the raw topics must have become. With drop, the first of equal rows of a topic
    stands: right for topics of one partition."""
    tables, dead = {}, []
    for dataset in stack.DATASETS:
        topic = "%s.%s" % (value["user"], dataset)
        ident = topic_id(value, topic)
        rows, seen = [], set()
        for partition, message in raw_records(value, topic):
            source = "kafka:%s:%d:%s" % (topic, partition, ident)
            ingested = verify.ingested_at(message)
            for item, what in enumerate(rules.wash(dataset, message.value, len(message.key or b""))):
                if what[0] == "reject":
                    dead.append({"_source": source, "_position": message.offset, "_item": item, "_ingested_at": time_of(ingested),
                                 "dataset": dataset, "reason": what[1], "key": message.key,
                                 "value": None if message.value is None else what[2]})
                elif copies == "keep" or what[1] not in seen:
                    seen.add(what[1])
                    rows.append(as_row(dataset, what[1], source, message.offset, item, ingested))
        tables[dataset] = rows
    return tables, dead


def read_table(value, dataset, drop=("detail",)):
    """All rows of a table as dicts, in the order of their places, as deltalake reads them."""
    import deltalake
    folder = stack.table_path(value, dataset)
    if not os.path.isdir(os.path.join(folder, "_delta_log")):
        return []
    rows = deltalake.DeltaTable(folder).to_pyarrow_table().to_pylist()
    for row in rows:
        for name in drop:
            row.pop(name, None)
    return sorted(rows, key=place)


def place(row):
    return (row["_source"], row["_position"], row["_item"])


def differences(expected, got, most=5):
    """What is wrong with rows that should be the same, as text; nothing when they are."""
    out = []
    want = {place(r): r for r in expected}
    have = {}
    for row in got:
        if place(row) in have:
            out.append("twice: %r" % (place(row),))
        have[place(row)] = row
    for p in sorted(set(want) - set(have))[:most]:
        out.append("missing: %r" % (want[p],))
    for p in sorted(set(have) - set(want))[:most]:
        out.append("too much: %r" % (have[p],))
    for p in sorted(set(have) & set(want)):
        if have[p] != want[p]:
            out.append("other: %r\n  instead of %r" % (have[p], want[p]))
    return "\n".join(out[:3 * most])


def commit_times(folder):
    """{version: time of the commit in ms} of a table's log files."""
    out = {}
    log = os.path.join(folder, "_delta_log")
    for name in sorted(os.listdir(log)) if os.path.isdir(log) else []:
        if re.fullmatch(r"[0-9]{20}\.json", name):
            with open(os.path.join(log, name), encoding="utf-8") as f:
                for line in f:
                    if line.startswith('{"commitInfo"'):
                        info = json.loads(line)["commitInfo"]
                        out[int(name[:20])] = info.get("inCommitTimestamp") or info["timestamp"]
    return out


def landed(folder):
    """{(source, position): ms at which the row was committed}."""
    times = commit_times(folder)
    out = {}
    versions = {urllib.parse.unquote(p): v for p, (v, _) in tables.commit_versions(folder).items()}
    for path, _, file in tables.files(folder):
        table = file.read(columns=["_source", "_position"])
        at = times.get(versions.get(path), 0)
        sources, positions = table.column("_source").to_pylist(), table.column("_position").to_pylist()
        for key in zip(sources, positions):
            out[key] = at
    return out


class Spans:
    """Times at which something was on its way: intervals, merged; `at` says whether a moment is in one."""

    def __init__(self, pairs):
        self.merged = []
        for begin, end in sorted(p for p in pairs if p[0] <= p[1]):
            if self.merged and begin <= self.merged[-1][1]:
                self.merged[-1][1] = max(self.merged[-1][1], end)
            else:
                self.merged.append([begin, end])

    def at(self, moment):
        import bisect
        i = bisect.bisect_right(self.merged, [moment, float("inf")]) - 1
        return i >= 0 and self.merged[i][0] <= moment <= self.merged[i][1]


def topic_values(value, topic, partition=0):
    """The values of one partition, read by a client that is not ours."""
    part = TopicPartition(topic, partition)
    consumer = KafkaConsumer(bootstrap_servers=value["kafka"], enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        consumer.assign([part])
        end = consumer.end_offsets([part])[part]
        out = []
        while consumer.position(part) < end:
            for batch in consumer.poll(timeout_ms=500).values():
                out += [m.value for m in batch]
        return out
    finally:
        consumer.close()


def tables_answer(value):
    """/v1/tables of query-api."""
    return http.get_json(value["query_api"] + "/v1/tables", timeout=30)
