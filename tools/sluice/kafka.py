"""Apache Kafka as a child process: one KRaft node from the jars in the cache, and a probe in its protocol.

SPDX-License-Identifier: Apache-2.0
"""
import base64
import os
import shutil
import socket
import struct
import subprocess
import uuid

from . import stack

# A broker that was killed may register again only when its old session has ended: with the default
# of 9 s a killed Kafka would be away for 12 s.
SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
auto.create.topics.enable=false
"""


def home():
    return os.path.join(stack.cache_dir(), "kafka")


def check():
    """Says what is missing before anything is started."""
    if not os.path.isdir(os.path.join(home(), "libs")):
        raise stack.Trouble("Kafka's jars are not in %s: run `make setup` (or `make run`, which does it)"
                            % os.path.join(home(), "libs"))
    if not shutil.which("java"):
        raise stack.Trouble("java is not installed: run `make setup`, or install openjdk-17-jre-headless")


class Kafka:
    """Writes the configuration of one broker and tells how to start it.

    `settings` are further lines of server.properties; `heap` (256m) is the JVM's -Xmx.
    """

    def __init__(self, state, port, controller, settings=None):
        self.folder = os.path.join(state, "kafka")
        self.tmp = os.path.join(state, "tmp")
        self.port = port
        self.controller = controller
        self.settings = dict(settings or {})
        self.heap = self.settings.pop("heap", "256m")
        self.properties = os.path.join(self.folder, "server.properties")
        self.cwd = home()

    def _java(self, heap, extra, main, *args):
        # The class path string and the working folder must be those of the class data archive.
        line = ["java", "-Xmx" + heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
                "-Djava.io.tmpdir=" + self.tmp]
        archive = os.path.join(home(), "kafka.jsa")
        if os.path.exists(archive):
            line += ["-XX:SharedArchiveFile=" + archive, "-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr"]
        return line + extra + ["-cp", "libs/*", main] + list(args)

    def prepare(self, log):
        """Writes server.properties; formats the data folder the first time."""
        os.makedirs(self.folder, exist_ok=True)
        data = os.path.join(self.folder, "data")
        text = SERVER_PROPERTIES.format(port=self.port, controller=self.controller, data=data)
        text += "".join("%s=%s\n" % pair for pair in sorted(self.settings.items()))
        with open(self.properties, "w") as f:
            f.write(text)
        if os.path.exists(os.path.join(data, "meta.properties")):
            return
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        while cluster.startswith("-"):
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        with open(log, "ab") as f:
            rc = subprocess.call(self._java("128m", ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"],
                                            "kafka.tools.StorageTool", "format", "-t", cluster, "-c", self.properties),
                                 cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=f, stderr=f, start_new_session=True)
        if rc != 0:
            raise stack.Trouble("Kafka's data folder could not be formatted (exit %d):\n  %s"
                                % (rc, "\n  ".join(stack.tail(log))))

    def command(self, flags=()):
        """The broker's command line; `flags` are further ones of the JVM."""
        return self._java(self.heap, [*flags, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                                      "-Dorg.slf4j.simpleLogger.showDateTime=true",
                                      "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSX"],
                          "kafka.Kafka", self.properties)

    def answers(self):
        return broker_answers("127.0.0.1", self.port)


def _call(sock, key, version, body=b""):
    client = b"sluice"
    head = struct.pack(">hhih", key, version, 7, len(client)) + client
    sock.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
    size = struct.unpack(">i", _exactly(sock, 4))[0]
    if not 4 <= size <= 1 << 20:
        raise OSError("not a Kafka answer")
    reply = _exactly(sock, size)
    if struct.unpack(">i", reply[:4])[0] != 7:
        raise OSError("not our answer")
    return reply[4:]


def _exactly(sock, n):
    data = b""
    while len(data) < n:
        piece = sock.recv(n - len(data))
        if not piece:
            raise OSError("connection closed")
        data += piece
    return data


def broker_answers(host, port, timeout=2.0):
    """True once the broker answers ApiVersions and names a registered broker in Metadata.

    The port opens earlier than that; that producer ids can be had is for the producer's /readyz to say.
    """
    try:
        with socket.create_connection((host, port), timeout=timeout) as sock:
            sock.settimeout(timeout)
            if struct.unpack(">h", _call(sock, 18, 0)[:2])[0] != 0:
                return False
            reply = _call(sock, 3, 1, struct.pack(">i", 0))  # metadata version 1, no topics
            return struct.unpack(">i", reply[:4])[0] > 0
    except (OSError, struct.error):
        return False
