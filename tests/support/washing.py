"""What the tests of cleaner and sink share: a real Kafka and a Redis for the session, topics, and the services as processes.

A pytest plug-in: `pytest_plugins = ["support.washing"]`. Every test takes a user id of its own, so that one Kafka serves all.
SPDX-License-Identifier: Apache-2.0
"""
import base64
import functools
import itertools
import json
import os
import resource
import subprocess
import time
import uuid

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from sluice import kafka as kafka_child
from sluice import redis as redis_child
from sluice import http as sluice_http
from sluice import stack
from support import service, spans

DEADLINE = service.DEADLINE
_numbers = itertools.count(1)
until = functools.partial(service.until, errors=(OSError, sluice_http.HttpError, KafkaError))


class Child:
    """Kafka or Redis as a child process with a log of its own."""

    def __init__(self, what, folder):
        self.what, self.log = what, os.path.join(folder, "log")
        os.makedirs(os.path.join(folder, "tmp"), exist_ok=True)
        what.prepare(self.log)
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.what.command(), cwd=self.what.cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(f"{self.log} to answer", self.answers)
        return self

    def answers(self):
        assert self.process.poll() is None, "\n".join(stack.tail(self.log))
        return self.what.answers()

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()


class Broker:
    """Kafka as the tests see it: topics, records, offsets, by a client that is not ours."""

    def __init__(self, port):
        self.address = f"127.0.0.1:{port}"
        self.admin = KafkaAdminClient(bootstrap_servers=self.address)
        self.producer = KafkaProducer(bootstrap_servers=self.address, max_request_size=32 << 20, compression_type="gzip")
        self.create("warm-up")
        until("the group coordinator", lambda: self.commit("warm-up", "warm-up", 0) or True)

    def close(self):
        self.producer.close(timeout=5)
        self.admin.close()

    def create(self, name, partitions=1, **configs):
        self.create_all([(name, partitions, configs)])

    def create_all(self, topics):
        self.admin.create_topics([NewTopic(name, partitions, 1, topic_configs={k.replace("_", "."): str(v) for k, v in configs.items()})
                                  for name, partitions, configs in topics])
        for name, partitions, _ in topics:
            until(f"topic {name}", lambda n=name, p=partitions: len((self.describe(n) or {}).get("partitions", ())) == p)

    def describe(self, name):
        found = [t for t in self.admin.describe_topics([name]) if not t["error_code"]]
        return found[0] if found else None

    def id(self, name):
        return base64.urlsafe_b64encode(uuid.UUID(self.describe(name)["topic_id"]).bytes).decode().rstrip("=")

    def delete(self, name):
        self.admin.delete_topics([name])
        until(f"topic {name} to go", lambda: name not in self.admin.list_topics())

    def configure(self, name, key, value):
        self.admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs={key: str(value)})])

    def send(self, topic, values, partition=0, key=None, headers=()):
        """Values in order; returns the offsets when all are stored."""
        futures = [self.producer.send(topic, value=v, key=key, partition=partition, headers=list(headers)) for v in values]
        self.producer.flush(timeout=60)
        return [f.get(timeout=60).offset for f in futures]

    def trim(self, topic, upto, partition=0):
        self.admin.delete_records({TopicPartition(topic, partition): upto})

    def read(self, topic, partition=0):
        """Everything of one partition: the records from its beginning up to its present end."""
        tp = TopicPartition(topic, partition)
        c = KafkaConsumer(bootstrap_servers=self.address, enable_auto_commit=False, fetch_max_wait_ms=20,
                          check_crcs=False)
        try:
            c.assign([tp])
            end = c.end_offsets([tp])[tp]
            out = []
            c.seek_to_beginning(tp)
            limit = time.monotonic() + DEADLINE
            while c.position(tp) < end:
                assert time.monotonic() < limit, f"reading {topic}"
                for batch in c.poll(timeout_ms=100).values():
                    out += batch
            return out
        finally:
            c.close(autocommit=False)

    def committed(self, group, topic, partition=0):
        """(offset, metadata) or (-1, "")."""
        answer = self.admin.list_group_offsets({group: None})
        found = answer.get(group, {}).get(TopicPartition(topic, partition))
        return (found.offset, found.metadata) if found else (-1, "")

    def commit(self, group, topic, offset, metadata="", partition=0):
        self.admin.alter_group_offsets(group, {TopicPartition(topic, partition): OffsetAndMetadata(offset, metadata, -1)})


@pytest.fixture(scope="session")
def ports():
    p = stack.Ports()
    yield p
    p.release()


@pytest.fixture(scope="session")
def kafka(ports, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("kafka"))
    port = ports.pick("kafka")
    kafka_child.check()
    # A broker that a busy machine keeps from its heartbeats is not to be fenced: no test here is about that.
    settings = {"group.min.session.timeout.ms": "1000", "broker.session.timeout.ms": "60000"}
    child = Child(kafka_child.Kafka(folder, port, ports.pick("controller"), settings), folder)
    broker = None
    try:
        child.start()
        broker = Broker(port)
        yield broker
    finally:
        if broker:
            broker.close()
        child.end()


def new_redis(ports, folder):
    return Child(redis_child.Redis(str(folder), ports.pick(f"redis {folder}"), {"appendonly": "no"}), str(folder)).start()


@pytest.fixture(scope="session")
def redis(ports, tmp_path_factory):
    child = None
    try:
        child = new_redis(ports, tmp_path_factory.mktemp("redis"))
        yield f"redis://127.0.0.1:{child.what.port}"
    finally:
        if child:
            child.end()


class User:
    """A user id with its topics."""

    def __init__(self, broker, partitions=1, **configs):
        self.broker = broker
        self.name = f"u{os.getpid()}x{next(_numbers)}"
        # The broker unpacks what the services compress, because the client that reads here has no lz4.
        plain = {"compression_type": "uncompressed"}
        topics = [(self.raw(d), partitions, configs.get("raw", {})) for d in spans.ORDER]
        topics += [(self.clean(d), partitions, {"max_message_bytes": 4 << 20, **plain, **configs.get("clean", {})}) for d in spans.ORDER]
        broker.create_all(topics + [(f"{self.name}.dead", 1, plain)])

    def raw(self, dataset="pin"):
        return f"{self.name}.{dataset}"

    def clean(self, dataset="pin"):
        return f"{self.name}.clean.{dataset}"

    def source(self, dataset="pin", partition=0):
        return f"kafka:{self.raw(dataset)}:{partition}:{self.broker.id(self.raw(dataset))}"

    def chain(self, dataset="pin", partition=0):
        chain = spans.Chain()
        for m in self.broker.read(self.clean(dataset), partition):
            chain.take(spans.Span(m.value))
        return chain


class Service(service.Service):
    """A cleaner or a sink: takes orders, and may be kept from writing."""

    def order(self, name, body):
        status, text = self.ask(f"/orders/{name}", "POST", body if isinstance(body, str) else json.dumps(body))
        return status, json.loads(text)

    def file_limit(self, limit):
        """Caps the size of files that it may write from now on: a full disk, to it alone. None lifts it."""
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (hard if limit is None else limit, hard))
