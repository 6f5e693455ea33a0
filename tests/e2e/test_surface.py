"""One stack with unusual options: what each option does is seen by software that is not ours, and every metric has the value it must have.

Topics, groups and offsets are looked at by kafka-python, tables by deltalake, marks by redis-cli. The sink's first start waits an
hour before it flushes, so that only flush.rows and flush.bytes can make a commit; its second start has the default.
The tests stand in the order of the story: test_flush_limits posts the first record.
SPDX-License-Identifier: Apache-2.0
"""
import ctypes
import glob
import os
import signal
import socket
import subprocess
import threading
import time

import deltalake
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

import rig
from sluice import http, tables
from support import spans
from support.service import Service

DAY = 24 * 3600 * 1000
RAW_BYTES = (256 << 10) + (64 << 10)
ROWS, FLUSH_ROWS, SPAN_BYTES, SPAN_ROWS = 30, 50, 8 << 10, 20
GROUPS = {"cleaner": "surface.washers", "sink-s3": "surface.landers"}
SETTINGS = [
    # A member whose session is not in this range is refused: the services' default of 6 s would be.
    "kafka.group.min.session.timeout.ms=8000", "kafka.group.max.session.timeout.ms=12000",
    "gateway.json.depth=5", "gateway.body.max=1MiB", "gateway.record.max=200KiB", "gateway.inflight.max=4MiB",
    "gateway.produce.timeout=60s", "gateway.metadata.refresh=200ms",
    "producer.topics.create=on", "producer.topics.partitions=2", "producer.topics.replication=1", "producer.topics.retention.raw=2d",
    "producer.topics.retention.clean=1d", "producer.topics.retention.dead=3d", "producer.record.max=256KiB",
    "producer.kafka.linger=300ms", "producer.kafka.delivery_timeout=60s", "producer.metadata.refresh=200ms",
    "cleaner.kafka.group=surface.washers", "cleaner.kafka.session_timeout=9s", "cleaner.topics.check=300ms",
    "cleaner.span.max.bytes=8KiB", "cleaner.span.max.rows=20", "cleaner.span.heartbeat=500ms", "cleaner.commit.interval=100ms",
    "sink-s3.kafka.group=surface.landers", "sink-s3.kafka.session_timeout=10s", "sink-s3.copies.window=1h", "sink-s3.flush.rows=50",
    "sink-s3.flush.bytes=1MiB", "sink-s3.commit.max_age=10m", "sink-s3.commit.interval=100ms", "sink-s3.parquet.threads=4",
    "sink-s3.parquet.memory=48MiB",
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    s = rig.Stack(tmp_path_factory.mktemp("surface"), settings=SETTINGS)
    s.args += ["--env", "sink-s3.SLUICE_FLUSH_INTERVAL=1h"]
    with s:
        yield s


@pytest.fixture(scope="module")
def admin(stack):
    client = KafkaAdminClient(bootstrap_servers=stack.value["kafka"])
    yield client
    client.close()


def topics_of(stack, prefix=""):
    return ["%s.%s%s" % (stack.value["user"], prefix, d) for d in rig.DATASETS]


def described(admin):
    return {t["name"]: t for t in admin.describe_topics() if not t["error_code"]}


def ends(stack, admin, topics):
    """{(topic, partition): end offset}, asked of Kafka."""
    consumer = KafkaConsumer(bootstrap_servers=stack.value["kafka"])
    try:
        parts = [TopicPartition(t, p["partition_index"]) for t in topics for p in described(admin)[t]["partitions"]]
        return {(tp.topic, tp.partition): n for tp, n in consumer.end_offsets(parts).items()}
    finally:
        consumer.close()


def clean_spans(stack, dataset):
    """[(partition, time in ms, span)] of a clean topic, as kcat reads it: kafka-python has no lz4 here.

    Heartbeats never end: kcat sees the end of a partition only when a fetch waits for less than the time between two of them.
    """
    done = subprocess.run(["kcat", "-b", stack.value["kafka"], "-C", "-t", "%s.clean.%s" % (stack.value["user"], dataset), "-e", "-q",
                           "-o", "beginning", "-X", "fetch.wait.max.ms=10", "-f", "%p %T %S\n%s"], capture_output=True, timeout=120, check=True)
    out, at, data = [], 0, done.stdout
    while at < len(data):
        end = data.index(b"\n", at)
        partition, ms, size = (int(x) for x in data[at:end].split())
        at = end + 1 + size
        out.append((partition, ms, spans.Span(data[end + 1:at])))
    return out


def landed(stack, dataset):
    return deltalake.DeltaTable(stack.table(dataset)).to_pyarrow_table().num_rows


def files(stack, dataset):
    """Rows of each data file, in the order of the commits."""
    return [file.metadata.num_rows for _, _, file in tables.files(stack.table(dataset))]


def read_all(stack, admin):
    """Waits until the cleaner has dealt with every raw record and the sink has read every span of them."""
    raw = ends(stack, admin, topics_of(stack))

    def washed():
        at = {(s["topic"], s["partition"]): s["confirmed"] for s in stack.debug("cleaner")["sources"]}
        return all(at[k] >= n for k, n in raw.items())
    rig.until("the cleaner", washed)
    clean = ends(stack, admin, topics_of(stack, "clean."))

    def read():
        at = {(p["topic"], p["partition"]): p["next"] for p in stack.debug("sink-s3")["partitions"]}
        return all(at[k] >= n for k, n in clean.items())
    rig.until("the sink to read", read)
    return sum(raw.values())


def values_of(first, n, text="Here"):
    return {"records": [{"value": {"ind": first + i, "country": text}} for i in range(n)]}


def test_topics(stack, admin):
    there = described(admin)
    keep = {**dict.fromkeys(topics_of(stack), 2 * DAY), **dict.fromkeys(topics_of(stack, "clean."), DAY), "demo.dead": 3 * DAY}
    assert set(keep) <= set(there)
    found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, t) for t in keep], config_filter="all")
    by_name = {name: configs for kind in found.values() for name, configs in kind.items()}
    for topic, ms in keep.items():
        config = {k: v["value"] if isinstance(v, dict) else v for k, v in by_name[topic].items()}
        raw = topic in topics_of(stack)
        assert int(config["retention.ms"]) == ms, topic
        assert int(config["max.message.bytes"]) == (RAW_BYTES if raw else 4 * RAW_BYTES), topic
        assert config["cleanup.policy"] == "delete"
        assert [len(p["replica_nodes"]) for p in there[topic]["partitions"]] == [1, 1], topic


