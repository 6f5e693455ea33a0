"""verify: compares ledgers, raw topics and tables, record by record, with software that is not ours.

The raw topics are read by kafka-python, the tables' logs by deltalake and their files by PyArrow; what a
raw record must have become is computed by rules.py. Names of findings:

  lost              an ok record is not in the raw topic, or a raw record left no row, copy or reject
  doubled           a (source, position, item) has two rows, or one try was stored twice
  altered           a row, a reject or a raw record has another content than it must have
  phantom           a row or a reject that no raw record explains
  refused_present   a refused try is in the raw topic
  reordered         rows of one source do not stand in the order of their positions, or raw records not in the
                    order in which they were sent and confirmed
  dead_missing      a reject is not in the dead table
  dead_doubled      a reject is in the dead table twice
  ledger_mismatch   a line of the ledger contradicts itself, another line, or the raw record at its offset

Memory: of each record a digest and its place are kept, never the bytes.
SPDX-License-Identifier: Apache-2.0
"""
import calendar
import hashlib
import json
import os
import re
import sys
import time
from collections import Counter, defaultdict

from . import http, rules, settle, stack
from .stack import DATASETS, Trouble

ANOMALIES = ("lost", "doubled", "altered", "phantom", "refused_present", "reordered", "dead_missing", "dead_doubled",
             "ledger_mismatch")
CLOCK_SLACK_MS = 2000


class Report:
    """Collects findings, prints the first ones, counts all."""

    def __init__(self, as_json=False, most=200, out=None):
        self.counts = Counter()
        self.numbers = Counter()
        self.as_json = as_json
        self.most = most
        self.out = out or sys.stdout
        self.findings = []

    def add(self, name, where, detail):
        assert name in ANOMALIES, name
        self.counts[name] += 1
        if sum(self.counts.values()) > self.most:
            return
        self.findings.append((name, where, detail))
        if self.as_json:
            self.out.write(json.dumps({"anomaly": name, "where": where, "detail": detail}) + "\n")
        else:
            self.out.write("%s: %s: %s\n" % (name, where, detail))

    def finish(self):
        total = sum(self.counts.values())
        if total > self.most and not self.as_json:
            self.out.write("… %d more\n" % (total - self.most))
        summary = {"ok": total == 0, "anomalies": {n: self.counts[n] for n in ANOMALIES if self.counts[n]}}
        summary.update(self.numbers)
        self.out.write(json.dumps(summary, sort_keys=True) + "\n")
        self.out.flush()
        return 0 if total == 0 else 1


# --- the ledger ----------------------------------------------------------------------------------

