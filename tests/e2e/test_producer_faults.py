"""Several producers behind several gateways: one that dies costs the requests in flight, as unknown, and no record twice.

SPDX-License-Identifier: Apache-2.0
"""
import collections

import rig
from support import evidence


def digests(stack):
    """How often each value is in the raw topics."""
    count = collections.Counter()
    for dataset in rig.DATASETS:
        count.update(evidence.topic_values(stack.value, stack.topic(dataset)))
    return count


def second_gateway(stack):
    """The address of gateway#2's HTTP port, as its log says."""
    entry = [e for e in stack.events("gateway#2", "listening") if e.get("what") == "http"][-1]
    return "http://127.0.0.1:%d" % entry["port"]


def test_a_producer_that_dies(tmp_path):
    with rig.Stack(tmp_path, settings=rig.FLUSH, replicas=["gateway=2", "producer=2"]) as stack:
        for gateway in ("gateway", "gateway#2"):
            rig.until("%s to see both producers" % gateway, lambda: stack.metric(gateway, "sluice_producers_connected") == 2)
        first = stack.load("--rows", 500000, "--seed", 1, "--rate", 300, "--connections", 16, "--timeout", "30s", ledger="a.jsonl")
        stack.value["gateway"], keep = second_gateway(stack), stack.value["gateway"]
        # Other seeds, other values: what is in the topics twice was doubled by us.
        second = stack.load("--rows", 500000, "--seed", 2, "--rate", 300, "--connections", 16, "--timeout", "30s", ledger="b.jsonl")
        stack.value["gateway"] = keep
        rig.until("both to post", lambda: min(first.tries(), second.tries()) > 200)
        for n in range(4):
            name = ("producer", "producer#2")[n % 2]
            before = first.tries() + second.tries()
            stack.kill(name)
            # The other one goes on meanwhile, and both are used again.
            rig.until("records to flow", lambda: first.tries() + second.tries() > before + 100)
            rig.until("%s to be ready" % name, lambda: rig.http.ready(stack.admin(name), 5)[0])
            for gateway in ("gateway", "gateway#2"):
                rig.until("both producers", lambda: stack.metric(gateway, "sluice_producers_connected") == 2)
        # One that sleeps beyond the gateways' patience: unknown, and what it still stores when it wakes is stored once.
        pid = stack.pid("producer")
        with stack.stopped("producer"):
            rig.until("unknown outcomes by the clock", lambda: any(
                x["outcome"] == "unknown" and x["answered_at"] - x["sent_at"] >= 5000
                for x in rig.ledger_lines(first.ledger) + rig.ledger_lines(second.ledger)), every=0.5)
        assert stack.pid("producer") == pid
        rig.until("both producers", lambda: stack.metric("gateway", "sluice_producers_connected") == 2)
        reports = [load.stop() for load in (first, second)]
        stack.settle()
        print("reports: %s" % [{k: r[k] for k in ("sent", "ok", "refused", "unknown")} for r in reports])
        _, _, numbers = stack.verify("a.jsonl", "b.jsonl")
        assert numbers["ledger_ok"] > 500 and numbers["ledger_unknown"] > 0
        assert numbers["raw_records"] == numbers["ledger_ok"] + numbers["unknown_stored"]
        twice = [v for v, n in digests(stack).items() if n > 1]
        assert not twice, twice[:3]
        # Requests in flight, no more: by far most records have an answer that says what became of them.
        assert numbers["ledger_unknown"] < numbers["ledger_ok"]


def test_all_producers_gone(tmp_path):
    """Then a post is refused at once; it is in no topic; and it goes again as soon as one is back."""
    with rig.Stack(tmp_path, settings=rig.FLUSH) as stack:
        body = {"records": [{"value": {"index": 5, "title": "before"}}]}
        assert stack.post_raw("demo.pin", body)[0] == 200
        refused = []
        for _ in range(3):
            pid = stack.kill("producer", wait=False)
            status = 0
            while stack.pid("producer") == pid or not rig.stack.alive(stack.pid("producer")):
                status, answer = stack.post_raw("demo.pin", {"records": [{"value": {"index": 6, "title": "refused %d" % len(refused)}}]})
                if status == 503 and answer["error_code"] == 503:
                    refused.append(b'{"index": 6, "title": "refused %d"}' % len(refused))
            rig.until("posts to be taken", lambda: stack.post_raw("demo.pin", {"records": [{"value": {"index": 7, "n": 1}}]})[0] == 200)
            stack.wait_ready("producer", "gateway")
            if refused:
                break
        assert refused
        stack.settle()
        have = set(evidence.topic_values(stack.value, "demo.pin"))
        assert not have & set(refused)
        stack.verify()
