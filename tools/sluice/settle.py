"""settle: waits until the tables have dealt with everything that is in the raw topics now.

Takes the end offsets of the raw topics through the gateway once, then watches what the clean tables
want next from each source (the sinks' /debug/state) and which versions query-api answers from.
SPDX-License-Identifier: Apache-2.0
"""
import sys
import time

from . import http, stack, terminal
from .stack import DATASETS, Trouble


class Hole(Trouble):
    """A sink has an open hole: waiting does not help."""


def raw_ends(value, timeout=5.0):
    """{source: (dataset, end offset)} for every partition of the raw topics; raises http.HttpError."""
    gateway = stack.replicas(value, "gateway")
    if not value.get("gateway") or not gateway:
        raise Trouble("this stack has no gateway: the end of the raw topics cannot be asked for")
    topics = http.get_json(gateway[0][1] + "/debug/state", timeout)["gateway"]["topics"]
    ends = {}
    for dataset in DATASETS:
        topic = "%s.%s" % (value["user"], dataset)
        if topic not in topics:
            raise http.HttpError("the gateway does not know the topic %s yet" % topic)
        base = "%s/topics/%s/partitions" % (value["gateway"], topic)
        for partition in http.get_json(base, timeout):
            number = partition["partition"]
            end = http.get_json("%s/%d/offsets" % (base, number), timeout)["end_offset"]
            ends["kafka:%s:%d:%s" % (topic, number, topics[topic]["id"])] = (dataset, end)
    return ends


def sink_states(value, timeout=5.0):
    """The states of all sinks that answer, as (name, state), and the errors of those that do not."""
    states, errors = [], []
    for name, url in stack.replicas(value, "sink-s3"):
        try:
            states.append((name, http.get_json(url + "/debug/state", timeout)["sink"]))
        except (http.HttpError, KeyError, TypeError) as e:
            errors.append("%s: %s" % (name, e))
    return states, errors


def wanted(states, dataset):
    """({source: position wanted next}, version) of a clean table: the furthest that any sink has seen."""
    sources, version = {}, -1
    for _, state in states:
        table = (state.get("tables") or {}).get(dataset) or {}
        version = max(version, table.get("version", -1))
        for source, position in (table.get("sources") or {}).items():
            sources[source] = max(position, sources.get(source, 0))
    return sources, version


def open_holes(states):
    """The holes of all sinks: a list of (sink, source, wanted, from)."""
    return [(name, h["source"], h["wanted"], h["from"]) for name, state in states for h in state.get("holes") or []]


class Settle:
    """One wait. step() looks once and returns what is still behind, as a list of lines."""

    def __init__(self, value):
        self.value = value
        self.ends = None
        self.versions = {}   # dataset -> the version at which its sources were dealt with
        self.done = 0

    def total(self):
        return sum(end for _, end in self.ends.values()) if self.ends else 0

    def step(self):
        if self.ends is None:
            try:
                self.ends = raw_ends(self.value)
            except (http.HttpError, KeyError, TypeError) as e:
                return ["raw topics: %s" % e]
        states, errors = sink_states(self.value)
        holes = open_holes(states)
        if holes:
            raise Hole("\n".join(
                "hole: %s: the table wants position %s next, the clean topic goes on at %s (seen by %s); "
                "close it with `./sluice repair %s --rewind`, or --accept where the raw records are gone"
                % (source, want, first, sink, source) for sink, source, want, first in holes))
        behind, self.done = [], 0
        for dataset in DATASETS:
            have, version = wanted(states, dataset)
            late = []
            for source, (owner, end) in sorted(self.ends.items()):
                if owner != dataset:
                    continue
                position = min(have.get(source, 0), end)
                self.done += position
                if position < end:
                    late.append("%s: the table wants %d, the topic ends at %d: %d behind"
                                % (source, position, end, end - position))
            behind += late
            if not late and dataset not in self.versions:
                self.versions[dataset] = version
        if behind:
            return behind + errors + ["this stack has no %s, without which nothing gets into the tables" % service
                                      for service in ("cleaner", "sink-s3") if not stack.replicas(self.value, service)]
        return self._query()

    def _query(self):
        """Whether query-api answers from the versions that hold everything."""
        behind = []
        for name, url in stack.replicas(self.value, "query-api"):
            try:
                tables = http.get_json(url + "/debug/state")["query-api"]["tables"]
            except (http.HttpError, KeyError, TypeError) as e:
                behind.append("%s: %s" % (name, e))
                continue
            for dataset, version in sorted(self.versions.items()):
                if dataset not in tables:
                    continue  # one that no question asks about
                seen = (tables[dataset] or {}).get("version", -1)
                if seen is None or seen < version:
                    behind.append("%s answers from version %s of the %s table, %d is wanted" % (name, seen, dataset, version))
        return behind


def settle(value, timeout=60.0, progress=None, give_up=lambda: False):
    """Returns (Settle, lines that are behind): no lines means settled. A hole raises Hole at once."""
    wait = Settle(value)
    end = time.monotonic() + timeout
    while True:
        behind = wait.step()
        if progress:
            progress(wait.done, wait.total())
        if not behind or time.monotonic() >= end or give_up():
            return wait, behind
        time.sleep(0.1)


def main(state, timeout):
    value = stack.load(state)
    began = time.monotonic()
    bar = terminal.Progress("settling", sys.stderr, lines=False)
    try:
        wait, behind = settle(value, timeout, bar.show)
    except Hole as e:
        bar.end()
        print(str(e), file=sys.stderr)
        return 1
    finally:
        bar.end()
    if behind:
        print("not settled after %g s:" % timeout, file=sys.stderr)
        for line in behind:
            print("  " + line, file=sys.stderr)
        return 1
    print("settled: %d raw records dealt with, %s %s (%.1f s)" % (
        wait.total(), "query-api answers from" if stack.replicas(value, "query-api") else "the tables are at",
        ", ".join("%s=%s" % p for p in sorted(wait.versions.items())), time.monotonic() - began))
    return 0