def big_pins(stack, n):
    """One request of some 480 KB."""
    body = {"records": [{"value": {"index": 9000 + 10 * n + i, "title": "t", "description": "x" * 120000}} for i in range(4)]}
    return stack.post_raw(stack.topic("pin"), body, timeout=rig.DEADLINE)


def test_flush_limits(stack, admin):
    assert stack.restarts("sink-s3") == 0
    stack.post("--rows", ROWS, "--seed", 3, "--timeout", "60s")
    assert read_all(stack, admin) == 3 * ROWS
    # Less than flush.rows of each table, and an hour to wait: it is all there, and none of it has landed.
    assert [landed(stack, d) for d in rig.DATASETS] == [0, 0, 0]
    assert stack.metric("sink-s3", "sluice_sink_buffer_bytes") > 0
    assert stack.metric("sink-s3", "sluice_sink_lag_spans") > 0
    assert stack.metric("sink-s3", "sluice_sink_commits_total") == 0
    # flush.rows: geo alone reaches it.
    began = time.monotonic()
    assert stack.post_raw(stack.topic("geo"), values_of(5000, 2 * FLUSH_ROWS))[0] == 200
    # So many records in one request are no lonely ones: they gather for kafka.linger.
    assert time.monotonic() - began >= 0.25
    assert stack.metric("producer", "sluice_producer_sent_records_total", client="bulk") >= 2 * FLUSH_ROWS
    rig.until("geo to land", lambda: landed(stack, "geo") >= FLUSH_ROWS)
    assert min(files(stack, "geo")) >= FLUSH_ROWS
    assert [landed(stack, d) for d in ("pin", "user")] == [0, 0]

    # flush.bytes: large pins make everything land. They wait at the gateway first, while the producer stands still: there each
    # counts twice, as its body and as its part of a message.
    answers = []
    posts = [threading.Thread(target=lambda n=n: answers.append(big_pins(stack, n)), daemon=True) for n in range(4)]
    gauge = lambda name: stack.metric("gateway", name)  # noqa: E731
    with stack.stopped("producer"):
        for n, post in enumerate(posts):
            post.start()
            rig.until("the gateway to hold it", lambda: gauge("sluice_buffer_bytes") >= (n + 1) * 960000)
        assert gauge("sluice_backpressure_active") == 1
        assert gauge("sluice_bus_unanswered_messages") >= 1
        assert gauge("sluice_records_in_flight") == 16
        assert gauge("sluice_http_in_flight_requests") == 4
        status, answer = big_pins(stack, 9)  # beyond inflight.max
        assert (status, answer["error_code"]) == (503, 503)
    for post in posts:
        post.join(rig.DEADLINE)
    assert [a[0] for a in answers] == [200] * 4, answers
    assert [gauge("sluice_" + m) for m in ("backpressure_active", "bus_unanswered_messages", "buffer_bytes")] == [0, 0, 0]
    rig.until("users to land", lambda: landed(stack, "user") == ROWS)
    rig.until("pins to land", lambda: landed(stack, "pin") >= ROWS)
    assert stack.metric("sink-s3", "sluice_sink_buffer_max_bytes") == 2 << 20

    # What is left lands when the sink is stopped; it comes back with the default of flush.interval.
    stack.signal("sink-s3", signal.SIGTERM)
    rig.until("the sink to be started again", lambda: stack.restarts("sink-s3") == 1 and stack.pid("sink-s3"))
    stack.wait_ready()
    with open(os.path.join(stack.state, "logs", "runner.log"), encoding="utf-8") as f:
        assert "sink-s3 ended (exit code 0)" in f.read()
    stack.settle()
    assert [landed(stack, d) for d in rig.DATASETS] == [ROWS + 16, ROWS + 2 * FLUSH_ROWS, ROWS]


