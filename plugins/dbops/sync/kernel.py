"""The hot code of sync validation: rows of COPY and answers of Aerospike -> one hash of typed values per row.

A row's identity is the digest of its record, which both sides have: Aerospike sends it, and RIPEMD-160 over set and key
makes it from the key that PostgreSQL gives, whether or not the cluster stores keys. Rows are added up in BUCKETS by
digest (count and two sums of their hashes), or collected one by one where a mask says so.

A value's hash is that of what it means: NULL adds nothing, as no bin does, nor does a bin's default. Texts are hashed
in their canonical decomposition, JSON by value, numbers, times and money as numbers.

Primitives and their rules are those of `dbops.aerospike.kernel`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dbops.aerospike.kernel import (
    _INTERPRETED,
    BROKEN,
    DONE,
    FRAME_LEFT,
    NEED_MORE,
    OFFSET,
    OUT_FULL,
    REFUSED,
    RESULT,
    SOURCE_NEEDED,
    WHY,
    _copy,
    _entry,
    _inline,
    _inner,
    _load8,
    _load16,
    _load32,
    _load64,
    _load64_le,
    _measure,
    _mulhi,
    _nearest_double,
    _store8,
    _store16,
)

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Longs = NDArray[np.uint64]

TEXT: Final = 0
INTEGER: Final = 1
DOUBLE: Final = 2
BOOL: Final = 3
TIMESTAMP: Final = 4  # `scale`: microseconds of the unit that the bin counts in; 0 = an ISO 8601 text
SCALED: Final = 5  # a number as an integer of 10**-scale
DECIMAL: Final = 6  # a number as a text
JSON: Final = 7  # `scale`: 1 = a text in the bin is JSON; 0 = it is a string
UUID: Final = 8  # a text, which PostgreSQL sends as 16 bytes

SUB: Final = 6  # bits of the third byte of a digest that tell the buckets of a partition apart
BUCKETS: Final = 4096 << SUB
CELL: Final = 4  # of a bucket: rows, sum of hashes, sum of hashes mixed with digests, unused
ROW: Final = 5  # of a collected row: digest (8, 8 and 4 bytes), hash, place; then the hashes of its columns

# Indexes of `state` besides those of dbops.aerospike.kernel.
ROWS: Final = 8  # so far
FOUND: Final = 9  # collected so far
NULL_KEYS: Final = 10
HEAD: Final = 11  # 1 = the head of COPY was read
FULL: Final = 12  # 1 = no room was left for places
UUID_KEY: Final = 13  # set by the caller: 1 = keys come as the 16 bytes of a UUID
STATE: Final = 16

COPY_END: Final = 64  # reasons behind BROKEN
COPY_FRAME: Final = 65

_K0: Final = np.uint64(0xA0761D6478BD642F)
_K1: Final = np.uint64(0xE7037ED1A0B428DB)
_K2: Final = np.uint64(0x8EBC6AF09C88C6E3)
_K3: Final = np.uint64(0x589965CC75374CC3)
_PRIME: Final = np.uint64(0x9E3779B97F4A7C15)
_0: Final = np.uint64(0)
_1: Final = np.uint64(1)
_TOPS: Final = np.uint64(0x8080808080808080)
_ONES: Final = np.uint64(0x0101010101010101)
_QUOTES, _SLASHES, _BLANKS = (_ONES * np.uint64(ord(letter)) for letter in '"\\ ')
_SIGN: Final = np.uint64(1 << 63)
_EPOCH_US: Final = 946_684_800_000_000  # of PostgreSQL, 2000-01-01, in Unix microseconds
_POWERS: Final = np.array([10**n for n in range(19)], np.int64)
_MOST: Final = 9_000_000_000_000_000_000

# Kinds of hashes, so that values of different meanings differ.
_NUMBER: Final = np.uint64(0x1111111111111111)
_REAL: Final = np.uint64(0x2222222222222222)
_STRING: Final = np.uint64(0x3333333333333333)
_TRUTH: Final = np.uint64(0x4444444444444444)
_FIGURES: Final = np.uint64(0x5555555555555555)
_ARRAY: Final = np.uint64(0x6666666666666666)
_OBJECT: Final = np.uint64(0x7777777777777777)
_NOTHING: Final = np.uint64(0x8888888888888888)
_COMMA, _OPEN, _VALUE, _KEY, _COLON = 0, 1, 2, 3, 4  # what came last in a JSON text; a comma stands for its beginning
_TRUE, _FALSE, _NULL = (np.frombuffer(word, np.uint8).copy() for word in (b"true", b"false", b"null"))
_ODD: Final = np.uint64(0x9999999999999999)  # what has no value of the column's type

if _INTERPRETED:
    import struct as _struct

    def _as_double(bits: Any) -> float:
        return float(_struct.unpack("<d", int(bits).to_bytes(8, "little"))[0])

    def _as_bits(number: float) -> Any:
        return np.uint64(int.from_bytes(_struct.pack("<d", number), "little"))

else:
    from dbops.aerospike.kernel import _bits as _as_bits
    from dbops.aerospike.kernel import _double as _as_double


# ------------------------------------------------------------------------------------------------- hashes


@_inline
def _mix(a: np.uint64, b: np.uint64) -> np.uint64:
    return _mulhi(a, b) ^ (a * b)  # type: ignore[no-any-return]


@_inline
def _tail(src: Bytes, p: int, size: int) -> np.uint64:
    """The last `size` < 8 bytes as a word."""
    if p + 8 <= src.shape[0]:
        return _load64_le(src, p) & ((_1 << np.uint64(8 * size)) - _1)  # type: ignore[no-any-return]
    word = _0
    for i in range(size):
        word |= np.uint64(_load8(src, p + i)) << np.uint64(8 * i)
    return word


@_inner
def _hash(src: Bytes, p: int, size: int, seed: np.uint64) -> np.uint64:
    h = _mix(seed ^ _K0, np.uint64(size) ^ _K1)
    while size >= 16:
        h = _mix(_load64_le(src, p) ^ h ^ _K1, _load64_le(src, p + 8) ^ _K2) ^ (h << _1)
        p += 16
        size -= 16
    if size >= 8:
        h = _mix(_load64_le(src, p) ^ h ^ _K1, _K3) ^ (h << _1)
        p += 8
        size -= 8
    if size > 0:
        h = _mix(_tail(src, p, size) ^ h ^ _K2, _K1) ^ (h << _1)
    return _mix(h ^ _K3, _K0)


@_inline
def _int_hash(value: np.uint64) -> np.uint64:
    return _mix(value ^ _NUMBER ^ _K2, _K1) ^ (value * _PRIME)


@_inner
def _double_hash(bits: np.uint64) -> np.uint64:
    if bits << _1 == _0:
        bits = _0  # -0 is 0
    elif (bits >> np.uint64(52)) & np.uint64(0x7FF) == np.uint64(0x7FF) and bits << np.uint64(12) != _0:
        bits = np.uint64(0x7FF8 << 48)
    return _mix(bits ^ _REAL ^ _K2, _K1) ^ (bits * _PRIME)


@_inner
def _real_number_hash(bits: np.uint64) -> np.uint64:
    """Of a number of JSON: a whole one is the integer."""
    number = _as_double(bits)
    if number == np.floor(number) and abs(number) < 2.0**63:
        return _int_hash(np.uint64(np.int64(number)))
    return _double_hash(bits)


# -------------------------------------------------------------------------------------------------- texts


@_inner
def _put_code(out: Bytes, w: int, code: int) -> int:
    """A code point in UTF-8."""
    if code < 0x80:
        _store8(out, w, code)
        return w + 1
    if code < 0x800:
        _store8(out, w, 0xC0 | code >> 6)
        _store8(out, w + 1, 0x80 | code & 63)
        return w + 2
    if code < 0x10000:
        _store8(out, w, 0xE0 | code >> 12)
        _store8(out, w + 1, 0x80 | (code >> 6) & 63)
        _store8(out, w + 2, 0x80 | code & 63)
        return w + 3
    _store8(out, w, 0xF0 | code >> 18)
    _store8(out, w + 1, 0x80 | (code >> 12) & 63)
    _store8(out, w + 2, 0x80 | (code >> 6) & 63)
    _store8(out, w + 3, 0x80 | code & 63)
    return w + 4


@_inner
def _flush(out: Bytes, w: int, marks: Ints, count: int) -> int:
    """Combining marks that follow a letter, ordered by their class; those of one class keep their order."""
    for i in range(1, count):
        item = marks[i]
        j = i
        while j > 0 and marks[j - 1] >> 32 > item >> 32:
            marks[j] = marks[j - 1]
            j -= 1
        marks[j] = item
    for i in range(count):
        w = _put_code(out, w, marks[i] & 0xFFFFFFFF)
    return w


@_inner
def _decompose(src: Bytes, p: int, size: int, out: Bytes, w: int, marks: Ints, where: Ints, codes: Ints) -> int:
    """The canonical decomposition (NFD) of a text in UTF-8; at most three times as long."""
    end = p + size
    count = 0
    while p < end:
        c = _load8(src, p)
        n = 1
        if c >= 0xF0 and p + 4 <= end:
            c = (c & 7) << 18 | (_load8(src, p + 1) & 63) << 12 | (_load8(src, p + 2) & 63) << 6
            c |= _load8(src, p + 3) & 63
            n = 4
        elif 0xE0 <= c < 0xF0 and p + 3 <= end:
            c = (c & 15) << 12 | (_load8(src, p + 1) & 63) << 6 | (_load8(src, p + 2) & 63)
            n = 3
        elif 0xC0 <= c < 0xE0 and p + 2 <= end:
            c = (c & 31) << 6 | (_load8(src, p + 1) & 63)
            n = 2
        p += n
        entry = where[c] if c < where.shape[0] else 0  # class << 32 | length << 24 | place in `codes`
        length = (entry >> 24) & 255
        at = entry & 0xFFFFFF
        for i in range(max(1, length)):
            code = codes[at + i] if length else c
            order = where[code] >> 32 if code < where.shape[0] else 0
            if order:
                if count == marks.shape[0]:
                    w = _flush(out, w, marks, count)
                    count = 0
                marks[count] = order << 32 | code
                count += 1
            else:
                if count:
                    w = _flush(out, w, marks, count)
                    count = 0
                w = _put_code(out, w, code)
    return _flush(out, w, marks, count)


@_inner
def _text_hash(src: Bytes, p: int, size: int, out: Bytes, w: int, marks: Ints, where: Ints, codes: Ints) -> np.uint64:
    seen = _0
    at = p
    left = size
    while left >= 8:
        seen |= _load64_le(src, at)
        at += 8
        left -= 8
    if left:
        seen |= _tail(src, at, left)
    if seen & _TOPS == _0:
        return _hash(src, p, size, _STRING)
    stop = _decompose(src, p, size, out, w, marks, where, codes)
    return _hash(out, w, stop - w, _STRING)


# ------------------------------------------------------------------------------------------------ numbers


@_inline
def _figures(h: np.uint64, last: int, negative: bool) -> np.uint64:
    """Of the significant digits (as a polynomial), and the power of ten of the last one that is not 0."""
    if h == _0:
        return _FIGURES
    return _mix(h ^ (_K3 if negative else _K2), np.uint64(last) ^ _FIGURES ^ _K1)


@_inner
def _numeric_hash(src: Bytes, p: int, size: int) -> np.uint64:
    """A numeric in PostgreSQL's binary form, by value: 1.50 is 1.5."""
    digits = _load16(src, p)
    weight = _load16(src, p + 2)
    if weight >= 0x8000:
        weight -= 0x10000
    sign = _load16(src, p + 4)
    if sign >= 0xC000:
        return _hash(src, p, size, _ODD)
    h = _0
    kept = _0
    last = 0
    place = 4 * weight + 3
    for i in range(digits):
        d = _load16(src, p + 8 + 2 * i)
        for power in (1000, 100, 10, 1):
            figure = (d // power) % 10
            h = h * _PRIME + np.uint64(figure)
            if figure:
                kept = h
                last = place
            place -= 1
    return _figures(kept, last, sign == 0x4000)


@_inner
def _figures_of_text(src: Bytes, p: int, size: int) -> np.uint64:
    """A number as a text, by value; what is no number is hashed as it is."""
    end = p + size
    at = p
    negative = False
    if p < end and (_load8(src, p) == 45 or _load8(src, p) == 43):
        negative = _load8(src, p) == 45
        p += 1
    point = -1
    digits = 0
    q = p
    while q < end:
        c = _load8(src, q)
        if c == 46 and point < 0:
            point = q
        elif 48 <= c <= 57:
            digits += 1
        else:
            break
        q += 1
    exponent = 0
    stop = q
    if digits and q < end and _load8(src, q) | 32 == 101:
        q += 1
        below = False
        if q < end and (_load8(src, q) == 45 or _load8(src, q) == 43):
            below = _load8(src, q) == 45
            q += 1
        if q == end:
            digits = 0
        while q < end and 48 <= _load8(src, q) <= 57 and exponent < 100_000:
            exponent = exponent * 10 + _load8(src, q) - 48
            q += 1
        exponent = -exponent if below else exponent
    if digits == 0 or q != end:
        return _hash(src, at, size, _ODD)
    place = (point if point >= 0 else stop) - p - 1 + exponent
    h = _0
    kept = _0
    last = 0
    for i in range(p, stop):
        c = _load8(src, i)
        if c == 46:
            continue
        h = h * _PRIME + np.uint64(c - 48)
        if c != 48:
            kept = h
            last = place
        place -= 1
    return _figures(kept, last, negative)


@_inner
def _figures_of_int(value: Any) -> np.uint64:
    negative = value < 0
    rest = np.uint64(-value if negative else value)
    h = _0
    kept = _0
    last = 0
    for i in range(18, -1, -1):
        power = np.uint64(_POWERS[i])
        figure = rest // power
        rest -= figure * power
        h = h * _PRIME + figure
        if figure != _0:
            kept = h
            last = i
    return _figures(kept, last, negative)


@_inner
def _scaled_hash(src: Bytes, p: int, size: int, scale: int) -> np.uint64:
    """numeric * 10**scale as an integer; what is none, or too large, is like no integer."""
    digits = _load16(src, p)
    weight = _load16(src, p + 2)
    if weight >= 0x8000:
        weight -= 0x10000
    sign = _load16(src, p + 4)
    value = 0
    if sign >= 0xC000:
        return _hash(src, p, size, _ODD)
    for i in range(digits):
        d = _load16(src, p + 8 + 2 * i)
        e = 4 * (weight - i) + scale
        if d == 0:
            continue
        if e <= -4 or e > 18:
            return _hash(src, p, size, _ODD)
        if e < 0:
            if d % _POWERS[-e] != 0:
                return _hash(src, p, size, _ODD)
            value += d // _POWERS[-e]
        else:
            if d > _MOST // _POWERS[e] or value > _MOST - d * _POWERS[e]:
                return _hash(src, p, size, _ODD)
            value += d * _POWERS[e]
    return _int_hash(np.uint64(-value if sign == 0x4000 else value))


@_inline
def _two(src: Bytes, p: int) -> int:
    a = _load8(src, p) - 48
    b = _load8(src, p + 1) - 48
    return a * 10 + b if 0 <= a <= 9 and 0 <= b <= 9 else -1000


@_inner
def _iso_hash(src: Bytes, p: int, size: int) -> np.uint64:
    """An ISO 8601 text with date and time as Unix microseconds; without an offset it is UTC."""
    at = p
    end = p + size
    if size < 19:
        return _hash(src, at, size, _ODD)
    year = _two(src, p) * 100 + _two(src, p + 2)
    month = _two(src, p + 5)
    day = _two(src, p + 8)
    hour = _two(src, p + 11)
    minute = _two(src, p + 14)
    second = _two(src, p + 17)
    good = _load8(src, p + 4) == 45 and _load8(src, p + 7) == 45 and _load8(src, p + 13) == 58
    good = good and _load8(src, p + 16) == 58 and (_load8(src, p + 10) | 32 == 116 or _load8(src, p + 10) == 32)
    if not good or year < 0 or month < 1 or month > 12 or day < 0 or hour < 0 or minute < 0 or second < 0:
        return _hash(src, at, size, _ODD)
    p += 19
    micros = 0
    if p < end and (_load8(src, p) == 46 or _load8(src, p) == 44):
        p += 1
        unit = 100_000
        while p < end and 48 <= _load8(src, p) <= 57:
            micros += unit * (_load8(src, p) - 48)
            unit //= 10
            p += 1
    offset = 0
    if p < end and _load8(src, p) | 32 == 122:
        p += 1
    elif p + 3 <= end and (_load8(src, p) == 43 or _load8(src, p) == 45):
        side = 1 if _load8(src, p) == 43 else -1
        offset = _two(src, p + 1) * 60
        p += 3
        if p < end and _load8(src, p) == 58:
            p += 1
        if p + 2 <= end:
            offset += _two(src, p)
            p += 2
        offset *= side
    if p != end:
        return _hash(src, at, size, _ODD)
    # days since 1970 of a date of the Gregorian calendar
    y = year - 1 if month <= 2 else year
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    days = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second
    return _int_hash(np.uint64(seconds * 1_000_000 + micros))


@_inner
def _timestamp_hash(src: Bytes, p: int, size: int, unit: int) -> np.uint64:
    """A timestamptz in PostgreSQL's binary form, in whole units since 1970 (cut, not rounded)."""
    bits = _load64(src, p)
    if bits == _SIGN or bits == _SIGN - _1:
        return _hash(src, p, size, _ODD)  # infinity
    micros = np.int64(bits) + _EPOCH_US
    return _int_hash(np.uint64(micros // unit if unit > 1 else micros))


# --------------------------------------------------------------------------------------------------- JSON

_DEPTH: Final = 64  # of `levels`, 4 words each: what it is, hash so far, hash of the key, what is left


@_inline
def _into(levels: Longs, depth: int, value: np.uint64) -> None:
    """A value comes into the list or map that is open."""
    at = 4 * depth
    if levels[at] == _1:
        levels[at + 1] = _mix(levels[at + 1] ^ value ^ _K1, _K2) + _1
    else:
        levels[at + 1] += _mix(levels[at + 2] ^ _K1, value ^ _K3)
    levels[at + 3] -= _1


@_inline
def _closed(levels: Longs, depth: int) -> np.uint64:
    at = 4 * depth
    return _mix(levels[at + 1] ^ _K2, _ARRAY if levels[at] == _1 else _OBJECT)


@_inline
def _is_plain(word: np.uint64) -> bool:
    """Whether none of 8 letters is a quote, a backslash or a control character."""
    quote = word ^ _QUOTES
    slash = word ^ _SLASHES
    found = ((quote - _ONES) & ~quote) | ((slash - _ONES) & ~slash) | ((word - _BLANKS) & ~word)
    return found & _TOPS == _0  # type: ignore[no-any-return]


@_inner
def _json_text(
    src: Bytes, p: int, end: int, out: Bytes, w: int, marks: Ints, where: Ints, codes: Ints
) -> tuple[int, np.uint64]:
    """The string behind the quote at p - 1: position behind its closing quote (-1: none), and its hash."""
    q = p
    plain = True
    while q + 8 <= end and _is_plain(_load64_le(src, q)):
        q += 8
    while q < end:
        c = _load8(src, q)
        if c == 34:
            break
        if c < 32:
            return -1, _0
        if c == 92:
            plain = False
            q += 1
        q += 1
    if q >= end:
        return -1, _0
    if plain:
        return q + 1, _text_hash(src, p, q - p, out, w, marks, where, codes)
    v = w
    while p < q:
        c = _load8(src, p)
        p += 1
        if c != 92:
            _store8(out, v, c)
            v += 1
            continue
        c = _load8(src, p)
        p += 1
        if c == 117:
            if p + 4 > q:
                return -1, _0
            code = _hex4(src, p)
            if code < 0:
                return -1, _0
            p += 4
            if 0xD800 <= code < 0xDC00 and p + 6 <= q and _load16(src, p) == 0x5C75:
                low = _hex4(src, p + 2)
                if 0xDC00 <= low < 0xE000:
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                    p += 6
            v = _put_code(out, v, code)
        else:
            if c == 110:
                c = 10
            elif c == 116:
                c = 9
            elif c == 114:
                c = 13
            elif c == 98:
                c = 8
            elif c == 102:
                c = 12
            elif c != 34 and c != 92 and c != 47:
                return -1, _0
            _store8(out, v, c)
            v += 1
    return q + 1, _text_hash(out, w, v - w, out, v, marks, where, codes)


@_inner
def _hex4(src: Bytes, p: int) -> int:
    """-1: no four hexadecimal digits."""
    code = 0
    for i in range(4):
        c = _load8(src, p + i)
        if 48 <= c <= 57:
            code = code << 4 | (c - 48)
        elif 97 <= c | 32 <= 102:
            code = code << 4 | ((c | 32) - 87)
        else:
            return -1
    return code


@_inner
def _json_number(src: Bytes, p: int, end: int) -> tuple[int, np.uint64]:
    at = p
    negative = _load8(src, p) == 45
    if negative:
        p += 1
    mantissa = _0
    digits = 0
    exponent = 0
    some = False  # digits since the sign, the point or the e
    whole = True
    inexact = False
    number = _0  # up to 19 digits, as an integer of 64 bits has
    length = 0
    if p + 1 < end and _load8(src, p) == 48 and 48 <= _load8(src, p + 1) <= 57:
        return -1, _0
    while p < end:
        c = _load8(src, p)
        if c == 46 and whole and some:
            whole = False
            some = False
        elif 48 <= c <= 57:
            some = True
            if length < 19:
                number = number * np.uint64(10) + np.uint64(c - 48)
            if length or c != 48:
                length += 1
            if digits < 18:
                mantissa = mantissa * np.uint64(10) + np.uint64(c - 48)
                if mantissa != _0:
                    digits += 1
                if not whole:
                    exponent -= 1
            else:
                inexact = inexact or c != 48
                if whole:
                    exponent += 1
        else:
            break
        p += 1
    if not some:
        return -1, _0
    if p < end and _load8(src, p) | 32 == 101:
        p += 1
        below = False
        if p < end and (_load8(src, p) == 45 or _load8(src, p) == 43):
            below = _load8(src, p) == 45
            p += 1
        scale = 0
        some = False
        while p < end and 48 <= _load8(src, p) <= 57:
            some = True
            scale = min(100_000, scale * 10 + _load8(src, p) - 48)
            p += 1
        if not some:
            return -1, _0
        exponent += -scale if below else scale
        whole = False
    if whole and length <= 19 and number <= (_SIGN if negative else _SIGN - _1):
        return p, _int_hash(_0 - number if negative else number)
    bits = _nearest_double(src, at, mantissa, exponent, inexact)
    return p, _real_number_hash(bits | (_SIGN if negative else _0))


@_inner
def _is_word(src: Bytes, p: int, end: int, word: Bytes) -> bool:
    if p + len(word) > end:
        return False
    same = True
    for i in range(len(word)):
        same = same and _load8(src, p + i) == word[i]
    return same


@_inline
def _behind_blanks(src: Bytes, p: int, end: int) -> int:
    while p < end and (_load8(src, p) == 32 or _load8(src, p) == 13 or 9 <= _load8(src, p) <= 10):
        p += 1
    return p


@_inner
def _json_hash(
    src: Bytes, p: int, size: int, out: Bytes, w: int, marks: Ints, where: Ints, codes: Ints, levels: Longs
) -> np.uint64:
    """A JSON text by value: the order of keys and white space say nothing, 1.0 is 1."""
    at = p
    end = p + size
    depth = -1
    value = _0
    wants_key = False
    after = _COMMA
    while True:
        p = _behind_blanks(src, p, end)
        if p >= end:
            break
        c = _load8(src, p)
        if c == 44:
            if after != _VALUE:
                break
            after = _COMMA
            p += 1
            continue
        if c == 58:
            if after != _KEY:
                break
            after = _COLON
            p += 1
            continue
        if c != 125 and c != 93 and (after in (_VALUE, _KEY) or (wants_key and c != 34)):
            break
        if c == 123 or c == 91:
            depth += 1
            if depth == _DEPTH:
                break
            levels[4 * depth] = _1 if c == 91 else _0
            levels[4 * depth + 1] = _0
            levels[4 * depth + 3] = _0
            wants_key = c == 123
            after = _OPEN
            p += 1
            continue
        if c == 125 or c == 93:
            if depth < 0 or (after != _VALUE and after != _OPEN) or (levels[4 * depth] == _1) != (c == 93):
                break
            value = _closed(levels, depth)
            depth -= 1
            p += 1
        elif c == 34:
            p, value = _json_text(src, p + 1, end, out, w, marks, where, codes)
            if p < 0:
                break
            if wants_key:
                levels[4 * depth + 2] = value
                wants_key = False
                after = _KEY
                continue
        elif c == 116 and _is_word(src, p, end, _TRUE):
            value = _mix(_TRUTH, _K1)
            p += 4
        elif c == 102 and _is_word(src, p, end, _FALSE):
            value = _mix(_TRUTH, _K2)
            p += 5
        elif c == 110 and _is_word(src, p, end, _NULL):
            value = _NOTHING
            p += 4
        else:
            p, value = _json_number(src, p, end)
            if p < 0:
                break
        if depth < 0:
            if _behind_blanks(src, p, end) == end:
                return value
            break
        _into(levels, depth, value)
        wants_key = levels[4 * depth] == _0
        after = _VALUE
    return _hash(src, at, size, _ODD)


@_inner
def _msgpack_hash(
    src: Bytes, p: int, size: int, out: Bytes, w: int, marks: Ints, where: Ints, codes: Ints, levels: Longs
) -> np.uint64:
    """A list or map as Aerospike stores it, as `_json_hash` has it."""
    at = p
    end = p + size
    depth = -1
    value = _0
    has_key = False
    while p < end:
        c = _load8(src, p)
        p += 1
        kind = 0  # 1 list, 2 map, 3 text or bytes, 4 extension
        n = 0
        if c < 0x80:
            value = _int_hash(np.uint64(c))
        elif c < 0x90:
            kind, n = 2, c & 15
        elif c < 0xA0:
            kind, n = 1, c & 15
        elif c < 0xC0:
            kind, n = 3, c & 31
        elif c >= 0xE0:
            value = _int_hash(np.uint64(np.int64(c) - 256))
        elif c == 0xC0:
            value = _NOTHING
        elif c == 0xC2:
            value = _mix(_TRUTH, _K2)
        elif c == 0xC3:
            value = _mix(_TRUTH, _K1)
        elif c == 0xCA or c == 0xCB:
            if p + 8 > end:
                break
            if c == 0xCA:
                break  # no client writes floats of 32 bits
            value = _real_number_hash(_load64(src, p))
            p += 8
        elif 0xCC <= c <= 0xD3:
            bytes_ = 1 << ((c - 0xCC) & 3)
            if p + bytes_ > end:
                break
            number = _0
            for i in range(bytes_):
                number = number << np.uint64(8) | np.uint64(_load8(src, p + i))
            if c >= 0xD0 and bytes_ < 8:
                top = _1 << np.uint64(8 * bytes_ - 1)
                number = (number ^ top) - top
            value = _int_hash(number)
            if c == 0xCF and number >= _SIGN:
                value = _double_hash(_as_bits(np.float64(number)))
            p += bytes_
        else:
            wide = 0
            if c == 0xDC or c == 0xDD:
                kind, wide = 1, 2 << (c - 0xDC)
            elif c == 0xDE or c == 0xDF:
                kind, wide = 2, 2 << (c - 0xDE)
            elif 0xD9 <= c <= 0xDB:
                kind, wide = 3, 1 << (c - 0xD9)
            elif 0xC4 <= c <= 0xC6:
                kind, wide = 3, 1 << (c - 0xC4)
            elif 0xC7 <= c <= 0xC9:
                kind, wide = 4, 1 << (c - 0xC7)
            elif 0xD4 <= c <= 0xD8:
                kind, n = 4, 1 << (c - 0xD4)
            else:
                break
            if p + wide > end:
                break
            for i in range(wide):
                n = n << 8 | _load8(src, p + i)
            p += wide
        if kind == 4:  # how a list or map is ordered: of a map it has a value, which says nothing
            p += 1 + n
            if depth >= 0:
                if levels[4 * depth] == _0 and p < end and _load8(src, p) == 0xC0:
                    p += 1
                levels[4 * depth + 3] -= _1
        elif kind == 3:
            if p + n > end or n < 1:
                break
            if _load8(src, p) == 3:
                value = _text_hash(src, p + 1, n - 1, out, w, marks, where, codes)
            else:
                value = _hash(src, p, n, _ODD)
            p += n
        elif kind != 0:
            depth += 1
            if depth == _DEPTH:
                break
            levels[4 * depth] = _1 if kind == 1 else _0
            levels[4 * depth + 1] = _0
            levels[4 * depth + 3] = np.uint64(n)
        if kind == 0 or kind == 3:
            if depth < 0:
                break
            if levels[4 * depth] == _0 and not has_key:
                levels[4 * depth + 2] = value
                has_key = True
                continue
            _into(levels, depth, value)
        has_key = False
        while depth >= 0 and levels[4 * depth + 3] == _0:
            value = _closed(levels, depth)
            depth -= 1
            if depth < 0:
                return value if p == end else _hash(src, at, size, _ODD)
            _into(levels, depth, value)
    return _hash(src, at, size, _ODD)


# ------------------------------------------------------------------------------------------------- values


_HEX: Final = np.frombuffer(b"".join(b"%02x" % i for i in range(256)), np.uint16).copy()


@_inner
def _put_uuid(out: Bytes, w: int, src: Bytes, p: int) -> None:
    """The 36 letters of a UUID."""
    for i in range(16):
        if i == 4 or i == 6 or i == 8 or i == 10:
            _store8(out, w, 45)
            w += 1
        _store16(out, w, _HEX[_load8(src, p + i)])
        w += 2


@_inner
def _column_hash(
    kind: int, scale: int, src: Bytes, p: int, size: int, scratch: Bytes, marks: Ints, where: Ints, codes: Ints,
    levels: Longs,
) -> np.uint64:  # fmt: skip
    """A value of PostgreSQL in its binary form."""
    if kind == TEXT:
        return _text_hash(src, p, size, scratch, 0, marks, where, codes)
    if kind == UUID:
        _put_uuid(scratch, 0, src, p)
        return _hash(scratch, 0, 36, _STRING)
    if kind == JSON:
        return _json_hash(src, p, size, scratch, 0, marks, where, codes, levels)
    if kind == SCALED:
        return _scaled_hash(src, p, size, scale)
    if kind == DECIMAL:
        return _numeric_hash(src, p, size)
    if kind == BOOL:
        return _mix(_TRUTH, _K1 if _load8(src, p) else _K2)
    if kind == DOUBLE:
        return _double_hash(_load64(src, p))
    if kind == TIMESTAMP:
        return _timestamp_hash(src, p, size, scale)
    return _int_hash(_load64(src, p))


@_inner
def _bin_hash(
    kind: int, scale: int, particle: int, src: Bytes, p: int, size: int, scratch: Bytes, marks: Ints, where: Ints,
    codes: Ints, levels: Longs,
) -> np.uint64:  # fmt: skip
    """A value of Aerospike. One of another type than the column's is like none of them."""
    if particle == 3:
        if kind in (TEXT, UUID):
            return _text_hash(src, p, size, scratch, 0, marks, where, codes)
        if kind == JSON:
            if scale:  # `json_text`; of `json` a text is a string, whatever it looks like
                return _json_hash(src, p, size, scratch, 0, marks, where, codes, levels)
            return _text_hash(src, p, size, scratch, 0, marks, where, codes)
        if kind == DECIMAL:
            return _figures_of_text(src, p, size)
        if kind == TIMESTAMP and scale == 0:
            return _iso_hash(src, p, size)
    elif particle == 1 and size == 8:
        bits = _load64(src, p)
        if kind in (INTEGER, SCALED, JSON) or (kind == TIMESTAMP and scale > 0):
            return _int_hash(bits)
        if kind == BOOL and bits <= _1:
            return _mix(_TRUTH, _K1 if bits else _K2)
        if kind == DOUBLE:
            return _double_hash(_as_bits(np.float64(np.int64(bits))))
        if kind == DECIMAL:
            return _figures_of_int(np.int64(bits))
    elif particle == 2 and size == 8:
        if kind == DOUBLE:
            return _double_hash(_load64(src, p))
        if kind == JSON:
            return _real_number_hash(_load64(src, p))
    elif particle == 17 and size == 1:
        if kind in (BOOL, JSON):
            return _mix(_TRUTH, _K1 if _load8(src, p) else _K2)
    elif (particle == 19 or particle == 20) and kind == JSON:
        return _msgpack_hash(src, p, size, scratch, 0, marks, where, codes, levels)
    return _hash(src, p, size, _ODD ^ np.uint64(particle))


@_entry
def bin_hash(
    kind: int, scale: int, particle: int, src: Bytes, size: int, scratch: Bytes, marks: Ints, where: Ints,
    codes: Ints, levels: Longs,
) -> np.uint64:  # fmt: skip
    """Of one value of Aerospike, for a default."""
    return _bin_hash(kind, scale, particle, src, 0, size, scratch, marks, where, codes, levels)


# ------------------------------------------------------------------------------------------------ digests

_LEFT: Final = np.array(
    [*range(16), 7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8, 3, 10, 14, 4, 9, 15, 8, 1, 2, 7, 0, 6, 13, 11, 5,
     12, 1, 9, 11, 10, 0, 8, 12, 4, 13, 3, 7, 15, 14, 5, 6, 2, 4, 0, 5, 9, 7, 12, 2, 10, 14, 1, 3, 8, 11, 6, 15, 13],
    np.int64,
)  # fmt: skip
_RIGHT: Final = np.array(
    [5, 14, 7, 0, 9, 2, 11, 4, 13, 6, 15, 8, 1, 10, 3, 12, 6, 11, 3, 7, 0, 13, 5, 10, 14, 15, 8, 12, 4, 9, 1, 2, 15, 5,
     1, 3, 7, 14, 6, 9, 11, 8, 12, 2, 10, 0, 4, 13, 8, 6, 4, 1, 3, 11, 15, 0, 5, 12, 2, 13, 9, 7, 10, 14, 12, 15, 10, 4,
     1, 5, 8, 7, 6, 2, 13, 14, 0, 3, 9, 11],
    np.int64,
)  # fmt: skip
_LEFT_TURN: Final = np.array(
    [11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8, 7, 6, 8, 13, 11, 9, 7, 15, 7, 12, 15, 9, 11, 7, 13, 12, 11,
     13, 6, 7, 14, 9, 13, 15, 14, 8, 13, 6, 5, 12, 7, 5, 11, 12, 14, 15, 14, 15, 9, 8, 9, 14, 5, 6, 8, 6, 5, 12, 9, 15,
     5, 11, 6, 8, 13, 12, 5, 12, 13, 14, 11, 8, 5, 6],
    np.uint32,
)  # fmt: skip
_RIGHT_TURN: Final = np.array(
    [8, 9, 9, 11, 13, 15, 15, 5, 7, 7, 8, 11, 14, 14, 12, 6, 9, 13, 15, 7, 12, 8, 9, 11, 7, 7, 12, 7, 6, 15, 13, 11, 9,
     7, 15, 11, 8, 6, 6, 14, 12, 13, 5, 14, 13, 13, 7, 5, 15, 5, 8, 11, 14, 14, 6, 14, 6, 9, 12, 9, 12, 5, 15, 8, 8, 5,
     12, 9, 12, 5, 14, 6, 8, 13, 6, 5, 15, 13, 11, 11],
    np.uint32,
)  # fmt: skip
_LEFT_ADD: Final = np.array([0, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E], np.uint32)
_RIGHT_ADD: Final = np.array([0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0], np.uint32)
_32: Final = np.uint32(32)
_10: Final = np.uint32(10)
_22: Final = np.uint32(22)


@_inline
def _turn(value: np.uint32, by: np.uint32) -> np.uint32:
    return np.uint32(value << by) | np.uint32(value >> np.uint32(_32 - by))


@_inline
def _choose(round_: int, b: np.uint32, c: np.uint32, d: np.uint32) -> np.uint32:
    if round_ == 0:
        return np.uint32(b ^ c ^ d)
    if round_ == 1:
        return np.uint32((b & c) | (~b & d))
    if round_ == 2:
        return np.uint32((b | ~c) ^ d)
    if round_ == 3:
        return np.uint32((b & d) | (c & ~d))
    return np.uint32(b ^ (c | ~d))


@_inner
def _ripemd(block: Bytes, blocks: int, h: NDArray[np.uint32], x: NDArray[np.uint32]) -> None:
    """RIPEMD-160 of padded blocks of 64 bytes into h."""
    h[0] = np.uint32(0x67452301)
    h[1] = np.uint32(0xEFCDAB89)
    h[2] = np.uint32(0x98BADCFE)
    h[3] = np.uint32(0x10325476)
    h[4] = np.uint32(0xC3D2E1F0)
    for n in range(blocks):
        for i in range(8):
            word = _load64_le(block, 64 * n + 8 * i)
            x[2 * i] = np.uint32(word)
            x[2 * i + 1] = np.uint32(word >> np.uint64(32))
        a, b, c, d, e = h[0], h[1], h[2], h[3], h[4]
        f, g, i_, j_, k_ = a, b, c, d, e
        for step in range(16):
            t = np.uint32(a + _choose(0, b, c, d) + x[_LEFT[step]] + _LEFT_ADD[0])
            t = np.uint32(_turn(t, _LEFT_TURN[step]) + e)
            a, e, d, c, b = e, d, np.uint32(_turn(c, _10)), b, t
            t = np.uint32(f + _choose(4, g, i_, j_) + x[_RIGHT[step]] + _RIGHT_ADD[0])
            t = np.uint32(_turn(t, _RIGHT_TURN[step]) + k_)
            f, k_, j_, i_, g = k_, j_, np.uint32(_turn(i_, _10)), g, t
        for step in range(16, 32):
            t = np.uint32(a + _choose(1, b, c, d) + x[_LEFT[step]] + _LEFT_ADD[1])
            t = np.uint32(_turn(t, _LEFT_TURN[step]) + e)
            a, e, d, c, b = e, d, np.uint32(_turn(c, _10)), b, t
            t = np.uint32(f + _choose(3, g, i_, j_) + x[_RIGHT[step]] + _RIGHT_ADD[1])
            t = np.uint32(_turn(t, _RIGHT_TURN[step]) + k_)
            f, k_, j_, i_, g = k_, j_, np.uint32(_turn(i_, _10)), g, t
        for step in range(32, 48):
            t = np.uint32(a + _choose(2, b, c, d) + x[_LEFT[step]] + _LEFT_ADD[2])
            t = np.uint32(_turn(t, _LEFT_TURN[step]) + e)
            a, e, d, c, b = e, d, np.uint32(_turn(c, _10)), b, t
            t = np.uint32(f + _choose(2, g, i_, j_) + x[_RIGHT[step]] + _RIGHT_ADD[2])
            t = np.uint32(_turn(t, _RIGHT_TURN[step]) + k_)
            f, k_, j_, i_, g = k_, j_, np.uint32(_turn(i_, _10)), g, t
        for step in range(48, 64):
            t = np.uint32(a + _choose(3, b, c, d) + x[_LEFT[step]] + _LEFT_ADD[3])
            t = np.uint32(_turn(t, _LEFT_TURN[step]) + e)
            a, e, d, c, b = e, d, np.uint32(_turn(c, _10)), b, t
            t = np.uint32(f + _choose(1, g, i_, j_) + x[_RIGHT[step]] + _RIGHT_ADD[3])
            t = np.uint32(_turn(t, _RIGHT_TURN[step]) + k_)
            f, k_, j_, i_, g = k_, j_, np.uint32(_turn(i_, _10)), g, t
        for step in range(64, 80):
            t = np.uint32(a + _choose(4, b, c, d) + x[_LEFT[step]] + _LEFT_ADD[4])
            t = np.uint32(_turn(t, _LEFT_TURN[step]) + e)
            a, e, d, c, b = e, d, np.uint32(_turn(c, _10)), b, t
            t = np.uint32(f + _choose(0, g, i_, j_) + x[_RIGHT[step]] + _RIGHT_ADD[4])
            t = np.uint32(_turn(t, _RIGHT_TURN[step]) + k_)
            f, k_, j_, i_, g = k_, j_, np.uint32(_turn(i_, _10)), g, t
        t = np.uint32(h[1] + c + j_)
        h[1] = np.uint32(h[2] + d + k_)
        h[2] = np.uint32(h[3] + e + f)
        h[3] = np.uint32(h[4] + a + g)
        h[4] = np.uint32(h[0] + b + i_)
        h[0] = t


@_inner
def _digest(
    src: Bytes, p: int, size: int, block: Bytes, prefix: int, h: NDArray[np.uint32], x: NDArray[np.uint32]
) -> None:
    """Of the key at p; `block` begins with set and particle type, `prefix` bytes of them."""
    _copy(block, prefix, src, p, size)
    total = prefix + size
    _store8(block, total, 0x80)
    blocks = (total + 9 + 63) // 64
    for i in range(total + 1, 64 * blocks - 8):
        _store8(block, i, 0)
    bits = 8 * total
    for i in range(8):
        _store8(block, 64 * blocks - 8 + i, (bits >> (8 * i)) & 255)
    _ripemd(block, blocks, h, x)


@_entry
def digest_of(src: Bytes, size: int, block: Bytes, prefix: int, h: NDArray[np.uint32], x: NDArray[np.uint32]) -> None:
    """The digest of one key, into h (five words, little-endian)."""
    _digest(src, 0, size, block, prefix, h, x)


# --------------------------------------------------------------------------------------------------- rows


@_inline
def _bucket(low: np.uint64) -> Any:
    """Of a digest whose first 8 bytes are `low`."""
    return np.int64(((low & np.uint64(0xFFF)) << np.uint64(SUB)) | ((low >> np.uint64(16)) & np.uint64((1 << SUB) - 1)))


@_inline
def _add(table: Longs, bucket: int, row: np.uint64, low: np.uint64, high: np.uint64) -> None:
    at = bucket * CELL
    table[at] += _1
    table[at + 1] += row
    table[at + 2] += _mix(row ^ low ^ _K0, high ^ _K1)


@_entry
def rows(
    src: Bytes, pos: int, end: int, state: Ints, kinds: Ints, scales: Ints, seeds: Longs, defaults: Longs,
    mask: Bytes, table: Longs, places: Longs, got: Longs, width: int, block: Bytes, prefix: int,
    h: NDArray[np.uint32], x: NDArray[np.uint32], scratch: Bytes, marks: Ints, where: Ints, codes: Ints,
    levels: Longs,
) -> tuple[int, int]:  # fmt: skip
    """Rows of COPY ... (FORMAT binary) in CopyData messages: key, ctid, then the columns.

    :param mask: of each bucket: 0 leaves its rows out.
    :param table: CELL words per bucket, added to; empty: rows are collected instead.
    :param places: bucket and ctid of each row, as long as there is room.
    :param got: collected rows, `width` words each: ROW, and where there is room for them the hashes of the columns.
    :return: (pos, status). DONE: a message that is no CopyData lies at pos. OUT_FULL: `got`, `block` (key) or
        `scratch` are too small: state[SOURCE_NEEDED] bytes of text are to be decomposed or copied.
    """
    columns = kinds.shape[0]
    adds = table.shape[0] > 0
    while True:
        if end - pos < 5:
            state[SOURCE_NEEDED] = 5
            return pos, NEED_MORE
        if _load8(src, pos) != 100:
            return pos, DONE
        size = _load32(src, pos + 1)
        stop = pos + 1 + size
        if size < 4:
            state[WHY] = COPY_FRAME
            return pos, BROKEN
        if stop > end:
            state[SOURCE_NEEDED] = stop - pos
            return pos, NEED_MORE
        p = pos + 5
        if state[HEAD] == 0:
            if stop - p < 19:
                state[WHY] = COPY_FRAME
                return pos, BROKEN
            p += 19 + _load32(src, p + 15)
            state[HEAD] = 1
        if 4 * size + 64 > scratch.shape[0] or size + prefix + 192 > block.shape[0]:
            state[SOURCE_NEEDED] = size
            if p != pos + 5:
                state[HEAD] = 0
            return pos, OUT_FULL
        while p < stop:
            if stop - p < 2:
                state[WHY] = COPY_FRAME
                return pos, BROKEN
            count = _load16(src, p)
            p += 2
            if count == 0xFFFF:
                break
            if count != columns + 2 or stop - p < 4:
                state[WHY] = COPY_FRAME
                return pos, BROKEN
            n = _load32(src, p)
            p += 4
            key = p
            key_size = n
            if n == 0xFFFFFFFF:
                state[NULL_KEYS] += 1
                key_size = 0
            p += key_size
            if stop - p < 10:
                state[WHY] = COPY_FRAME
                return pos, BROKEN
            place = (np.uint64(_load32(src, p + 4)) << np.uint64(11)) | np.uint64(_load16(src, p + 8))
            p += 10
            if state[UUID_KEY] and key_size == 16:
                _put_uuid(scratch, 0, src, key)
                _digest(scratch, 0, 36, block, prefix, h, x)
            else:
                _digest(src, key, key_size, block, prefix, h, x)
            low = np.uint64(h[0]) | np.uint64(h[1]) << np.uint64(32)
            high = np.uint64(h[2]) | np.uint64(h[3]) << np.uint64(32)
            bucket = _bucket(low)
            wanted = mask[bucket] != 0
            at = width * state[FOUND]
            if wanted and not adds and at + width > got.shape[0]:
                state[SOURCE_NEEDED] = 0
                return pos, OUT_FULL
            row = _0
            for i in range(columns):
                if stop - p < 4:
                    state[WHY] = COPY_FRAME
                    return pos, BROKEN
                n = _load32(src, p)
                p += 4
                value = _0
                if n != 0xFFFFFFFF:
                    if stop - p < n:
                        state[WHY] = COPY_FRAME
                        return pos, BROKEN
                    if wanted:
                        value = _column_hash(kinds[i], scales[i], src, p, n, scratch, marks, where, codes, levels)
                        if value == defaults[i] or (value == _NOTHING and kinds[i] == JSON):
                            value = _0
                        if value != _0:
                            row += _mix(value ^ seeds[i], _K3)
                    p += n
                if wanted and not adds and ROW + i < width:
                    got[at + ROW + i] = value
            if not wanted:
                continue
            state[ROWS] += 1
            if adds:
                _add(table, bucket, row, low, high)
                if state[FOUND] < places.shape[0]:
                    places[state[FOUND]] = (np.uint64(bucket) << np.uint64(43)) | place
                    state[FOUND] += 1
                else:
                    state[FULL] = 1
            else:
                got[at] = low
                got[at + 1] = high
                got[at + 2] = np.uint64(h[4])
                got[at + 3] = row
                got[at + 4] = place
                state[FOUND] += 1
        pos = stop


@_inner
def _bins(
    src: Bytes, p: int, ops: int, kinds: Ints, scales: Ints, seeds: Longs, defaults: Longs, names: Longs,
    hashes: Longs, scratch: Bytes, marks: Ints, where: Ints, codes: Ints, levels: Longs,
) -> np.uint64:  # fmt: skip
    """The hash of a record from its bins, and into `hashes` those of its columns."""
    columns = kinds.shape[0]
    for i in range(columns):
        hashes[i] = _0
    row = _0
    expected = 0
    for _ in range(ops):
        n = _load32(src, p)
        particle = _load8(src, p + 5)
        length = _load8(src, p + 7)
        if length <= 8:
            first = _tail(src, p + 8, length) if length < 8 else _load64_le(src, p + 8)
            second = _0
        else:
            first = _load64_le(src, p + 8)
            second = _tail(src, p + 16, length - 8) if length < 16 else _load64_le(src, p + 16)
        found = -1
        for j in range(columns):
            i = expected + j
            if i >= columns:
                i -= columns
            if names[2 * i] == first and names[2 * i + 1] == second:
                found = i
                break
        if found >= 0:
            value = _bin_hash(
                kinds[found], scales[found], particle, src, p + 8 + length, n - 4 - length, scratch, marks, where,
                codes, levels,
            )  # fmt: skip
            if value == defaults[found] or (value == _NOTHING and kinds[found] == JSON):
                value = _0
            hashes[found] = value
            if value != _0:
                row += _mix(value ^ seeds[found], _K3)
            expected = found + 1
        p += 4 + n
    return row


@_entry
def records(
    src: Bytes, pos: int, end: int, state: Ints, counts: Ints, fingerprints: Longs, last: Bytes, seen: Bytes,
    unavailable: Bytes, kinds: Ints, scales: Ints, seeds: Longs, defaults: Longs, names: Longs, mask: Bytes,
    table: Longs, got: Longs, width: int, tally: Ints, hashes: Longs, scratch: Bytes, marks: Ints, where: Ints,
    codes: Ints, levels: Longs,
) -> tuple[int, int]:  # fmt: skip
    """Messages of a query's answer, as `dbops.aerospike.kernel.encode` takes them, added up or collected as in `rows`.

    :param tally: `state` of all answers together: ROWS and FOUND.
    :return: (pos, status); OUT_FULL with state[SOURCE_NEEDED] = 0: `got` is too small, else `scratch`.
    """
    digests_out = last.reshape(-1)
    adds = table.shape[0] > 0
    left = state[FRAME_LEFT]
    status = NEED_MORE
    why = 0
    offset = pos
    while True:
        if left == 0:
            if end - pos < 8:
                state[SOURCE_NEEDED] = 8
                break
            size = (_load16(src, pos + 2) << 32) | _load32(src, pos + 4)
            if _load16(src, pos) != 0x0203 or size < 22 or size > 128 << 20:
                why = 1
                offset = pos
                break
            left = size
            pos += 8
        size, detail = _measure(src, pos, end, left)
        if size <= 0:
            if size == 0:
                state[SOURCE_NEEDED] = detail
            else:
                why = -size
                offset = detail
            break
        info3 = _load8(src, pos + 3)
        result = _load8(src, pos + 5)
        if info3 & 1 != 0:
            pos += size
            left = 0
            state[RESULT] = result
            status = DONE
            break
        if info3 != 0 or result != 0:
            if info3 & 4 == 0:
                pos += size
                left -= size
                state[RESULT] = result
                status = REFUSED
                break
            partition = _load32(src, pos + 6) & 4095
            if result != 0:
                unavailable[partition] = result
            pos += size
            left -= size
            continue
        if 4 * size + 64 > scratch.shape[0]:
            state[SOURCE_NEEDED] = size
            status = OUT_FULL
            break
        fields = _load16(src, pos + 18)
        p = pos + 22
        digest = 0
        for _ in range(fields):
            n = _load32(src, p)
            if _load8(src, p + 4) == 4 and n == 21:
                digest = p + 5
            p += 4 + n
        if digest == 0:
            why = 8
            offset = pos
            break
        low = _load64_le(src, digest)
        bucket = _bucket(low)
        partition = bucket >> SUB
        if mask[bucket] != 0:
            high = _load64_le(src, digest + 8)
            at = width * tally[FOUND]
            if not adds and at + width > got.shape[0]:
                state[SOURCE_NEEDED] = 0
                status = OUT_FULL
                break
            row = _bins(
                src, p, _load16(src, pos + 20), kinds, scales, seeds, defaults, names, hashes, scratch, marks, where,
                codes, levels,
            )  # fmt: skip
            tally[ROWS] += 1
            if adds:
                _add(table, bucket, row, low, high)
            else:
                got[at] = low
                got[at + 1] = high
                got[at + 2] = _load64_le(src, digest + 12) >> np.uint64(32)
                got[at + 3] = row
                got[at + 4] = np.uint64(_load32(src, pos + 10))
                for i in range(width - ROW):
                    got[at + ROW + i] = hashes[i]
                tally[FOUND] += 1
        counts[partition] += 1
        fingerprints[partition] += _load64_le(src, digest + 12)
        _copy(digests_out, partition * 20, src, digest, 20)
        seen[partition] = 1
        pos += size
        left -= size
    if why != 0:
        status = BROKEN
        state[WHY] = why
        state[OFFSET] = offset
    state[FRAME_LEFT] = left
    return pos, status


@_entry
def positions(
    src: Bytes, pos: int, end: int, state: Ints, counts: Ints, fingerprints: Longs, last: Bytes, seen: Bytes,
    unavailable: Bytes, mask: Bytes, out: Ints,
) -> tuple[int, int, int]:  # fmt: skip
    """Where in src the messages with records of the mask lie: place and size of each into `out`.

    :return: (pos, how many, status); OUT_FULL when `out` is full.
    """
    digests_out = last.reshape(-1)
    left = state[FRAME_LEFT]
    status = NEED_MORE
    why = 0
    count = 0
    while True:
        if left == 0:
            if end - pos < 8:
                state[SOURCE_NEEDED] = 8
                break
            size = (_load16(src, pos + 2) << 32) | _load32(src, pos + 4)
            if _load16(src, pos) != 0x0203 or size < 22 or size > 128 << 20:
                why = 1
                break
            left = size
            pos += 8
        size, detail = _measure(src, pos, end, left)
        if size <= 0:
            if size == 0:
                state[SOURCE_NEEDED] = detail
            else:
                why = -size
            break
        info3 = _load8(src, pos + 3)
        result = _load8(src, pos + 5)
        if info3 & 1 != 0 or (info3 & 4 == 0 and result != 0):
            pos += size
            left -= size
            state[RESULT] = result
            status = DONE if info3 & 1 != 0 else REFUSED
            break
        if info3 != 0:
            if result != 0:
                unavailable[_load32(src, pos + 6) & 4095] = result
            pos += size
            left -= size
            continue
        if 2 * count + 2 > out.shape[0]:
            status = OUT_FULL
            break
        p = pos + 22
        digest = 0
        for _ in range(_load16(src, pos + 18)):
            n = _load32(src, p)
            if _load8(src, p + 4) == 4 and n == 21:
                digest = p + 5
            p += 4 + n
        if digest == 0:
            why = 8
            break
        bucket = _bucket(_load64_le(src, digest))
        if mask[bucket] != 0:
            out[2 * count] = pos
            out[2 * count + 1] = size
            count += 1
        partition = bucket >> SUB
        counts[partition] += 1
        fingerprints[partition] += _load64_le(src, digest + 12)
        _copy(digests_out, partition * 20, src, digest, 20)
        seen[partition] = 1
        pos += size
        left -= size
    if why != 0:
        status = BROKEN
        state[WHY] = why
        state[OFFSET] = pos
    state[FRAME_LEFT] = left
    return pos, count, status


@_entry
def record(
    src: Bytes, size: int, kinds: Ints, scales: Ints, seeds: Longs, defaults: Longs, names: Longs, hashes: Longs,
    scratch: Bytes, marks: Ints, where: Ints, codes: Ints, levels: Longs,
) -> np.uint64:  # fmt: skip
    """The hash of one message with a record, and into `hashes` those of its columns; 1 when it cannot be read."""
    if _measure(src, 0, size, size)[0] != size:
        return _1
    p = 22
    for _ in range(_load16(src, 18)):
        p += 4 + _load32(src, p)
    return _bins(
        src, p, _load16(src, 20), kinds, scales, seeds, defaults, names, hashes, scratch, marks, where, codes, levels
    )
