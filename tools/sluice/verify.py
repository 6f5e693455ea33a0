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

Memory: of each record a digest and its place are kept, never the bytes; of one dataset at a time, but for the ledgers and
the dead table; what has been explained is dropped.
SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import json
import os
import sys
from collections import Counter, defaultdict

from . import rules, settle, stack
from .ledger import Ledger, Topic
from .rawtopics import ingested_at, raw_records, topic_ids
from .stack import DATASETS, Trouble
from .tables import Table, content_digest

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
        self.tables = False      # whether they were read

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
        """The closing words. Returns the exit code."""
        total = sum(self.counts.values())
        if self.as_json:
            summary = {"ok": total == 0, "anomalies": {n: self.counts[n] for n in ANOMALIES if self.counts[n]}}
            summary.update(self.numbers)
            self.out.write(json.dumps(summary, sort_keys=True) + "\n")
        else:
            self.out.writelines(line + "\n" for line in self._words(total))
        self.out.flush()
        return 0 if total == 0 else 1

    def _words(self, total):
        n = self.numbers
        if total > self.most:
            yield "… %d more" % (total - self.most)
        if n["ledger_ok"] or n["ledger_refused"] or n["ledger_unknown"]:
            yield "ledger  %d ok, %d refused, %d unknown (%d of them stored)" % (
                n["ledger_ok"], n["ledger_refused"], n["ledger_unknown"], n["unknown_stored"])
        if n["expired"]:
            yield "        %d of the ok ones Kafka has deleted since%s" % (
                n["expired"], "; %d of these left no row: copies, or declared lost" % n["expired_without_row"] if self.tables else "")
        yield "topics  %d raw records" % n["raw_records"]
        if self.tables:
            yield "tables  %d rows, %d rejects, %d copies of rows" % (n["rows"], n["rejects"], n["copies"])
            old = n["expired_rows"] + n["rows_of_former_topics"]
            if old:
                yield "        %d rows more, of records that the topics no longer hold" % old
        yield ("nothing is wrong" if total == 0 else "%d findings: %s" % (
            total, ", ".join("%d %s" % (self.counts[a], a) for a in ANOMALIES if self.counts[a])))


class TopicCheck:
    """Holds one raw topic against the ledger and, with tables, against what became of it."""

    def __init__(self, report, said, dataset, topic, topic_id, clean=None, dead=None):
        self.report = report
        self.said = said                 # ledger.Topic
        self.dataset = dataset
        self.topic = topic
        self.topic_id = topic_id
        self.clean = clean
        self.dead = dead
        self.bounds = {}                 # partition -> (first offset, end)
        self.extra = defaultdict(list)   # digest -> places that no ok line claims

    def source(self, partition):
        return sys.intern("kafka:%s:%d:%s" % (self.topic, partition, self.topic_id))

    def run(self, records):
        for kind, partition, what in records:
            if kind == "begin":
                self.bounds[partition] = what
            else:
                self._record(partition, what)
        self._finish_ledger()
        if self.clean is not None:
            self._finish_tables()
            foreign_rows(self.report, self.clean, {self.source(p) for p in self.bounds}, {self.topic})

    def _record(self, partition, message):
        self.report.numbers["raw_records"] += 1
        data = message.value
        ingested = ingested_at(message)
        digest = hashlib.sha256(data).digest() if data is not None else b""
        claim = self.said.places[partition].pop(message.offset, None)
        if claim:
            if claim[0] != digest:
                self.report.add("ledger_mismatch", "%s-%d@%d" % (self.topic, partition, message.offset),
                                "%s says another value was stored here" % claim[1])
        elif digest in self.said.tries and ingested >= self.said.first - CLOCK_SLACK_MS:
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
        have = self.clean.take(place)
        if have is None and digest in self.clean.contents:
            self.report.numbers["copies"] += 1
            return
        if have is None:
            self.report.add("lost", self.clean.where(place), "no row of the raw record, nor one of equal content")
            return
        self.report.numbers["rows"] += 1
        if have[0] != digest:
            self.report.add("altered", self.clean.where(place), "the row is not what the rules make of the raw record")
        elif have[1] != ingested:
            self.report.add("altered", self.clean.where(place), "_ingested_at is %s, the record says %s" % (have[1], ingested))

    def _reject(self, place, what, key, data, ingested):
        value = None if data is None else what[2]
        digest = content_digest((self.dataset, what[1], key, value))
        have = self.dead.take(place)
        if have is None:
            self.report.add("dead_missing", self.dead.where(place), "rejected as %s, but not in the dead table" % what[1])
            return
        self.report.numbers["rejects"] += 1
        if have[0] != digest or have[1] != ingested:
            self.report.add("altered", self.dead.where(place), "not the reject that the rules make of the raw record (%s)" % what[1])

    def _finish_ledger(self):
        """What is left of the ok tries is not in the topic; what is in it beyond them must be of unknown tries."""
        for partition, places in self.said.places.items():
            low, end = self.bounds.get(partition, (0, 0))
            for offset, (_, name) in places.items():
                if offset < low:
                    self._expired(partition, offset)
                else:
                    self.report.add("lost", "%s-%d@%d" % (self.topic, partition, offset), "%s was answered ok, but the raw topic%s"
                                    % (name, " has no such record" if offset < end else " ends at %d" % end))
        self._finish_extra()

    def _expired(self, partition, offset):
        """An ok record that Kafka has deleted: what became of it can be told if it left a row or a reject."""
        self.report.numbers["expired"] += 1
        place = (self.source(partition), offset, 0)
        if self.clean is not None and place not in self.clean.rows and place not in self.dead.rows:
            self.report.numbers["expired_without_row"] += 1

    def _finish_extra(self):
        for digest, places in self.extra.items():
            tries = self.said.tries[digest]
            if len(places) > tries.unknown:
                self.report.add("refused_present" if tries.refused else "doubled", "%s %s" % (self.topic, ", ".join(places)),
                                "stored beyond the %d ok and %d unknown tries (%d refused) of %s; or somebody posted the same, and "
                                "that ledger was not given" % (tries.ok, tries.unknown, tries.refused, tries.name))
            self.report.numbers["unknown_stored"] += min(len(places), tries.unknown)

    def _finish_tables(self):
        """Rows of this topic that nothing has taken."""
        lows = {self.source(p): low for p, (low, _) in self.bounds.items()}
        for table in (self.clean, self.dead):
            for place in table.rows:
                if place[0] not in lows:
                    continue
                if place[1] < lows[place[0]]:
                    self.report.numbers["expired_rows"] += 1
                else:
                    self.report.add("phantom", table.where(place), "no raw record explains this row")


