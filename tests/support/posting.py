"""posting: clients in Python threads that keep a ledger as the emulator does: for bodies that the emulator does not send.

SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import http.client
import json
import threading
import time

CONTENT = "application/vnd.kafka.json.v2+json"


def outcomes(status, body, n):
    """For each of n records (outcome, partition, offset, error code), by the gateway's table of refused and unknown.

    `status` None: there was no answer.
    """
    if status is None:
        return [("unknown", None, None, None)] * n
    try:
        answer = json.loads(body)
    except ValueError:
        return [("unknown", None, None, None)] * n
    if "offsets" in answer:
        out = []
        for o in answer["offsets"]:
            if o.get("error_code") is None and o.get("offset") is not None:
                out.append(("ok", o["partition"], o["offset"], None))
            else:
                out.append(("refused" if o.get("error_code") == 50002 else "unknown", None, None, o.get("error_code")))
        return out
    code = answer.get("error_code")
    refused = 400 <= status < 500 or (status == 503 and code in (503, 50302)) or code == 50002
    return [("refused" if refused else "unknown", None, None, code)] * n


class Ledger:
    """Lines as the emulator writes them, but without values."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")
        self.lock = threading.Lock()
        self.next = 0
        self.counts = {"ok": 0, "refused": 0, "unknown": 0}

    def write(self, dataset, topic, values, sent, answered, status, results):
        with self.lock:
            for value, (outcome, partition, offset, code) in zip(values, results):
                self.next += 1
                self.counts[outcome] += 1
                self.file.write(json.dumps({"id": self.next, "try": 1, "sent_at": sent, "answered_at": answered, "dataset": dataset,
                                            "key": None, "sha256": hashlib.sha256(value).hexdigest(), "target": "kafka",
                                            "status": status, "error_code": code, "outcome": outcome, "topic": topic,
                                            "partition": partition, "offset": offset}) + "\n")
            self.file.flush()

    def close(self):
        self.file.close()


class Client(threading.Thread):
    """Posts what make(n) gives, (dataset, values as bytes), again and again until `over`, on one connection."""

    def __init__(self, gateway, user, ledger, make, over, pause=0.02, timeout=60):
        super().__init__(daemon=True)
        self.host = gateway[len("http://"):]
        self.user, self.ledger, self.make, self.over = user, ledger, make, over
        self.pause, self.timeout = pause, timeout
        self.requests = 0
        self.connection = None

    def post(self, topic, values):
        body = b'{"records":[' + b",".join(b'{"value":' + v + b"}" for v in values) + b"]}"
        connected = False
        try:
            if not self.connection:
                self.connection = http.client.HTTPConnection(self.host, timeout=self.timeout)
                self.connection.connect()
            connected = True
            self.connection.request("POST", "/topics/" + topic, body=body, headers={"Content-Type": CONTENT})
            reply = self.connection.getresponse()
            data = reply.read()
            if reply.headers.get("Connection", "").lower() == "close":
                self.drop()
            return reply.status, data
        except (OSError, http.client.HTTPException):
            # A refusal may be said before the body was read to its end; then it is there to be read.
            self.drop()
            return (None, b"") if connected else (503, b'{"error_code":503}')

    def drop(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def run(self):
        while not self.over.is_set():
            dataset, values = self.make(self.requests)
            topic = "%s.%s" % (self.user, dataset)
            sent = int(time.time() * 1000)
            status, data = self.post(topic, values)
            results = outcomes(status, data, len(values))
            self.requests += 1
            self.ledger.write(dataset, topic, values, sent, int(time.time() * 1000), status, results)
            if not any(r[0] == "ok" for r in results):
                self.over.wait(self.pause)
        self.drop()