def millis(value):
    """A ledger's time: milliseconds as a number, or an ISO instant."""
    if isinstance(value, (int, float)):
        return int(value)
    hit = re.match(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?", value or "")
    if not hit:
        return 0
    return calendar.timegm(tuple(int(hit.group(i)) for i in range(1, 7)) + (0, 0, 0)) * 1000 + int(((hit.group(7) or "") + "000")[:3])


class Ledger:
    """What the emulator says it did. Per topic: where each ok try is, and how often each digest may be there."""

    def __init__(self):
        self.places = {}                      # (topic, partition, offset) -> (digest, line's name)
        self.tries = defaultdict(Counter)     # (topic, digest) -> {"ok": n, "unknown": n, "refused": n}
        self.names = {}                       # (topic, digest) -> the first line's name, for messages
        self.first = {}                       # topic -> time of the first try, ms
        self.times = defaultdict(list)        # (topic, partition) -> [(sent, answered, offset)] of the ok tries

    def order(self, report):
        """What was sent after another record of its partition was confirmed must stand behind it."""
        for (topic, partition), times in self.times.items():
            answered = sorted(times, key=lambda t: t[1])
            highest, i = -1, 0
            for sent, _, offset in sorted(times):
                while i < len(answered) and answered[i][1] < sent:
                    highest = max(highest, answered[i][2])
                    i += 1
                if offset < highest:
                    report.add("reordered", "%s-%d@%d" % (topic, partition, offset),
                               "%s was sent after offset %d had been confirmed" % (self.places[topic, partition, offset][1], highest))

    def read(self, path, user, report):
        with open(path, "rb") as f:
            for number, raw in enumerate(f, 1):
                if raw.strip():
                    self._line("%s:%d" % (os.path.basename(path), number), raw, user, report)

    def _line(self, where, raw, user, report):
        if not raw.endswith(b"\n"):
            report.numbers["ledger_torn"] += 1  # the emulator was killed while it wrote; its last line is no statement
            return
        try:
            line = json.loads(raw)
            outcome, digest = line["outcome"], bytes.fromhex(line["sha256"])
            topic = line.get("topic") or "%s.%s" % (user, line["dataset"])
        except (ValueError, KeyError, TypeError) as e:
            report.add("ledger_mismatch", where, "not a line of a ledger: %s" % e)
            return
        name = "%s (id %s, try %s)" % (where, line.get("id"), line.get("try"))
        if outcome not in ("ok", "refused", "unknown"):
            report.add("ledger_mismatch", name, "unheard-of outcome %r" % outcome)
            return
        value = line.get("value")
        if isinstance(value, str) and hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest() != digest:
            report.add("ledger_mismatch", name, "sha256 is not that of the value")
        report.numbers["ledger_" + outcome] += 1
        if outcome == "ok":
            if not isinstance(line.get("offset"), int) or not isinstance(line.get("partition"), int):
                report.add("ledger_mismatch", name, "ok, but without a partition and an offset")
                return
            place = (topic, line["partition"], line["offset"])
            if place in self.places:
                report.add("ledger_mismatch", name, "%s-%d@%d belongs to %s already" % (place + (self.places[place][1],)))
                return
            self.places[place] = (digest, name)
            if isinstance(line.get("answered_at"), int) and isinstance(line.get("sent_at"), int):
                self.times[place[:2]].append((line["sent_at"], line["answered_at"], line["offset"]))
        self.tries[topic, digest][outcome] += 1
        self.names.setdefault((topic, digest), name)
        sent = millis(line.get("sent_at"))
        self.first[topic] = min(self.first.get(topic, sent), sent)


# --- the tables ----------------------------------------------------------------------------------

def content_digest(values):
    return hashlib.blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Table:
    """The rows of one table: their places, digests of their content, and what is wrong with them alone."""

    def __init__(self, name):
        self.name = name
        self.rows = {}           # (source, position, item) -> (digest, ingested_at ms)
        self.contents = Counter()
        self.exists = False

    def add(self, place, digest, ingested, report, doubled):
        if place in self.rows:
            report.add(doubled, "%s %s@%d/%d" % (self.name, *place), "this (source, position, item) has more than one row")
        else:
            self.rows[place] = (digest, ingested)
        self.contents[digest] += 1


def ms(micros):
    """Microseconds of a table as milliseconds; a rest shows as a fraction, and so as altered."""
    if micros is None:
        return None
    return micros // 1000 if micros % 1000 == 0 else micros / 1000.0


def commit_versions(folder):
    """{path: (version, rewritten)} from the log's JSON files; rewritten: its commit also removed files."""
    out = {}
    log = os.path.join(folder, "_delta_log")
    for name in sorted(os.listdir(log)):
        if not re.fullmatch(r"[0-9]{20}\.json", name):
            continue
        adds, removes = [], False
        with open(os.path.join(log, name), encoding="utf-8") as f:
            for line in f:
                if line.startswith('{"add"'):
                    adds.append(json.loads(line)["add"]["path"])
                elif line.startswith('{"remove"'):
                    removes = True
        for path in adds:
            out[path] = (int(name[:20]), removes)
    return out


def read_files(folder):
    """Yields (path, version or None, rewritten, Arrow table) of the table's files in the order of their commits.

    None at all when the folder is no table.
    """
    import urllib.parse

    import deltalake
    import pyarrow as pa
    import pyarrow.parquet as pq
    if not os.path.isdir(os.path.join(folder, "_delta_log")):
        return
    table = deltalake.DeltaTable(folder)
    actions = pa.table(table.get_add_actions(flatten=True))
    paths = [str(p) for p in actions.column("path").to_pylist()]
    versions = {urllib.parse.unquote(p): v for p, v in commit_versions(folder).items()}
    paths = [urllib.parse.unquote(p) for p in paths]
    paths.sort(key=lambda p: versions.get(p, (-1, True))[0])
    for path in paths:
        version, rewritten = versions.get(path, (None, True))
        yield path, version, rewritten, pq.ParquetFile(os.path.join(folder, path)).read()


def _columns(batch, names):
    """Lists of values, instants as microseconds, lists as tuples."""
    import pyarrow as pa
    out = []
    for name in names:
        column = batch.column(name)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64())
            out.append([ms(v) for v in column.to_pylist()])
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            out.append([None if v is None else tuple(v) for v in column.to_pylist()])
        else:
            out.append(column.to_pylist())
    return out


