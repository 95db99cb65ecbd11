"""HyperLogLog bins: init, add, count and describe, without minhash bits. All else is refused as unsupported.

Registers of 6 bits follow the 11 byte header, highest bit first. The estimate is Ertl's improved one
(arXiv 1702.01284), the hash is MurmurHash3 x64 128.
"""

from __future__ import annotations

import math

from dbops_lab.aerospike import cdt, msgpack
from dbops_lab.aerospike.particles import HLL_HEADER, hll_size
from dbops_lab.aerospike.protocol import (
    ELEMENT_EXISTS,
    ELEMENT_NOT_FOUND,
    HLL,
    INCOMPATIBLE_TYPE,
    LIST,
    PARAMETER,
    UNSUPPORTED,
    Refused,
)

INIT, ADD, COUNT, DESCRIBE = 0, 1, 50, 55
BITS = 6
CREATE_ONLY, UPDATE_ONLY, NO_FAIL = 1, 2, 4
_MASK = (1 << 64) - 1

Value = tuple[int, bytes]


def read(bin_value: Value, payload: bytes) -> Value:
    code, _ = _parse(payload)
    particle, sketch = bin_value
    if particle != HLL:
        raise Refused(INCOMPATIBLE_TYPE)
    if code == DESCRIBE:
        return LIST, msgpack.pack_list([msgpack.pack_int(sketch[1]), msgpack.pack_int(sketch[2])])
    if code != COUNT or sketch[2]:
        raise Refused(UNSUPPORTED)
    return cdt.integer(_estimate(_registers(sketch)))


def modify(bin_value: Value | None, payload: bytes) -> tuple[Value | None, Value | None]:
    code, arguments = _parse(payload)
    if code not in (INIT, ADD):
        raise Refused(UNSUPPORTED)
    if bin_value is not None and bin_value[0] != HLL:
        raise Refused(INCOMPATIBLE_TYPE)
    first = 0 if code == INIT else 1
    index_bits, minhash_bits, flags = (
        msgpack.integer(arguments[i]) if len(arguments) > i else default
        for i, default in ((first, -1), (first + 1, -1), (first + 2, 0))
    )
    if flags & CREATE_ONLY and bin_value is not None:
        return _unless_forgiven(bin_value, flags, ELEMENT_EXISTS)
    if flags & UPDATE_ONLY and bin_value is None:
        return _unless_forgiven(bin_value, flags, ELEMENT_NOT_FOUND)
    if bin_value is not None and index_bits == -1:
        index_bits = bin_value[1][1]
    if minhash_bits > 0 or (bin_value is not None and bin_value[1][2]):
        raise Refused(UNSUPPORTED)
    if code == INIT or bin_value is None:
        if not 4 <= index_bits <= 16:
            raise Refused(PARAMETER)
        sketch = bytes((0, index_bits, 0)) + bytes(hll_size(index_bits, 0) - 3)
    else:
        sketch = bin_value[1]
    if code == INIT:
        return (HLL, sketch), None
    changed, sketch = _add(sketch, msgpack.split_list(arguments[0])[1])
    return (HLL, sketch), cdt.integer(changed)


def _unless_forgiven(bin_value: Value | None, flags: int, code: int) -> tuple[Value | None, Value | None]:
    if flags & NO_FAIL:
        return bin_value, None
    raise Refused(code)


def _parse(payload: bytes) -> tuple[int, list[bytes]]:
    items = msgpack.split(payload)
    if not items:
        raise Refused(PARAMETER)
    return msgpack.integer(items[0]), items[1:]


def _registers(sketch: bytes) -> list[int]:
    count = 1 << sketch[1]
    whole = int.from_bytes(sketch[HLL_HEADER:], "big")
    spare = 8 * (len(sketch) - HLL_HEADER) - BITS * count
    return [whole >> spare + BITS * (count - 1 - i) & 63 for i in range(count)]


def _add(sketch: bytes, items: list[bytes]) -> tuple[int, bytes]:
    """How many elements changed a register, and the new sketch."""
    registers, changed, index_bits = _registers(sketch), 0, sketch[1]
    for item in items:
        particle, value = msgpack.as_particle(item)
        low, high = _hash(bytes((particle,)) + value)
        index = low & ((1 << index_bits) - 1)
        rank = min(63, (high & -high).bit_length() if high else 63)
        if registers[index] < rank:
            registers[index] = rank
            changed += 1
    whole = 0
    for register in registers:
        whole = whole << BITS | register
    body = len(sketch) - HLL_HEADER
    whole <<= 8 * body - BITS * len(registers)
    return changed, sketch[:3] + bytes(8) + whole.to_bytes(body, "big")


def _estimate(registers: list[int]) -> int:
    count = len(registers)
    histogram = [0] * 65
    for register in registers:
        histogram[register] += 1
    total = count * _tau(histogram[64] / count)
    for rank in range(64, 0, -1):
        total = 0.5 * (total + histogram[rank])
    total += count * _sigma(histogram[0] / count)
    alpha = {16: 0.673, 32: 0.697, 64: 0.709}.get(count, 0.7213 / (1 + 1.079 / count))
    return 0 if math.isinf(total) else round(alpha * count * count / total)


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, total, before = 1.0, x, -1.0
    while total != before:
        x *= x
        before = total
        total += x * y
        y += y
    return total


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, total, before = 1.0, 1 - x, -1.0
    while total != before:
        x = math.sqrt(x)
        before = total
        y *= 0.5
        total -= (1 - x) ** 2 * y
    return total / 3


def _rotate(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & _MASK


def _mix(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & _MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33


def _hash(data: bytes) -> tuple[int, int]:
    first, second = 0x87C37B91114253D5, 0x4CF5AD432745937F
    low = high = 0
    whole = len(data) // 16 * 16
    for at in range(0, whole, 16):
        left = int.from_bytes(data[at : at + 8], "little")
        right = int.from_bytes(data[at + 8 : at + 16], "little")
        low ^= _rotate(left * first & _MASK, 31) * second & _MASK
        low = ((_rotate(low, 27) + high) * 5 + 0x52DCE729) & _MASK
        high ^= _rotate(right * second & _MASK, 33) * first & _MASK
        high = ((_rotate(high, 31) + low) * 5 + 0x38495AB5) & _MASK
    tail = data[whole:]
    if len(tail) > 8:
        high ^= _rotate(int.from_bytes(tail[8:], "little") * second & _MASK, 33) * first & _MASK
    if tail:
        low ^= _rotate(int.from_bytes(tail[:8], "little") * first & _MASK, 31) * second & _MASK
    low ^= len(data)
    high ^= len(data)
    low = (low + high) & _MASK
    high = (high + low) & _MASK
    low, high = _mix(low), _mix(high)
    low = (low + high) & _MASK
    return low, (high + low) & _MASK
