"""Runs one Kafka broker on loopback until it has stored and given back a record, and has it write its class archive.

Usage: kafka_archive.py KAFKA_FOLDER WORK_FOLDER; leaves WORK_FOLDER/kafka.jsa.
SPDX-License-Identifier: Apache-2.0
"""
import logging
import os
import signal
import socket
import subprocess
import sys
import time

FLAGS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]

PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
"""


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
    kafka, work = sys.argv[1:]
    broker, controller = free_ports(2)
    # The archive holds for this class path string in this working folder only: every broker is started so.
    os.chdir(kafka)
    properties = os.path.join(work, "server.properties")
    with open(properties, "w", encoding="utf-8") as f:
        f.write(PROPERTIES.format(broker=broker, controller=controller, data=os.path.join(work, "data")))
    java = ["java", *FLAGS, "-cp", "libs/*"]
    subprocess.run([*java, "-Xmx128m", "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c",
                    properties], check=True, stdout=subprocess.DEVNULL, timeout=120)
    with open(os.path.join(work, "broker.log"), "w+", encoding="utf-8") as log:
        process = subprocess.Popen([*java, "-Xmx256m", "-XX:ArchiveClassesAtExit=" + os.path.join(work, "kafka.jsa"),
                                    "kafka.Kafka", properties], stdout=log, stderr=subprocess.STDOUT)
        try:
            use_broker(f"127.0.0.1:{broker}")
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
    if not os.path.exists(os.path.join(work, "kafka.jsa")):
        sys.exit("the broker ended without writing its archive")


if __name__ == "__main__":
    main()