def load_table(folder, dataset, report):
    """Reads a clean table or, with dataset 'dead', the dead table."""
    names = rules.COLUMNS.get(dataset) or ("dataset", "reason", "key", "value")
    doubled = "doubled" if dataset != "dead" else "dead_doubled"
    out = Table(os.path.basename(folder))
    last = {}
    for path, version, rewritten, whole in read_files(folder):
        out.exists = True
        within = {}
        for batch in whole.to_batches(max_chunksize=20000):
            places = zip(*_columns(batch, ("_source", "_position", "_item", "_ingested_at")))
            for (source, position, item, ingested), values in zip(places, zip(*_columns(batch, names))):
                place = (sys.intern(source), position, item)
                before = within.get(source)
                if before is None and not rewritten:
                    before = last.get(source)
                if before is not None and (position, item) < before:
                    report.add("reordered", "%s %s@%d/%d" % (out.name, *place),
                               "stands after %d/%d (file %s)" % (before + (path,)))
                within[source] = (position, item)
                out.add(place, content_digest(values), ingested, report, doubled)
        # A rewritten file holds rows of commits before its own: whatever is appended later must stand after them too.
        for source, place in within.items():
            last[source] = max(last.get(source, place), place) if rewritten else place
    return out


# --- the raw topics ------------------------------------------------------------------------------

def topic_ids(value):
    """{topic: id} as the gateway knows them."""
    for _, url in stack.replicas(value, "gateway"):
        try:
            topics = http.get_json(url + "/debug/state")["gateway"]["topics"]
            return {name: t["id"] for name, t in topics.items()}
        except (http.HttpError, KeyError, TypeError) as e:
            raise Trouble("the gateway must be up, to name the sources: %s" % e)
    raise Trouble("this stack has no gateway, to name the sources")


def raw_records(servers, topic, wait=60):
    """Yields ('begin', partition, low, end) and then ('record', partition, message) for a whole topic."""
    from kafka import KafkaConsumer, TopicPartition
    # The digests of the values are compared anyway; a checksum in plain Python would take most of the time.
    consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, group_id=None, check_crcs=False,
                             auto_offset_reset="earliest", request_timeout_ms=30000, fetch_max_bytes=8 << 20,
                             max_partition_fetch_bytes=4 << 20)
    try:
        end = time.monotonic() + 30
        while not consumer.partitions_for_topic(topic):
            if time.monotonic() > end:
                raise Trouble("Kafka at %s knows no topic %s" % (servers, topic))
            time.sleep(0.2)
        for number in sorted(consumer.partitions_for_topic(topic)):
            part = TopicPartition(topic, number)
            consumer.assign([part])
            low, high = consumer.beginning_offsets([part])[part], consumer.end_offsets([part])[part]
            yield "begin", number, (low, high)
            if low >= high:
                continue
            consumer.seek(part, low)
            limit = time.monotonic() + wait
            while consumer.position(part) < high:
                got = consumer.poll(timeout_ms=1000, max_records=5000)
                for message in got.get(part, ()):
                    if message.offset < high:
                        yield "record", number, message
                if got:
                    limit = time.monotonic() + wait
                elif time.monotonic() > limit:
                    raise Trouble("Kafka gave nothing more of %s-%d at offset %d for %d s" % (topic, number, consumer.position(part), wait))
    finally:
        consumer.close()


