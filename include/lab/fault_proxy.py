"""A loopback HTTP proxy that fails on order: between a client and any HTTP server, moto's S3 for one.

    with FaultProxy(moto_port) as proxy:
        store = S3Store("bucket", "", connection_to(proxy.url))
        proxy.order(Fault(method="PUT", path="partNumber=2", times=3, status=503))

Each request takes the first order that matches its method and target (path and query) and has `times` left. What it
then does to the request is one of

- `status`: read the request, answer this status with an S3 error document (of this `code`); the server never sees it
- `reset_after`: hand the server so many bytes of the body, then cut both connections (RST)
- `cut_reply_after`: let the server carry the request out, hand the client so many bytes of the answer's body (-1: not
  even its head), then cut the connection: it was done, and the client does not know
- `stall`: seconds to wait before the request goes on; it goes nowhere when the client has given up by then

Requests without an order pass. `proxy.requests` keeps (method, target) of all. One request per connection, no TLS.
"""

from __future__ import annotations

import math
import re
import select
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

_BLOCK = 1 << 16
_CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}
ALWAYS = math.inf


@dataclass
class Fault:
    """An order: which requests, how many of them, and what happens to them. `method` and `path` are regexes."""

    method: str = ""
    path: str = ""
    times: float = 1
    status: int | None = None
    code: str | None = None
    reset_after: int | None = None
    cut_reply_after: int | None = None
    stall: float = 0


class FaultProxy:
    """Runs in a thread of its own, on a free port, from `start` (or `with`) to `stop`."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.upstream = (host, port)
        self.requests: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = _Server(self)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def order(self, *faults: Fault) -> None:
        """Add orders behind those that are there."""
        with self._lock:
            self._faults += faults

    def clear(self) -> None:
        """Forget orders and requests."""
        with self._lock:
            self._faults.clear()
            self.requests.clear()

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests matched these regexes."""
        with self._lock:
            return sum(bool(re.search(method, m) and re.search(path, target)) for m, target in self.requests)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def take(self, method: str, target: str) -> Fault:
        """Note a request; the order that holds for it, or one that does nothing."""
        with self._lock:
            self.requests.append((method, target))
            for fault in self._faults:
                if fault.times > 0 and re.search(fault.method, method) and re.search(fault.path, target):
                    fault.times -= 1
                    return fault
        return Fault()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Request)


class _Request(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):
            line = self.rfile.readline()
            if line:
                self._forward(line)

    def _forward(self, line: bytes) -> None:
        method, target, _ = line.decode("latin-1").split(" ", 2)
        headers = list(_headers(self.rfile))
        fields = {name.lower(): value for name, value in headers}
        if fields.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = _body(self.rfile, fields)
        fault = self.server.proxy.take(method, target)
        if fault.stall:
            time.sleep(fault.stall)
            if _gone(self.connection):
                return
        if fault.status is not None:
            for _ in body:
                pass
            self._answer(fault.status, fault.code, method)
            return
        with socket.create_connection(self.server.proxy.upstream) as upstream:
            kept = [(n, v) for n, v in headers if n.lower() not in {"connection", "expect"}]
            head = "".join(f"{name}: {value}\r\n" for name, value in [*kept, ("Connection", "close")])
            upstream.sendall(line + head.encode("latin-1") + b"\r\n")
            sent = 0
            for block in body:
                if fault.reset_after is not None and sent + len(block) > fault.reset_after:
                    upstream.sendall(block[: fault.reset_after - sent])
                    _reset(upstream)
                    _reset(self.connection)
                    return
                upstream.sendall(block)
                sent += len(block)
            self._relay(upstream, fault.cut_reply_after)

    def _relay(self, upstream: socket.socket, cut_after: int | None) -> None:
        with upstream.makefile("rb") as reply:
            if cut_after == -1:
                reply.read()  # the server is done with it
                _reset(self.connection)
                return
            head = b""
            while not head.endswith((b"\r\n\r\n", b"\n\n")) and (line := reply.readline()):
                head += line
            self.wfile.write(head)
            sent = 0
            while block := reply.read1(_BLOCK):
                if cut_after is not None and sent + len(block) > cut_after:
                    self.wfile.write(block[: cut_after - sent])
                    time.sleep(0.05)  # an RST overtakes what the client has not read yet
                    _reset(self.connection)
                    return
                self.wfile.write(block)
                sent += len(block)

    def _answer(self, status: int, code: str | None, method: str) -> None:
        code = code or _CODES.get(status, "InternalError")
        document = f"<Error><Code>{code}</Code><Message>ordered by a test</Message></Error>".encode()
        self.wfile.write(
            b"HTTP/1.1 %d Ordered\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n" % (status, len(document)) + (b"" if method == "HEAD" else document)
        )


def _headers(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        yield name, value.strip()


def _body(stream: BinaryIO, fields: dict[str, str]) -> Iterator[bytes]:
    """The bytes of the request's body as they stand on the wire, chunk framing included."""
    if "chunked" in fields.get("transfer-encoding", "").lower():
        size = -1
        while size != 0:
            line = stream.readline()
            size = int(line.split(b";")[0], 16)
            yield line + stream.read(size + 2)
        return
    left = int(fields.get("content-length", 0))
    while left > 0:
        block = stream.read(min(_BLOCK, left))
        if not block:
            raise ConnectionResetError("the client went away in the middle of a body")
        left -= len(block)
        yield block


def _gone(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
    connection.close()
