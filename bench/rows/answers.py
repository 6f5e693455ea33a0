"""answers, answers-default, not-modified: the nine questions on a million posts.

SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import glob
import http.client
import os
import shutil
import statistics
import subprocess
import time

from . import common
from .common import DATASETS, Row

POSTS, FILES = 1000000, 10
REPEATS_304 = 500
PARAMS = {"median": "'interpolated'", "top": "'all'", "distinct": "'row'"}
YEARS = {"category-posts-by-year": (2018, 2022)}


def _questions():
    """{name: SQL with the defaults in it}"""
    out = {}
    for path in sorted(glob.glob(os.path.join(common.ROOT, "services", "query-api", "sql", "*.sql"))):
        name = os.path.basename(path)[:-4]
        with open(path, encoding="utf-8") as f:
            sql = "\n".join(line.split("--")[0] for line in f.read().split("\n"))
        first, last = YEARS.get(name, (2015, 2020))
        for key, value in dict(PARAMS, **{"from": str(first), "to": str(last)}).items():
            sql = sql.replace("$" + key, value)
        out[name] = sql
    return out


class Client:
    """One connection; every answer is read whole."""

    def __init__(self, port):
        self.conn = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.conn.connect()

    def get(self, path, etag=None):
        """(seconds, status, ETag, body)"""
        request = "GET %s HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n%s\r\n" % (
            path, "If-None-Match: %s\r\n" % etag if etag else "")
        begin = time.perf_counter()
        self.conn.sock.sendall(request.encode())
        answer = http.client.HTTPResponse(self.conn.sock, method="GET")
        answer.begin()
        body = answer.read()
        took = time.perf_counter() - begin
        return took, answer.status, answer.getheader("ETag"), body

    def not_modified(self, path, etag):
        """Seconds until a 304 is here: it ends with its head."""
        request = ("GET %s HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nIf-None-Match: %s\r\n\r\n" % (path, etag)).encode()
        begin = time.perf_counter()
        self.conn.sock.sendall(request)
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += self.conn.sock.recv(4096)
        took = time.perf_counter() - begin
        if not data.startswith(b"HTTP/1.1 304"):
            raise common.Trouble("no 304: %r" % data[:100])
        return took


def _ask(client, name, query):
    """(seconds, ETag) of one question."""
    took, status, etag, body = client.get("/v1/questions/%s%s" % (name, query))
    if status != 200:
        raise common.Trouble("%s: %d %s" % (name, status, body[:300]))
    return took, etag


@contextlib.contextmanager
def _on_one_core(pid):
    """This process and the loop of another one: to wake the other core of a virtual machine takes up to ten times as long as a 304."""
    cores = {who: os.sched_getaffinity(who) for who in (0, pid)}
    try:
        for who in cores:
            os.sched_setaffinity(who, {min(cores[0])})
        yield
    finally:
        for who, was in cores.items():
            os.sched_setaffinity(who, was)


def answers(_wanted):
    lake = common.work_path("lake-answers")
    subprocess.run([common.program("fill_lake"), lake, "demo", str(POSTS), str(FILES)], check=True)
    questions = _questions()
    options = {"user": "demo", "http.listen": "127.0.0.1:0", "lake.url": "file://" + lake, "spill.dir": common.work_path("spill"),
               "query.threads": "2"}
    os.makedirs(options["spill.dir"], exist_ok=True)
    with common.Service("query-api", "query", options) as api, common.Duck() as duck:
        client = Client(common.wait_for("the HTTP port", lambda: api.port("http")))
        duck.run("SET threads=2")
        duck.run("SET TimeZone='UTC'")
        for d in DATASETS:
            duck.run("CREATE TABLE \"%s\" AS SELECT * FROM read_parquet('%s/delta/demo_%s_table/*.parquet')" % (d, lake, d))

        def measure(_number):
            # Question by question, so that whatever else the machine does meets all alike.
            plain, native, default, quick = {}, {}, {}, 0.0
            for name, sql in questions.items():
                path = "/v1/questions/" + name
                plain[name], _ = _ask(client, name, "?dedup=off")
                native[name] = duck.run(sql)["wall_s"]
                default[name], etag = _ask(client, name, "")
                with _on_one_core(api.pid):
                    quick += statistics.median(client.not_modified(path, etag) for _ in range(REPEATS_304))
            n = len(questions)
            out = {"answers": n / sum(plain.values()), "native": n / sum(native.values()),
                   "default": n / sum(default.values()), "304": n / quick}
            if os.environ.get("BENCH_DETAIL"):
                for name in questions:
                    common.say("%-42s off %6.1f ms  native %6.1f ms  default %6.1f ms" % (
                        name, plain[name] * 1e3, native[name] * 1e3, default[name] * 1e3))
            return out
        turns = common.turns(measure)
    shutil.rmtree(lake, ignore_errors=True)
    plain, default = [t["answers"] for t in turns], [t["default"] for t in turns]
    return [Row("answers", "answers/s", 0.60, plain, [t["native"] for t in turns]),
            Row("answers-default", "answers/s", 0.40, default, plain),
            Row("not-modified", "answers/s", 100, [t["304"] for t in turns], default)]
