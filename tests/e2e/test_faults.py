"""What breaks around the services: broker gone, slow and full, Redis gone, disk full, no file descriptors, hostile JSON.

Each fault is real (signals, resource limits, a small tmpfs where that may be mounted) and ends; then everything must
settle, verify must be clean, and nobody may have been started again who had no reason to end.
SPDX-License-Identifier: Apache-2.0
"""
import base64
import collections
import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import threading
import time

import pytest

import rig
from sluice import stack as stacks
from support import evidence, posting


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    lake = os.path.join(str(folder), "state", "lake")
    os.makedirs(lake)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", lake], capture_output=True).returncode == 0
    try:
        with rig.Stack(folder, settings=rig.FLUSH + ["sink-s3.checkpoint.interval=10"]) as s:
            s.small_lake = lake if mounted else None
            yield s
    finally:
        if mounted:
            subprocess.run(["umount", "-l", lake], check=False)


@pytest.fixture(autouse=True)
def whole(stack):
    """Before and after each fault the stack is whole; services that were not killed are the same processes."""
    stack.wait_ready()
    pids = {s: stack.pid(s) for s in rig.SERVICES}
    yield
    stack.wait_ready()
    stack.settle()
    assert {s: stack.pid(s) for s in rig.SERVICES} == pids, "a service ended"
    stack.verify(*[n for n in os.listdir(stack.folder) if n.endswith(".jsonl")])


_number = iter(range(10 ** 6, 10 ** 9))


def pin(title):
    return {"records": [{"value": {"index": next(_number), "title": title}}]}


def taken(stack):
    status, answer = stack.post_raw("demo.pin", pin("again"))
    return status == 200 and answer["offsets"][0].get("offset") is not None


@contextlib.contextmanager
def limited(pid, what, limit):
    """A soft limit of a process for as long as the block lasts."""
    soft, hard = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (limit, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, (soft, hard))


def test_adapter_on_a_real_broker(stack):
    """Before anything breaks: the unit test of what librdkafka's mock cluster has no answer for, on this Kafka."""
    program = os.path.join(os.path.dirname(rig.BIN), "tests", "test_kafka_admin")
    done = subprocess.run([program], env={**os.environ, "KAFKA_BROKERS": stack.value["kafka"]}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=rig.DEADLINE)
    assert done.returncode == 0 and "OK ] test_real_cluster" in done.stdout, done.stdout


def test_broker_gone(stack):
    """A killed Kafka: posts are refused or unknown within the time-out, and are taken again when it is back."""
    load = stack.load("--rows", 100000, "--seed", 41, "--rate", 60, "--timeout", "30s", ledger="gone.jsonl")
    rig.until("posts", lambda: load.tries() > 50)

    def told():
        """A start or two are ridden through without a word: it is killed until somebody has noticed."""
        return stack.ready("producer")[0] == 503 or (stack.kill("kafka") and False)
    rig.until("/readyz to say that Kafka is gone", told)
    began = time.monotonic()
    status, answer = stack.post_raw("demo.pin", pin("gone"))
    assert time.monotonic() - began < 30
    assert status in (200, 503), (status, answer)
    rig.until("Kafka", lambda: taken(stack))
    rig.until("the producer to be ready", lambda: stack.ready("producer")[0] == 200)
    load.stop()


def test_broker_slow(stack):
    """A broker that stands still longer than delivery takes at most: unknown after the time-out, never a success."""
    ledger = posting.Ledger(stack.path("slow.jsonl"))
    over = threading.Event()
    client = posting.Client(stack.value["gateway"], "demo", ledger,
                            lambda n: ("pin", [json.dumps({"index": next(_number), "title": "slow"}).encode()]), over)
    client.start()
    rig.until("posts", lambda: ledger.counts["ok"] > 20)
    with stack.stopped("kafka"):
        rig.until("a post of unknown outcome", lambda: ledger.counts["unknown"] > 0)
    known = ledger.counts["ok"]
    rig.until("posts to be taken", lambda: ledger.counts["ok"] > known + 20)
    over.set()
    client.join(60)
    ledger.close()


