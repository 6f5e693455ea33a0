"""ledger: what the emulator says it did, as verify needs it.

Per topic: where each ok try is, and how often each digest may be in the topic. Of a line its digest, its place and its
name are kept, never its value: some 300 bytes.
SPDX-License-Identifier: Apache-2.0
"""
import calendar
import hashlib
import json
import os
import re
from array import array
from collections import defaultdict

OUTCOMES = ("ok", "refused", "unknown")


def millis(value):
    """A ledger's time: milliseconds as a number, or an ISO instant."""
    if isinstance(value, (int, float)):
        return int(value)
    hit = re.match(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?", value or "")
    if not hit:
        return 0
    return calendar.timegm(tuple(int(hit.group(i)) for i in range(1, 7)) + (0, 0, 0)) * 1000 + int(((hit.group(7) or "") + "000")[:3])


class Tries:
    """All tries of one content in one topic."""

    __slots__ = OUTCOMES + ("name",)

    def __init__(self, name):
        self.ok = self.refused = self.unknown = 0
        self.name = name   # of the first line, for messages


class Topic:
    """What the ledgers say of one topic."""

    def __init__(self):
        self.places = defaultdict(dict)                     # partition -> {offset: (digest, line's name)} of the ok tries
        self.tries = {}                                     # digest -> Tries
        self.times = defaultdict(lambda: array("q"))        # partition -> sent, answered, offset; sent, answered, …
        self.first = None                                   # time of the first try, ms


class Ledger:
    """All ledgers together."""

    def __init__(self):
        self.topics = defaultdict(Topic)

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
            topic = self.topics[line.get("topic") or "%s.%s" % (user, line["dataset"])]
        except (ValueError, KeyError, TypeError) as e:
            report.add("ledger_mismatch", where, "not a line of a ledger: %s" % e)
            return
        name = "%s (id %s, try %s)" % (where, line.get("id"), line.get("try"))
        if outcome not in OUTCOMES:
            report.add("ledger_mismatch", name, "unheard-of outcome %r" % outcome)
            return
        value = line.get("value")
        if isinstance(value, str) and hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest() != digest:
            report.add("ledger_mismatch", name, "sha256 is not that of the value")
        report.numbers["ledger_" + outcome] += 1
        if outcome == "ok" and not self._place(topic, line, digest, name, report):
            return
        tries = topic.tries.get(digest) or topic.tries.setdefault(digest, Tries(name))
        setattr(tries, outcome, getattr(tries, outcome) + 1)
        sent = millis(line.get("sent_at"))
        topic.first = sent if topic.first is None else min(topic.first, sent)

    @staticmethod
    def _place(topic, line, digest, name, report):
        """Keeps where an ok record is said to be; False for a line that cannot be true."""
        partition, offset = line.get("partition"), line.get("offset")
        if not isinstance(offset, int) or not isinstance(partition, int):
            report.add("ledger_mismatch", name, "ok, but without a partition and an offset")
            return False
        there = topic.places[partition]
        if offset in there:
            report.add("ledger_mismatch", name, "partition %d, offset %d belong to %s already" % (partition, offset, there[offset][1]))
            return False
        there[offset] = (digest, name)
        if isinstance(line.get("answered_at"), int) and isinstance(line.get("sent_at"), int):
            topic.times[partition].extend((line["sent_at"], line["answered_at"], offset))
        return True

    def order(self, report):
        """What was sent after another record of its partition was confirmed must stand behind it."""
        for name, topic in self.topics.items():
            for partition, times in topic.times.items():
                sent, answered, offsets = times[0::3], times[1::3], times[2::3]
                by_answer = sorted(range(len(sent)), key=answered.__getitem__)
                highest, i = -1, 0
                for n in sorted(range(len(sent)), key=lambda n: (sent[n], answered[n], offsets[n])):
                    while i < len(by_answer) and answered[by_answer[i]] < sent[n]:
                        highest = max(highest, offsets[by_answer[i]])
                        i += 1
                    if offsets[n] < highest:
                        report.add("reordered", "%s-%d@%d" % (name, partition, offsets[n]), "%s was sent after offset %d had been confirmed"
                                   % (topic.places[partition][offsets[n]][1], highest))
