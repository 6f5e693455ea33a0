"""More than one of a service, and services that come back from where nobody expected them: every record still exactly once.

Two replicas of cleaner and sink with rebalances under load; two sinks forced onto the same partitions; a cleaner and a
sink that sleep longer than their session; clean records deleted behind our back; a raw topic that was recreated.
SLUICE_FORCED_SECONDS (20) is how long the two sinks fight.
SPDX-License-Identifier: Apache-2.0
"""
import os
import time

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

import rig
from support import evidence

FORCED = float(os.environ.get("SLUICE_FORCED_SECONDS") or 20)
PARTITIONS = 4
RATE = ["--rows", 1000000, "--rate", 150, "--connections", 8, "--timeout", "30s"]


def owned(stack, name):
    """The (topic, partition) pairs that a cleaner or sink reads."""
    state = stack.debug(name)
    pairs = state["sources"] if name.startswith("cleaner") else state["partitions"]
    return {(p["topic"], p["partition"]) for p in pairs}


def shared(stack, service):
    """Both replicas read something, nothing twice, all of it."""
    a, b = owned(stack, service), owned(stack, service + "#2")
    return a and b and not a & b and len(a | b) == 3 * PARTITIONS


def rows_now(stack):
    """Positions dealt with, by all tables of the sink that knows most."""
    best = 0
    for name in [n for n in stack.value["admin"] if n.startswith("sink-s3")]:
        tables = stack.debug(name)["tables"]
        best = max(best, sum(sum(tables[d]["sources"].values()) for d in rig.DATASETS))
    return best


def wait_flow(stack, more=30, deadline=rig.DEADLINE):
    """Waits until the tables have dealt with more than now."""
    begin = rig.until("the tables", lambda: rows_now(stack) + 1)
    rig.until("records to flow", lambda: rows_now(stack) >= begin + more, deadline)


def finish(stack, load):
    report = load.stop()
    stack.wait_ready()
    stack.settle(300)
    _, _, numbers = stack.verify("ledger.jsonl")
    lines = rig.ledger_lines(load.ledger)
    assert numbers["ledger_ok"] == sum(x["outcome"] == "ok" for x in lines) > 500
    assert numbers["rows"] + numbers.get("copies", 0) == numbers["raw_records"]
    return report, lines


def test_rebalances_under_load(tmp_path):
    """Replicas sleep longer than their session: the other one takes over, and the one that comes back does no harm."""
    settings = rig.FLUSH + ["producer.topics.partitions=%d" % PARTITIONS]
    with rig.Stack(tmp_path, settings=settings, replicas=["cleaner=2", "sink-s3=2"]) as stack:
        load = stack.load(*RATE)
        for service in ("cleaner", "sink-s3"):
            rig.until("both replicas of %s to have partitions" % service, lambda: shared(stack, service))
        wait_flow(stack)
        for second in (True, False):
            cleaner, sink = ("cleaner#2", "sink-s3#2") if second else ("cleaner", "sink-s3")
            others = ["cleaner", "sink-s3"] if second else ["cleaner#2", "sink-s3#2"]
            with stack.stopped(cleaner, sink):
                for other in others:
                    rig.until("%s to have all partitions" % other, lambda: len(owned(stack, other)) == 3 * PARTITIONS)
                rig.until("rows from the other sink", lambda: rows_of_alone(stack, others[1]))
            for service in ("cleaner", "sink-s3"):
                rig.until("both replicas of %s to share again" % service, lambda: shared(stack, service))
            wait_flow(stack)
        # And one that is killed and started again.
        stack.kill("cleaner#2")
        stack.kill("sink-s3#2")
        wait_flow(stack)
        for service in ("cleaner", "sink-s3"):
            rig.until("both replicas of %s to share again" % service, lambda: shared(stack, service))
        for service in ("cleaner", "sink-s3"):
            name = "sluice_%s_rebalances_total" % ("sink" if service == "sink-s3" else service)
            assert stack.metric(service, name) >= 2, service
        report, lines = finish(stack, load)
        assert len({(x["topic"], x["partition"]) for x in lines if x["outcome"] == "ok"}) == 3 * PARTITIONS
        assert report["ok"] == report["sent"]


