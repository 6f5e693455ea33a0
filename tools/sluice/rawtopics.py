"""rawtopics: reads the raw topics with kafka-python.

SPDX-License-Identifier: Apache-2.0
"""
import time

from . import http, rules, stack
from .stack import Trouble


def topic_ids(value):
    """{topic: id} as the gateway knows them."""
    trouble = "this stack has none"
    for name, url in stack.replicas(value, "gateway"):
        try:
            topics = http.get_json(url + "/debug/state")["gateway"]["topics"]
            return {name: t["id"] for name, t in topics.items()}
        except (http.HttpError, KeyError, TypeError) as e:
            trouble = "%s: %s" % (name, e)
    raise Trouble("a gateway must be up, to name the sources (%s)" % trouble)


def raw_records(servers, topic, wait=60):
    """Yields ('begin', partition, (low, end)) and then ('record', partition, message) for a whole topic."""
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError
    # The digests of the values are compared anyway; a checksum in plain Python would take most of the time.
    try:
        consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, group_id=None, check_crcs=False,
                                 auto_offset_reset="earliest", request_timeout_ms=30000, fetch_max_bytes=8 << 20,
                                 max_partition_fetch_bytes=4 << 20, bootstrap_timeout_ms=500 * wait)
    except KafkaError as e:
        raise Trouble("Kafka at %s cannot be read: %s" % (servers, e)) from e
    try:
        for number in sorted(_partitions(consumer, servers, topic)):
            part = TopicPartition(topic, number)
            consumer.assign([part])
            low, high = consumer.beginning_offsets([part])[part], consumer.end_offsets([part])[part]
            yield "begin", number, (low, high)
            if low < high:
                for message in _messages(consumer, part, low, high, wait):
                    yield "record", number, message
    except KafkaError as e:
        raise Trouble("Kafka at %s cannot be read: %s" % (servers, e)) from e
    finally:
        consumer.close()


def _partitions(consumer, servers, topic):
    end = time.monotonic() + 30
    while not consumer.partitions_for_topic(topic):
        if time.monotonic() > end:
            raise Trouble("Kafka at %s knows no topic %s" % (servers, topic))
        time.sleep(0.2)
    return consumer.partitions_for_topic(topic)


def _messages(consumer, part, low, high, wait):
    consumer.seek(part, low)
    limit = time.monotonic() + wait
    while consumer.position(part) < high:
        got = consumer.poll(timeout_ms=1000, max_records=5000)
        yield from (message for message in got.get(part, ()) if message.offset < high)
        if got:
            limit = time.monotonic() + wait
        elif time.monotonic() > limit:
            raise Trouble("Kafka gave nothing more of %s-%d at offset %d for %d s"
                          % (part.topic, part.partition, consumer.position(part), wait))


def ingested_at(message):
    """The gateway's clock as the record carries it, else the record's own time, where a table can hold it."""
    carried = [value for name, value in message.headers or () if name == "sluice-ingested-at"]
    if carried and carried[-1] and carried[-1].isdigit() and int(carried[-1]) < rules.INSTANT_END:
        return int(carried[-1])
    return message.timestamp if 0 < message.timestamp < rules.INSTANT_END else 0
