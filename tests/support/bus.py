"""The other end of the bus: SP over TCP (nanomsg's wire protocol), reply side and request side, on plain sockets and threads.

SPDX-License-Identifier: Apache-2.0
"""
import os
import socket
import struct
import subprocess
import tempfile
import threading

REQ, REP = 0x30, 0x31
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def hello(protocol):
    return b"\0SP\0" + struct.pack(">HH", protocol, 0)


def read_exactly(sock, n):
    data = bytearray()
    while len(data) < n:
        piece = sock.recv(min(n - len(data), 1 << 20))
        if not piece:
            raise EOFError("the peer has closed the connection")
        data += piece
    return bytes(data)


def read_message(sock):
    (n,) = struct.unpack(">Q", read_exactly(sock, 8))
    return read_exactly(sock, n)


def write_message(sock, payload):
    sock.sendall(struct.pack(">Q", len(payload)) + payload)


class RepServer:
    """Answers requests: handler(body) gives the answer's bytes, or None to stay silent. Each request has a thread of its own."""

    def __init__(self, handler, port=0):
        self.handler = handler
        self.lock = threading.Lock()
        self.peers = []
        self.closed = False
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                if self.closed:
                    sock.close()
                    return
                self.peers.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        write = threading.Lock()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(hello(REP))
            if read_exactly(sock, 8) != hello(REQ):
                raise EOFError("not a requester")
            while True:
                message = read_message(sock)
                threading.Thread(target=self._answer, args=(sock, write, message), daemon=True).start()
        except (OSError, EOFError):
            sock.close()

    def _answer(self, sock, write, message):
        answer = self.handler(message[4:])
        if answer is None:
            return
        try:
            with write:
                write_message(sock, message[:4] + answer)
        except OSError:
            pass  # the requester has gone: that is its own affair

    def cut(self):
        """Ends the connections, as a process that dies does; new ones are still taken."""
        with self.lock:
            peers, self.peers = self.peers, []
        for sock in peers:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()

    def close(self):
        with self.lock:
            self.closed = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self.cut()


class ReqClient:
    """Asks one server, one request at a time."""

    def __init__(self, host, port, timeout=30.0):
        self.sock = socket.create_connection((host, port), timeout=timeout)
        self.sock.sendall(hello(REQ))
        if read_exactly(self.sock, 8) != hello(REP):
            raise EOFError("not a replier")
        self.next_id = 1

    def send(self, body):
        self.next_id += 1
        head = struct.pack(">I", 0x80000000 | self.next_id)
        write_message(self.sock, head + body)
        return head

    def receive(self, head):
        while True:
            message = read_message(self.sock)
            if message[:4] == head:
                return message[4:]

    def ask(self, body):
        return self.receive(self.send(body))

    def close(self):
        self.sock.close()


def messages(proto):
    """The message classes of proto/<proto>.proto by name, made at run time from its descriptor."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "set")
        subprocess.run(["protoc-c", f"--descriptor_set_out={out}", f"-I{ROOT}/proto", f"{proto}.proto"], check=True, timeout=60)
        with open(out, "rb") as f:
            files = descriptor_pb2.FileDescriptorSet.FromString(f.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    names = [f"{files.file[-1].package}.{m.name}" for m in files.file[-1].message_type]
    return {name.split(".")[-1]: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names}
