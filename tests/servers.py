"""Servers that the simulator is not: a proxy, and ones that leave a connection hanging."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self


class _Server:
    """A server on loopback that serves each connection on a thread of its own."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listening]
        self._threads: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.connections = 0

    def __enter__(self) -> Self:
        self._in_thread(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in [*self._threads]:
            thread.join(10)
        for sock in self._open:
            sock.close()

    def _in_thread(self, target: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self.connections += 1
                self._open.append(client)
                self._in_thread(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        raise NotImplementedError


class Proxy(_Server):
    """A forward proxy on loopback, for plain requests and for CONNECT."""

    def _serve(self, client: socket.socket) -> None:
        head = client.recv(65536)
        if not head:
            return
        named = re.match(rb"\w+ (?:http://)?([\d.]+):(\d+)", head)
        assert named, head
        host, port = named.groups()
        server = socket.create_connection((host.decode(), int(port)))
        self._open.append(server)
        if head.startswith(b"CONNECT"):
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            server.sendall(_to_origin(head))
        self._in_thread(self._pump, server, client)
        self._pump(client, server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(_to_origin(data))
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _to_origin(data: bytes) -> bytes:
    """A request as a proxy gets it, as its server wants it."""
    return re.sub(rb"^(POST|GET) http://[\d.]+:\d+", rb"\1 ", data)


@contextmanager
def that_never_accepts() -> Iterator[int]:
    """The port of a server whose queue is full: a connection to it hangs half open."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port: int = listening.getsockname()[1]
        filling = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            filling.append(sock)
        yield port
        for sock in filling:
            sock.close()


@contextmanager
def that_says_nothing() -> Iterator[tuple[int, threading.Event]]:
    """The port of a server that accepts and is silent, and an event for when something has been sent to it."""
    heard = threading.Event()
    closed = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                with client:
                    while client.recv(65536):
                        heard.set()
                closed.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1], heard
        assert closed.wait(10), "the client did not close its connection"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


def half_open_to(port: int) -> int:
    """How many connections to *port* on this machine are half open (SYN_SENT), as Linux tells."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(row.split()[2].endswith(f":{port:04X}") and row.split()[3] == "02" for row in rows)


class Scripted(_Server):
    """
    A server that gives each request the next of *answers*, byte for byte. It then keeps the connection open, unless the
    answer ends with `CLOSED`.
    """

    CLOSED = b"<the server closes the connection>"

    def __init__(self, *answers: bytes) -> None:
        super().__init__()
        self.requests: list[bytes] = []
        self._answers = [*answers]
        self._lock = threading.Lock()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            while request := _one_request(client):
                with self._lock:
                    self.requests.append(request)
                    answer = self._answers.pop(0)
                client.sendall(answer.removesuffix(self.CLOSED))
                if answer.endswith(self.CLOSED):
                    client.shutdown(socket.SHUT_RDWR)
                    return


def _one_request(client: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        data = client.recv(65536)
        if not data:
            return b""
        got += data
    length = re.search(rb"(?i)content-length: (\d+)", got)
    missing = (int(length[1]) if length else 0) - len(got.partition(b"\r\n\r\n")[2])
    while missing > 0:
        data = client.recv(65536)
        got, missing = got + data, missing - len(data)
    return got


def in_chunks(*parts: bytes, ended: bool = True, content_type: str = "text/event-stream") -> bytes:
    """An answer with status 200 whose body comes in chunks; not *ended*: without the last, empty one."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + body + (b"0\r\n\r\n" if ended else b"")


def whole(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An answer in one piece."""
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
