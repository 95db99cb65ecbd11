"""Sums of MD5 over the texts of an Arrow array, as the warehouse computes them, without a Python object per text.

`sum(strtol(left(md5(x), 15), 16))` of Redshift is the sum of the first 60 bits of each digest: the order of the rows
has no part in it. Compiled by Numba on first use and kept on disk; with NUMBA_DISABLE_JIT=1 it runs as plain Python.
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
def _block(words: NDArray[np.uint32], state: NDArray[np.uint32]) -> None:
    """MD5 (RFC 1321) of 16 words: four rounds of sixteen steps."""
    a, b, c, d = state[0], state[1], state[2], state[3]
    for i in range(16):
        mixed = np.uint32(a + (d ^ (b & (c ^ d))) + _SINES[i] + words[i])
        a, d, c, b = d, c, b, np.uint32(b + _turned(mixed, _TURNS[i & 3]))
    for i in range(16):
        mixed = np.uint32(a + (c ^ (d & (b ^ c))) + _SINES[16 + i] + words[(5 * i + 1) & 15])
        a, d, c, b = d, c, b, np.uint32(b + _turned(mixed, _TURNS[4 + (i & 3)]))
    for i in range(16):
        mixed = np.uint32(a + (b ^ c ^ d) + _SINES[32 + i] + words[(3 * i + 5) & 15])
        a, d, c, b = d, c, b, np.uint32(b + _turned(mixed, _TURNS[8 + (i & 3)]))
    for i in range(16):
        mixed = np.uint32(a + (c ^ (b | ~d)) + _SINES[48 + i] + words[(7 * i) & 15])
        a, d, c, b = d, c, b, np.uint32(b + _turned(mixed, _TURNS[12 + (i & 3)]))
    state[0] = np.uint32(state[0] + a)
    state[1] = np.uint32(state[1] + b)
    state[2] = np.uint32(state[2] + c)
    state[3] = np.uint32(state[3] + d)


@_compiled
def _sums(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    sums: NDArray[np.uint64],
    state: NDArray[np.uint32],
    words: NDArray[np.uint32],
) -> None:
    """Adds the high and the low 30 bits of what `sum_of_md5` sums: so that 2^34 texts fit."""
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        size = end - start
        for word in range(4):
            state[word] = _START[word]
        for block in range((size + 8) // 64 + 1):
            at = start + block * 64
            for word in range(16):
                value = np.uint32(0)
                place = at + word * 4
                if place + 4 <= end:
                    value = (
                        np.uint32(data[place])
                        | np.uint32(data[place + 1]) << np.uint32(8)
                        | np.uint32(data[place + 2]) << np.uint32(16)
                        | np.uint32(data[place + 3]) << np.uint32(24)
                    )
                else:
                    for byte in range(4):
                        if place + byte < end:
                            value |= np.uint32(data[place + byte]) << np.uint32(8 * byte)
                        elif place + byte == end:
                            value |= np.uint32(0x80) << np.uint32(8 * byte)
                words[word] = value
            if block == (size + 8) // 64:
                words[14] = np.uint32((size << 3) & 0xFFFFFFFF)
                words[15] = np.uint32(size >> 29)
            _block(words, state)
        # The digest is the state's bytes, the lowest first; its first 15 hexadecimal digits as a number.
        high = np.uint64(0)
        for byte in range(8):
            high = high << np.uint64(8) | np.uint64(state[byte // 4] >> np.uint32(8 * (byte % 4)) & np.uint32(0xFF))
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
    sums = np.zeros(2, np.uint64)
    _sums(raw, places, sums, np.empty(4, np.uint32), np.empty(16, np.uint32))
    return (int(sums[0]) << 30) + int(sums[1])