def rows_of_alone(stack, sink):
    """Whether this sink's own count of positions still grows, asked twice."""
    def total():
        tables = stack.debug(sink)["tables"]
        return sum(sum(tables[d]["sources"].values()) for d in rig.DATASETS)
    begin = total()
    rig.until("%s to write" % sink, lambda: total() > begin + 20)
    return True


def test_two_sinks_on_the_same_partitions(tmp_path):
    """No group: both read everything and race for every version. The loser reads the winner's commit and drops or rebases."""
    settings = rig.FLUSH + ["producer.topics.partitions=2", "sink-s3.kafka.partitions=0,1"]
    with rig.Stack(tmp_path, settings=settings, replicas=["sink-s3=2"]) as stack:
        sinks = ["sink-s3", "sink-s3#2"]
        pids = [stack.pid(s) for s in sinks]
        load = stack.load(*RATE)
        end = time.monotonic() + FORCED
        wait_flow(stack)

        def fought():
            conflicts = sum(stack.metric(s, "sluice_sink_commit_conflicts_total") for s in sinks)
            both = all(stack.metric(s, "sluice_sink_commits_total") > 0 for s in sinks)
            return time.monotonic() >= end and conflicts > 0 and both
        rig.until("conflicts, and commits by both", fought)
        print("commits %s, conflicts %s" % tuple([stack.metric(s, m) for s in sinks] for m in (
            "sluice_sink_commits_total", "sluice_sink_commit_conflicts_total")))
        finish(stack, load)
        assert [stack.pid(s) for s in sinks] == pids and all(stack.restarts(s) == 0 for s in sinks)
        assert all(stack.ready(s)[0] == 200 for s in sinks)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with rig.Stack(tmp_path_factory.mktemp("holes"), settings=rig.FLUSH) as s:
        yield s


@pytest.fixture
def admin(stack):
    client = KafkaAdminClient(bootstrap_servers=stack.value["kafka"])
    yield client
    client.close()


def ends(stack, topics):
    consumer = KafkaConsumer(bootstrap_servers=stack.value["kafka"])
    try:
        return consumer.end_offsets([TopicPartition(t, 0) for t in topics])
    finally:
        consumer.close()


def confirmed(stack):
    """Whether the cleaner has dealt with everything that is in the raw topics."""
    raw = ends(stack, [stack.topic(d) for d in rig.DATASETS])
    have = {s["topic"]: s["confirmed"] for s in stack.debug("cleaner")["sources"]}
    return all(have.get(t.topic, -1) >= end for t, end in raw.items())


def delete_behind_our_back(stack, admin, datasets, raw=False):
    """Posts while the sink sleeps, deletes what the cleaner made of it, posts more; the sink then wakes.

    Posts come in three turns: what the sink's open fetch may still get, what is lost to it, and what comes after the hole.
    """
    clean = ["%s.clean.%s" % (stack.value["user"], d) for d in datasets]
    with stack.stopped("sink-s3"):
        for seed in (21, 22):
            stack.post("--rows", 40, "--seed", seed)
            rig.until("the cleaner", lambda: confirmed(stack))
        admin.delete_records({t: end for t, end in ends(stack, clean).items()})
        if raw:
            admin.delete_records({t: end for t, end in ends(stack, [stack.topic(d) for d in datasets]).items()})
        stack.post("--rows", 10, "--seed", 23)
        rig.until("the cleaner", lambda: confirmed(stack))


def holes(stack):
    return {h["source"]: h for h in stack.debug("sink-s3")["holes"]}


def source(stack, dataset):
    return "kafka:%s:0:%s" % (stack.topic(dataset), evidence.topic_id(stack.value, stack.topic(dataset)))