def test_arriving(stack):
    host, port = stack.value["gateway"][len("http://"):].split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(b"POST /topics/demo.pin HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 400000\r\n\r\n")
        sock.sendall(b" " * 200000)
        rig.until("half a body", lambda: stack.metric("gateway", "sluice_http_arriving_bytes") >= 200000)
        assert stack.metric("gateway", "sluice_http_connections") >= 1
    rig.until("its room to be given back", lambda: stack.metric("gateway", "sluice_http_arriving_bytes") == 0)


def test_json_depth(stack):
    def post(value):
        return stack.post_raw(stack.topic("geo"), b'{"records":[{"value":%s}]}' % value)
    assert post(b'{"ind":7001,"x":{"y":1}}')[0] == 200
    before = stack.metric("gateway", "sluice_http_rejected_total", reason="bad_json")
    for deeper in (b'{"ind":7002,"x":{"y":{}}}', b'{"ind":7002,"x":[[1]]}', b"[[[]]]"):
        status, answer = post(deeper)
        assert (status, answer["error_code"]) == (400, 400), answer
    assert stack.metric("gateway", "sluice_http_rejected_total", reason="bad_json") == before + 3


def test_spans(stack, admin):
    text = "y" * 1000
    assert stack.post_raw(stack.topic("geo"), values_of(8000, 100, text))[0] == 200
    read_all(stack, admin)
    of = {d: clean_spans(stack, d) for d in rig.DATASETS}
    for _, _, span in (x for found in of.values() for x in found):
        assert len(span.items) <= SPAN_ROWS
        # The limit is of the items; in front of them stands the source, and one record alone may be larger.
        assert len({i["position"] for i in span.items}) <= 1 or span.bytes <= SPAN_BYTES + 512, span
    long = [s for _, _, s in of["geo"] if any(len(r.get("country", "")) == len(text) for r in s.rows)]
    assert len(long) >= 100 * len(text) // SPAN_BYTES and any(len(s.rows) > 1 for s in long)
    assert any(s.bytes > SPAN_BYTES + 512 for _, _, s in of["pin"]), "the large pins"

    def beats():
        """Times of the empty spans of one source."""
        return sorted(ms for p, ms, s in clean_spans(stack, "user") if p == 0 and s.start == s.end)
    rig.until("heartbeats", lambda: len(beats()) >= 5)
    times = beats()
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert min(gaps) < 5000, gaps  # the default is 10 s


