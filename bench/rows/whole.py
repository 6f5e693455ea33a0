"""memory, freshness-1s, freshness-100ms: all five services together.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import random
import statistics
import subprocess
import time

from sluice import http
from sluice.stack import SERVICES

from . import common
from .answers import Client
from .common import Row

RATE, SECONDS, BATCH = 15000, 180, 10
MEMORY_MAX_MB, GROWTH_MAX = 320, 1.10
FRESH_POSTS, FRESH_TURNS = 200, 5
QUESTION = "/v1/questions/users-joined-by-year?dedup=off"


def _pss_kb(pid):
    with open("/proc/%d/smaps_rollup" % pid, encoding="ascii") as f:
        for line in f:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    raise common.Trouble("no Pss of process %d" % pid)


def memory(_wanted):
    with common.sluice_stack("memory") as s:
        pids = {name: s["pids"][name] for name in SERVICES}
        load = subprocess.Popen(
            [common.service_program("sluice-emulator"), "--gateway", s["gateway"], "--user", s["user"], "--rate", str(RATE),
             "--batch", str(BATCH), "--rows", str(RATE * SECONDS // 3), "--report=json", "--progress=json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        names = [q["name"] for q in http.get_json(s["query_api"] + "/v1/questions")["questions"]]
        sums, parts, slow, begin = [], [], 0, time.monotonic()
        try:
            for second in range(SECONDS):
                path = "/v1/questions/" + names[second % len(names)]
                try:
                    http.request("GET", s["query_api"] + path, timeout=30.0)
                except http.HttpError:
                    slow += 1
                part = {name: _pss_kb(pid) / 1000 for name, pid in pids.items()}
                parts.append(part)
                sums.append((time.monotonic() - begin, sum(part.values())))
                time.sleep(max(0.0, begin + second + 1 - time.monotonic()))
                if sums[-1][0] >= SECONDS:
                    break
            try:
                out = load.communicate(timeout=20)[0]
            except subprocess.TimeoutExpired:
                load.terminate()  # a machine that is too slow for the rate: its report says what went through
                out = load.communicate(timeout=60)[0]
            report = json.loads(out)
        finally:
            if load.poll() is None:
                load.kill()
                load.wait()
        biggest = parts[max(range(len(sums)), key=lambda i: sums[i][1])]
        common.say("MB at the peak: " + ", ".join("%s %.0f" % pair for pair in biggest.items()))
    first = max(mb for at, mb in sums if at < 60)
    last = max(mb for at, mb in sums if at >= sums[-1][0] - 60)
    sent = report["ok"] / report["seconds"]
    common.say("%.0f records/s were taken, %d of %d; %d questions without an answer" % (sent, report["ok"], report["planned"], slow))
    fine = last / first <= GROWTH_MAX and report["ok"] == report["planned"] and sent >= 0.98 * RATE and not slow
    return [Row("memory", "MB", MEMORY_MAX_MB, [], figure=max(mb for _, mb in sums), reference=first, ratio=last / first,
                better="less", fine=fine, note="last minute's maximum %.2f times the first's" % (last / first))]


def _joined(body):
    return sum(row["number_users_joined"] for row in json.loads(body)["data"])


def fsync_seconds(folder):
    """Median time of writing 64 KiB into a new file and syncing it: what a commit costs the disk at least, once a file."""
    took = []
    for i in range(20):
        path = os.path.join(folder, "fsync-%d" % i)
        begin = time.perf_counter()
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        os.write(fd, b"x" * 65536)
        os.fsync(fd)
        os.close(fd)
        took.append(time.perf_counter() - begin)
        os.unlink(path)
    return statistics.median(took)


def _freshness(name, interval, goal):
    with common.sluice_stack(name, settings=["sink-s3.flush.interval=" + interval]) as s:
        post = Client(int(s["gateway"].rsplit(":", 1)[1]))
        ask = Client(int(s["query_api"].rsplit(":", 1)[1]))
        rng = random.Random(1)
        count = [0]

        def one(number):
            body = json.dumps({"records": [{"value": {
                "ind": number, "first_name": "Ann", "last_name": "Lee %d" % number, "age": 30,
                "date_joined": "2017-05-05 05:05:05"}}]}).encode()
            time.sleep(rng.random() * 0.3)
            begin = time.perf_counter()
            post.conn.request("POST", "/topics/%s.user" % s["user"], body=body,
                              headers={"Content-Type": "application/vnd.kafka.json.v2+json"})
            answer = post.conn.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise common.Trouble("post: %d %s" % (answer.status, text[:200]))
            count[0] += 1
            deadline, etag = time.perf_counter() + 30, None
            while time.perf_counter() < deadline:
                _, status, tag, text = ask.get(QUESTION, etag)
                if status == 200:
                    if _joined(text) >= count[0]:
                        return time.perf_counter() - begin
                    etag = tag
                time.sleep(0.003)
            raise common.Trouble("post %d was not answered within 30 s" % number)

        one(0)  # the tables are made
        took = [one(i + 1) for i in range(FRESH_POSTS)]
        part = FRESH_POSTS // FRESH_TURNS
        figures = [statistics.median(took[i * part:(i + 1) * part]) for i in range(FRESH_TURNS)]
        common.say("p50 %.3f s, p99 %.3f s; fsync of the disk: %.1f ms" % (
            statistics.median(took), sorted(took)[len(took) * 99 // 100], fsync_seconds(common.WORK) * 1e3))
    return [Row(name, "s", goal, figures, figure=statistics.median(took), better="less")]


def freshness_1s(_wanted):
    return _freshness("freshness-1s", "1s", 1.3)


def freshness_100ms(_wanted):
    return _freshness("freshness-100ms", "100ms", 0.35)
