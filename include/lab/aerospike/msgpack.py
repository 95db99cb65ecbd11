"""Msgpack as Aerospike uses it inside lists, maps, operations and expressions, kept as raw slices.

Strings and blobs inside are msgpack strings whose first byte is the particle type. An ordered list or map
begins with an extension of no bytes whose type holds the order flags (in a map it is a key with a nil value).
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
from dbops_lab.aerospike.protocol import (
    BLOB,
    BOOL,
    FLOAT,
    GEOJSON,
    INTEGER,
    LIST,
    MAP,
    NIL,
    PARAMETER,
    STRING,
    Refused,
)

ORDERED = 0x01
MAP_ORDERS = (0, 1, 3)  # plain, by key, by key and value
NESTING = 100

_NIL_RANK, _BOOL_RANK, _INT_RANK, _STRING_RANK, _LIST_RANK, _MAP_RANK = range(6)
_BLOB_RANK, _FLOAT_RANK, _GEO_RANK, _EXTENSION_RANK = range(6, 10)


class Malformed(Refused):
    def __init__(self) -> None:
        super().__init__(PARAMETER)


class Element(NamedTuple):
    """One element: kind, payload (or the number of elements inside), where it ends or begins inside."""

    kind: str  # nil bool int float text list map extension
    value: Any
    inside: int  # position after the head: where the elements of a list or map begin, else the end


def head(data: bytes, at: int) -> Element:
    try:
        code = data[at]
        if code < 0x80:
            return Element("int", code, at + 1)
        if code >= 0xE0:
            return Element("int", code - 256, at + 1)
        if code < 0x90:
            return Element("map", code & 0x0F, at + 1)
        if code < 0xA0:
            return Element("list", code & 0x0F, at + 1)
        if code < 0xC0:
            return _sized("text", data, at + 1, code & 0x1F)
        if code == 0xC0:
            return Element("nil", None, at + 1)
        if code in (0xC2, 0xC3):
            return Element("bool", code == 0xC3, at + 1)
        if 0xC4 <= code <= 0xC6:  # binary: a blob without a type byte
            width = 1 << (code - 0xC4)
            return _sized("binary", data, at + 1 + width, _unsigned(data, at + 1, width))
        if 0xC7 <= code <= 0xC9:
            width = 1 << (code - 0xC7)
            return _sized("extension", data, at + 1 + width, _unsigned(data, at + 1, width) + 1)
        if code == 0xCA:
            return Element("float", struct.unpack_from(">f", data, at + 1)[0], at + 5)
        if code == 0xCB:
            return Element("float", struct.unpack_from(">d", data, at + 1)[0], at + 9)
        if 0xCC <= code <= 0xCF:
            width = 1 << (code - 0xCC)
            return Element("int", _unsigned(data, at + 1, width), at + 1 + width)
        if 0xD0 <= code <= 0xD3:
            width = 1 << (code - 0xD0)
            raw = _slice(data, at + 1, width)
            return Element("int", int.from_bytes(raw, "big", signed=True), at + 1 + width)
        if 0xD4 <= code <= 0xD8:
            return _sized("extension", data, at + 1, (1 << (code - 0xD4)) + 1)
        if 0xD9 <= code <= 0xDB:
            width = 1 << (code - 0xD9)
            return _sized("text", data, at + 1 + width, _unsigned(data, at + 1, width))
        if code in (0xDC, 0xDD):
            width = 2 if code == 0xDC else 4
            return Element("list", _unsigned(data, at + 1, width), at + 1 + width)
        if code in (0xDE, 0xDF):
            width = 2 if code == 0xDE else 4
            return Element("map", _unsigned(data, at + 1, width), at + 1 + width)
    except (IndexError, struct.error):
        pass
    raise Malformed


def _slice(data: bytes, at: int, width: int) -> bytes:
    raw = data[at : at + width]
    if len(raw) != width:
        raise Malformed
    return raw


def _unsigned(data: bytes, at: int, width: int) -> int:
    return int.from_bytes(_slice(data, at, width), "big")


def _sized(kind: str, data: bytes, at: int, size: int) -> Element:
    return Element(kind, _slice(data, at, size), at + size)


def end_of(data: bytes, at: int, depth: int = 0) -> int:
    """Where the element that begins at `at` ends."""
    element = head(data, at)
    if element.kind not in {"list", "map"}:
        return element.inside
    if depth > NESTING:
        raise Malformed
    at = element.inside
    for _ in range(element.value * (2 if element.kind == "map" else 1)):
        at = end_of(data, at, depth + 1)
    return at


def split(data: bytes, at: int = 0) -> list[bytes]:
    """The raw elements of the list at `at`, which must be all there is."""
    element = head(data, at)
    if element.kind != "list":
        raise Malformed
    at, items = element.inside, []
    for _ in range(element.value):
        after = end_of(data, at)
        items.append(data[at:after])
        at = after
    if at != len(data):
        raise Malformed
    return items


def split_list(data: bytes) -> tuple[int, list[bytes]]:
    """Order flags and raw elements of a list particle."""
    items = split(data)
    flags = _order_flags(items[0]) if items else None
    if flags is None:
        return 0, items
    return flags & ORDERED, items[1:]


def split_map(data: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Order flags and raw pairs of a map particle."""
    element = head(data, 0)
    if element.kind != "map":
        raise Malformed
    at, pairs = element.inside, []
    for _ in range(element.value):
        middle = end_of(data, at)
        after = end_of(data, middle)
        pairs.append((data[at:middle], data[middle:after]))
        at = after
    if at != len(data):
        raise Malformed
    flags = _order_flags(pairs[0][0]) if pairs else None
    if flags is None:
        return 0, pairs
    return flags & 3, pairs[1:]


