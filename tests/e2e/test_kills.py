"""Kills under load: at named crash points and at random, of every service, of Kafka and of Redis; nothing is lost or doubled.

Each service has a row of crash points (before and after each durable step). While posts come in, one thread per service
arms the next point through the state folder's env/ file, which the runner gives to the next start alone, and waits until
the process killed itself there; further threads kill gateway, query-api, Redis and Kafka with kill -9. When all points
were hit twice, the washing services are killed at random too. Then settle and verify must have nothing to say.

Whether records were in flight at a kill is computed afterwards: a record is in flight from the moment it was sent to the
commit that made it a row. SLUICE_KILLS=500 makes it the long run; SLUICE_KILLS_SEED repeats its choices.
SPDX-License-Identifier: Apache-2.0
"""
import collections
import json
import os
import random
import re
import threading
import time

import rig
from sluice import stack as stacks
from support import evidence

KILLS = int(os.environ.get("SLUICE_KILLS") or 40)
SEED = int(os.environ.get("SLUICE_KILLS_SEED") or random.SystemRandom().randrange(1 << 31))
EACH = 2
POINT_DEADLINE = 180
# Points that pass too often to be reached first thing are killed at a later pass.
POINTS = {
    "producer": ["before_produce", "after_produce", "before_answer", "after_answer"],
    "cleaner": ["cleaner_before_span", "cleaner_after_span", "cleaner_after_dead_letter", "cleaner_span_stored",
                "cleaner_before_commit", "cleaner_after_commit"],
    "sink-s3": ["sink_before_parquet", "sink_after_parquet", "sink_after_publish", "sink_dead_before_commit_put",
                "sink_dead_after_commit_put", "sink_between_tables", "sink_clean_before_commit_put",
                "sink_clean_after_commit_put", "sink_before_marks", "sink_after_marks", "sink_before_offsets",
                "sink_after_offsets", "sink_before_checkpoint", "sink_after_checkpoint"],
}
SOURCES = {"producer": ["services/producer"], "cleaner": ["services/cleaner"], "sink-s3": ["services/sink-s3", "lib/lake"]}
SETTINGS = ["sink-s3.flush.interval=250ms", "sink-s3.commit.interval=200ms", "cleaner.commit.interval=200ms", "sink-s3.checkpoint.interval=3", "producer.topics.partitions=2", "producer.kafka.delivery_timeout=9s"]
# Records that become rejects: the dead letter's steps are steps, too.
POISON = [b'{"records":[{"value":{"no":"key"}}]}', b'{"records":[{"value":[1,{"ind":"x","index":"x"}]}]}', b'{"records":[{"value":null}]}']


def points_in(folders):
    found = set()
    for folder in folders:
        for name in os.listdir(os.path.join(rig.ROOT, folder)):
            if name.endswith(".c"):
                with open(os.path.join(rig.ROOT, folder, name), encoding="utf-8") as f:
                    found |= set(re.findall(r'CRASH_POINT\("([^"]+)"\)', f.read()))
    return found