def test_broker_full(stack):
    """Kafka's files may not grow any more: it ends itself, as it does with a full disk, and cannot start until there is room.

    A limit on the size of its files, not a full tmpfs: there the broker's mapped index files would end the JVM by a signal.
    """
    logs = os.path.join(stack.state, "logs", "kafka.log")
    data = os.path.join(stack.state, "kafka", "data", "demo.pin-0")
    largest = max(os.path.getsize(p) for p in [logs] + [os.path.join(data, n) for n in os.listdir(data) if n.endswith(".log")])
    before = stack.restarts("kafka")
    ledger = posting.Ledger(stack.path("full.jsonl"))
    over = threading.Event()
    text = "x" * 50000
    clients = [posting.Client(stack.value["gateway"], "demo", ledger,
                              lambda n: ("pin", [json.dumps({"index": next(_number), "title": text}).encode()]), over) for _ in range(4)]
    with contextlib.ExitStack() as full, rig.Watch(lambda: stack.ready("producer")[0]) as watch:
        # What the runner starts meanwhile has no more room than what ended.
        for pid in (stack.saved()["runner"], stack.pid("kafka")):
            full.enter_context(limited(pid, resource.RLIMIT_FSIZE, largest + (1 << 20)))
        for client in clients:
            client.start()
        rig.until("Kafka to give up", lambda: stack.restarts("kafka") > before)
        began = time.time() * 1000

        def failed():
            return [x for x in rig.ledger_lines(ledger.file.name) if x["answered_at"] > began and x["outcome"] != "ok"]
        rig.until("posts to fail", lambda: len(failed()) >= len(clients))
        rig.until("Kafka to give up again", lambda: stack.restarts("kafka") > before + 1)
        ended = time.time() * 1000
    # The one that is just starting still has the limit; it may end by it, or go on.
    soft, hard = resource.prlimit(stack.saved()["runner"], resource.RLIMIT_FSIZE)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(stack.pid("kafka"), resource.RLIMIT_FSIZE, (soft, hard))
    known = ledger.counts["ok"]
    rig.until("posts to be taken", lambda: ledger.counts["ok"] > known + 20)
    over.set()
    for client in clients:
        client.join(60)
    ledger.close()
    told = [x for x in rig.ledger_lines(ledger.file.name) if began < x["answered_at"] < ended]
    wrong = [x for x in told if x["outcome"] == "ok"]
    assert not wrong, "stored by a broker that cannot store: %s" % wrong[:3]
    print("while it was full: %s" % collections.Counter((x["outcome"], x["status"], x["error_code"]) for x in told))
    assert 503 in watch.seen, "nobody could see in /readyz that Kafka was gone"
    assert any("log dirs" in line and "have failed" in line for line in stacks.tail(logs, 2000, 1 << 24))


def test_redis_gone(stack):
    """Copies pass, and both /readyz and a metric say so; rows keep coming; Redis comes back by itself."""
    copy = {"records": [{"value": {"index": next(_number), "title": "a copy"}}]}
    assert stack.post_raw("demo.pin", copy)[0] == 200
    stack.settle()
    with stack.stopped("redis"):
        assert stack.post_raw("demo.pin", copy)[0] == 200
        rig.until("the sink to miss Redis", lambda: stack.metric("sink-s3", "sluice_sink_redis_up") == 0)
        rig.until("/readyz to say so", lambda: "copies pass" in stack.ready("sink-s3")[1]["redis"][1])
        assert stack.ready("sink-s3")[0] == 200
        stack.settle()
        assert stack.metric("sink-s3", "sluice_sink_copies_unasked_total") > 0
        mine = [r for r in evidence.read_table(stack.value, "pin") if r["ind"] == copy["records"][0]["value"]["index"]]
        assert len(mine) == 2
    rig.until("Redis to be back", lambda: stack.metric("sink-s3", "sluice_sink_redis_up") == 1)
    stack.kill("redis")
    assert taken(stack)
    rig.until("Redis to be back", lambda: stack.metric("sink-s3", "sluice_sink_redis_up") == 1)
    count = stack.metric("sink-s3", "sluice_sink_copies_total")
    fresh = pin("marked again")
    for _ in range(2):
        assert stack.post_raw("demo.pin", fresh)[0] == 200
        stack.settle()
    assert stack.metric("sink-s3", "sluice_sink_copies_total") > count


