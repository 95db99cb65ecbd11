"""The Aerospike client protocol, as far as backups need it: framing, info, login, partition queries, one connection.

Frames are an 8-byte header (version 2, type, 48-bit size) and a body. Numbers are big-endian, except partition
numbers in arrays (little-endian). Checked against captures of server 8.1.2.0.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

from dbops.errors import FinalError, RetryableError

PARTITIONS = 4096
EPOCH = 1_262_304_000  # 2010-01-01T00:00:00Z in Unix seconds: void times and `current_time` count from here

INFO, SECURITY, MESSAGE = 1, 2, 3  # frame types
READ, NO_BINS = 0x01, 0x20  # info1
LAST, PARTITION_DONE = 0x01, 0x04  # info3
NAMESPACE, SET, TASK_ID, SOCKET_TIMEOUT, RECORDS_PER_SECOND, PARTITION_IDS, DIGESTS, FILTER = (
    0,
    1,
    7,
    9,
    10,
    11,
    12,
    43,
)
MAX_FRAME = 128 << 20

_LOGIN, _AUTHENTICATE = 20, 0
_USER, _CREDENTIAL, _SESSION_TOKEN = 0, 3, 5
_SECURITY_NOT_ENABLED, _SECURITY_NOT_SUPPORTED = 52, 51
_PASSWORD_SALT = b"$2a$10$7EqJtq98hPqEX7fNZaFWoO"  # fixed by the protocol: client and server hash with the same salt

_GREATER_OR_EQUAL, _LAST_UPDATE = 4, 0x42  # opcodes of filter expressions

RESULTS = {
    1: "server error",
    4: "parameter error",
    7: "timeout",
    8: "always forbidden",
    9: "timed out on the server",
    11: "partition unavailable",
    16: "unsupported feature",
    18: "device overload",
    20: "unknown namespace",
    22: "forbidden operation",
    27: "filtered out",
    51: "security not supported",
    52: "security not enabled",
    60: "invalid user",
    62: "invalid password",
    65: "invalid credential",
    66: "expired session",
    80: "not authenticated",
    81: "role violation",
    210: "query aborted",
    211: "query queue full",
}
_FINAL = {4, 8, 16, 20, 22, 51, 60, 62, 65, 80, 81}


class ConnectionLost(RetryableError):
    """The node closed, reset or never answered."""


class ServerBusy(RetryableError):
    """The node refused now, and may accept later."""


class Refused(FinalError):
    """The node refuses, and will again: unknown namespace, wrong password, missing right, bad request."""


def result_error(attempt: str, code: int) -> ServerBusy | Refused:
    """The exception for a protocol result code: final or worth a retry."""
    text = f"{attempt}: the server answered {code} ({RESULTS.get(code, 'see the Aerospike error codes')})"
    return Refused(text) if code in _FINAL else ServerBusy(text)


@dataclass(frozen=True)
class Tls:
    """How to reach a cluster over TLS. `name` is the name in the server's certificate."""

    name: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = field(default=None, repr=False)

    def context(self) -> ssl.SSLContext:
        """A client context that verifies the server; with a client certificate when one is given."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


@lru_cache(maxsize=8)
def _credential(password: str) -> bytes:
    """The hash that the server knows; slow on purpose (60 ms), and asked for each node."""
    import bcrypt

    return bcrypt.hashpw(password.encode()[:72], _PASSWORD_SALT)


def frame(kind: int, body: bytes) -> bytes:
    return struct.pack(">Q", 2 << 56 | kind << 48 | len(body)) + body


def message_field(kind: int, data: bytes) -> bytes:
    return struct.pack(">IB", len(data) + 1, kind) + data


def modified_since(unix_nanoseconds: int) -> bytes:
    """The filter expression `last update >= t`, packed as the clients pack it: [4, [66], t]."""
    return struct.pack(">BBBBBQ", 0x93, _GREATER_OR_EQUAL, 0x91, _LAST_UPDATE, 0xCF, unix_nanoseconds)


def partition_query(
    namespace: str,
    partitions: Sequence[int],
    resume_after: Iterable[bytes] = (),
    *,
    filter_expression: bytes = b"",
    no_bins: bool = False,
    set_name: str = "",
    bins: Sequence[str] = (),
    records_per_second: int = 0,
    socket_timeout_ms: int = 30_000,
) -> bytes:
    """One query frame: every record of `partitions`, and of the partitions of `resume_after` below those digests.

    With `set_name`, only those of that set; with `bins`, only these bins, and no record that has none of them.
    A partition may stand in one of the two only. The answer is records, each partition from the highest digest to
    the lowest, then one message flagged LAST.
    """
    fields = [
        message_field(NAMESPACE, namespace.encode()),
        message_field(SOCKET_TIMEOUT, struct.pack(">I", socket_timeout_ms)),
        message_field(TASK_ID, secrets.token_bytes(8)),
    ]
    if set_name:
        fields.append(message_field(SET, set_name.encode()))
    if records_per_second:
        fields.append(message_field(RECORDS_PER_SECOND, struct.pack(">I", records_per_second)))
    if filter_expression:
        fields.append(message_field(FILTER, filter_expression))
    if partitions:
        fields.append(message_field(PARTITION_IDS, struct.pack(f"<{len(partitions)}H", *partitions)))
    if digests := b"".join(resume_after):
        fields.append(message_field(DIGESTS, digests))
    info1 = READ | (NO_BINS if no_bins else 0)
    ops = [struct.pack(">IBBBB", 4 + len(name), 1, 0, 0, len(name)) + name for name in (bin.encode() for bin in bins)]
    head = struct.pack(">BBBBBBIIIHH", 22, info1, 0, PARTITION_DONE, 0, 0, 0, 0xFFFFFFFF, 0, len(fields), len(ops))
    return frame(MESSAGE, head + b"".join(fields) + b"".join(ops))


class Connection:
    """One TCP or TLS connection to one node; blocking, with a time-out on every read and write."""

    def __init__(self, host: str, port: int, *, timeout: float, tls: Tls | None = None) -> None:
        """:raises ConnectionLost: nobody listens there, or TLS fails."""
        self.where = f"{host}:{port}"
        try:
            raw = socket.create_connection((host, port), timeout=timeout)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # A host that vanished without a word is noticed in 25 s, although a long query may be silent for longer.
            for option, seconds in (
                (socket.TCP_KEEPIDLE, 10),
                (socket.TCP_KEEPINTVL, 5),
                (socket.TCP_KEEPCNT, 3),
            ):
                raw.setsockopt(socket.IPPROTO_TCP, option, seconds)
            self.sock = tls.context().wrap_socket(raw, server_hostname=tls.name or host) if tls else raw
        except OSError as problem:
            raise ConnectionLost(
                f"connect to Aerospike at {self.where}: {problem}; check that the node runs and is reachable from here"
            ) from problem

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes | memoryview) -> None:
        with self._io("send"):
            self.sock.sendall(data)

    def receive_into(self, view: memoryview) -> int:
        """Bytes received into `view`, at least one.

        :raises ConnectionLost: the node closed the connection or was silent for the time-out.
        """
        with self._io("receive"):
            if count := self.sock.recv_into(view):
                return count
        raise ConnectionLost(f"receive from {self.where}: the node closed the connection")

    def info(self, *names: str) -> dict[str, str]:
        """Values of info commands, by command. An `ERROR...` value is left to the caller."""
        kind, body = self._ask(frame(INFO, "".join(f"{name}\n" for name in names).encode()))
        if kind != INFO:
            raise ConnectionLost(f"info {names} at {self.where}: answered with a frame of type {kind}")
        if body.startswith(b"ERROR:80"):
            asked = ", ".join(names)
            raise Refused(f"ask {self.where} for {asked}: it wants a login; give the connection a user and a password")
        values: dict[str, str] = {}
        for line in body.decode("utf-8", "replace").split("\n"):
            name, tab, value = line.partition("\t")
            if tab:
                values[name] = value
        return values

    def login(self, user: str, password: str) -> bytes | None:
        """Log in with internal authentication; the session token for further connections, None if security is off."""
        fields = [message_field(_USER, user.encode()), message_field(_CREDENTIAL, _credential(password))]
        code, answer = self._security(_LOGIN, fields)
        if code in (_SECURITY_NOT_ENABLED, _SECURITY_NOT_SUPPORTED):
            return None
        if code:
            raise result_error(f"log in to Aerospike at {self.where} as {user}", code)
        return next((data for kind, data in answer if kind == _SESSION_TOKEN), None)

    def authenticate(self, user: str, token: bytes) -> None:
        """Open this connection with the token of an earlier login."""
        fields = [message_field(_USER, user.encode()), message_field(_SESSION_TOKEN, token)]
        code, _ = self._security(_AUTHENTICATE, fields)
        if code:
            raise result_error(f"authenticate at {self.where} as {user}", code)

    def _security(self, command: int, fields: list[bytes]) -> tuple[int, list[tuple[int, bytes]]]:
        head = struct.pack(">BBBB12x", 0, 0, command, len(fields))
        kind, body = self._ask(frame(SECURITY, head + b"".join(fields)))
        if kind != SECURITY or len(body) < 16:
            raise ConnectionLost(f"log in at {self.where}: answered with a frame of type {kind}, {len(body)} bytes")
        answer, at = [], 16
        for _ in range(body[3]):
            size, kind = struct.unpack_from(">IB", body, at)
            answer.append((kind, body[at + 5 : at + 4 + size]))
            at += 4 + size
        return body[1], answer

    def _ask(self, request: bytes) -> tuple[int, bytes]:
        self.send(request)
        head = int.from_bytes(self.exactly(8), "big")
        size = head & 0xFFFFFFFFFFFF
        if head >> 56 != 2 or size > MAX_FRAME:
            raise ConnectionLost(f"{self.where} does not speak the Aerospike protocol: check host and port")
        return head >> 48 & 0xFF, self.exactly(size)

    def exactly(self, size: int) -> bytes:
        """:raises ConnectionLost: the node closed before that many bytes came."""
        data = bytearray(size)
        view, have = memoryview(data), 0
        while have < size:
            have += self.receive_into(view[have:])
        return bytes(data)

    @contextmanager
    def _io(self, what: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError as problem:
            raise ConnectionLost(f"{what} at {self.where}: no answer in {self.sock.gettimeout()} s") from problem
        except OSError as problem:
            raise ConnectionLost(f"{what} at {self.where}: {problem}") from problem