def foreign_rows(report, table, known, topics):
    """Rows of sources that are none of today's: of one of these topics, made anew since, they cannot be checked."""
    for place in table.rows:
        if place[0] in known:
            continue
        parts = place[0].split(":")
        if len(parts) == 4 and parts[0] == "kafka" and parts[1] in topics and parts[2].isdigit() and parts[3]:
            report.numbers["rows_of_former_topics"] += 1
        else:
            report.add("phantom", table.where(place), "a source that cannot be")


def check(value, ledgers, report, raw_only=False, ids=None, records=raw_records, say=lambda what: None):
    """The whole comparison; the report has the result. `ids` and `records` say what the raw topics are; `say` hears what is read."""
    user = value.get("user", "demo")
    topics = {d: "%s.%s" % (user, d) for d in DATASETS}
    say("the ledgers")
    ledger = read_ledgers(ledgers, user, report)
    others = set(ledger.topics) - set(topics.values())
    if others:
        report.numbers["other_topics"] = len(others)
    ids = ids or topic_ids(value)
    missing = [t for t in topics.values() if t not in ids]
    if missing:
        raise Trouble("the gateway knows no topic %s" % ", ".join(missing))

    report.tables = not raw_only

    def load(dataset):
        if raw_only:
            return None
        return Table(stack.table_path(value, dataset), dataset, report)

    dead, known = load("dead"), set()
    for dataset, topic in topics.items():
        say("%s and its table" % topic)
        one = TopicCheck(report, ledger.topics.pop(topic, None) or Topic(), dataset, topic, ids[topic], load(dataset), dead)
        one.run(records(value["kafka"], topic))
        known |= {one.source(p) for p in one.bounds}
        del one   # its table must not stand beside the next one's
    if dead is not None:
        foreign_rows(report, dead, known, set(topics.values()))


def read_ledgers(paths, user, report):
    ledger = Ledger()
    for path in paths:
        if not os.path.isfile(path):
            raise Trouble("no ledger %s" % path)
        ledger.read(path, user, report)
    ledger.order(report)
    return ledger


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
    people = sys.stderr.isatty()
    check(value, ledgers, report, raw_only, say=lambda what: people and print("reading %s …" % what, file=sys.stderr))
    return report.finish()
