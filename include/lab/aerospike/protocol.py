"""Frames, messages and numbers of the client protocol (version 2). Big-endian, but for partition numbers."""

from __future__ import annotations

import struct
from typing import NamedTuple

# Kinds of frame
INFO, SECURITY, MESSAGE = 1, 2, 3
KINDS = range(1, 6)  # 4 and 5 are compressed and internal messages
LARGEST_FRAME = 128 * 1024 * 1024

# info1
READ, GET_ALL, BATCH, NO_BINS = 0x01, 0x02, 0x08, 0x20
# info2
WRITE, DELETE, GENERATION_EQUAL, GENERATION_GREATER = 0x01, 0x02, 0x04, 0x08
DURABLE_DELETE, CREATE_ONLY, RESPOND_ALL = 0x10, 0x20, 0x80
# info3
LAST, PARTITION_DONE, UPDATE_ONLY, CREATE_OR_REPLACE, REPLACE_ONLY = 0x01, 0x04, 0x08, 0x10, 0x20

# Fields
F_NAMESPACE, F_SET, F_KEY, F_DIGEST, F_TRANSACTION, F_TASK = 0, 1, 2, 4, 5, 7
F_SOCKET_TIMEOUT, F_RECORDS_PER_SECOND, F_PARTITIONS, F_DIGESTS, F_MAX_RECORDS = 9, 10, 11, 12, 13
F_INDEX_VALUE, F_INDEX_NAME, F_INDEX_RANGE, F_INDEX_CONTEXT, F_INDEX_EXPRESSION, F_INDEX_TYPE = (
    15,
    21,
    22,
    23,
    24,
    26,
)
F_UDF_FILE, F_UDF_OP = 30, 33
F_BATCH, F_BATCH_WITH_SET, F_FILTER = 41, 42, 43

# Operations on bins
OP_READ, OP_WRITE, OP_CDT_READ, OP_CDT_MODIFY, OP_ADD = 1, 2, 3, 4, 5
OP_APPEND, OP_PREPEND, OP_TOUCH, OP_DELETE_ALL, OP_HLL_READ, OP_HLL_MODIFY = 9, 10, 11, 14, 15, 16

# Particles
NIL, INTEGER, FLOAT, STRING, BLOB, BOOL, HLL, MAP, LIST, GEOJSON = 0, 1, 2, 3, 4, 17, 18, 19, 20, 23
LANGUAGE_BLOBS = frozenset((7, 8, 9, 10, 11, 12))  # blobs that say which language wrote them

# Results
OK, UNKNOWN, NOT_FOUND, WRONG_GENERATION, PARAMETER, EXISTS = 0, 1, 2, 3, 4, 5
NO_ROOM, CLUSTER_CHANGED, TIMEOUT, UNAVAILABLE, INCOMPATIBLE_TYPE, TOO_BIG = 8, 7, 9, 11, 12, 13
UNSUPPORTED, KEY_MISMATCH, NO_NAMESPACE, BIN_NAME, FORBIDDEN, ENTERPRISE_ONLY = 16, 19, 20, 21, 22, 25
ELEMENT_NOT_FOUND, ELEMENT_EXISTS, NOT_APPLICABLE, FILTERED_OUT = 23, 24, 26, 27
BAD_GEOJSON, INDEX_EXISTS, INDEX_NOT_FOUND = 160, 200, 201

TTL_NEVER, TTL_KEEP, LONGEST_TTL = 0xFFFFFFFF, 0xFFFFFFFE, 315_360_000
EPOCH = 1_262_304_000  # 2010-01-01T00:00:00Z: void times and last-update times count from here
PARTITIONS = 4096

HEADER = struct.Struct(">BBBBBBIIIHH")
HEADER_SIZE = HEADER.size
FIELD = struct.Struct(">IB")
OP = struct.Struct(">IBBBB")
FRAME = struct.Struct(">Q")
U16, U32, U64 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")


class Refused(Exception):
    """The request is answered with this result code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def frame(kind: int, body: bytes | bytearray) -> bytes:
    return FRAME.pack(2 << 56 | kind << 48 | len(body)) + body


def frame_header(size: int) -> bytes:
    return FRAME.pack(2 << 56 | MESSAGE << 48 | size)


def answer(
    result: int = OK,
    generation: int = 0,
    void_time: int = 0,
    *,
    row: int = 0,
    n_ops: int = 0,
    ops: bytes = b"",
    info3: int = 0,
) -> bytes:
    """One message without fields; `row` is the row number in a batch."""
    return HEADER.pack(22, 0, 0, info3, 0, result, generation, void_time, row, 0, n_ops) + ops


def last(result: int = OK) -> bytes:
    return answer(result, info3=LAST)


def field(kind: int, data: bytes) -> bytes:
    return FIELD.pack(len(data) + 1, kind) + data


def op(code: int, name: bytes, particle: int = NIL, value: bytes = b"") -> bytes:
    return OP.pack(4 + len(name) + len(value), code, particle, 0, len(name)) + name + value


class Operation(NamedTuple):
    code: int
    particle: int
    name: bytes
    value: bytes


class Request:
    """A message as it came in: flags, fields by type, and where its operations lie in `data`."""

    __slots__ = (
        "data",
        "fields",
        "generation",
        "info1",
        "info2",
        "info3",
        "n_ops",
        "ops_at",
        "ops_end",
        "timeout",
        "ttl",
    )

    def __init__(self, data: bytes) -> None:
        if len(data) < HEADER_SIZE:
            raise Refused(PARAMETER)
        (
            size,
            self.info1,
            self.info2,
            self.info3,
            _,
            _,
            self.generation,
            self.ttl,
            self.timeout,
            n_fields,
            n_ops,
        ) = HEADER.unpack_from(data)
        if size != HEADER_SIZE:
            raise Refused(PARAMETER)
        self.data = data
        self.fields, self.ops_at = read_fields(data, HEADER_SIZE, n_fields)
        self.n_ops = n_ops
        self.ops_end = skip_ops(data, self.ops_at, n_ops)


def read_fields(data: bytes, at: int, count: int) -> tuple[dict[int, bytes], int]:
    fields: dict[int, bytes] = {}
    end = len(data)
    for _ in range(count):
        if at + 5 > end:
            raise Refused(PARAMETER)
        size, kind = FIELD.unpack_from(data, at)
        after = at + 4 + size
        if size < 1 or after > end:
            raise Refused(PARAMETER)
        fields[kind] = data[at + 5 : after]
        at = after
    return fields, at


def skip_ops(data: bytes, at: int, count: int) -> int:
    """Where `count` operations end; each must lie inside the data."""
    end, unpack = len(data), OP.unpack_from
    try:
        for _ in range(count):
            size, _, _, _, name_size = unpack(data, at)
            at += 4 + size
            if size < 4 + name_size or at > end:
                raise Refused(PARAMETER)
    except struct.error:
        raise Refused(PARAMETER) from None
    return at


def read_ops(data: bytes, at: int, count: int) -> list[Operation]:
    """The operations from `at` on, already known to fit (`skip_ops`)."""
    operations = []
    for _ in range(count):
        size, code, particle, _, name_size = OP.unpack_from(data, at)
        value_at = at + 8 + name_size
        at += 4 + size
        operations.append(Operation(code, particle, data[value_at - name_size : value_at], data[value_at:at]))
    return operations


def partition_of(digest: bytes) -> int:
    return (digest[0] | digest[1] << 8) & 0xFFF