def ingested_at(message):
    """The gateway's clock as the record carries it, else the record's own time, where a table can hold it."""
    carried = [value for name, value in message.headers or () if name == "sluice-ingested-at"]
    if carried and carried[-1] and carried[-1].isdigit() and int(carried[-1]) < rules.INSTANT_END:
        return int(carried[-1])
    return message.timestamp if 0 < message.timestamp < rules.INSTANT_END else 0


class TopicCheck:
    """Holds one raw topic against the ledger and, with tables, against what became of it."""

    def __init__(self, report, ledger, dataset, topic, topic_id, clean=None, dead=None):
        self.report = report
        self.ledger = ledger
        self.dataset = dataset
        self.topic = topic
        self.topic_id = topic_id
        self.clean = clean
        self.dead = dead
        self.bounds = {}
        self.seen_ok = set()
        self.extra = defaultdict(list)   # digest -> places that no ok line claims
        self.explained = set()           # places of clean rows that raw records explain
        self.explained_dead = set()
        self.copies = []

    def source(self, partition):
        return sys.intern("kafka:%s:%d:%s" % (self.topic, partition, self.topic_id))

    def begin(self, partition, low, end):
        self.bounds[partition] = (low, end)

    def record(self, partition, message):
        self.report.numbers["raw_records"] += 1
        data = message.value
        ingested = ingested_at(message)
        digest = hashlib.sha256(data).digest() if data is not None else b""
        place = (self.topic, partition, message.offset)
        claim = self.ledger.places.get(place)
        if claim:
            self.seen_ok.add(place)
            if claim[0] != digest:
                self.report.add("ledger_mismatch", "%s-%d@%d" % place, "%s says another value was stored here" % claim[1])
        elif (self.topic, digest) in self.ledger.tries and ingested >= self.ledger.first[self.topic] - CLOCK_SLACK_MS:
            self.extra[digest].append("%d@%d" % (partition, message.offset))
        if self.clean is not None:
            self._items(partition, message, data, ingested)

    def _items(self, partition, message, data, ingested):
        source = self.source(partition)
        for item, what in enumerate(rules.wash(self.dataset, data, len(message.key or b""))):
            place = (source, message.offset, item)
            if what[0] == "row":
                self._row(place, what[1], ingested)
            else:
                self._reject(place, what, message.key, data, ingested)

    def _row(self, place, values, ingested):
        digest = content_digest(values)
        have = self.clean.rows.get(place)
        if have is None:
            self.copies.append((place, digest))
            return
        self.explained.add(place)
        self.report.numbers["rows"] += 1
        if have[0] != digest:
            self.report.add("altered", "%s %s@%d/%d" % (self.clean.name, *place), "the row is not what the rules make of the raw record")
        elif have[1] != ingested:
            self.report.add("altered", "%s %s@%d/%d" % (self.clean.name, *place), "_ingested_at is %s, the record says %s" % (have[1], ingested))

    def _reject(self, place, what, key, data, ingested):
        value = None if data is None else what[2]
        digest = content_digest((self.dataset, what[1], key, value))
        have = self.dead.rows.get(place)
        where = "%s %s@%d/%d" % (self.dead.name, *place)
        if have is None:
            self.report.add("dead_missing", where, "rejected as %s, but not in the dead table" % what[1])
            return
        self.explained_dead.add(place)
        self.report.numbers["rejects"] += 1
        if have[0] != digest or have[1] != ingested:
            self.report.add("altered", where, "not the reject that the rules make of the raw record (%s)" % what[1])

    def finish(self):
        self._finish_ledger()
        if self.clean is not None:
            self._finish_tables()

    def _finish_ledger(self):
        for place, (_, name) in self.ledger.places.items():
            if place[0] != self.topic or place in self.seen_ok:
                continue
            low, end = self.bounds.get(place[1], (0, 0))
            if place[2] < low:
                self.report.numbers["expired"] += 1
            else:
                self.report.add("lost", "%s-%d@%d" % place, "%s was answered ok, but the raw topic%s"
                                % (name, " has no such record" if place[2] < end else " ends at %d" % end))
        for digest, places in self.extra.items():
            tries = self.ledger.tries[self.topic, digest]
            if len(places) > tries["unknown"]:
                name = "refused_present" if tries["refused"] else "doubled"
                self.report.add(name, "%s %s" % (self.topic, ", ".join(places)),
                                "stored beyond the %d ok and %d unknown tries (%d refused) of %s"
                                % (tries["ok"], tries["unknown"], tries["refused"], self.ledger.names[self.topic, digest]))
            self.report.numbers["unknown_stored"] += min(len(places), tries["unknown"])

    def _finish_tables(self):
        for place, digest in self.copies:
            if self.clean.contents[digest]:
                self.report.numbers["copies"] += 1
            else:
                self.report.add("lost", "%s %s@%d/%d" % (self.clean.name, *place), "no row of the raw record, nor one of equal content")
        self._phantoms(self.clean, self.explained)
        self._phantoms(self.dead, self.explained_dead)

    def _phantoms(self, table, explained):
        sources = {self.source(p): b for p, b in self.bounds.items()}
        for place in table.rows:
            if place[0] not in sources or place in explained:
                continue
            if place[1] < sources[place[0]][0]:
                self.report.numbers["expired_rows"] += 1
            else:
                self.report.add("phantom", "%s %s@%d/%d" % (table.name, *place), "no raw record explains this row")