def see_holes(stack, datasets):
    """Holes, and everybody who must say so does."""
    sources = [source(stack, d) for d in datasets]
    rig.until("the holes", lambda: set(holes(stack)) == set(sources))
    status, checks = rig.until("readyz to say so", lambda: stack.ready("sink-s3") if stack.ready("sink-s3")[0] == 503 else None)
    assert not checks["holes"][0]
    named = [s for s in sources if s in checks["holes"][1]]
    assert named and str(holes(stack)[named[0]]["wanted"]) in checks["holes"][1]
    assert stack.metric("sink-s3", "sluice_sink_open_holes") == len(sources)
    began = time.monotonic()
    done = stack.sluice("settle", "--state", stack.state, "--timeout", "170", check=False)
    assert done.returncode == 1 and all("hole: %s" % s in done.stderr for s in sources), done.stderr
    assert time.monotonic() - began < 100, "settle waited although there is a hole"
    listed = stack.sluice("repair", "--state", stack.state, check=False)
    assert listed.returncode == 1 and "%d open hole" % len(sources) in listed.stdout
    return sources


def healed(stack):
    stack.settle()
    assert holes(stack) == {} and stack.metric("sink-s3", "sluice_sink_open_holes") == 0
    rig.until("the sink to be ready", lambda: stack.ready("sink-s3")[0] == 200)


def test_clean_records_deleted_behind_our_back(stack, admin):
    stack.post("--rows", 40, "--seed", 20)
    stack.settle()
    delete_behind_our_back(stack, admin, rig.DATASETS)
    for s in see_holes(stack, rig.DATASETS):
        # What can be read again is not written off by mistake.
        assert stack.sluice("repair", "--state", stack.state, s, "--accept", check=False).returncode == 1
        stack.sluice("repair", "--state", stack.state, s, "--rewind")
    healed(stack)
    _, _, numbers = stack.verify("ledger.jsonl")
    assert numbers["raw_records"] == numbers["rows"] + numbers.get("copies", 0) == 3 * 130


def test_what_is_gone_everywhere_is_declared_lost(stack, admin):
    before = {d: len(evidence.read_table(stack.value, d)) for d in rig.DATASETS}
    delete_behind_our_back(stack, admin, ["geo"], raw=True)
    s, = see_holes(stack, ["geo"])
    assert stack.sluice("repair", "--state", stack.state, s, "--rewind", check=False).returncode == 1
    stack.sluice("repair", "--state", stack.state, "demo.geo:0", "--accept")
    healed(stack)
    assert stack.metric("sink-s3", "sluice_sink_lost_positions_total") > 0
    assert stack.metric("cleaner", "sluice_cleaner_lost_positions_total") > 0
    _, _, numbers = stack.verify("ledger.jsonl")
    assert numbers["expired"] > 0
    # Those posts had been posted before with the same seeds: copies, but for geo's loss.
    assert len(evidence.read_table(stack.value, "pin")) == before["pin"]


def test_a_recreated_raw_topic_is_a_new_source(stack, admin):
    """Same name, other id: positions begin at 0 again, and every record of it arrives."""
    topic = stack.topic("user")
    old = source(stack, "user")
    before = evidence.read_table(stack.value, "user")
    assert before and {r["_source"] for r in before} == {old}
    admin.delete_topics([topic])
    rig.until("the topic to go", lambda: topic not in admin.list_topics())
    admin.create_topics([NewTopic(topic, 1, 1)])
    rig.until("the new topic's id", lambda: source(stack, "user") != old)
    new = source(stack, "user")

    def posted():
        status, answer = stack.post_raw(topic, {"records": [{"value": {"ind": 777001, "age": 30}}]})
        return status == 200 and "offset" in answer["offsets"][0]
    rig.until("the new topic to take records", posted)
    body = {"records": [{"value": {"ind": 777100 + n, "age": 20 + n, "first_name": "A", "last_name": "B"}} for n in range(50)]}
    status, answer = stack.post_raw(topic, body)
    assert status == 200 and [o["offset"] for o in answer["offsets"]] == list(range(1, 51))
    stack.settle()
    rows = evidence.read_table(stack.value, "user")
    mine = [r for r in rows if r["_source"] == new]
    assert [r["_position"] for r in mine] == list(range(51)) and [r["ind"] for r in mine[1:]] == list(range(777100, 777150))
    assert [r for r in rows if r["_source"] == old] == before
    _, _, numbers = stack.verify()
    assert numbers["rows_of_former_topics"] == len(before)