def armed(pid):
    """The crash point that a process was started with, or nothing."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as f:
            for entry in f.read().split(b"\0"):
                if entry.startswith(b"SLUICE_CRASH_AT="):
                    return entry.partition(b"=")[2].decode()
    except OSError:
        pass
    return ""


def shuffled(points, rnd):
    """Every point EACH times, never the same twice in a row."""
    out = []
    for _ in range(EACH):
        turn = rnd.sample(points, len(points))
        if out and out[-1] == turn[0]:
            turn.append(turn.pop(0))
        out += turn
    return out


class Killer:
    """Kills, and writes down what it killed, where and when. One thread per unit uses it at a time."""

    def __init__(self, stack, load):
        self.stack = stack
        self.load = load
        self.kills = []               # (unit, point or "random", ms)
        self.lock = threading.Lock()
        self.wrong = []
        self.threads = []

    def note(self, unit, point):
        with self.lock:
            self.kills.append((unit, point, time.time() * 1000))

    def start(self, work, *args):
        def run():
            try:
                work(*args)
            except BaseException as e:  # shown by join(): a thread's own end is nobody's
                self.wrong.append("%s %r: %s: %s" % (work.__name__, args, type(e).__name__, e))
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)

    def join(self, deadline):
        end = time.monotonic() + deadline
        for thread in self.threads:
            thread.join(max(1.0, end - time.monotonic()))
            assert not thread.is_alive() or self.wrong, "the kills took longer than %d s" % deadline
        self.threads = []
        assert not self.wrong, "\n".join(self.wrong)

    def random_kill(self, unit):
        pid = self.stack.pid(unit)
        if not pid or not stacks.alive(pid):
            return False
        self.flowing()
        self.note(unit, "random")
        self.stack.kill(unit)
        return True

    def flowing(self, patience=20):
        """Waits until a record was confirmed just now, so that it is on its way to its table; not for ever."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            for line in reversed(stacks.tail(self.load.ledger, 20)[1:-1]):
                answered = re.search(r'"answered_at": ?(\d+)', line)
                if '"outcome":"ok"' in line.replace(" ", "")[:2000] and answered and time.time() * 1000 - int(answered.group(1)) < 100:
                    return
            threading.Event().wait(0.02)

    def _taken(self, unit, point):
        """Waits until a start of the unit got the point that lies ready for it.

        A death that came before the point was laid down gave the next start nothing: then kill -9 makes another.
        """
        patience = time.monotonic() + 10
        end = time.monotonic() + POINT_DEADLINE
        while not self.stack.next_env_taken(unit):
            assert time.monotonic() < end, "%s was not started with %s" % (unit, point)
            if time.monotonic() > patience and not armed(self.stack.pid(unit)):
                self.random_kill(unit)
                patience = time.monotonic() + 10
            threading.Event().wait(0.01)

    def walk_points(self, unit, points):
        """Every point of a unit in turn. The first start that gets a point is a random kill's."""
        self.stack.next_env(unit, SLUICE_CRASH_AT=points[0])
        old = self.stack.pid(unit)
        self.random_kill(unit)
        for n, point in enumerate(points):
            self._taken(unit, point)
            if n + 1 < len(points):
                # Laid down before the death, so that the very next start gets it.
                self.stack.next_env(unit, SLUICE_CRASH_AT=points[n + 1])
            pid = rig.until("a process of %s" % unit, lambda: self.stack.pid(unit) not in (0, old) and self.stack.pid(unit),
                            POINT_DEADLINE, every=0.02)
            if armed(pid) == point:
                rig.until("%s to die at %s" % (unit, point), lambda: not stacks.alive(pid), POINT_DEADLINE, every=0.02)
                old = pid
            # Else it died there before it was looked at, and this is the one after it.
            self.note(unit, point)
        rig.until("%s to come back" % unit, lambda: self.stack.pid(unit) not in (0, old), POINT_DEADLINE, every=0.02)

    def now_and_then(self, unit, times, rnd, low, high):
        """Kills at random moments, and waits each time until the unit works again."""
        for _ in range(times):
            pause = threading.Event()
            pause.wait(rnd.uniform(low, high))
            rig.until("%s to be killed" % unit, lambda: self.random_kill(unit), POINT_DEADLINE)
            if unit in self.stack.value["admin"]:
                rig.until("%s to be ready again" % unit, lambda: rig.http.ready(self.stack.admin(unit), 5)[0], POINT_DEADLINE)


def poison(stack, over):
    """Bad records in between; what becomes of them is verify's to say, whatever the answers were."""
    n = 0
    while not over.wait(0.25):
        dataset = rig.DATASETS[n % 3]
        try:
            stack.post_raw(stack.topic(dataset), POISON[n % len(POISON)], timeout=5)
        except (OSError, rig.HttpError, ValueError):
            pass
        n += 1


def in_flight(stack, ledgers):
    """Intervals from a record's sending to the commit of its row."""
    ids = {d: evidence.topic_id(stack.value, stack.topic(d)) for d in rig.DATASETS}
    at = {d: evidence.landed(stack.table(d)) for d in rig.DATASETS}
    pairs = []
    for line in [x for path in ledgers for x in rig.ledger_lines(path)]:
        if line["outcome"] == "ok":
            source = "kafka:%s:%d:%s" % (line["topic"], line["partition"], ids[line["dataset"]])
            pairs.append((line["sent_at"], at[line["dataset"]].get((source, line["offset"]), line["answered_at"])))
        else:
            pairs.append((line["sent_at"], line["answered_at"]))
    return evidence.Spans(pairs)


def other_ends(stack):
    """How often a unit ended in another way than by SIGKILL, by what the runner says."""
    with open(os.path.join(stack.state, "logs", "runner.log"), encoding="utf-8") as f:
        ends = re.findall(r"\S+ (\S+) ended \(([^,]*)\), starts", f.read())
    return collections.Counter("%s: %s" % e for e in ends if e[1] != "killed by SIGKILL")


