"""Filter expressions: msgpack lists [operation, arguments...], checked when read, then run per record.

Supported: comparisons, and/or/not/exclusive, arithmetic and bits of integers, constants, bins, bin types,
stored keys, digest modulo, last update, since update, void time, ttl, set name, key exists, is tombstone.
Everything else (regular expressions, geometry, variables, conditions, calls into lists and maps) is refused
as unsupported, so no filter ever lets through what it should not.

A value that is not there (an absent bin, a bin of another type) is unknown; what depends on it is unknown
too, and a record whose answer is unknown is left out.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from functools import reduce
from typing import Any

from dbops_lab.aerospike import msgpack
from dbops_lab.aerospike.protocol import (
    BLOB,
    BOOL,
    EPOCH,
    FLOAT,
    GEOJSON,
    HLL,
    INTEGER,
    LIST,
    MAP,
    PARAMETER,
    STRING,
    UNSUPPORTED,
    Refused,
)
from dbops_lab.aerospike.records import Namespace, Record

UNKNOWN = object()
_NIL, _BOOL, _INT, _TEXT, _LIST, _MAP, _BLOB, _FLOAT, _GEO, _HLL = range(10)  # types of values in expressions
PARTICLE_TYPES = {
    _BOOL: BOOL,
    _INT: INTEGER,
    _TEXT: STRING,
    _LIST: LIST,
    _MAP: MAP,
    _BLOB: BLOB,
    _FLOAT: FLOAT,
}
PARTICLE_TYPES |= {_GEO: GEOJSON, _HLL: HLL}

EQ, NE, GT, GE, LT, LE = range(1, 7)
AND, OR, NOT, EXCLUSIVE = range(16, 20)
LAST_UPDATE = 66
COMPARISONS = {
    EQ: operator.eq,
    NE: operator.ne,
    GT: operator.gt,
    GE: operator.ge,
    LT: operator.lt,
    LE: operator.le,
}


class Subject:
    """The record that an expression looks at; its bins are taken apart only when asked for."""

    __slots__ = ("bins", "namespace", "record")

    def __init__(self, namespace: Namespace, record: Record) -> None:
        self.namespace = namespace
        self.record = record
        self.bins: dict[bytes, tuple[int, bytes]] | None = None

    def bin(self, name: bytes) -> tuple[int, bytes] | None:
        if self.bins is None:
            self.bins = self.record.bins()
        return self.bins.get(name)


Evaluate = Callable[[Subject], Any]
Typed = tuple[int, Evaluate]


class Expression:
    """A filter that was read and found sound."""

    def __init__(self, data: bytes) -> None:
        if not data or msgpack.end_of(data, 0) != len(data):
            raise Refused(PARAMETER)
        kind, self._evaluate = _build(data)
        if kind != _BOOL:
            raise Refused(PARAMETER)
        self.updated_since = _lower_bound(data)  # no record older than this many milliseconds can hold

    def holds(self, namespace: Namespace, record: Record) -> bool:
        return self._evaluate(Subject(namespace, record)) is True


def _lower_bound(data: bytes) -> int:
    """What the expression demands of the last update, as far as it is plain to see."""
    if msgpack.head(data, 0).kind != "list":
        return 0
    items = msgpack.split(data)
    code = msgpack.integer(items[0])
    if code == AND:
        return max(map(_lower_bound, items[1:]))
    if code in (GT, GE) and items[1] == bytes((0x91, LAST_UPDATE)) and msgpack.head(items[2], 0).kind == "int":
        return max(0, msgpack.integer(items[2]) // 1_000_000 - EPOCH * 1000)
    return 0


def _build(data: bytes) -> Typed:
    element = msgpack.head(data, 0)
    if element.kind != "list":
        return _constant(data, element)
    items = msgpack.split(data)
    if not items:
        raise Refused(PARAMETER)
    code, arguments = msgpack.integer(items[0]), items[1:]
    builder = BUILDERS.get(code)
    if builder is None:
        raise Refused(UNSUPPORTED)
    return builder(code, arguments)


def _constant(data: bytes, element: msgpack.Element) -> Typed:
    kind, value, _ = element
    if kind == "text":
        kinds = {STRING: _TEXT, BLOB: _BLOB}
        if not value or value[0] not in kinds:
            raise Refused(UNSUPPORTED if value and value[0] in (GEOJSON, HLL) else PARAMETER)
        return kinds[value[0]], _always(value[1:])
    if kind == "map":
        return _MAP, _always(msgpack.order_key(data))
    types = {"nil": _NIL, "bool": _BOOL, "int": _INT, "float": _FLOAT, "binary": _BLOB}
    if kind not in types:
        raise Refused(PARAMETER)
    if kind == "int" and value >= 1 << 63:
        value -= 1 << 64
    return types[kind], _always(value)


def _always(value: Any) -> Evaluate:
    return lambda _: value


def _of_type(data: bytes, *wanted: int) -> Typed:
    kind, evaluate = _build(data)
    if kind not in wanted:
        raise Refused(PARAMETER)
    return kind, evaluate


def _expect(arguments: list[bytes], count: int) -> None:
    if len(arguments) != count:
        raise Refused(PARAMETER)


# ---------------------------------------------------------------------- comparisons and logic


def _compare(code: int, arguments: list[bytes]) -> Typed:
    _expect(arguments, 2)
    (left_kind, left), (right_kind, right) = map(_build, arguments)
    if left_kind != right_kind or left_kind in (_GEO, _HLL):
        raise Refused(PARAMETER)
    compare = COMPARISONS[code]
    if left_kind == _NIL:
        holds = code in (EQ, GE, LE)
        return _BOOL, _always(holds)

    def evaluate(subject: Subject) -> Any:
        one, other = left(subject), right(subject)
        return UNKNOWN if one is UNKNOWN or other is UNKNOWN else compare(one, other)

    return _BOOL, evaluate


def _and_or(code: int, arguments: list[bytes]) -> Typed:
    parts = [_of_type(argument, _BOOL)[1] for argument in arguments]
    if not parts:
        raise Refused(PARAMETER)
    decides = code == OR

    def evaluate(subject: Subject) -> Any:
        result: Any = not decides
        for part in parts:
            value = part(subject)
            if value is decides:
                return decides
            if value is UNKNOWN:
                result = UNKNOWN
        return result

    return _BOOL, evaluate


def _not(_: int, arguments: list[bytes]) -> Typed:
    _expect(arguments, 1)
    part = _of_type(arguments[0], _BOOL)[1]

    def evaluate(subject: Subject) -> Any:
        value = part(subject)
        return UNKNOWN if value is UNKNOWN else not value

    return _BOOL, evaluate


def _exclusive(_: int, arguments: list[bytes]) -> Typed:
    parts = [_of_type(argument, _BOOL)[1] for argument in arguments]
    if not parts:
        raise Refused(PARAMETER)

    def evaluate(subject: Subject) -> Any:
        values = [part(subject) for part in parts]
        if values.count(True) > 1:
            return False
        return UNKNOWN if UNKNOWN in values else values.count(True) == 1

    return _BOOL, evaluate


# ---------------------------------------------------------------------- numbers


def _signed(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _combine(code: int, arguments: list[bytes]) -> Typed:
    """Add, subtract, multiply, divide, minimum, maximum of two or more numbers of one type."""
    if not arguments:
        raise Refused(PARAMETER)
    kind, first = _of_type(arguments[0], _INT, _FLOAT)
    parts = [first] + [_of_type(argument, kind)[1] for argument in arguments[1:]]

    def evaluate(subject: Subject) -> Any:
        values = [part(subject) for part in parts]
        if UNKNOWN in values:
            return UNKNOWN
        try:
            if code == DIV and kind == _INT:
                return reduce(lambda a, b: math.trunc(a / b) if abs(a) < 1 << 52 else _divide(a, b), values)
            result = reduce(COMBINE[code], values)
        except ZeroDivisionError:
            return UNKNOWN
        return _signed(result) if kind == _INT else result

    if len(parts) == 1 and code == SUB:
        return kind, lambda subject: UNKNOWN if (value := first(subject)) is UNKNOWN else -value
    return kind, evaluate


def _divide(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


ADD, SUB, MUL, DIV, MOD, ABS, FLOOR, CEIL, TO_INT, TO_FLOAT = 20, 21, 22, 23, 26, 27, 28, 29, 30, 31
MIN, MAX = 50, 51
COMBINE: dict[int, Callable[[Any, Any], Any]] = {
    ADD: operator.add,
    SUB: operator.sub,
    MUL: operator.mul,
    DIV: operator.truediv,
    MIN: min,
    MAX: max,
}


def _modulo(_: int, arguments: list[bytes]) -> Typed:
    _expect(arguments, 2)
    return _INT, _when_known(_of_type(arguments[0], _INT)[1], _of_type(arguments[1], _INT)[1], _remainder)


def _remainder(a: int, b: int) -> Any:
    return UNKNOWN if b == 0 else int(math.fmod(a, b)) if abs(a) < 1 << 52 else a - b * _divide(a, b)


def _when_known(left: Evaluate, right: Evaluate, combine: Callable[[Any, Any], Any]) -> Evaluate:
    def evaluate(subject: Subject) -> Any:
        one, other = left(subject), right(subject)
        return UNKNOWN if one is UNKNOWN or other is UNKNOWN else combine(one, other)

    return evaluate


def _convert(code: int, arguments: list[bytes]) -> Typed:
    _expect(arguments, 1)
    takes = {ABS: (_INT, _FLOAT), FLOOR: (_FLOAT,), CEIL: (_FLOAT,), TO_INT: (_FLOAT,), TO_FLOAT: (_INT,)}[code]
    kind, part = _of_type(arguments[0], *takes)
    functions: dict[int, Callable[[Any], Any]] = {
        ABS: abs,
        FLOOR: lambda value: float(math.floor(value)),
        CEIL: lambda value: float(math.ceil(value)),
        TO_INT: int,
        TO_FLOAT: float,
    }
    function = functions[code]

    def evaluate(subject: Subject) -> Any:
        value = part(subject)
        if value is UNKNOWN or (code in (FLOOR, CEIL, TO_INT) and not math.isfinite(value)):
            return UNKNOWN
        return function(value)

    return {TO_INT: _INT, TO_FLOAT: _FLOAT}.get(code, kind), evaluate


INT_AND, INT_OR, INT_XOR, INT_NOT = 32, 33, 34, 35
BITS: dict[int, Callable[[int, int], int]] = {
    INT_AND: operator.and_,
    INT_OR: operator.or_,
    INT_XOR: operator.xor,
}


def _bits(code: int, arguments: list[bytes]) -> Typed:
    parts = [_of_type(argument, _INT)[1] for argument in arguments]
    if not parts or (code == INT_NOT and len(parts) != 1):
        raise Refused(PARAMETER)

    def evaluate(subject: Subject) -> Any:
        values = [part(subject) for part in parts]
        if UNKNOWN in values:
            return UNKNOWN
        return ~values[0] if code == INT_NOT else reduce(BITS[code], values)

    return _INT, evaluate


# ---------------------------------------------------------------------- the record


def _decoded(kind: int, content: tuple[int, bytes] | None) -> Any:
    if content is None or content[0] != PARTICLE_TYPES[kind]:
        return UNKNOWN
    value = content[1]
    if kind == _INT:
        return int.from_bytes(value, "big", signed=True)
    if kind == _FLOAT:
        return struct.unpack(">d", value)[0]
    if kind == _BOOL:
        return value == b"\1"
    if kind in (_LIST, _MAP):
        return msgpack.order_key(value)
    return value


def _name(raw: bytes) -> bytes:
    element = msgpack.head(raw, 0)
    if element.kind not in {"text", "binary"} or len(element.value) > 15:
        raise Refused(PARAMETER)
    return bytes(element.value)


def _quote(_: int, arguments: list[bytes]) -> Typed:
    """A list that is a value, not an operation."""
    _expect(arguments, 1)
    if msgpack.head(arguments[0], 0).kind != "list":
        raise Refused(PARAMETER)
    return _LIST, _always(msgpack.order_key(arguments[0]))


def _bin(_: int, arguments: list[bytes]) -> Typed:
    _expect(arguments, 2)
    kind, name = msgpack.integer(arguments[0]), _name(arguments[1])
    if kind not in PARTICLE_TYPES:
        raise Refused(PARAMETER)
    return kind, lambda subject: _decoded(kind, subject.bin(name))


def _bin_type(_: int, arguments: list[bytes]) -> Typed:
    _expect(arguments, 1)
    name = _name(arguments[0])
    return _INT, lambda subject: content[0] if (content := subject.bin(name)) else 0


def _key(_: int, arguments: list[bytes]) -> Typed:
    _expect(arguments, 1)
    kind = msgpack.integer(arguments[0])
    if kind not in (_INT, _TEXT, _BLOB):
        raise Refused(PARAMETER)

    def evaluate(subject: Subject) -> Any:
        key = subject.record.key
        return UNKNOWN if not key else _decoded(kind, (key[0], key[1:]))

    return kind, evaluate


def _digest_modulo(_: int, arguments: list[bytes]) -> Typed:
    _expect(arguments, 1)
    modulus = msgpack.integer(arguments[0])
    if modulus == 0:
        raise Refused(PARAMETER)

    def evaluate(subject: Subject) -> int:
        at = subject.namespace.digest_at + 16
        return int(int.from_bytes(subject.record.wire[at : at + 4], "little") % modulus)

    return _INT, evaluate


def _nanoseconds(milliseconds: int) -> int:
    """Since 1970, of a time that counts from EPOCH."""
    return (milliseconds + EPOCH * 1000) * 1_000_000


def _void_nanoseconds(subject: Subject) -> int:
    void_time = subject.record.void_time
    return _nanoseconds(void_time * 1000) if void_time else -1


def _seconds_left(subject: Subject) -> int:
    void_time = subject.record.void_time
    return void_time - subject.namespace.clock.now() if void_time else -1


FACTS: dict[int, Typed] = {
    LAST_UPDATE: (_INT, lambda subject: _nanoseconds(subject.record.updated)),
    67: (_INT, lambda subject: subject.namespace.clock.now_ms() - subject.record.updated),
    68: (_INT, _void_nanoseconds),
    69: (_INT, _seconds_left),
    70: (_TEXT, lambda subject: subject.record.set_name),
    71: (_BOOL, lambda subject: subject.record.key is not None),
    72: (_BOOL, lambda _: False),
}


def _fact(code: int, arguments: list[bytes]) -> Typed:
    _expect(arguments, 0)
    return FACTS[code]


BUILDERS: dict[int, Callable[[int, list[bytes]], Typed]] = {
    **dict.fromkeys(COMPARISONS, _compare),
    AND: _and_or,
    OR: _and_or,
    NOT: _not,
    EXCLUSIVE: _exclusive,
    **dict.fromkeys(COMBINE, _combine),
    MOD: _modulo,
    **dict.fromkeys((ABS, FLOOR, CEIL, TO_INT, TO_FLOAT), _convert),
    **dict.fromkeys((*BITS, INT_NOT), _bits),
    64: _digest_modulo,
    **dict.fromkeys(FACTS, _fact),
    80: _key,
    81: _bin,
    82: _bin_type,
    126: _quote,
}
