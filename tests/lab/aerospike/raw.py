"""A small client that speaks frames."""

from __future__ import annotations

import hashlib
import os
import socket
import struct

from captures import Message, messages


class Raw:
    """One connection that speaks frames."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)

    def exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self.socket.recv(min(1 << 20, count - len(data)))
            if not part:
                raise ConnectionError(f"closed after {len(data)} of {count} bytes")
            data += part
        return bytes(data)

    def frame(self) -> tuple[int, bytes]:
        head = struct.unpack(">Q", self.exactly(8))[0]
        assert head >> 56 == 2
        return head >> 48 & 0xFF, self.exactly(head & 0xFFFFFFFFFFFF)

    def ask(self, request: bytes) -> tuple[int, bytes]:
        self.socket.sendall(request)
        return self.frame()

    def info(self, command: str) -> str:
        body = command.encode() + b"\n"
        _, answer = self.ask(struct.pack(">Q", 2 << 56 | 1 << 48 | len(body)) + body)
        return answer.decode().rstrip("\n").split("\t", 1)[1]

    def one(self, request: bytes) -> Message:
        """The answer to a request that has only one."""
        kind, body = self.ask(request)
        assert kind == 3
        (found,) = messages(body)
        return found

    def stream(self, request: bytes) -> list[Message]:
        """All messages up to LAST, or the single one that refuses."""
        self.socket.sendall(request)
        found: list[Message] = []
        while not found or not (found[-1].info3 & 1 or (found[-1].result and not found[-1].info3)):
            kind, body = self.frame()
            assert kind == 3
            found += messages(body)
        return found


def field(kind: int, data: bytes) -> bytes:
    return struct.pack(">IB", len(data) + 1, kind) + data


def op(code: int, name: bytes, particle: int = 0, value: bytes = b"") -> bytes:
    return struct.pack(">IBBBB", 4 + len(name) + len(value), code, particle, 0, len(name)) + name + value


def message(
    info1: int = 0,
    info2: int = 0,
    info3: int = 0,
    *,
    generation: int = 0,
    ttl: int = 0,
    fields: tuple[bytes, ...] = (),
    ops: tuple[bytes, ...] = (),
) -> bytes:
    head = struct.pack(">BBBBBBIIIHH", 22, info1, info2, info3, 0, 0, generation, ttl, 1000, len(fields), len(ops))
    body = head + b"".join(fields) + b"".join(ops)
    return struct.pack(">Q", 2 << 56 | 3 << 48 | len(body)) + body


def query(
    namespace: bytes, partitions: range | list[int], *extra: bytes, set_name: bytes = b"", info1: int = 1
) -> bytes:
    fields = [field(0, namespace), field(9, struct.pack(">I", 30_000)), field(7, os.urandom(8))]
    if set_name:
        fields.append(field(1, set_name))
    if len(partitions):
        fields.append(field(11, struct.pack(f"<{len(partitions)}H", *partitions)))
    return message(info1, info3=4, fields=(*fields, *extra))


def digest_of(number: int) -> bytes:
    """Any digest; they spread over all partitions."""
    return hashlib.blake2b(number.to_bytes(8, "big"), digest_size=20).digest()


def partition_of(digest: bytes) -> int:
    return int.from_bytes(digest[:2], "little") & 0xFFF


def integer(number: int) -> bytes:
    return struct.pack(">q", number)
