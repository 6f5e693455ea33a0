"""A flood with Kafka stopped: memory stays under its number in every service, refusals are counted, and all drains after.

SLUICE_FLOOD_SECONDS (15) is how long Kafka stands still.
SPDX-License-Identifier: Apache-2.0
"""
import os
import random
import threading
import time

import pytest

import rig
from support import posting

SECONDS = float(os.environ.get("SLUICE_FLOOD_SECONDS") or 15)
CLIENTS, RECORDS, BYTES = 80, 10, 60000
MEMORY = {"gateway": 96 << 20, "producer": 128 << 20, "cleaner": 128 << 20, "sink-s3": 192 << 20}


def sanitized():
    with open(os.path.join(rig.BIN, "gateway"), "rb") as f:
        return b"__asan_init" in f.read()


@pytest.mark.skipif(sanitized(), reason="a sanitizer's own memory is many times that of the service")
def test_flood_with_kafka_stopped(tmp_path):
    text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz ,.", k=BYTES)).encode()
    numbers = [10 ** 6 * n for n in range(CLIENTS)]

    def maker(client):
        def make(n):
            first = numbers[client] + n * RECORDS
            return "pin", [b'{"index":%d,"title":"t","description":"%s%d"}' % (first + i, text, first + i) for i in range(RECORDS)]
        return make

    settings = ["sink-s3.flush.interval=250ms"] + ["%s.memory.max=%d" % pair for pair in MEMORY.items()]
    with rig.Stack(tmp_path, settings=settings) as stack:
        ledger = posting.Ledger(stack.path("flood.jsonl"))
        over = threading.Event()
        clients = [posting.Client(stack.value["gateway"], "demo", ledger, maker(n), over, pause=0.1) for n in range(CLIENTS)]
        pids = {s: stack.pid(s) for s in rig.SERVICES}
        for client in clients:
            client.start()
        try:
            rig.until("the flood", lambda: ledger.counts["ok"] >= 200)
            with stack.stopped("kafka"):
                end = time.monotonic() + SECONDS
                rig.until("refusals", lambda: time.monotonic() >= end and ledger.counts["refused"] > 0, SECONDS + rig.DEADLINE)
            stored = ledger.counts["ok"]
            rig.until("records to flow again", lambda: ledger.counts["ok"] >= stored + 200)
        finally:
            over.set()
            for client in clients:
                client.join(120)
        assert not any(c.is_alive() for c in clients)
        ledger.close()
        stack.wait_ready()
        stack.settle(300)
        peaks = {s: stack.memory(s)[1] for s in MEMORY}
        print("outcomes %s; VmHWM %s" % (ledger.counts, {s: "%.0f of %.0f MiB" % (p / 2 ** 20, MEMORY[s] / 2 ** 20) for s, p in peaks.items()}))
        assert {s: stack.pid(s) for s in rig.SERVICES} == pids, "a service was started again"
        for service, peak in peaks.items():
            assert peak <= 1.1 * MEMORY[service], (service, peak)
        refused = stack.metric("gateway", "sluice_records_dropped_total", reason="refused")
        requests = stack.metric("gateway", "sluice_http_rejected_total")
        print("counted: %d records refused, %d requests refused" % (refused, requests))
        assert refused + requests > 0
        assert RECORDS * requests + refused >= ledger.counts["refused"]
        assert stack.metric("gateway", "sluice_records_in_flight") == 0
        assert stack.metric("gateway", "sluice_buffer_bytes") == 0
        _, _, numbers_ = stack.verify("flood.jsonl")
        assert numbers_["ledger_ok"] == ledger.counts["ok"] <= numbers_["raw_records"] <= ledger.counts["ok"] + ledger.counts["unknown"]
