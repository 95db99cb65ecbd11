"""The PostgreSQL wire protocol, version 3, as far as a proxy in the middle must understand it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

INT32, INT16 = struct.Struct("!i"), struct.Struct("!h")
HEADER = struct.Struct("!ci")
PROTOCOL, CANCEL, SSL, GSS = 196_608, 80_877_102, 80_877_103, 80_877_104
CHUNK = 1 << 18
ROWS = (ord("D"), ord("d"))  # data rows and copied data: relayed by the block


class Column(NamedTuple):
    """One column of an answer."""

    name: str
    oid: int
    typmod: int


class Disconnected(Exception):
    """The other side closed the connection."""


class Wire:
    """One side's socket with its buffers: messages in, messages out."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._in = bytearray()
        self._at = 0
        self._out = bytearray()

    # ------------------------------------------------------------------ in

    def _fill(self, size: int) -> None:
        """Until so many bytes wait behind the read position."""
        if self._at > CHUNK:
            del self._in[: self._at]
            self._at = 0
        while len(self._in) - self._at < size:
            try:
                block = self.socket.recv(CHUNK)
            except OSError as problem:
                raise Disconnected from problem
            if not block:
                raise Disconnected
            self._in += block

    def _take(self, size: int) -> bytes:
        self._fill(size)
        taken = bytes(self._in[self._at : self._at + size])
        self._at += size
        return taken

    def read_startup(self) -> bytes:
        """The first packet of a connection, which has no type."""
        return self._take(INT32.unpack(self._take(4))[0] - 4)

    def read(self) -> tuple[bytes, bytes]:
        """The next message: type and payload."""
        self._fill(5)
        kind, size = HEADER.unpack_from(self._in, self._at)
        self._at += 5
        return kind, self._take(size - 4)

    @property
    def has_message(self) -> bool:
        """Whether a whole message was received already."""
        waiting = len(self._in) - self._at
        return waiting >= 5 and waiting > INT32.unpack_from(self._in, self._at + 1)[0]

    def read_rows(self) -> tuple[bytes, int]:
        """The data rows that have arrived and stand next, as they came, and how many."""
        self._fill(5)
        buffer, start, count = self._in, self._at, 0
        at, end, size_at = start, len(buffer), INT32.unpack_from
        while at + 5 <= end and buffer[at] in ROWS:
            after = at + 1 + size_at(buffer, at + 1)[0]
            if after > end:
                break
            at, count = after, count + 1
        self._at = at
        return bytes(buffer[start:at]), count

    def read_copied(self) -> bytes:
        """The copied data that has arrived and stands next, without headers; empty when another message does."""
        self._fill(5)
        if self._in[self._at] != ROWS[1]:
            return b""
        self._fill(INT32.unpack_from(self._in, self._at + 1)[0] + 1)
        buffer, at = bytes(self._in), self._at
        parts: list[bytes] = []
        end, size_at, add = len(buffer), INT32.unpack_from, parts.append
        while at + 5 <= end and buffer[at] == ROWS[1]:
            after = at + 1 + size_at(buffer, at + 1)[0]
            if after > end:
                break
            add(buffer[at + 5 : after])
            at = after
        self._at = at
        return b"".join(parts)

    # ------------------------------------------------------------------ out

    def write(self, kind: bytes, payload: bytes = b"") -> None:
        self._out += HEADER.pack(kind, len(payload) + 4)
        self._out += payload

    def write_raw(self, block: bytes) -> None:
        self._out += block
        if len(self._out) > CHUNK:
            self.flush()

    def flush(self) -> None:
        if self._out:
            block, self._out = self._out, bytearray()
            try:
                self.socket.sendall(block)
            except OSError as problem:
                raise Disconnected from problem

    def close(self) -> None:
        self.socket.close()


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def split_text(payload: bytes, at: int = 0) -> tuple[str, int]:
    """The zero-terminated text there, and where it ends."""
    end = payload.index(b"\0", at)
    return payload[at:end].decode("utf-8", "replace"), end + 1


def columns(payload: bytes) -> list[Column]:
    """A row description."""
    found, at = [], 2
    for _ in range(INT16.unpack_from(payload)[0]):
        name, at = split_text(payload, at)
        found.append(Column(name, INT32.unpack_from(payload, at + 6)[0], INT32.unpack_from(payload, at + 12)[0]))
        at += 18
    return found


def values(payload: bytes) -> tuple[str | None, ...]:
    """A data row in text form."""
    return tuple(None if value is None else value.decode() for value in _fields(payload))


def _fields(payload: bytes) -> Iterator[bytes | None]:
    at = 2
    for _ in range(INT16.unpack_from(payload)[0]):
        size = INT32.unpack_from(payload, at)[0]
        at += 4
        if size < 0:
            yield None
        else:
            yield payload[at : at + size]
            at += size


def fields(payload: bytes) -> dict[str, str]:
    """An error or a notice, by the letters of its fields."""
    return {part[:1].decode(): part[1:].decode("utf-8", "replace") for part in payload.split(b"\0") if part}


def error(code: str, message: str, *, detail: str = "", hint: str = "", severity: str = "ERROR") -> bytes:
    """The payload of an error or a notice."""
    parts = {"S": severity, "V": severity, "C": code, "M": message, "D": detail, "H": hint}
    return b"".join(text(letter + value) for letter, value in parts.items() if value) + b"\0"


def startup(parameters: dict[str, str]) -> bytes:
    body = INT32.pack(PROTOCOL) + b"".join(text(name) + text(value) for name, value in parameters.items()) + b"\0"
    return INT32.pack(len(body) + 4) + body