def _order_flags(raw: bytes) -> int | None:
    element = head(raw, 0)
    if element.kind != "extension":
        return None
    if len(element.value) != 1:
        raise Malformed
    return int(element.value[0])


def check_list(data: bytes) -> None:
    """Raise when this is not a list, or says that it is ordered and is not."""
    if _plain_and_sound(data, list):
        return
    flags, items = split_list(data)
    if flags & ORDERED:
        keys = [order_key(item) for item in items]
        if any(left > right for left, right in pairwise(keys)):
            raise Malformed


def check_map(data: bytes) -> None:
    if _plain_and_sound(data, dict):
        return
    flags, pairs = split_map(data)
    if flags not in MAP_ORDERS:
        raise Malformed
    keys = [order_key(key) for key, _ in pairs]
    if flags & ORDERED:
        if any(left >= right for left, right in pairwise(keys)):
            raise Malformed
    elif len(set(keys)) != len(keys):
        raise Malformed


def _plain_and_sound(data: bytes, kind: type) -> bool:
    """The quick way for plain text and numbers: everything else is looked at element by element."""
    if b"\xc7" in data:
        return False
    try:
        return type(msgspec.msgpack.decode(data)) is kind
    except (msgspec.DecodeError, ValueError, TypeError, UnicodeDecodeError):
        return False


def order_key(raw: bytes) -> tuple[Any, ...]:
    """Sorts as the server sorts: nil, booleans, integers, strings, lists, maps, blobs, floats, geometry."""
    return _order_key(raw, 0)[0]


def _order_key(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
    element = head(data, at)
    kind, value, at = element
    if kind == "nil":
        return (_NIL_RANK,), at
    if kind == "bool":
        return (_BOOL_RANK, value), at
    if kind == "int":
        return (_INT_RANK, value), at
    if kind == "float":
        return (_FLOAT_RANK, value), at
    if kind == "text":
        rank = {STRING: _STRING_RANK, GEOJSON: _GEO_RANK}.get(value[0] if value else BLOB, _BLOB_RANK)
        return (rank, value[1:]), at
    if kind == "binary":
        return (_BLOB_RANK, value), at
    if kind == "extension":
        return (_EXTENSION_RANK, value), at
    keys = []
    for _ in range(value * (2 if kind == "map" else 1)):
        key, at = _order_key(data, at)
        keys.append(key)
    if kind == "list":
        return (_LIST_RANK, tuple(keys)), at
    return (_MAP_RANK, value, tuple(keys)), at


def _container(first: int, wide: int, count: int) -> bytes:
    if count < 16:
        return bytes((first | count,))
    if count < 1 << 16:
        return bytes((wide,)) + count.to_bytes(2, "big")
    return bytes((wide + 1,)) + count.to_bytes(4, "big")


def pack_list(items: list[bytes], flags: int = 0) -> bytes:
    mark = [bytes((0xC7, 0, flags))] if flags else []
    return _container(0x90, 0xDC, len(items) + len(mark)) + b"".join(mark + items)


def pack_map(pairs: list[tuple[bytes, bytes]], flags: int = 0) -> bytes:
    mark = [bytes((0xC7, 0, flags)) + b"\xc0"] if flags else []
    body = mark + [key + value for key, value in pairs]
    return _container(0x80, 0xDE, len(body)) + b"".join(body)


def pack_int(value: int) -> bytes:
    if 0 <= value < 128:
        return bytes((value,))
    if -32 <= value < 0:
        return bytes((value + 256,))
    if value >= 0:
        for code, width in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
            if value < 1 << (8 * width):
                return bytes((code,)) + value.to_bytes(width, "big")
    for code, width in ((0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8)):
        if value >= -(1 << (8 * width - 1)):
            return bytes((code,)) + value.to_bytes(width, "big", signed=True)
    raise Malformed


def integer(raw: bytes) -> int:
    element = head(raw, 0)
    if element.kind != "int" or element.inside != len(raw):
        raise Malformed
    return int(element.value)


def as_particle(raw: bytes) -> tuple[int, bytes]:
    """What a client gets to see when this element is the value of a bin."""
    kind, value, _ = head(raw, 0)
    if kind == "nil":
        return NIL, b""
    if kind == "bool":
        return BOOL, bytes((value,))
    if kind == "int":
        return INTEGER, (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "big")
    if kind == "float":
        return FLOAT, struct.pack(">d", value)
    if kind == "text":
        return (value[0], value[1:]) if value else (BLOB, b"")
    if kind == "binary":
        return BLOB, value
    if kind in {"list", "map"}:
        return (LIST if kind == "list" else MAP), raw
    raise Malformed