def test_groups(stack, admin):
    stack.settle()
    for service, group in GROUPS.items():
        topics = topics_of(stack, "" if service == "cleaner" else "clean.")
        member, = admin.describe_groups([group])[group]["members"]
        assert member["client_id"] == "sluice-" + service and member["group_instance_id"] == service + "-0"

        def committed():
            found = admin.list_group_offsets({group: None})[group]
            return {(tp.topic, tp.partition): o.offset for tp, o in found.items()}
        if service == "cleaner":
            raw = ends(stack, admin, topics)
            rig.until("committed offsets", lambda: all(committed().get(k, 0) >= n for k, n in raw.items()))
        else:
            rig.until("committed offsets", lambda: len([n for n in committed().values() if n > 0]) == len(topics) * 2)
        assert set(committed()) == {(t, p) for t in topics for p in (0, 1)}
    assert set(GROUPS.values()) <= {g["group_id"] if isinstance(g, dict) else g[0] for g in admin.list_groups()}


def redis(stack, *args):
    host, port = stack.value["redis"].split(":")
    done = subprocess.run(["redis-cli", "-h", host, "-p", port, *args], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def test_marks(stack):
    keys = redis(stack, "KEYS", "sluice:{demo}:copy:*")
    assert len(keys) >= 3 * ROWS
    for key in keys[:10]:
        ttl = int(redis(stack, "TTL", key)[0])
        assert 0 < ttl <= 3600, (key, ttl)


def test_new_partitions(stack, admin):
    """Partitions that others add are read soon: producer and cleaner look at the topics again and again."""
    assert stack.metric("cleaner", "sluice_cleaner_partitions") == 6
    for topic in ("demo.clean.user", "demo.user"):
        admin.create_partitions({topic: 3})
    rig.until("a third partition of users", lambda: stack.metric("cleaner", "sluice_cleaner_partitions") == 7)
    rig.until("its clean one", lambda: ("demo.clean.user", 2) in {(p["topic"], p["partition"]) for p in stack.debug("sink-s3")["partitions"]})

    def posted():
        status, answer = stack.post_raw("demo.user", {"records": [{"partition": 2, "value": {"ind": 1, "user_name": "a b"}}]})
        return status == 200 and answer["offsets"][0]["partition"] == 2
    rig.until("a record in it", posted)
    stack.settle()


# ---------------------------------------------------------------- services beside the stack

class Beside(Service):
    """One more service on the stack's Kafka."""

    def __init__(self, stack, name, *flags, popen=None):
        listen = {"producer": "bus.listen", "sink-s3": "announce.listen"}[name]
        super().__init__(name, *flags, popen=popen, kafka__brokers=stack.value["kafka"], **{listen: "127.0.0.1:0"})


def test_topics_that_are_not_made(stack, admin):
    """Without topics.create nothing is made; more replicas than brokers cannot be had, and Kafka's own words say so."""
    with Beside(stack, "producer", "--user=nomake", "--topics.create=off") as off, \
            Beside(stack, "producer", "--user=many", "--topics.replication=3") as many:
        for producer, text in ((off, "nomake."), (many, "replication")):
            def told():
                status, checks = producer.ready()
                ok, detail = checks["topics"]
                return status == 503 and checks["kafka"][0] and not ok and text in detail.lower()
            rig.until("/readyz to speak of " + text, told)
        assert not off.events("topics_ordered") and many.events("topics_ordered")
        assert not [t for t in described(admin) if t.startswith(("nomake.", "many."))]


def keep_from_writing():
    """Even root is not let into a folder that is not to be written to."""
    if os.geteuid() == 0:
        assert ctypes.CDLL(None, use_errno=True).prctl(24, 1, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


def test_thrown_out_and_given_up(stack, admin, tmp_path):
    """Another process took its name: the group throws the older one out, which lives on. Exit code 69: a commit that came to nothing."""
    lake = tmp_path / "lake"
    flags = ["--lake.url=file://%s" % lake, "--copies=keep", "--kafka.group=surface.fenced", "--kafka.session_timeout=9s", "--replica=5",
             "--commit.max_age=500ms", "--flush.interval=100ms", "--parquet.threads=1"]
    log = lake / "delta" / "demo_pin_table" / "_delta_log"

    def member():
        return [m["member_id"] for m in admin.describe_groups(["surface.fenced"])["surface.fenced"]["members"]
                if m["group_instance_id"] == "sink-s3-5"]
    with Beside(stack, "sink-s3", *flags) as first:
        rig.until("the first sink to read", lambda: len(first.events("partition_begun")) >= 7)
        # The stack's own has parquet.threads=4.
        mine, theirs = (len(os.listdir("/proc/%d/task" % pid)) for pid in (first.process.pid, stack.pid("sink-s3")))
        assert theirs >= mine + 2, (mine, theirs)
        before = member()
        with Beside(stack, "sink-s3", *flags, popen={"preexec_fn": keep_from_writing}) as second:
            rig.until("the first to be thrown out", lambda: first.events("membership_lost"))
            assert "fenced" in first.events("membership_lost")[0]["detail"].lower()
            first.process.terminate()
            assert first.wait() == 0, first.last()
            rig.until("the second sink to read", lambda: len(second.events("partition_begun")) >= 7)
            after = member()
            assert len(before) == len(after) == 1 and before != after
            assert glob.glob(str(log / "*.json"))
            log.chmod(0o555)
            try:
                assert stack.post_raw("demo.pin", {"records": [{"value": {"index": 9990, "title": "t"}}]})[0] == 200
                assert second.wait() == 69, second.last()
            finally:
                log.chmod(0o755)
            assert second.events("commit_given_up")


@pytest.mark.parametrize("setting", ["parquet.memory=1GiB", "flush.bytes=100MiB"])
def test_memory_that_does_not_suffice(tmp_path, setting):
    done = subprocess.run([os.path.join(rig.BIN, "sink-s3"), "--lake.url=file://%s" % tmp_path, "--" + setting], capture_output=True,
                          text=True, timeout=rig.DEADLINE, check=False)
    assert done.returncode == 78 and setting.partition("=")[0] in done.stdout + done.stderr


# ---------------------------------------------------------------- metrics

def positive(v):
    return v > 0


def zero(v):
    return v == 0


def at_least(n):
    return lambda v: v >= n


def exactly(n):
    return lambda v: v == n


COMMON = {
    "sluice_build_info": exactly(1), "sluice_ready": exactly(1), "sluice_event_loop_lag_seconds": positive,
    "sluice_log_lines_total": positive, "sluice_memory_bytes": at_least(0), "sluice_memory_peak_bytes": at_least(0),
    "sluice_memory_budget_bytes": positive, "sluice_memory_max_bytes": at_least(64 << 20), "sluice_memory_refusals_total": at_least(0),
    "process_cpu_seconds_total": positive, "process_resident_memory_bytes": at_least(1 << 20), "process_open_fds": at_least(5),
    "process_max_fds": at_least(64), "process_start_time_seconds": lambda v: 0 <= time.time() - v < 3600,
}
# What the sum over all series must be, of a histogram its count, when nothing is on its way any more.
METRICS = {
    "gateway": {
        "sluice_http_requests_total": at_least(100), "sluice_http_request_duration_seconds": at_least(100),
        "sluice_http_request_body_bytes": at_least(90), "sluice_http_in_flight_requests": zero, "sluice_http_rejected_total": at_least(4),
        "sluice_http_connections": at_least(0), "sluice_http_accept_paused_total": zero, "sluice_http_arriving_bytes": zero,
        "sluice_records_received_total": at_least(300), "sluice_records_sent_total": at_least(300),
        "sluice_records_dropped_total": at_least(0), "sluice_records_in_flight": zero, "sluice_buffer_bytes": zero,
        "sluice_buffer_max_bytes": exactly(4 << 20), "sluice_backpressure_active": zero, "sluice_bus_messages_total": positive,
        "sluice_bus_requests_per_message": positive, "sluice_bus_message_bytes": positive, "sluice_bus_unanswered_messages": at_least(0),
        "sluice_producers_connected": exactly(1), "sluice_topics_known": at_least(7),
    },
    "producer": {
        "sluice_producer_records_total": at_least(300), "sluice_producer_requests_total": at_least(90),
        "sluice_producer_batch_requests": positive, "sluice_producer_delivery_seconds": positive,
        "sluice_producer_sent_records_total": at_least(300), "sluice_producer_queued_bytes": zero, "sluice_producer_queued_records": zero,
        "sluice_producer_kafka_up": exactly(1), "sluice_producer_metadata_age_seconds": lambda v: 0 <= v < 60,
        "sluice_producer_topics": at_least(7), "sluice_producer_questions_total": positive,
    },
    "cleaner": {
        "sluice_cleaner_records_total": at_least(300), "sluice_cleaner_rows_total": at_least(300), "sluice_cleaner_rejects_total": at_least(2),
        "sluice_cleaner_fields_nulled_total": at_least(0), "sluice_cleaner_spans_total": at_least(20),
        "sluice_cleaner_lost_positions_total": zero, "sluice_cleaner_inflight_bytes": at_least(0),
        "sluice_cleaner_inflight_max_bytes": exactly(16 << 20), "sluice_cleaner_paused": zero, "sluice_cleaner_pauses_total": at_least(0),
        "sluice_cleaner_confirmed_position": at_least(300), "sluice_cleaner_lag_records": zero,
        "sluice_cleaner_offset_commits_total": positive, "sluice_cleaner_offset_commit_failures_total": at_least(0),
        "sluice_cleaner_partitions": exactly(7), "sluice_cleaner_partition_restarts_total": zero, "sluice_cleaner_rebalances_total": positive,
        "sluice_cleaner_orders_total": zero,
    },
    "sink-s3": {
        "sluice_sink_spans_total": at_least(20), "sluice_sink_not_spans_total": zero, "sluice_sink_broken_spans_total": zero,
        "sluice_sink_spans_dropped_total": positive, "sluice_sink_rows_total": at_least(100), "sluice_sink_copies_total": at_least(20),
        "sluice_sink_copies_unasked_total": zero, "sluice_sink_rejects_total": at_least(2), "sluice_sink_written_bytes_total": positive,
        "sluice_sink_lost_positions_total": zero, "sluice_sink_commits_total": at_least(3), "sluice_sink_commit_conflicts_total": zero,
        "sluice_sink_rebased_sources_total": zero, "sluice_sink_retries_total": at_least(0), "sluice_sink_table_version": at_least(4),
        "sluice_sink_buffer_bytes": at_least(0), "sluice_sink_buffer_max_bytes": exactly(2 << 20), "sluice_sink_paused": zero,
        "sluice_sink_pauses_total": at_least(0), "sluice_sink_open_holes": zero, "sluice_sink_holes_total": zero,
        "sluice_sink_rechecks_total": zero, "sluice_sink_next_offset": at_least(20), "sluice_sink_lag_spans": at_least(0),
        "sluice_sink_offset_commits_total": positive, "sluice_sink_offset_commit_failures_total": at_least(0),
        "sluice_sink_rebalances_total": positive, "sluice_sink_redis_up": exactly(1), "sluice_sink_marks_failed_total": zero,
        "sluice_sink_freshness_seconds": at_least(3),
        "sluice_sink_last_commit_timestamp_seconds": positive,
    },
    "query-api": {
        "sluice_http_requests_total": positive, "sluice_http_request_duration_seconds": positive, "sluice_http_in_flight_requests": zero,
        "sluice_http_connections": at_least(0), "sluice_http_rejected_total": at_least(0), "sluice_query_duration_seconds": positive,
        "sluice_query_rows_total": positive, "sluice_query_cancelled_total": zero, "sluice_query_cache_revalidations_total": at_least(0),
        "sluice_query_running": zero, "sluice_query_waiting": zero, "sluice_query_newest_searches_total": at_least(0),
        "sluice_table_version": at_least(1), "sluice_table_rows": at_least(100), "sluice_table_files": at_least(4),
        "sluice_table_last_commit_timestamp_seconds": positive, "sluice_table_age_seconds": at_least(0),
        "sluice_table_log_reads_total": positive, "sluice_table_refreshes_total": positive,
        "sluice_table_refresh_failures_total": zero, "sluice_table_announcements_total": positive,
        "sluice_table_publishers": exactly(1), "sluice_query_memory_bytes": at_least(0), "sluice_query_memory_max_bytes": exactly(128 << 20),
    },
}


def scrape(stack, service):
    """({name: sum over its series}, {name: [(labels, value)]}); of a histogram its count."""
    status, _, text = http.request("GET", stack.admin(service) + "/metrics", timeout=30)
    assert status == 200
    text = text.decode()
    kinds = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    series = {name: [] for name in kinds}
    for name, labels, value in http.parse_metrics(text):
        base = name[:-len("_count")] if name.endswith("_count") and kinds.get(name[:-len("_count")]) == "histogram" else name
        if base in series:
            series[base].append((labels, value))
    return {name: sum(v for _, v in found) for name, found in series.items()}, series


def test_metrics(stack, admin):
    stack.post("--rows", 100, "--seed", 4, "--rate", 400, "--timeout", "60s")
    for _ in range(2):  # the second time they are copies
        assert stack.post_raw(stack.topic("geo"), values_of(6000, 25, "Twice"))[0] == 200
        stack.settle()
    for value in ("null", "[1]"):
        assert stack.post_raw(stack.topic("pin"), b'{"records":[{"value":%s}]}' % value.encode())[0] == 200
    stack.settle()
    assert stack.ask("popular-category-by-country")
    assert http.request("GET", "%s/topics/demo.pin" % stack.value["gateway"], timeout=60)[0] == 200
    read_all(stack, admin)

    wrong = {}

    def right():
        wrong.clear()
        for service, table in METRICS.items():
            sums, _ = scrape(stack, service)
            for name, good in {**COMMON, **table}.items():
                if name not in sums or not good(sums[name]):
                    wrong["%s %s" % (service, name)] = sums.get(name, "is not there")
        return not wrong
    # Heartbeats never end, so what stands for what is on its way is zero now and then only.
    try:
        rig.until("every metric to have its value", right, 60)
    except AssertionError:
        pytest.fail("wrong: %s" % wrong)

    # And what others count the same.
    raw = ends(stack, admin, topics_of(stack))
    _, cleaner = scrape(stack, "cleaner")
    assert {(x["topic"], int(x["partition"])): v for x, v in cleaner["sluice_cleaner_confirmed_position"]} == raw
    assert {x["dataset"] for x, v in cleaner["sluice_cleaner_spans_total"] if v > 0} == set(rig.DATASETS)
    _, sink = scrape(stack, "sink-s3")
    for table in list(rig.DATASETS) + ["dead"]:
        at = {name: [v for x, v in sink[name] if x["table"] == table][0] for name in (
            "sluice_sink_table_version", "sluice_sink_last_commit_timestamp_seconds", "sluice_sink_written_bytes_total")}
        delta = deltalake.DeltaTable(stack.table(table))
        assert at["sluice_sink_table_version"] == delta.version(), table
        assert abs(at["sluice_sink_last_commit_timestamp_seconds"] - delta.history(1)[0]["timestamp"] / 1000) < 60, table
        paths = [os.path.join(stack.table(table), p) for p in delta.get_add_actions(flatten=True)["path"].to_pylist()]
        assert 0 < at["sluice_sink_written_bytes_total"] <= sum(os.path.getsize(p) for p in paths), table
    assert all(v > 0 for _, v in sink["sluice_sink_freshness_seconds"]) and len(sink["sluice_sink_freshness_seconds"]) == 3
    clean = ends(stack, admin, topics_of(stack, "clean."))
    assert {(x["topic"], int(x["partition"])) for x, _ in sink["sluice_sink_next_offset"]} == set(clean)
    _, producer = scrape(stack, "producer")
    assert all(v > 0 for _, v in producer["sluice_producer_sent_records_total"]), producer
    assert {x["kind"] for x, v in producer["sluice_producer_questions_total"] if v > 0} >= {"topic", "offsets"}
    received, _ = scrape(stack, "gateway")
    # Records of a request that was refused as a whole are not received; what Kafka confirmed is what its topics hold.
    assert received["sluice_records_received_total"] >= received["sluice_records_sent_total"] == sum(raw.values())