def test_disk_full(stack):
    """No room for a commit: nothing is lost, /readyz says it, memory waits for the disk, and it goes on when there is room."""
    ledger = "disk.jsonl"
    with contextlib.ExitStack() as full:
        if stack.small_lake:
            ballast = os.path.join(stack.small_lake, "ballast")
            # unbuffered: a buffer would keep what did not fit, and fail once more when it is closed
            with open(ballast, "wb", buffering=0) as f, contextlib.suppress(OSError):
                while True:
                    f.write(b"\0" * 65536)
            full.callback(os.unlink, ballast)
            assert shutil.disk_usage(stack.small_lake).free < 65536
        elif os.geteuid():
            print("NOTICE: no tmpfs can be mounted here: folders that may not be written stand for the full disk")
            for folder, _, _ in os.walk(os.path.join(stacks.lake_path(stack.value), "delta")):
                full.callback(os.chmod, folder, 0o755)
                os.chmod(folder, 0o555)
        else:
            pytest.skip("NOTICE: no tmpfs can be mounted here, and root may write everywhere: no full disk was tried")
        versions = {d: stack.debug("sink-s3")["tables"][d]["version"] for d in rig.DATASETS}
        stack.post("--rows", 150, "--seed", 43, "--connections", 2, ledger=ledger)
        status, checks = rig.until("/readyz to say so", lambda: stack.ready("sink-s3") if stack.ready("sink-s3")[0] == 503 else None)
        assert any(not ok for ok, _ in checks.values()), checks
        rig.until("tries", lambda: any(e["tries"] >= 2 for e in stack.events("sink-s3", "table_waits")))
        done = stack.sluice("settle", "--state", stack.state, "--timeout", "1", check=False)
        assert done.returncode == 1 and "behind" in done.stderr
        stuck = {d: stack.debug("sink-s3")["tables"][d]["version"] for d in rig.DATASETS}
        assert any(stuck[d] <= versions[d] + 1 for d in rig.DATASETS)
        assert stack.metric("sink-s3", "sluice_sink_retries_total") >= 2
    stack.settle()


