"""Runs one Kafka broker on loopback until it has stored and given back a record, and has it write its class archive.

Usage: kafka_archive.py WORK_FOLDER; leaves WORK_FOLDER/kafka.jsa. The broker is set up as `./sluice` sets its own up, from the
jars in SLUICE_CACHE.
SPDX-License-Identifier: Apache-2.0
"""
import logging
import os
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
from sluice.kafka import Kafka  # noqa: E402


def free_ports(count):
    """Ports that are free now; all held open together so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def use_broker(address):
    """Creates a topic, stores a record and reads it back, so that the classes for that are loaded too."""
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
    from kafka.admin import NewTopic
    from kafka.errors import KafkaError

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    deadline = time.monotonic() + 120
    while True:
        try:
            admin = KafkaAdminClient(bootstrap_servers=address, request_timeout_ms=5000)
            break
        except KafkaError:
            if time.monotonic() > deadline:
                raise
    admin.create_topics([NewTopic("archive", 1, 1)])
    producer = KafkaProducer(bootstrap_servers=address, acks="all")
    producer.send("archive", b"record").get(timeout=60)
    producer.close()
    consumer = KafkaConsumer("archive", bootstrap_servers=address, group_id="archive",
                             auto_offset_reset="earliest", consumer_timeout_ms=60000)
    record = next(consumer)
    consumer.commit()
    consumer.close()
    admin.close()
    if record.value != b"record":
        raise RuntimeError("the broker gave back another record than it was sent")


def main():
    work = sys.argv[1]
    archive = os.path.join(work, "kafka.jsa")
    kafka = Kafka(work, *free_ports(2))
    os.makedirs(kafka.tmp)
    kafka.prepare(os.path.join(work, "format.log"))
    with open(os.path.join(work, "broker.log"), "w+", encoding="utf-8") as log:
        process = subprocess.Popen(kafka.command(["-XX:ArchiveClassesAtExit=" + archive]), cwd=kafka.cwd,
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            use_broker("127.0.0.1:%d" % kafka.port)
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-4000:])
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if not os.path.exists(archive):
        sys.exit("the broker ended without writing its archive")


if __name__ == "__main__":
    main()
