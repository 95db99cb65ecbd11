"""Sums of MD5 over the texts of an Arrow array, as the warehouse computes them, without a Python object per text.

`sum(strtol(left(md5(x), 15), 16))` of Redshift is the sum of the first 60 bits of each digest: the order of the rows
has no part in it. Compiled by Numba on first use and kept on disk; with NUMBA_DISABLE_JIT=1 it runs as plain Python.

One MD5 is a chain of steps that wait for each other. So `LANES` texts are hashed at once, a lane each: no step differs
between lanes, and the compiler makes vector instructions of them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import floor, sin
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_F = TypeVar("_F", bound=Callable[..., Any])
_SINES: Final = np.array([floor(abs(sin(i + 1)) * 2**32) for i in range(64)], np.uint32)
_TURNS: Final = np.array([7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21], np.uint32)
_START: Final = np.array([0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476], np.uint32)
_LOW: Final = (1 << 30) - 1

LANES: Final = 64
# One array holds a row of lanes for each of the 16 words of a block, then one for each part of the states: in one array
# the compiler knows that no row lies over another.
_A, _B, _C, _D = 16 * LANES, 17 * LANES, 18 * LANES, 19 * LANES


_njit: Any = numba.njit  # its types do not know _nrt


def _inner(function: _F) -> _F:
    return cast(_F, _njit(nogil=True, _nrt=False)(function))


def _compiled(function: _F) -> _F:
    """A function that Python calls: kept on disk together with what it calls."""
    if vars(numba.config)["DISABLE_JIT"]:
        return np.errstate(over="ignore")(function)
    return cast(_F, _njit(nogil=True, _nrt=False, cache=True)(function))


@_inner
def _turned(value: np.uint32, by: np.uint32) -> np.uint32:
    return np.uint32(value << by | value >> (np.uint32(32) - by))


@_inner
def _block(lanes: NDArray[np.uint32]) -> None:
    """MD5 (RFC 1321) of 16 words, in each lane: four rounds of sixteen steps."""
    for lane in range(LANES):
        a, b, c, d = lanes[_A + lane], lanes[_B + lane], lanes[_C + lane], lanes[_D + lane]
        for i in range(16):
            mixed = np.uint32(a + (d ^ (b & (c ^ d))) + _SINES[i] + lanes[i * LANES + lane])
            a, d, c, b = d, c, b, np.uint32(b + _turned(mixed, _TURNS[i & 3]))
        for i in range(16):
            mixed = np.uint32(a + (c ^ (d & (b ^ c))) + _SINES[16 + i] + lanes[((5 * i + 1) & 15) * LANES + lane])
            a, d, c, b = d, c, b, np.uint32(b + _turned(mixed, _TURNS[4 + (i & 3)]))
        for i in range(16):
            mixed = np.uint32(a + (b ^ c ^ d) + _SINES[32 + i] + lanes[((3 * i + 5) & 15) * LANES + lane])
            a, d, c, b = d, c, b, np.uint32(b + _turned(mixed, _TURNS[8 + (i & 3)]))
        for i in range(16):
            mixed = np.uint32(a + (c ^ (b | ~d)) + _SINES[48 + i] + lanes[((7 * i) & 15) * LANES + lane])
            a, d, c, b = d, c, b, np.uint32(b + _turned(mixed, _TURNS[12 + (i & 3)]))
        lanes[_A + lane] = np.uint32(lanes[_A + lane] + a)
        lanes[_B + lane] = np.uint32(lanes[_B + lane] + b)
        lanes[_C + lane] = np.uint32(lanes[_C + lane] + c)
        lanes[_D + lane] = np.uint32(lanes[_D + lane] + d)


@_inner
def _word(data: NDArray[np.uint8], at: np.uintp) -> np.uint32:
    """Four bytes, by a place that is never negative: it is one load then."""
    return np.uint32(
        np.uint32(data[at])
        | np.uint32(data[at + np.uintp(1)]) << np.uint32(8)
        | np.uint32(data[at + np.uintp(2)]) << np.uint32(16)
        | np.uint32(data[at + np.uintp(3)]) << np.uint32(24)
    )


@_inner
def _fill(data: NDArray[np.uint8], start: int, end: int, block: int, lanes: NDArray[np.uint32], lane: int) -> None:
    """A block's words of the text between two places, and what MD5 puts behind it."""
    at = start + block * 64
    whole = min(max(end - at, 0) // 4, 16)
    for word in range(whole):
        lanes[word * LANES + lane] = _word(data, np.uintp(at + word * 4))
    if whole == 16:
        return
    rest = np.uint32(0)
    for byte in range(4):
        place = at + whole * 4 + byte
        if place < end:
            rest |= np.uint32(data[place]) << np.uint32(8 * byte)
        elif place == end:
            rest |= np.uint32(0x80) << np.uint32(8 * byte)
    lanes[whole * LANES + lane] = rest
    for word in range(whole + 1, 16):
        lanes[word * LANES + lane] = np.uint32(0)
    size = end - start
    if block == (size + 8) // 64:
        lanes[14 * LANES + lane] = np.uint32((size << 3) & 0xFFFFFFFF)
        lanes[15 * LANES + lane] = np.uint32(size >> 29)


@_compiled
def _sums(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    order: NDArray[np.int64],
    sums: NDArray[np.uint64],
    lanes: NDArray[np.uint32],
) -> None:
    """Adds the high and the low 30 bits of what `sum_of_md5` sums: so that 2^34 texts fit.

    :param order: of the texts. Those that are hashed together should be of about the same length.
    """
    for first in range(0, len(order), LANES):
        used = min(LANES, len(order) - first)
        blocks = 0
        for lane in range(LANES):
            for word in range(4):
                lanes[(16 + word) * LANES + lane] = _START[word]
        for lane in range(used):
            row = order[first + lane]
            blocks = max(blocks, (offsets[row + 1] - offsets[row] + 8) // 64 + 1)
        for block in range(blocks):
            for lane in range(used):
                row = order[first + lane]
                _fill(data, offsets[row], offsets[row + 1], block, lanes, lane)
            _block(lanes)
            for lane in range(used):
                row = order[first + lane]
                if block == (offsets[row + 1] - offsets[row] + 8) // 64:
                    # The digest is the state's bytes, the lowest first; its first 15 hexadecimal digits as a number.
                    high = np.uint64(0)
                    for byte in range(8):
                        part = lanes[(16 + byte // 4) * LANES + lane] >> np.uint32(8 * (byte % 4)) & np.uint32(0xFF)
                        high = high << np.uint64(8) | np.uint64(part)
                    high >>= np.uint64(4)
                    sums[0] += high >> np.uint64(30)
                    sums[1] += high & np.uint64(_LOW)


def sum_of_md5(texts: pa.Array) -> int:
    """The sum of the first 60 bits of the MD5 of each text.

    :param texts: a string array without nulls.
    """
    if not len(texts):
        return 0
    _, offsets, data = texts.buffers()
    wide = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    places = np.frombuffer(offsets, wide, len(texts) + 1, texts.offset * np.dtype(wide).itemsize).astype(np.int64)
    raw = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    blocks = np.minimum((np.diff(places) + 8) // 64, 0xFFFF).astype(np.uint16)  # small numbers are sorted in one pass
    sums = np.zeros(2, np.uint64)
    _sums(raw, places, np.argsort(blocks, kind="stable"), sums, np.zeros(20 * LANES, np.uint32))
    return (int(sums[0]) << 30) + int(sums[1])