def descriptors(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


def test_gateway_out_of_file_descriptors(stack):
    """Those who are connected are served; those who come are turned away or wait; when there is room, all is as before."""
    pid = stack.pid("gateway")
    host, port = stack.value["gateway"][len("http://"):].split(":")

    def ask(connection):
        body = json.dumps(pin("few descriptors"))
        connection.request("POST", "/topics/demo.pin", body=body, headers={"Content-Type": posting.CONTENT})
        reply = connection.getresponse()
        reply.read()
        return reply.status

    kept = posting.http.client.HTTPConnection(host, int(port), timeout=60)
    waiting = []
    try:
        assert ask(kept) == 200
        with limited(pid, resource.RLIMIT_NOFILE, descriptors(pid) + 5):
            for _ in range(30):
                with contextlib.suppress(OSError):
                    waiting.append(socket.create_connection((host, int(port)), timeout=60))
            for _ in range(20):
                assert ask(kept) == 200
            assert descriptors(pid) <= resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
        for s in waiting:
            s.close()
        assert ask(kept) == 200

        def fresh():
            other = posting.http.client.HTTPConnection(host, int(port), timeout=60)
            try:
                return ask(other) == 200
            finally:
                other.close()
        rig.until("new connections to be served", fresh)
    finally:
        kept.close()
        for s in waiting:
            s.close()


def test_sink_out_of_file_descriptors(stack):
    """No file can be opened: commits wait, nothing is lost."""
    pid = stack.pid("sink-s3")

    def complaints():
        return [e for e in stack.events("sink-s3", "table_waits") if "Too many open files" in e["detail"]]
    assert not complaints()
    # Below that number all are taken for good, and a new file would get the lowest that is free.
    with limited(pid, resource.RLIMIT_NOFILE, 4):
        stack.post("--rows", 60, "--seed", 44, "--connections", 2, ledger="fds.jsonl")
        rig.until("the sink to complain", complaints)
    stack.settle()


HOSTILE = [
    (b"", 400), (b"{", 400), (b"nothing", 400), (b"[]", None), (b"{}", 422), (b'{"records":[]}', 422), (b'{"records":{}}', 422),
    (b'{"records":[{"value":1}]} x', 400), (b'{"records":[{"value":1,"value":2}]}', 400), (b'{"records":[{"value":\x00}]}', 400),
    (b'{"records":[{"value":"\xff"}]}', 400), (b'{"records":[{"value":"\xed\xa0\x80"}]}', 400), (b'{"records":[{"value":01}]}', 400),
    (b'{"records":[{"value":1e}]}', 400), (b'{"records":[{"value":NaN}]}', 400), (b'{"records":[{"value":"\t"}]}', 400),
    (b'{"records":[{"value":"\\x"}]}', 400), (b"\xef\xbb\xbf" + b'{"records":[{"value":1}]}', 400),
    (b'{"records":[{"value":' + b"[" * 100 + b"]" * 100 + b"}]}", 400), (b"[" * 1000000, 400), (b'{"a":' * 100000, 400),
    (b'{"records":[{"value":"' + b"y" * (1 << 20) + b'"}]}', 413), (b'{"records":[' + b'{"value":1},' * 10001 + b'{"value":1}]}', 422),
    (b'{"records":[{"value":1,"extra":2}]}', 422), (b'{"records":[{"value":1},7]}', 422), (b'{"records":[{"value":1}],"x":1}', 422),
    (b'{"records":[{"value":1,"partition":99}]}', None), (b'{"records":[{"value":1,"partition":-1}]}', 422),
    (b'{"records":[{"value":1,"timestamp":"now"}]}', 422),
]
STRANGE_VALUES = [b"1e400", b"-0", b"123456789012345678901234567890.5", b'"\\ud800"', b'"\\u0000"', b"[[[[[[]]]]]]", b'{"":""}', b'{"index":1e0}',
                  b'{"index":"' + b"9" * 300 + b'"}', b'{"index":1,"title":"\\udc00\\ud800"}', b'"' + base64.b64encode(b"\0" * 999) + b'"',
                  b'"\\"\\\\\\"{}\\\\\\""', b'{"index":3,"follower_count":"' + b"9" * 5000 + b'k"}', b"[" + b",".join([b"null"] * 3000) + b"]"]


def test_hostile_json(stack):
    """Refused with the right status, or taken and told apart behind: nothing ends, and the next good record arrives."""
    before = sum(len(evidence.topic_values(stack.value, stack.topic(d))) for d in rig.DATASETS)
    for body, wanted in HOSTILE:
        status, answer = stack.post_raw("demo.pin", body)
        if wanted is None:
            assert 400 <= status < 500 or all(o.get("error_code") for o in answer["offsets"]), (body[:60], status, answer)
        else:
            assert status == wanted, (body[:60], status, answer)
            assert answer["error_code"] and answer["message"]
    after = sum(len(evidence.topic_values(stack.value, stack.topic(d))) for d in rig.DATASETS)
    assert after == before, "something of a refused request was stored"
    for value in STRANGE_VALUES:
        for dataset in rig.DATASETS:
            status, answer = stack.post_raw(stack.topic(dataset), b'{"records":[{"value":' + value + b"}]}")
            assert status == 200 and answer["offsets"][0].get("offset") is not None, (value[:60], answer)
    stored = evidence.topic_values(stack.value, "demo.geo")[-len(STRANGE_VALUES):]
    assert stored == STRANGE_VALUES, "values must be stored byte for byte"
    for dataset in rig.DATASETS:
        assert stack.post_raw(stack.topic(dataset), {"records": [{"value": {"index": 424242, "ind": 424242}}]})[0] == 200
    stack.settle()
    for dataset in rig.DATASETS:
        assert 424242 in {r["ind"] for r in evidence.read_table(stack.value, dataset)}
