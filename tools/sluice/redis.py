"""redis-server as a child process, with its append-only file in the state folder.

SPDX-License-Identifier: Apache-2.0
"""
import os
import shutil
import socket

from . import stack


def check():
    if not shutil.which("redis-server"):
        raise stack.Trouble("redis-server is not installed: run `make setup`, or install Debian's package")


class Redis:
    """Tells how to start the server; `settings` are further options of redis-server."""

    def __init__(self, state, port, settings=None):
        self.cwd = os.path.join(state, "redis")
        self.port = port
        self.settings = dict(settings or {})

    def prepare(self, _log):
        os.makedirs(self.cwd, exist_ok=True)

    def command(self):
        line = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.cwd,
                "--appendonly", "yes", "--save", "", "--daemonize", "no"]
        for key, value in sorted(self.settings.items()):
            line += ["--" + key, value]
        return line

    def answers(self):
        return ping("127.0.0.1", self.port)


def ping(host, port, timeout=2.0):
    """True for a server that answers PING with PONG (it says -LOADING while it reads its file)."""
    try:
        with socket.create_connection((host, port), timeout=timeout) as sock:
            sock.settimeout(timeout)
            sock.sendall(b"*1\r\n$4\r\nPING\r\n")
            return sock.recv(64).startswith(b"+PONG")
    except OSError:
        return False