def show(kills, flying):
    """The table of kills; returns the share at which records were in flight."""
    counts = collections.Counter((unit, point) for unit, point, _ in kills)
    order = list(rig.SERVICES) + ["kafka", "redis"]
    print("\n%-10s %-30s %6s" % ("service", "where", "kills"))
    for unit in order:
        for (who, point), n in sorted(counts.items()):
            if who == unit:
                print("%-10s %-30s %6d" % (who, point, n))
        print("%-10s %-30s %6d" % (unit, "all", sum(n for (who, _), n in counts.items() if who == unit)))
    idle = collections.Counter((unit, point) for unit, point, ms in kills if not flying.at(ms))
    hits = len(kills) - sum(idle.values())
    print("%d kills, records in flight at %d of them (%.0f %%), seed %d" % (len(kills), hits, 100.0 * hits / len(kills), SEED))
    if idle:
        print("none in flight: %s" % ", ".join("%s %s %d" % (unit, point, n) for (unit, point), n in sorted(idle.items())))
    return hits / len(kills)


def test_points_are_those_of_the_code():
    """A new crash point that no kill uses, or one that is gone, fails here."""
    for unit, folders in SOURCES.items():
        assert points_in(folders) == set(POINTS[unit]), unit


def test_kills(tmp_path):
    rnd = random.Random(SEED)
    rounds = max(1, KILLS // 100)
    # A second producer takes over while the first one waits to be started again, so that there is something to lose at every kill.
    with rig.Stack(tmp_path, settings=SETTINGS, replicas=["producer=2"]) as stack:
        over = threading.Event()
        load = stack.load("--rows", 10000000, "--seed", SEED % 100000, "--rate", 300, "--connections", 24, "--tries", 2, "--timeout", "6s")
        killer = Killer(stack, load)
        poisoner = threading.Thread(target=poison, args=(stack, over), daemon=True)
        poisoner.start()
        rig.until("posts", lambda: load.tries() > 300)
        rig.until("rows", lambda: sum(stack.debug("sink-s3")["tables"]["pin"]["sources"].values()) > 50)
        try:
            number = 0
            while number < rounds or len(killer.kills) < KILLS:
                began = time.monotonic()
                for unit, points in POINTS.items():
                    killer.start(killer.walk_points, unit, shuffled(points, rnd))
                killer.start(killer.now_and_then, "gateway", 3, random.Random(rnd.random()), 2, 6)
                killer.start(killer.now_and_then, "query-api", 3, random.Random(rnd.random()), 1, 6)
                killer.start(killer.now_and_then, "redis", 3, random.Random(rnd.random()), 1, 8)
                killer.start(killer.now_and_then, "kafka", 1, random.Random(rnd.random()), 4, 8)
                killer.join(1500)
                for unit in ("producer", "cleaner", "sink-s3"):
                    killer.start(killer.now_and_then, unit, 2, random.Random(rnd.random()), 0.2, 2)
                killer.start(killer.now_and_then, "kafka", 1, random.Random(rnd.random()), 0.2, 2)
                killer.join(600)
                number += 1
                assert load.running(), "the emulator ended by itself"
                print("round %d: %d kills by now, %.0f s" % (number, len(killer.kills), time.monotonic() - began))
        finally:
            over.set()
            poisoner.join()
        report = load.stop()
        stack.wait_ready()
        stack.settle(300)
        share = show(killer.kills, in_flight(stack, [load.ledger]))
        print("emulator: %s" % json.dumps(report)[:400])
        _, _, numbers = stack.verify("ledger.jsonl")
        print("verify: %s" % json.dumps(numbers, sort_keys=True))
        assert len(killer.kills) >= KILLS
        counts = collections.Counter((unit, point) for unit, point, _ in killer.kills)
        for unit, points in POINTS.items():
            for point in points:
                assert counts[unit, point] >= EACH, (unit, point)
        for unit in list(rig.SERVICES) + ["kafka", "redis"]:
            assert counts[unit, "random"] >= 1, unit
        assert share >= 0.9
        # A service may give up when Kafka is gone too long; it must never fall over.
        others = other_ends(stack)
        print("other ends: %s" % dict(others))
        assert not [e for e in others if "killed by" in e], (others, stack.broken())
        assert numbers["ledger_ok"] > 1000 and numbers.get("rejects", 0) > 0