def foreign_rows(report, tables, known, user):
    """Rows of sources that are none of today's topics: of a recreated topic they cannot be checked."""
    topics = {"%s.%s" % (user, d) for d in DATASETS}
    for table in tables:
        for place in table.rows:
            if place[0] in known:
                continue
            parts = place[0].split(":")
            if len(parts) == 4 and parts[0] == "kafka" and parts[1] in topics and parts[2].isdigit() and parts[3]:
                report.numbers["rows_of_former_topics"] += 1
            else:
                report.add("phantom", "%s %s@%d/%d" % (table.name, *place), "a source that cannot be")


def check(value, ledgers, report, raw_only=False, ids=None, records=raw_records):
    """The whole comparison; the report has the result. `ids` and `records` say what the raw topics are."""
    user = value.get("user", "demo")
    ledger = Ledger()
    for path in ledgers:
        if not os.path.isfile(path):
            raise Trouble("no ledger %s" % path)
        ledger.read(path, user, report)
    ledger.order(report)
    for topic in {t for t, _ in ledger.tries}:
        if topic not in {"%s.%s" % (user, d) for d in DATASETS}:
            report.numbers["other_topics"] += 1
    ids = ids or topic_ids(value)
    dead = None if raw_only else load_table(stack.table_path(value, "dead"), "dead", report)
    known = set()
    for dataset in DATASETS:
        topic = "%s.%s" % (user, dataset)
        if topic not in ids:
            raise Trouble("the gateway knows no topic %s" % topic)
        clean = None if raw_only else load_table(stack.table_path(value, dataset), dataset, report)
        one = TopicCheck(report, ledger, dataset, topic, ids[topic], clean, dead)
        for kind, partition, what in records(value["kafka"], topic):
            if kind == "begin":
                one.begin(partition, *what)
            else:
                one.record(partition, what)
        one.finish()
        known |= {one.source(p) for p in one.bounds}
        if clean is not None:
            foreign_rows(report, [clean], known, user)
    if dead is not None:
        foreign_rows(report, [dead], known, user)


def in_environment():
    try:
        import deltalake  # noqa: F401
        import kafka  # noqa: F401
        import pyarrow  # noqa: F401
        return True
    except ImportError:
        return False


def main(state, ledgers, as_json=False, raw_only=False, most=200):
    if not in_environment():
        program = os.path.join(stack.cache_dir(), "python", "bin", "python3")
        if os.environ.get("_SLUICE_VERIFY") or not os.access(program, os.X_OK):
            raise Trouble("kafka-python and deltalake are not in %s: run `make setup`" % program)
        os.environ["_SLUICE_VERIFY"] = "1"
        sys.stdout.flush()
        os.execv(program, [program, os.path.join(stack.ROOT, "sluice")] + sys.argv[1:])
    value = stack.load(state)
    report = Report(as_json, most)
    if not raw_only:
        try:
            behind = settle.Settle(value).step()
        except settle.Hole as e:
            behind = str(e).splitlines()
        for line in behind:
            print("note: not settled, so what is missing there is found lost: " + line, file=sys.stderr)
    check(value, ledgers, report, raw_only)
    return report.finish()
