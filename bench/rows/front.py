"""gateway-single, gateway-batch, producer: CPU of the front half, on real Kafka.

SPDX-License-Identifier: Apache-2.0
"""
import statistics
import subprocess

from . import common
from .common import Row

CONNECTIONS = 64
SINGLE_REQUESTS = 80000
BATCH, BATCH_POSTS = 100, 150000
ROUNDS = 3        # of BATCH_POSTS in one turn, product and references in turn: one round of a second or two is all noise
WITHOUT = ("cleaner", "sink-s3", "query-api", "redis")


def _load(port, requests, path):
    done = common.run_json(common.program("load_http"), str(port), str(CONNECTIONS), str(requests), path)
    if done["ok"] != requests:
        raise common.Trouble("%d of %d requests were ok" % (done["ok"], requests))
    return done


def _port(url):
    return url.rsplit(":", 1)[1]


def single(_wanted):
    path = common.work_path("single.tsv")
    common.write_posts(path, SINGLE_REQUESTS // 3, 1)
    reference = subprocess.Popen([common.program("ref_http")], stdout=subprocess.PIPE, text=True)
    try:
        reference_port = reference.stdout.readline().strip()
        with common.sluice_stack("front", WITHOUT) as s:
            gateway = s["pids"]["gateway"]

            def measure(_number):
                before = common.cpu_seconds(gateway)
                load = _load(_port(s["gateway"]), SINGLE_REQUESTS, path)
                figure = SINGLE_REQUESTS / (common.cpu_seconds(gateway) - before)
                before = common.cpu_seconds(reference.pid)
                _load(reference_port, SINGLE_REQUESTS, path)
                return {"gateway": figure, "reference": SINGLE_REQUESTS / (common.cpu_seconds(reference.pid) - before),
                        "requests_per_s": SINGLE_REQUESTS / load["wall_s"], "p50_ms": load["p50_ms"]}
            turns = common.turns(measure)
    finally:
        reference.terminate()
        reference.wait()
        reference.stdout.close()
    return [Row("gateway-single", "requests/CPU s", 0.60, [t["gateway"] for t in turns], [t["reference"] for t in turns])]


def batch(_wanted):
    path, raw = common.work_path("batch.tsv"), common.work_path("batch-raw.tsv")
    requests, records = common.write_posts(path, BATCH_POSTS, BATCH)
    common.write_raw(raw, BATCH_POSTS, 1)
    with common.sluice_stack("batch", WITHOUT) as s:
        pids = [s["pids"][name] for name in ("gateway", "producer")]

        def measure(_number):
            rates = []
            for _ in range(ROUNDS):
                before = [common.cpu_seconds(pid) for pid in pids]
                load = _load(_port(s["gateway"]), requests, path)
                gateway, producer = (records / (common.cpu_seconds(pid) - b) for pid, b in zip(pids, before))
                walked = common.run_json(common.program("ref_json"), path, "5")
                produced = common.run_json(common.program("ref_kafka"), s["kafka"], raw)
                rates.append({"gateway": gateway, "simdjson": walked["records"] / walked["cpu_s"], "producer": producer,
                              "librdkafka": produced["records"] / produced["cpu_s"], "records_per_s": records / load["wall_s"]})
            return {name: statistics.harmonic_mean(r[name] for r in rates) for name in rates[0]}
        turns = common.turns(measure)
    return [Row("gateway-batch", "records/CPU s", 0.15, [t["gateway"] for t in turns], [t["simdjson"] for t in turns]),
            Row("producer", "records/CPU s", 0.50, [t["producer"] for t in turns], [t["librdkafka"] for t in turns])]
