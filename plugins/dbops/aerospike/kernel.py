"""The hot code of Aerospike backup and restore: query answers -> `.asb` text -> batch-write rows.

Compiled by Numba on first use, kept on disk, run without the GIL; no Python object is made per record. With
NUMBA_DISABLE_JIT=1 the same functions run as plain Python, slow but equal.

Bytes are touched through the few primitives below. Compiled they check nothing, so every length that comes
from the wire or from a file is measured first; as plain Python they raise IndexError for any byte outside the
array, which is how the tests prove the measuring.

All is in one file because Numba's cache notices only a change of the file that holds the cached function.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Longs = NDArray[np.uint64]

NEED_MORE: Final = 0  # the message or record at `pos` is not complete before `end`
OUT_FULL: Final = 1  # no room in `out` for the next message: drain it (or, when it is empty, make it larger)
DONE: Final = 2  # LAST came (state[RESULT] = its result code), or the text ended where it may
REFUSED: Final = 3  # the server refused the request: state[RESULT] = its result code
BROKEN: Final = 4  # what came is not what the protocol or the format allows: state[WHY], state[OFFSET]

# Indexes of the state array, int64[STATE_SIZE], all 0 at the start of an answer or a file.
FRAME_LEFT: Final = 0  # bytes left in the current proto frame
RESULT: Final = 1
WHY: Final = 1
OFFSET: Final = 2
SOURCE_NEEDED: Final = 3  # after NEED_MORE: bytes from `pos` on that are needed at least to go on
RECORDS: Final = 4  # records so far
ROOM_NEEDED: Final = 5  # after OUT_FULL: bytes from `w` on that the next message may take (decode: at least)
LEGACY: Final = 6  # set by the caller of scan and decode: 1 for text of version 3.0, whose names are not escaped
ROWS: Final = 7  # decode: rows in the batch so far; the caller sets it to 0 for a new batch
EXPIRED: Final = 8  # decode: records left out because their time is over
SUPERSEDED: Final = 9  # decode: records left out because a newer restore point held them too
GONE: Final = 10  # decode: records left out because a newer restore point knows that they were deleted
OTHER_SET: Final = 11  # decode: records left out because their set was not chosen
NO_BIN: Final = 12  # decode: records left out because none of their bins was chosen
ELSEWHERE: Final = 13  # decode: records of other partitions
EXPIRING: Final = 14  # scan: records that expire some day
STATE_SIZE: Final = 16

HELD: Final = 1  # in `marks`: a newer restore point held the record
DELETED: Final = 2  # in `marks`: a newer restore point knows that the record was deleted

PARTITIONS: Final = 4096
MAX_FRAME: Final = 128 << 20  # PROTO_SIZE_MAX of the server
SLACK: Final = 32  # room behind each text for copies in whole words and for gcvt

_FRAME: Final = 1
_FRAME_SIZE: Final = 2
_HEADER: Final = 3
_LENGTHS: Final = 4
_INFO3: Final = 5
_PARTITION: Final = 6
_FIELD: Final = 7
_NO_DIGEST: Final = 8
_NO_NAMESPACE: Final = 9
_KEY: Final = 10
_GENERATION: Final = 11
_OP_FLAGS: Final = 12
_BIN_NAME: Final = 13
_PARTICLE: Final = 14
_PARTICLE_SIZE: Final = 15
_AFTER_LAST: Final = 16
_TRUNCATED: Final = 32
_WANT_RECORD: Final = 33
_WANT_NAMESPACE: Final = 34
_WANT_DIGEST: Final = 35
_WANT_GENERATION: Final = 36
_WANT_VOID_TIME: Final = 37
_WANT_BIN_COUNT: Final = 38
_WANT_BIN: Final = 39
_WANT_FEED: Final = 40
_NAME: Final = 41
_LONG_NAME: Final = 42
_NUMBER: Final = 43
_DOUBLE: Final = 44
_LENGTH: Final = 45
_BASE64_TEXT: Final = 46
_BOOL: Final = 47
_BIN_TYPE: Final = 48
_LDT: Final = 49
_KEY_TYPE: Final = 50

_REASONS: Final = {
    _FRAME: "not a proto frame of version 2 and type 3 (message)",
    _FRAME_SIZE: "a proto frame of an impossible size",
    _HEADER: "a message header that is not 22 bytes",
    _LENGTHS: "lengths of fields or bins that do not fit their message",
    _INFO3: "a message with unknown flags in info3",
    _PARTITION: "a partition number above 4095",
    _FIELD: "a field that is unknown, given twice, or has an impossible size",
    _NO_DIGEST: "a record without a digest",
    _NO_NAMESPACE: "a record without a namespace",
    _KEY: "a user key of an unknown type or an impossible size",
    _GENERATION: "a generation above 65535",
    _OP_FLAGS: "a bin with unknown flags",
    _BIN_NAME: "a bin without a name",
    _PARTICLE: "a value of an unknown particle type",
    _PARTICLE_SIZE: "a value whose size or content its particle type does not allow",
    _AFTER_LAST: "bytes behind the last message of an answer",
    _TRUNCATED: "the end of the text inside a record",
    _WANT_RECORD: "no record where one begins ('+ k ' or '+ n ')",
    _WANT_NAMESPACE: "no namespace line ('+ n ') behind the key",
    _WANT_DIGEST: "no digest line ('+ d ', 20 bytes in base64)",
    _WANT_GENERATION: "no generation line ('+ g ')",
    _WANT_VOID_TIME: "no void-time line ('+ t ')",
    _WANT_BIN_COUNT: "no bin-count line ('+ b ')",
    _WANT_BIN: "no bin line ('- ') although the bin count says so",
    _WANT_FEED: "no line feed at the end of a value",
    _NAME: "a name that is empty, longer than 999 bytes, or has an unescaped space",
    _LONG_NAME: "a name that is too long for the wire",
    _NUMBER: "not a whole number of the range of its line",
    _DOUBLE: "not a floating-point number",
    _LENGTH: "not a length that a value can have",
    _BASE64_TEXT: "not base64 of that length",
    _BOOL: "neither T nor F for a boolean",
    _BIN_TYPE: "a bin of an unknown type",
    _LDT: "a large-data-type bin (U): servers since 3.15 have none, and it cannot be restored",
    _KEY_TYPE: "a user key of an unknown type",
}


def reason(code: int) -> str:
    """Say what state[WHY] means after BROKEN, as the end of `found ...`."""
    return _REASONS[code]


_signed: Any = np.int64
_F = TypeVar("_F", bound=Callable[..., Any])
_INTERPRETED: Final = bool(vars(numba.config)["DISABLE_JIT"])


_njit: Any = numba.njit  # its types do not know _nrt

# Without reference counts: each count is two locked instructions at every call, for every array, which took four fifths
# of all the time. What such a function is given stays alive in its caller, and it can make no array of its own.


def _inner(function: _F) -> _F:
    return cast(_F, _njit(nogil=True, _nrt=False)(function))


def _inline(function: _F) -> _F:
    """For what is small and called for each line: a call passes every array as seven arguments."""
    return cast(_F, _njit(nogil=True, _nrt=False, forceinline=True)(function))


def _entry(function: _F) -> _F:
    """A function that Python calls: cached on disk together with all that it calls."""
    if _INTERPRETED:
        return np.errstate(over="ignore")(function)
    return cast(_F, numba.njit(nogil=True, cache=True)(function))


# -------------------------------------------------------------------------------------------------- memory
# Loads are big-endian (the wire), stores little-endian (a constant holds the text it writes) but for _wire*.

_copy: Any
_copy16: Any
_load8: Any
_load16: Any
_load32: Any
_load64: Any
_load64_le: Any
_store8: Any
_store16: Any
_store32: Any
_store64: Any
_wire16: Any
_wire32: Any
_wire64: Any
_mulhi: Any  # the upper 64 bits of the product of two numbers
_address: Any  # of a byte of an array
_bits: Any  # of a double
_double: Any  # of 64 bits
_lowest: Any  # how many zero bits are below the lowest one that is set

if _INTERPRETED:

    def _cut(array: Bytes, at: int, size: int) -> Bytes:
        if at < 0 or size < 0 or at + size > array.shape[0]:
            raise IndexError(f"bytes {at} to {at + size} of {array.shape[0]}")
        return array[at : at + size]

    def _python_load(size: int, order: str) -> Callable[[Bytes, int], Any]:
        def load(array: Bytes, at: int) -> Any:
            value = int.from_bytes(_cut(array, at, size).tobytes(), cast(Any, order))
            return np.uint64(value) if size == 8 else value

        return load

    def _python_store(size: int, order: str) -> Callable[[Bytes, int, int], None]:
        def store(array: Bytes, at: int, value: int) -> None:
            _cut(array, at, size)[:] = np.frombuffer(int(value).to_bytes(size, cast(Any, order)), np.uint8)

        return store

    def _copy(out: Bytes, w: int, src: Bytes, p: int, size: int) -> None:
        _cut(out, w, size)[:] = _cut(src, p, size)

    def _copy16(out: Bytes, w: int, src: Bytes, p: int) -> None:
        _copy(out, w, src, p, 16)

    def _mulhi(a: np.uint64, b: np.uint64) -> np.uint64:
        return np.uint64(int(a) * int(b) >> 64)

    def _lowest(word: np.uint64) -> int:
        return (int(word) & -int(word)).bit_length() - 1

    _load8, _load16, _load32, _load64 = (_python_load(size, "big") for size in (1, 2, 4, 8))
    _load64_le = _python_load(8, "little")
    _store8, _store16, _store32, _store64 = (_python_store(size, "little") for size in (1, 2, 4, 8))
    _wire16, _wire32, _wire64 = (_python_store(size, "big") for size in (2, 4, 8))

else:
    from llvmlite import ir

    def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
        return builder.gep(context.make_array(kind)(context, builder, array).data, [at])

    def _word(builder: Any, pointer: Any, bits: int) -> Any:
        return builder.bitcast(pointer, ir.IntType(bits).as_pointer())

    def _loader(bits: int, swap: bool) -> Any:
        def load(_context: Any, array: Any, _at: Any) -> Any:
            def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                pointer = _word(builder, _pointer(context, builder, signature.args[0], *args), bits)
                value = builder.load(pointer, align=1)
                value = builder.bswap(value) if swap and bits > 8 else value
                return value if bits == 64 else builder.zext(value, ir.IntType(64))

            return (types.uint64 if bits == 64 else types.int64)(array, types.int64), code

        return intrinsic(load)

    def _storer(bits: int, swap: bool) -> Any:
        def store(_context: Any, array: Any, _at: Any, _value: Any) -> Any:
            def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                pointer = _pointer(context, builder, signature.args[0], args[0], args[1])
                value = args[2] if bits == 64 else builder.trunc(args[2], ir.IntType(bits))
                value = builder.bswap(value) if swap else value
                builder.store(value, _word(builder, pointer, bits), align=1)
                return context.get_dummy_value()

            return types.void(array, types.int64, types.uint64), code

        return intrinsic(store)

    @intrinsic
    def _copy(_context: Any, out: Any, _w: Any, src: Any, _p: Any, _size: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            target = _pointer(context, builder, signature.args[0], args[0], args[1])
            source = _pointer(context, builder, signature.args[2], args[2], args[3])
            byte, word = ir.IntType(8).as_pointer(), ir.IntType(64)
            memcpy = builder.module.declare_intrinsic("llvm.memcpy", [byte, byte, word])
            builder.call(memcpy, [target, source, args[4], ir.Constant(ir.IntType(1), 0)])
            return context.get_dummy_value()

        return types.void(out, types.int64, src, types.int64, types.int64), code

    @intrinsic
    def _copy16(_context: Any, out: Any, _w: Any, src: Any, _p: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            target = _word(builder, _pointer(context, builder, signature.args[0], args[0], args[1]), 128)
            source = _word(builder, _pointer(context, builder, signature.args[2], args[2], args[3]), 128)
            builder.store(builder.load(source, align=1), target, align=1)
            return context.get_dummy_value()

        return types.void(out, types.int64, src, types.int64), code

    @intrinsic
    def _mulhi(_context: Any, _a: Any, _b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            wide = ir.IntType(128)
            product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
            return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

        return types.uint64(types.uint64, types.uint64), code

    @intrinsic
    def _lowest(_context: Any, _word: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

        return types.int64(types.uint64), code

    @intrinsic
    def _address(_context: Any, array: Any, _at: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.ptrtoint(_pointer(context, builder, signature.args[0], *args), ir.IntType(64))

        return types.uintp(array, types.int64), code

    @intrinsic
    def _bits(_context: Any, _number: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], ir.IntType(64))

        return types.uint64(types.float64), code

    @intrinsic
    def _double(_context: Any, _bits: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], ir.DoubleType())

        return types.float64(types.uint64), code

    _load8, _load16, _load32, _load64 = (_loader(bits, True) for bits in (8, 16, 32, 64))
    _load64_le = _loader(64, False)
    _store8, _store16, _store32, _store64 = (_storer(bits, False) for bits in (8, 16, 32, 64))
    _wire16, _wire32, _wire64 = (_storer(bits, True) for bits in (16, 32, 64))


def _text(letters: bytes) -> int:
    return int.from_bytes(letters, "little")


# --------------------------------------------------------------------------------------------- text pieces

_PAIRS: Final = np.frombuffer(b"".join(b"%02d" % i for i in range(100)), np.uint16).copy()
_BASE64: Final = np.frombuffer(
    b"".join(base64.b64encode((i << 12).to_bytes(3, "big"))[:2] for i in range(4096)), np.uint16
).copy()
_TEN: Final = np.uint64(10)
_HUNDRED: Final = np.uint64(100)
_10E4: Final = np.uint64(10**4)
_10E8: Final = np.uint64(10**8)
_10E16: Final = np.uint64(10**16)
_10E17: Final = np.uint64(10**17)
_TOP: Final = np.uint64(1 << 63)
_48: Final = np.uint64(48)
_0: Final = np.uint64(0)
_1: Final = np.uint64(1)
_63: Final = np.uint64(63)
_52: Final = np.uint64(52)
_EXPONENT: Final = np.uint64(0x7FF)
_FRACTION: Final = np.uint64((1 << 52) - 1)
_ALL: Final = np.uint64((1 << 64) - 1)
_ONES: Final = np.uint64(0x0101010101010101)
_TOPS: Final = np.uint64(0x8080808080808080)
_SPACES: Final = np.uint64(0x2020202020202020)
_FEEDS: Final = np.uint64(0x0A0A0A0A0A0A0A0A)
_SLASHES: Final = np.uint64(0x5C5C5C5C5C5C5C5C)
_ZEROS: Final = np.uint64(_text(b"00000000"))
_QUIET_NAN: Final = np.uint64(0x7FF8 << 48)
_INFINITY: Final = np.uint64(0x7FF0 << 48)
_NAN: Final = _text(b"nan\n")
_INF: Final = _text(b"inf\n")
_N: Final = _text(b"+ n ")
_D: Final = _text(b"+ d ")
_S: Final = _text(b"+ s ")
_G: Final = _text(b"+ g ")
_T: Final = _text(b"+ t ")
_B: Final = _text(b"+ b ")
_K: Final = _text(b"+ k ")
_LF: Final = 10
_SP: Final = 32


def _powers_of_ten(lowest: int, highest: int) -> tuple[Longs, Longs, Ints]:
    """10**n for each n, cut to 128 bits: high word, low word, and the power of two to multiply these with."""
    high, low, exponents = [], [], []
    for n in range(lowest, highest + 1):
        if n >= 0:
            exponent = (10**n).bit_length() - 128
            value = 10**n >> exponent if exponent >= 0 else 10**n << -exponent
        else:
            exponent = -(10**-n).bit_length() - 127
            value = (1 << -exponent) // 10**-n
        high.append(value >> 64)
        low.append(value & ((1 << 64) - 1))
        exponents.append(exponent)
    return np.array(high, np.uint64), np.array(low, np.uint64), np.array(exponents, np.int64)


_LOWEST_POWER: Final = -325
_HIGHEST_POWER: Final = 325
_POWER_HIGH, _POWER_LOW, _POWER_EXPONENT = _powers_of_ten(_LOWEST_POWER, _HIGHEST_POWER)


@_inner
def _put_uint(out: Bytes, w: int, value: np.uint64) -> int:
    """Decimal digits, two at a time from the last one; at most 20."""
    if value < _TEN:
        _store8(out, w, value + _48)
        return w + 1
    size = 2
    rest = value
    while rest >= _10E4:
        rest = rest // _HUNDRED
        size += 2
    if rest >= _HUNDRED:
        size += 1 if rest < np.uint64(1000) else 2
    at = w + size
    while value >= _HUNDRED:
        rest = value // _HUNDRED
        at -= 2
        _store16(out, at, _PAIRS[value - rest * _HUNDRED])
        value = rest
    if value >= _TEN:
        _store16(out, w, _PAIRS[value])
    else:
        _store8(out, w, value + _48)
    return w + size


@_inner
def _put_8digits(out: Bytes, w: int, value: np.uint64) -> None:
    """Eight digits with leading zeros."""
    high = value // _10E4
    low = value - high * _10E4
    a = high // _HUNDRED
    b = low // _HUNDRED
    _store16(out, w, _PAIRS[a])
    _store16(out, w + 2, _PAIRS[high - a * _HUNDRED])
    _store16(out, w + 4, _PAIRS[b])
    _store16(out, w + 6, _PAIRS[low - b * _HUNDRED])


@_inner
def _put_int(out: Bytes, w: int, bits: np.uint64) -> int:
    """A signed integer, given as the 64 bits of its two's complement."""
    if bits >> _63 != _0:
        _store8(out, w, 45)
        return _put_uint(out, w + 1, ~bits + _1)
    return _put_uint(out, w, bits)


if _INTERPRETED:

    def _printf(out: Bytes, w: int, bits: np.uint64) -> int:
        text = b"%.17g" % np.uint64(bits).view(np.float64)
        _cut(out, w, SLACK)[: len(text)] = np.frombuffer(text, np.uint8)
        return w + len(text)

    def _strtod(text: Bytes, at: int) -> np.uint64:
        return np.float64(abs(float(text[at:].tobytes().split(b"\n", 1)[0]))).view(np.uint64)

else:
    _gcvt: Any = types.ExternalFunction("gcvt", types.uintp(types.float64, types.intc, types.uintp))

    @_inner
    def _printf(out: Bytes, w: int, bits: np.uint64) -> int:
        """What printf("%.17g") prints, from the C library: its gcvt is that printf with the digits given."""
        _gcvt(_double(bits), 17, _address(out, w))
        while _load8(out, w) != 0:
            w += 1
        return w

    _c_strtod: Any = types.ExternalFunction("strtod", types.float64(types.uintp, types.uintp))

    @_inner
    def _strtod(text: Bytes, at: int) -> np.uint64:
        """The bits, without sign, of the number at text[at:], as the C library reads it: up to the line feed."""
        bits: np.uint64 = _bits(_c_strtod(_address(text, at), 0)) & ~_TOP
        return bits


@_inner
def _put_double(out: Bytes, w: int, bits: np.uint64) -> int:
    """A double, given as its bits, as printf("%.17g") prints it; at most 24 bytes.

    Every NaN is `nan`, as not all readers take the `-nan` of printf. The 17 digits come from one
    multiplication of the 53-bit mantissa with a power of ten cut to 128 bits. The cut makes the product too
    small by less than 2**64, of 2**130 and more that are behind the decimal point, so the rounding is certain
    unless the product lies that close below a half, or on it; those doubles (and subnormal ones) go to the C
    library.
    """
    exponent: int = _signed((bits >> _52) & _EXPONENT)
    mantissa = bits & _FRACTION
    start = w
    if bits >> _63 != _0:
        _store8(out, w, 45)
        w += 1
    if exponent == 0:
        if mantissa != _0:
            return _printf(out, start, bits)
        _store8(out, w, 48)
        return w + 1
    if exponent == 2047:
        if mantissa != _0:
            _store32(out, start, _NAN)
            return start + 3
        _store32(out, w, _INF)
        return w + 3
    mantissa |= _1 << _52
    if 1023 <= exponent <= 1075:
        below = np.uint64(1075 - exponent)
        if mantissa & ((_1 << below) - _1) == _0:
            return _put_uint(out, w, mantissa >> below)

    mantissa <<= np.uint64(11)  # the double is mantissa * 2 ** (exponent - 1086)
    ten = ((exponent - 1023) * 315653) >> 20  # floor(log10(2 ** (exponent - 1023))): of the double, or one less
    while True:
        power = 16 - ten - _LOWEST_POWER
        product = mantissa * _POWER_HIGH[power]
        carry = _mulhi(mantissa, _POWER_LOW[power])
        low = mantissa * _POWER_LOW[power]
        middle = product + carry
        high = _mulhi(mantissa, _POWER_HIGH[power]) + (_1 if middle < carry else _0)
        shift = np.uint64(1086 - exponent - _POWER_EXPONENT[power] - 128)
        digits = high >> shift
        if digits < _10E17:
            break
        ten += 1
    fraction = high & ((_1 << shift) - _1)
    half = _1 << (shift - _1)
    if fraction >= half:
        if fraction == half and middle == _0 and low == _0:
            return _printf(out, start, bits)
        digits += _1
        if digits == _10E17:
            digits = _10E16
            ten += 1
    elif fraction == half - _1 and middle == _ALL:
        return _printf(out, start, bits)

    if ten < 0 and ten >= -4:
        point = w + 1
        _store64(out, w, _ZEROS)
        first = w + 1 - ten
    else:
        point = w + 1 + (ten if 0 <= ten < 17 else 0)
        first = w + 1
    rest = digits // _10E8
    tail = digits - rest * _10E8
    head = rest // _10E8
    _store8(out, first, head + _48)
    _put_8digits(out, first + 1, rest - head * _10E8)
    _put_8digits(out, first + 9, tail)
    end: int = first + 17
    while _load8(out, end - 1) == 48:
        end -= 1
    if ten < 0 and ten >= -4:
        _store8(out, point, 46)
        return end
    for i in range(w, point):
        _store8(out, i, _load8(out, i + 1))
    _store8(out, point, 46)
    if end <= point + 1:
        end = point
    if 0 <= ten < 17:
        return end
    _store8(out, end, 101)
    _store8(out, end + 1, 45 if ten < 0 else 43)
    ten = abs(ten)
    if ten < 10:
        _store8(out, end + 2, 48)
        end += 1
    return _put_uint(out, end + 2, np.uint64(ten))


@_inline
def _escapes(word: np.uint64) -> np.uint64:
    """Not 0 when one of the 8 bytes is a space, a line feed or a backslash."""
    a = word ^ _SPACES
    b = word ^ _FEEDS
    c = word ^ _SLASHES
    return (((a - _ONES) & ~a) | ((b - _ONES) & ~b) | ((c - _ONES) & ~c)) & _TOPS


@_inner
def _put_token(out: Bytes, w: int, src: Bytes, p: int, size: int) -> int:
    """A name, with a backslash before each space, line feed and backslash."""
    if size <= 16 and p + 16 <= src.shape[0]:
        a = _load64_le(src, p)
        b = _load64_le(src, p + 8)
        if size < 8:
            a &= (_1 << np.uint64(8 * size)) - _1
            b = _0
        elif size < 16:
            b &= (_1 << np.uint64(8 * size - 64)) - _1
        if _escapes(a) | _escapes(b) == _0:
            _store64(out, w, a)
            _store64(out, w + 8, b)
            return w + size
    for i in range(p, p + size):
        c = _load8(src, i)
        if c == 32 or c == 10 or c == 92:
            _store8(out, w, 92)
            w += 1
        _store8(out, w, c)
        w += 1
    return w


@_inline
def _put_bytes(out: Bytes, w: int, src: Bytes, p: int, size: int) -> int:
    """The bytes as they are; what is short goes in words of 16, up to 15 bytes too many."""
    if size <= 64 and p + 64 <= src.shape[0]:
        for i in range(0, size, 16):
            _copy16(out, w + i, src, p + i)
    else:
        _copy(out, w, src, p, size)
    return w + size


@_inner
def _put_raw(out: Bytes, w: int, src: Bytes, p: int, size: int) -> int:
    """Length, space, the bytes as they are."""
    w = _put_uint(out, w, np.uint64(size))
    _store8(out, w, _SP)
    return _put_bytes(out, w + 1, src, p, size)


@_inner
def _put_digest(out: Bytes, w: int, src: Bytes, p: int) -> int:
    """20 bytes as 28 letters of base64."""
    for _ in range(6):
        word = _load32(src, p) >> 8
        _store16(out, w, _BASE64[word >> 12])
        _store16(out, w + 2, _BASE64[word & 4095])
        p += 3
        w += 4
    word = _load16(src, p) << 8
    _store16(out, w, _BASE64[word >> 12])
    _store16(out, w + 2, _BASE64[word & 4095])
    _store8(out, w + 3, 61)
    return w + 4


# --------------------------------------------------------------------------------------- wire -> .asb text

_BLOBS: Final = {
    b"B": 4,
    b"J": 7,
    b"C": 8,
    b"P": 9,
    b"R": 10,
    b"H": 11,
    b"E": 12,
    b"Y": 18,
    b"M": 19,
    b"L": 20,
}
_PLAIN: Final = {b"N": 0, b"I": 1, b"D": 2, b"S": 3, b"Z": 17, b"G": 23}
_BLOB: Final = np.zeros(256, np.bool_)  # whether the particle type is bytes: base64 or, with "!", as they are
_BLOB[list(_BLOBS.values())] = True
_TAGS: Final = np.zeros(256, np.int64)  # particle type -> first four bytes of the bin line
for _letter, _kind in (_BLOBS | _PLAIN).items():
    _TAGS[_kind] = _text(b"- " + _letter + (b"!" if _letter in _BLOBS else b" "))


@_inner
def _put_key(src: Bytes, p: int, size: int, out: Bytes, w: int) -> int:
    """The line of the user key; -1 for one that the format cannot hold."""
    kind = _load8(src, p)
    p += 1
    size -= 1
    _store32(out, w, _K)
    w += 4
    if kind == 1 or kind == 2:
        if size != 8:
            return -1
        _store16(out, w, 0x2049 if kind == 1 else 0x2044)
        bits = _load64(src, p)
        w = _put_int(out, w + 2, bits) if kind == 1 else _put_double(out, w + 2, bits)
    elif kind == 3:
        _store16(out, w, 0x2053)
        w = _put_raw(out, w + 2, src, p, size)
    elif kind == 4:
        _store16(out, w, 0x2142)
        _store8(out, w + 2, _SP)
        w = _put_raw(out, w + 3, src, p, size)
    else:
        return -1
    _store8(out, w, _LF)
    return w + 1


@_inner
def _put_bin(src: Bytes, p: int, size: int, out: Bytes, w: int) -> int:
    """The line of the bin whose op (behind its length) lies at p; -code when it is not allowed."""
    kind = _load8(src, p + 1)
    if _load8(src, p + 2) != 0:
        return -_OP_FLAGS
    name = _load8(src, p + 3)
    if name == 0:
        return -_BIN_NAME
    value = p + 4 + name
    size -= 4 + name
    if _TAGS[kind] == 0:
        return -_PARTICLE
    _store32(out, w, _TAGS[kind])
    w += 4
    if _BLOB[kind]:
        _store8(out, w, _SP)
        w += 1
    w = _put_token(out, w, src, p + 4, name)
    _store8(out, w, _SP)
    if _BLOB[kind] or kind == 3:
        w = _put_raw(out, w + 1, src, value, size)
    elif kind == 1 or kind == 2:
        if size != 8:
            return -_PARTICLE_SIZE
        bits = _load64(src, value)
        w = _put_int(out, w + 1, bits) if kind == 1 else _put_double(out, w + 1, bits)
    elif kind == 17:
        if size != 1 or _load8(src, value) > 1:
            return -_PARTICLE_SIZE
        _store8(out, w + 1, 84 if _load8(src, value) == 1 else 70)
        w += 2
    elif kind == 23:
        cells = 3 + 8 * _load16(src, value + 1) if size >= 3 else 3
        if size < cells:
            return -_PARTICLE_SIZE
        w = _put_raw(out, w + 1, src, value + cells, size - cells)
    elif size != 0:
        return -_PARTICLE_SIZE
    _store8(out, w, _LF)
    return w + 1


@_inner
def _measure(src: Bytes, pos: int, end: int, left: int) -> tuple[int, int]:
    """Walk over the message at pos: (its size, 0), (0, bytes needed at least) or (-code, offset).

    `left` bytes of the frame begin at pos; afterwards all lengths inside the message fit it and each other.
    """
    limit = pos + left
    if left < 22:
        return -_LENGTHS, pos
    if end - pos < 22:
        return 0, 22
    if _load8(src, pos) != 22:
        return -_HEADER, pos
    fields = _load16(src, pos + 18)
    ops = _load16(src, pos + 20)
    p = pos + 22
    rest = fields * 5 + ops * 8  # the least that these take
    if p + rest > limit:
        return -_LENGTHS, pos
    for _ in range(fields):
        if p + 4 > end:
            return 0, p + rest - pos
        size = _load32(src, p)
        p += 4 + size
        rest -= 5
        if size < 1 or p + rest > limit:
            return -_LENGTHS, p - 4 - size
    for _ in range(ops):
        if p + 8 > end:
            return 0, p + rest - pos
        size = _load32(src, p)
        name = _load8(src, p + 7)
        p += 4 + size
        rest -= 8
        if size < 4 + name or p + rest > limit:
            return -_LENGTHS, p - 4 - size
    if p > end:
        return 0, p - pos
    return p - pos, 0


@_inner
def _answer(
    src: Bytes,
    pos: int,
    end: int,
    out: Bytes,
    w: int,
    state: Ints,
    counts: Ints,
    fingerprints: Longs,
    last: Bytes,
    seen: Bytes,
    unavailable: Bytes,
    bins: bool,
) -> tuple[int, int, int]:
    digests_out = last.reshape(-1)
    left = state[FRAME_LEFT]
    records = state[RECORDS]
    status = NEED_MORE
    why = 0
    offset = pos
    while True:
        if left == 0:
            if end - pos < 8:
                state[SOURCE_NEEDED] = 8
                break
            if _load16(src, pos) != 0x0203:
                why = _FRAME
                offset = pos
                break
            size = (_load16(src, pos + 2) << 32) | _load32(src, pos + 4)
            if size < 22 or size > MAX_FRAME:
                why = _FRAME_SIZE
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
        if info3 != 0 or result != 0:
            if info3 & ~5 != 0:
                why = _INFO3
                offset = pos
                break
            if info3 & 1 != 0:
                if left != size:
                    why = _AFTER_LAST
                    offset = pos + size
                    break
                pos += size
                left = 0
                state[RESULT] = result
                status = DONE
                break
            if info3 & 4 == 0:
                pos += size
                left -= size
                state[RESULT] = result
                status = REFUSED
                break
            partition = _load32(src, pos + 6)
            if partition >= PARTITIONS:
                why = _PARTITION
                offset = pos
                break
            if result != 0:
                unavailable[partition] = result
            pos += size
            left -= size
            continue

        generation = _load32(src, pos + 6)
        if generation > 65535:
            why = _GENERATION
            offset = pos
            break
        fields = _load16(src, pos + 18)
        ops = _load16(src, pos + 20)
        room = 2 * size + 32 * ops + 192 if bins else 20
        if room > out.shape[0] - w:
            state[ROOM_NEEDED] = room
            status = OUT_FULL
            break
        p = pos + 22
        digest = 0
        namespace = 0
        namespace_size = 0
        set_at = 0
        set_size = 0
        key = 0
        key_size = 0
        for _ in range(fields):
            n = _load32(src, p) - 1
            kind = _load8(src, p + 4)
            if kind == 4 and digest == 0 and n == 20:
                digest = p + 5
            elif kind == 0 and namespace == 0 and n > 0:
                namespace = p + 5
                namespace_size = n
            elif kind == 1 and set_at == 0:
                set_at = p + 5
                set_size = n
            elif kind == 2 and key == 0 and n > 0:
                key = p + 5
                key_size = n
            elif kind != 15:  # the indexed value, in the answer to a secondary-index query
                why = _FIELD
                offset = p
                break
            p += 5 + n
        if why != 0:
            break
        if digest == 0:
            why = _NO_DIGEST
            offset = pos
            break
        v = w
        if bins:
            if namespace == 0:
                why = _NO_NAMESPACE
                offset = pos
                break
            if key != 0:
                v = _put_key(src, key, key_size, out, v)
                if v < 0:
                    why = _KEY
                    offset = key
                    break
            _store32(out, v, _N)
            v = _put_token(out, v + 4, src, namespace, namespace_size)
            _store8(out, v, _LF)
            _store32(out, v + 1, _D)
            v = _put_digest(out, v + 5, src, digest)
            _store8(out, v, _LF)
            v += 1
            if set_size != 0:
                _store32(out, v, _S)
                v = _put_token(out, v + 4, src, set_at, set_size)
                _store8(out, v, _LF)
                v += 1
            _store32(out, v, _G)
            v = _put_uint(out, v + 4, np.uint64(generation))
            _store8(out, v, _LF)
            _store32(out, v + 1, _T)
            v = _put_uint(out, v + 5, np.uint64(_load32(src, pos + 10)))
            _store8(out, v, _LF)
            _store32(out, v + 1, _B)
            v = _put_uint(out, v + 5, np.uint64(ops))
            _store8(out, v, _LF)
            v += 1
            for _ in range(ops):
                n = _load32(src, p)
                v = _put_bin(src, p + 4, n, out, v)
                if v < 0:
                    why = -v
                    offset = p
                    break
                p += 4 + n
            if why != 0:
                break
        else:
            _copy(out, v, src, digest, 20)
            v += 20
        w = v
        partition = (_load8(src, digest) | (_load8(src, digest + 1) << 8)) & 4095
        counts[partition] += 1
        fingerprints[partition] += _load64_le(src, digest + 12)
        _copy(digests_out, partition * 20, src, digest, 20)
        seen[partition] = 1
        records += 1
        pos += size
        left -= size
    if why != 0:
        status = BROKEN
        state[WHY] = why
        state[OFFSET] = offset
    state[FRAME_LEFT] = left
    state[RECORDS] = records
    return pos, w, status


@_entry
def encode(
    src: Bytes,
    pos: int,
    end: int,
    out: Bytes,
    w: int,
    state: Ints,
    counts: Ints,
    fingerprints: Longs,
    last: Bytes,
    seen: Bytes,
    unavailable: Bytes,
) -> tuple[int, int, int]:
    """Turn the messages src[pos:end] of a query's answer into `.asb` records in out[w:].

    Consumes whole messages only; what is left of src belongs to the next call, before the bytes that follow.
    `state` lives as long as the answer; the per-partition arrays as long as the slice.

    :param src: uint8; nothing behind `end` changes the result.
    :param counts: int64[4096], records per partition, added to.
    :param fingerprints: uint64[4096], per partition the sum modulo 2**64 of digest[12:20] as little-endian.
    :param last: uint8[4096, 20], digest of the last record of each partition with seen[partition] = 1.
    :param unavailable: uint8[4096], result code of each partition that the node does not have.
    :return: (pos, w, status).
    """
    return _answer(src, pos, end, out, w, state, counts, fingerprints, last, seen, unavailable, True)


@_entry
def digests(
    src: Bytes,
    pos: int,
    end: int,
    out: Bytes,
    w: int,
    state: Ints,
    counts: Ints,
    fingerprints: Longs,
    last: Bytes,
    seen: Bytes,
    unavailable: Bytes,
) -> tuple[int, int, int]:
    """Like `encode`, but write only the 20 bytes of each record's digest."""
    return _answer(src, pos, end, out, w, state, counts, fingerprints, last, seen, unavailable, False)


# ----- .asb text -> wire

_SIXBIT: Final = np.full(256, 255, np.uint8)
_SIXBIT[np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)] = np.arange(64)
_BAD: Final = 1 << 24
_FOURTHS: Final = np.full(1024, _BAD, np.int64)  # what each of four letters adds to three bytes, the first lowest
for _place in range(4):
    for _letter_code in np.flatnonzero(_SIXBIT != 255):
        _three = (int(_SIXBIT[_letter_code]) << 6 * (3 - _place)).to_bytes(3, "big")
        _FOURTHS[256 * _place + _letter_code] = int.from_bytes(_three, "little")
_KINDS: Final = np.full(256, -1, np.int64)  # letter of a bin line -> particle type
for _letter, _kind in (_BLOBS | _PLAIN | {b"X": 3}).items():
    _KINDS[ord(_letter)] = _kind

# Where the parts of a record or of a bin lie in the text.
_KEY_KIND: Final = 0  # particle type, 0 = the record has no user key
_KEY_AT: Final = 1
_KEY_SIZE: Final = 2
_KEY_BASE64: Final = 3
_NAMESPACE_AT: Final = 4
_NAMESPACE_SIZE: Final = 5
_SET_AT: Final = 6
_SET_SIZE: Final = 7  # 0 = no set
_GENERATION_IS: Final = 8
_VOID_TIME: Final = 9
_BINS: Final = 10
_KIND: Final = 0
_NAME_AT: Final = 1
_NAME_SIZE: Final = 2  # as in the text, escapes included
_VALUE_AT: Final = 3
_VALUE_SIZE: Final = 4
_VALUE_BASE64: Final = 5

_MORE: Final = -1  # the text ends before this piece does


def _line(letters: bytes) -> int:
    return int.from_bytes(letters, "big")


_LOW_NAN: Final = _text(b"nan")
_LOW_INF: Final = _text(b"inf")
_LOW_INFINITY: Final = _text(b"infinity")
_AT_K: Final = _line(b"+ k ")
_AT_N: Final = _line(b"+ n ")
_AT_D: Final = _line(b"+ d ")
_AT_S: Final = _line(b"+ s ")
_AT_G: Final = _line(b"+ g ")
_AT_T: Final = _line(b"+ t ")
_AT_B: Final = _line(b"+ b ")

# Eight digits of text to their value, as three multiplications.
_SIXES: Final = np.uint64(0x0606060606060606)
_8: Final = np.uint64(8)
_16: Final = np.uint64(16)
_32: Final = np.uint64(32)
_NIBBLES: Final = np.uint64(0xF0F0F0F0F0F0F0F0)
_EACH_FOUR: Final = np.uint64(0x000000FF000000FF)
_BY_100: Final = np.uint64(100 + (1_000_000 << 32))
_BY_1: Final = np.uint64(1 + (10_000 << 32))


@_inline
def _fail(state: Ints, why: int, at: int) -> int:
    state[OFFSET] = at
    return -why


@_inline
def _more(state: Ints, until: int) -> int:
    state[SOURCE_NEEDED] = until
    return _MORE


@_inline
def _read_name(text: Bytes, p: int, end: int, delimiter: int, state: Ints) -> int:
    """Return the position of the delimiter behind the name at p."""
    if p + 16 <= end:
        found = _escapes(_load64_le(text, p))
        size = 0
        if found == _0:
            found = _escapes(_load64_le(text, p + 8))
            size = 8
        if found != _0:  # the lowest mark is exact
            size += _lowest(found) >> 3
            if size != 0 and _load8(text, p + size) == delimiter:
                return int(p + size)
    return _read_long_name(text, p, end, delimiter, state)


@_inner
def _read_long_name(text: Bytes, p: int, end: int, delimiter: int, state: Ints) -> int:
    """`_read_name` for what has escapes, or is long, or at the end of the text."""
    legacy = state[LEGACY] != 0
    size = 0
    at = p
    while True:
        if p >= end:
            return _more(state, p + 1)
        c = _load8(text, p)
        if c == 92 and not legacy:
            p += 1
            if p >= end:
                return _more(state, p + 1)
        elif c == delimiter:
            break
        elif c == 10 or (c == 32 and not legacy):
            return _fail(state, _NAME, p)
        p += 1
        size += 1
        if size > 999:
            return _fail(state, _NAME, at)
    if size == 0:
        return _fail(state, _NAME, at)
    return p


@_inline
def _read_uint(text: Bytes, p: int, end: int, limit: int, delimiter: int, state: Ints) -> tuple[int, int]:
    """Return (position of the delimiter behind the digits at p, their value)."""
    at = p
    value = 0
    while True:
        if p >= end:
            return _more(state, p + 1), 0
        c = _load8(text, p)
        if c == delimiter:
            break
        if c < 48 or c > 57 or p - at >= 20:
            return _fail(state, _NUMBER, p), 0
        value = value * 10 + (c - 48)
        if value > limit:
            return _fail(state, _NUMBER, at), 0
        p += 1
    if p == at:
        return _fail(state, _NUMBER, at), 0
    return p, value


@_inline
def _parse_int(text: Bytes, p: int, end: int, state: Ints) -> tuple[int, np.uint64]:
    """Return (position of the line feed behind the signed integer at p, its 64 bits)."""
    start = p
    if p < end and _load8(text, p) == 45:
        p += 1
    limit = _TOP if p > start else _TOP - _1
    at = p
    value = _0
    while True:
        if p >= end:
            return _more(state, p + 1), _0
        c = _load8(text, p)
        if c == 10:
            break
        if c < 48 or c > 57 or p - at >= 20:
            return _fail(state, _NUMBER, p), _0
        digit = np.uint64(c - 48)
        if p - at >= 18 and value > (limit - digit) // _TEN:
            return _fail(state, _NUMBER, at), _0
        value = value * _TEN + digit
        p += 1
    if p == at:
        return _fail(state, _NUMBER, at), _0
    return p, (~value + _1 if at > start else value)


@_inner
def _letters(text: Bytes, p: int, end: int, word: int, size: int) -> bool:
    """Whether these lower-case letters stand at p, in whatever case, with the line feed behind them."""
    if p + size >= end or _load8(text, p + size) != 10:
        return False
    for i in range(size):  # noqa: SIM110 - Numba has no all()
        if _load8(text, p + i) | 32 != (word >> (8 * i)) & 255:
            return False
    return True


@_inline
def _read_decimal(text: Bytes, p: int, end: int) -> tuple[int, int, np.uint64, int]:
    """The usual case of `_read_double`, up to 19 digits with or without a point and no exponent.

    Return (position of the line feed, number of digits, their value, position of the point or -1); 0 digits = another
    case.
    """
    if p < end and _load8(text, p) == 45:
        p += 1
    at = p
    point = -1
    value = _0
    while p < end:
        if p + 8 <= end and p - at <= 11:
            word = _load64_le(text, p) ^ _ZEROS
            if (word | (word + _SIXES)) & _NIBBLES == _0:  # 8 digits: in pairs, in fours, in eights
                word = word * _TEN + (word >> _8)
                word = ((word & _EACH_FOUR) * _BY_100 + ((word >> _16) & _EACH_FOUR) * _BY_1) >> _32
                value = value * _10E8 + word
                p += 8
                continue
        c = _load8(text, p)
        if 48 <= c <= 57:
            value = value * _TEN + np.uint64(c - 48)
        elif c == 46 and point < 0:
            point = p
        else:
            break
        p += 1
    digits = p - at - (1 if point >= 0 else 0)
    if p >= end or _load8(text, p) != 10 or digits > 19:
        return p, 0, _0, -1
    return p, digits, value, point


@_inline
def _read_double(text: Bytes, p: int, end: int, state: Ints) -> tuple[int, np.uint64]:
    """Return (position of the line feed behind the floating-point number at p, its 64 bits)."""
    stop, digits, mantissa, point = _read_decimal(text, p, end)
    if digits != 0:
        sign = _TOP if _load8(text, p) == 45 else _0
        exponent = point - stop + 1 if point >= 0 else 0
        return stop, sign | _nearest_double(text, p, mantissa, exponent, False)
    return _read_other_double(text, p, end, state)


@_inner
def _read_other_double(text: Bytes, p: int, end: int, state: Ints) -> tuple[int, np.uint64]:
    """`_read_double` for exponents, infinities, and what is no number."""
    at = p
    stop = p
    while True:
        if stop - at > 999:
            return _fail(state, _DOUBLE, at), _0
        if stop >= end:
            return _more(state, stop + 1), _0
        if _load8(text, stop) == 10:
            break
        stop += 1
    sign = _0
    first = _load8(text, p)
    if first == 45 or first == 43:
        p += 1
        if first == 45:
            sign = _TOP
    if _letters(text, p, end, _LOW_NAN, 3):
        return stop, sign | _QUIET_NAN
    if _letters(text, p, end, _LOW_INF, 3) or _letters(text, p, end, _LOW_INFINITY, 8):
        return stop, sign | _INFINITY
    mantissa = _0  # the first 19 digits that count
    digits = 0
    inexact = False  # whether one behind those is not 0
    exponent = 0
    some = False
    point = False
    while p < stop:
        c = _load8(text, p)
        if c == 46 and not point:
            point = True
        elif 48 <= c <= 57:
            some = True
            if digits < 19:
                mantissa = mantissa * _TEN + np.uint64(c - 48)
                if mantissa != _0:
                    digits += 1
                if point:
                    exponent -= 1
            else:
                if c != 48:
                    inexact = True
                if not point:
                    exponent += 1
        else:
            break
        p += 1
    if not some:
        return _fail(state, _DOUBLE, at), _0
    if p < stop:
        if _load8(text, p) != 101:
            return _fail(state, _DOUBLE, at), _0
        p += 1
        negative = False
        if p < stop and (_load8(text, p) == 45 or _load8(text, p) == 43):
            negative = _load8(text, p) == 45
            p += 1
        if p >= stop:
            return _fail(state, _DOUBLE, at), _0
        scale = 0
        while p < stop:
            c = _load8(text, p)
            if c < 48 or c > 57:
                return _fail(state, _DOUBLE, at), _0
            if scale < 100_000:
                scale = scale * 10 + (c - 48)
            p += 1
        exponent += -scale if negative else scale
    return stop, sign | _nearest_double(text, at, mantissa, exponent, inexact)


@_inner
def _nearest_double(text: Bytes, at: int, mantissa: np.uint64, exponent: int, inexact: bool) -> np.uint64:
    """The bits, without sign, of the double next to mantissa * 10**exponent; text[at:] says it too.

    As in `_put_double`, one multiplication is certain unless it ends that close below a half, or on it; the C
    library decides those, and whatever is out of the range of normal doubles.
    """
    if mantissa == _0:
        return _0
    if inexact or exponent < _LOWEST_POWER or exponent > _HIGHEST_POWER:
        return _strtod(text, at)
    power = exponent - _LOWEST_POWER
    shift = 0
    while mantissa >> _63 == _0:
        mantissa <<= _1
        shift += 1
    product = mantissa * _POWER_HIGH[power]
    carry = _mulhi(mantissa, _POWER_LOW[power])
    low = mantissa * _POWER_LOW[power]
    middle = product + carry
    high = _mulhi(mantissa, _POWER_HIGH[power]) + (_1 if middle < carry else _0)
    # the number is (high, middle, low) * 2**(_POWER_EXPONENT - shift), high in [2**62, 2**64)
    two = _signed(_POWER_EXPONENT[power]) - shift + 128 + 63 + 1023
    drop = np.uint64(11)
    if high >> _63 == _0:
        drop = np.uint64(10)
        two -= 1
    if two < 1 or two > 2045:
        return _strtod(text, at)
    bits: np.uint64 = high >> drop
    fraction = high & ((_1 << drop) - _1)
    half = _1 << (drop - _1)
    if fraction >= half:
        if fraction == half and middle == _0 and low == _0:
            return _strtod(text, at)
        bits += _1
    elif fraction == half - _1 and middle == _ALL:
        return _strtod(text, at)
    # a carry out of the 53 bits goes into the exponent, where it belongs
    bits += np.uint64(two - 1) << _52
    return bits


@_inner
def _read_base64(text: Bytes, p: int, size: int) -> bool:
    """Whether text[p:p+size] is base64 as it is written: padded, and the bits that count for nothing are 0."""
    if size & 3 != 0:
        return False
    pad = 0
    if size > 0 and _load8(text, p + size - 1) == 61:
        pad = 2 if _load8(text, p + size - 2) == 61 else 1
    c = np.uint8(0)
    for i in range(p, p + size - pad):
        c = _SIXBIT[_load8(text, i)]
        if c == 255:
            return False
    return pad == 0 or c & (3 if pad == 1 else 15) == 0


@_inline
def _read_digest(text: Bytes, p: int, digest: Bytes) -> bool:
    """Write what the 28 letters at p stand for to `digest`, uint8[24]; whether they are strict base64."""
    bad = 0
    for i in range(6):
        at = p + 4 * i
        word = _FOURTHS[_load8(text, at)] | _FOURTHS[256 + _load8(text, at + 1)]
        word |= _FOURTHS[512 + _load8(text, at + 2)] | _FOURTHS[768 + _load8(text, at + 3)]
        bad |= word
        _store32(digest, 3 * i, word)
    word = _FOURTHS[_load8(text, p + 24)] | _FOURTHS[256 + _load8(text, p + 25)] | _FOURTHS[512 + _load8(text, p + 26)]
    _store32(digest, 18, word)
    return bool((bad | word) & _BAD == 0 and word >> 16 == 0 and _load8(text, p + 27) == 61)


@_inner
def _from_base64(text: Bytes, p: int, size: int, out: Bytes, w: int) -> int:
    """Write what checked base64 stands for."""
    for i in range(p, p + size, 4):
        word = (_signed(_SIXBIT[_load8(text, i)]) << 18) | (_signed(_SIXBIT[_load8(text, i + 1)]) << 12)
        _store8(out, w, word >> 16)
        w += 1
        if _load8(text, i + 2) != 61:
            word |= _signed(_SIXBIT[_load8(text, i + 2)]) << 6
            _store8(out, w, (word >> 8) & 255)
            w += 1
            if _load8(text, i + 3) != 61:
                _store8(out, w, (word | _signed(_SIXBIT[_load8(text, i + 3)])) & 255)
                w += 1
    return w


@_inline
def _read_value(text: Bytes, p: int, end: int, encoded: bool, state: Ints) -> tuple[int, int, int]:
    """`length SP bytes LF` at p: return (position behind it, of the bytes, their length)."""
    at = p
    p, size = _read_uint(text, p, end, MAX_FRAME, 32, state)
    if p < 0:
        return p, 0, 0
    p += 1
    if encoded and size & 3 != 0:
        return _fail(state, _LENGTH, at), 0, 0
    if p + size >= end:
        return _more(state, p + size + 1), 0, 0
    if _load8(text, p + size) != 10:
        return _fail(state, _WANT_FEED, p + size), 0, 0
    if encoded and not _read_base64(text, p, size):
        return _fail(state, _BASE64_TEXT, p), 0, 0
    return p + size + 1, p, size


@_inner
def _read_key(text: Bytes, p: int, end: int, part: Ints, state: Ints) -> int:
    """The key behind `+ k ` at p."""
    if p + 3 > end:
        return _more(state, p + 3)
    kind = _load8(text, p)
    encoded = False
    at = p + 2
    if kind == 66 and _load8(text, p + 1) == 33:
        at += 1
        p += 1
    elif kind == 66 or kind == 88:
        encoded = True
    if _load8(text, p + 1) != 32:
        return _fail(state, _KEY_TYPE, p)
    part[_KEY_BASE64] = encoded
    if kind == 73 or kind == 68:
        part[_KEY_KIND] = 1 if kind == 73 else 2
        part[_KEY_AT] = at
        if kind == 73:
            p, _ = _parse_int(text, at, end, state)
        else:
            p, _ = _read_double(text, at, end, state)
        return p if p < 0 else p + 1
    if kind != 83 and kind != 88 and kind != 66:
        return _fail(state, _KEY_TYPE, p)
    part[_KEY_KIND] = 4 if kind == 66 else 3
    p, part[_KEY_AT], part[_KEY_SIZE] = _read_value(text, at, end, encoded, state)
    return p


@_inner
def _read_head(text: Bytes, p: int, end: int, part: Ints, digest: Bytes, state: Ints) -> int:
    """The lines of a record from its key to its bin count; return the position behind, or a negative code."""
    if p + 4 > end:
        return _more(state, p + 4)
    part[_KEY_KIND] = 0
    why = _WANT_RECORD
    if _load32(text, p) == _AT_K:
        p = _read_key(text, p + 4, end, part, state)
        if p < 0:
            return p
        why = _WANT_NAMESPACE
        if p + 4 > end:
            return _more(state, p + 4)
    if _load32(text, p) != _AT_N:
        return _fail(state, why, p)
    at = p + 4
    p = _read_name(text, at, end, 10, state)
    if p < 0:
        return p
    part[_NAMESPACE_AT] = at
    part[_NAMESPACE_SIZE] = p - at
    p += 1

    if p + 33 > end:
        return _more(state, p + 33)
    if _load32(text, p) != _AT_D or _load8(text, p + 32) != 10:
        return _fail(state, _WANT_DIGEST, p)
    if not _read_digest(text, p + 4, digest):
        return _fail(state, _WANT_DIGEST, p)
    p += 33

    if p + 4 > end:
        return _more(state, p + 4)
    part[_SET_SIZE] = 0
    if _load32(text, p) == _AT_S:
        at = p + 4
        p = _read_name(text, at, end, 10, state)
        if p < 0:
            return p
        part[_SET_AT] = at
        part[_SET_SIZE] = p - at
        p += 1
        if p + 4 > end:
            return _more(state, p + 4)

    if _load32(text, p) != _AT_G:
        return _fail(state, _WANT_GENERATION, p)
    p, part[_GENERATION_IS] = _read_uint(text, p + 4, end, 65535, 10, state)
    if p < 0:
        return p
    p += 1
    if p + 4 > end:
        return _more(state, p + 4)
    if _load32(text, p) != _AT_T:
        return _fail(state, _WANT_VOID_TIME, p)
    p, part[_VOID_TIME] = _read_uint(text, p + 4, end, 0xFFFFFFFF, 10, state)
    if p < 0:
        return p
    p += 1
    if p + 4 > end:
        return _more(state, p + 4)
    if _load32(text, p) != _AT_B:
        return _fail(state, _WANT_BIN_COUNT, p)
    p, part[_BINS] = _read_uint(text, p + 4, end, 65535, 10, state)
    return p if p < 0 else p + 1


@_inline
def _read_bin(text: Bytes, p: int, end: int, part: Ints, state: Ints) -> tuple[int, np.uint64]:
    """One bin line; return (position behind it or a negative code, bits of a number)."""
    if p + 5 > end:
        return _more(state, p + 5), _0
    if _load16(text, p) != 0x2D20:
        return _fail(state, _WANT_BIN, p), _0
    letter = _load8(text, p + 2)
    kind = _KINDS[letter]
    at = p + 4
    encoded = letter == 88
    mark = _load8(text, p + 3)
    if kind >= 0 and _BLOB[kind]:
        encoded = mark != 33
        if not encoded:
            mark = _load8(text, p + 4)
            at += 1
    if kind < 0 or mark != 32:
        return _fail(state, _LDT if letter == 85 else _BIN_TYPE, p + 2), _0
    part[_KIND] = kind
    part[_NAME_AT] = at
    p = _read_name(text, at, end, 10 if kind == 0 else 32, state)
    if p < 0:
        return p, _0
    part[_NAME_SIZE] = p - at
    part[_VALUE_BASE64] = encoded
    p += 1
    part[_VALUE_AT] = p
    bits = _0
    if kind == 1:
        p, bits = _parse_int(text, p, end, state)
    elif kind == 2:
        p, bits = _read_double(text, p, end, state)
    elif kind == 17:
        if p + 2 > end:
            return _more(state, p + 2), _0
        value = _load8(text, p)
        if (value != 84 and value != 70) or _load8(text, p + 1) != 10:
            return _fail(state, _BOOL, p), _0
        bits = _1 if value == 84 else _0
        p += 1
    elif kind == 0:
        return p, _0
    else:
        p, part[_VALUE_AT], part[_VALUE_SIZE] = _read_value(text, p, end, encoded, state)
        return p, _0
    return p if p < 0 else p + 1, bits


@_inner
def _settle(state: Ints, p: int, pos: int, end: int, final: bool) -> int:
    """The status after a record that could not be read: p is _MORE or a negative code."""
    if p == _MORE and not final:
        state[SOURCE_NEEDED] -= pos
        return NEED_MORE
    if p == _MORE:
        state[OFFSET] = end
        state[WHY] = _TRUNCATED
    else:
        state[WHY] = -p
    return BROKEN


@_entry
def scan(
    text: Bytes,
    pos: int,
    end: int,
    final: bool,
    state: Ints,
    counts: Ints,
    fingerprints: Longs,
) -> tuple[int, int]:
    """Check the records in text[pos:end], strictly, and count them.

    Consumes whole records only; what is left of text belongs to the next call. The text must begin behind the
    header and the global lines (`asb.read_header`).

    :param final: no more text follows: DONE when it ends where a record does, else BROKEN.
    :param counts: int64[4096], records per partition, added to.
    :param fingerprints: uint64[4096], see `encode`.
    :return: (pos, status); after BROKEN pos is the start of the record that cannot be read.
    """
    part = np.zeros(11, np.int64)
    digest = np.zeros(24, np.uint8)
    records = state[RECORDS]
    expiring = state[EXPIRING]
    status = DONE if final else NEED_MORE
    while pos < end:
        p = _read_head(text, pos, end, part, digest, state)
        if p >= 0:
            for _ in range(part[_BINS]):
                p, _ = _read_bin(text, p, end, part, state)
                if p < 0:
                    break
        if p < 0:
            status = _settle(state, p, pos, end, final)
            break
        partition = (_load8(digest, 0) | (_load8(digest, 1) << 8)) & 4095
        counts[partition] += 1
        fingerprints[partition] += _load64_le(digest, 12)
        records += 1
        expiring += 1 if part[_VOID_TIME] != 0 else 0
        pos = p
    if pos == end:
        state[SOURCE_NEEDED] = 1
    state[RECORDS] = records
    state[EXPIRING] = expiring
    return pos, status


@_inline
def _put_name(out: Bytes, w: int, text: Bytes, p: int, size: int, legacy: bool) -> int:
    """A name without the backslashes."""
    if size <= 16 and p + 16 <= text.shape[0]:
        a = _load64_le(text, p) ^ _SLASHES
        b = _load64_le(text, p + 8) ^ _SLASHES
        if (((a - _ONES) & ~a) | ((b - _ONES) & ~b)) & _TOPS == _0:
            _copy16(out, w, text, p)
            return w + size
    return _put_long_name(out, w, text, p, size, legacy)


@_inner
def _put_long_name(out: Bytes, w: int, text: Bytes, p: int, size: int, legacy: bool) -> int:
    stop = p + size
    while p < stop:
        c = _load8(text, p)
        if c == 92 and not legacy:
            p += 1
            c = _load8(text, p)
        _store8(out, w, c)
        p += 1
        w += 1
    return w


@_inline
def _put_value(out: Bytes, w: int, text: Bytes, p: int, size: int, encoded: bool) -> int:
    if encoded:
        return _from_base64(text, p, size, out, w)
    return _put_bytes(out, w, text, p, size)


# A set of digests, to tell which records a newer restore point held or knows as deleted. Two words of the digest are
# the key: bytes 4 to 20 of 20, of which the first two name the partition.


@_inline
def _slot(keys: Longs, marks: Bytes, a: np.uint64, b: np.uint64) -> int:
    """Where this digest stands, or the empty place where it belongs. `marks` has a power of two of places."""
    mask = marks.shape[0] - 1
    at = _signed((a ^ (b >> _29)) & np.uint64(mask))
    while marks[at] != 0 and (keys[at, 0] != a or keys[at, 1] != b):
        at = (at + 1) & mask
    return int(at)


@_inline
def _is_chosen(text: Bytes, at: int, size: int, names: Bytes, ends: Ints) -> bool:
    """Whether text[at:at + size] is one of the names; no names = all."""
    if ends.shape[0] == 0:
        return True
    start = 0
    for i in range(ends.shape[0]):
        if ends[i] - start == size:
            same = True
            for k in range(size):
                if _load8(names, start + k) != _load8(text, at + k):
                    same = False
                    break
            if same:
                return True
        start = ends[i]
    return False


_29: Final = np.uint64(29)
_FULL: Final = -1
_SKIPPED: Final = -2
_ROW_FLAGS: Final = 0x0E  # the row has info bits, a generation and a ttl


@_inline
def _put_row_head(
    out: Bytes, w: int, number: int, digest: Bytes, at: int, info2: int, info3: int, generation: int, ttl: int
) -> None:
    """The first 34 bytes of a row."""
    _wire32(out, w, number)
    _copy(out, w + 4, digest, at, 20)
    _store8(out, w + 24, _ROW_FLAGS)
    _store8(out, w + 25, 0)
    _store8(out, w + 26, info2)
    _store8(out, w + 27, info3)
    _wire16(out, w + 28, generation)
    _wire32(out, w + 30, ttl)


@_inner
def _put_row(
    text: Bytes,
    p: int,
    end: int,
    out: Bytes,
    w: int,
    namespace: Bytes,
    info2: int,
    info3: int,
    now: int,
    digest: Bytes,
    skipped: bool,
    bin_names: Bytes,
    bin_ends: Ints,
    part: Ints,
    state: Ints,
) -> tuple[int, int]:
    """The record whose head was read into part and whose bins begin at p, as a row at w.

    Return (position behind it or a negative code, w behind the row); w is _FULL when there is no room, _SKIPPED when
    the record is only read past, and not moved when no bin of it was chosen.
    """
    legacy = state[LEGACY] != 0
    start = w
    void_time = part[_VOID_TIME]
    key_size = 8 if part[_KEY_KIND] < 3 else part[_KEY_SIZE]
    taken = 64 + namespace.shape[0] + part[_NAMESPACE_SIZE] + part[_SET_SIZE] + key_size + 2 * SLACK
    full = taken > out.shape[0] - w
    bins = part[_BINS]
    written = 0
    if not skipped and not full:
        ttl = void_time - now if void_time != 0 else 0xFFFFFFFF
        _put_row_head(out, w, state[ROWS], digest, 0, info2, info3, part[_GENERATION_IS], ttl)
        fields = 1 + (1 if part[_SET_SIZE] != 0 else 0) + (1 if part[_KEY_KIND] != 0 else 0)
        _wire16(out, w + 34, fields)
        w += 38
        at = w
        if namespace.shape[0] != 0:
            _copy(out, w + 5, namespace, 0, namespace.shape[0])
            w += 5 + namespace.shape[0]
        else:
            w = _put_name(out, w + 5, text, part[_NAMESPACE_AT], part[_NAMESPACE_SIZE], legacy)
        _wire32(out, at, w - at - 4)
        _store8(out, at + 4, 0)
        if part[_SET_SIZE] != 0:
            at = w
            w = _put_name(out, w + 5, text, part[_SET_AT], part[_SET_SIZE], legacy)
            _wire32(out, at, w - at - 4)
            _store8(out, at + 4, 1)
        kind = part[_KEY_KIND]
        if kind != 0:
            at = w
            if kind == 1:
                _, bits = _parse_int(text, part[_KEY_AT], end, state)
                _wire64(out, w + 6, bits)
                w += 14
            elif kind == 2:
                _, bits = _read_double(text, part[_KEY_AT], end, state)
                _wire64(out, w + 6, bits)
                w += 14
            else:
                w = _put_value(out, w + 6, text, part[_KEY_AT], part[_KEY_SIZE], part[_KEY_BASE64] != 0)
            _wire32(out, at, w - at - 4)
            _store8(out, at + 4, 2)
            _store8(out, at + 5, kind)

    for _ in range(bins):
        line = p
        p, bits = _read_bin(text, p, end, part, state)
        if p < 0:
            return p, start
        if skipped or not _is_chosen(text, part[_NAME_AT], part[_NAME_SIZE], bin_names, bin_ends):
            continue
        kind = part[_KIND]
        size = part[_NAME_SIZE] + 24 + SLACK
        if kind != 0 and kind != 1 and kind != 2 and kind != 17:
            size += part[_VALUE_SIZE]
        taken += size
        full = full or size > out.shape[0] - w
        if full:
            continue
        written += 1
        at = w
        w = _put_name(out, w + 8, text, part[_NAME_AT], part[_NAME_SIZE], legacy)
        name = w - at - 8
        if name > 255:
            return _fail(state, _LONG_NAME, line), start
        if kind == 1 or kind == 2:
            _wire64(out, w, bits)
            w += 8
        elif kind == 17:
            _store8(out, w, bits)
            w += 1
        elif kind != 0:
            if kind == 23:  # flags and number of cells; the server computes the cells
                _store8(out, w, 0)
                _wire16(out, w + 1, 0)
                w += 3
            w = _put_value(out, w, text, part[_VALUE_AT], part[_VALUE_SIZE], part[_VALUE_BASE64] != 0)
        _wire32(out, at, w - at - 4)
        _store8(out, at + 4, 2)
        _store8(out, at + 5, kind)
        _store8(out, at + 6, 0)
        _store8(out, at + 7, name)
    if skipped:
        return p, _SKIPPED
    if full:
        state[ROOM_NEEDED] = taken
        return p, _FULL
    if written == 0 and bins != 0:
        return p, start
    _wire16(out, start + 36, written)
    return p, w


@_entry
def decode(
    text: Bytes,
    pos: int,
    end: int,
    final: bool,
    out: Bytes,
    w: int,
    state: Ints,
    namespace: Bytes,
    info2: int,
    info3: int,
    now: int,
    rows: Ints,
    first: int,
    last: int,
    extra_ttl: int,
    set_names: Bytes,
    set_ends: Ints,
    bin_names: Bytes,
    bin_ends: Ints,
    keys: Longs,
    marks: Bytes,
    remember: bool,
) -> tuple[int, int, int]:
    """Turn the `.asb` records text[pos:end] into rows of a batch write in out[w:], as strictly as `scan`.

    A row is: number, digest, flags, info bits, generation, ttl, fields (namespace, set, user key) and one
    write operation a bin. Whole records only. OUT_FULL also comes when `rows` is full: send the batch, then
    go on with state[ROWS] = 0. Records that are left out are counted by reason in state.

    :param final: see `scan`.
    :param namespace: uint8, the namespace to write to; empty = the one that each record names.
    :param info2: write flags of each row: write 0x01, generation equal 0x04, generation greater 0x08, ...
    :param info3: create and replace flags of each row.
    :param now: seconds since 2010-01-01 UTC: the ttl is the void time minus this, never for a void time of 0;
        a record whose time is over is left out and counted in state[EXPIRED].
    :param rows: int64[n, 2], filled with position in `out` and void time of each row.
    :param first, last: partitions whose records are wanted, both inclusive.
    :param extra_ttl: seconds that a record which expires lives longer than its void time says.
    :param set_names, set_ends: the sets that are wanted, one behind the other, escaped as in the text, and where each
        ends; none = all. `bin_names`, `bin_ends`: likewise the bins.
    :param keys, marks: uint64[n, 2] and uint8[n], n a power of two: the digests that newer restore points held (HELD)
        or know as deleted (DELETED), whose records are left out; empty = none.
    :param remember: put the digests of these records into `keys` and `marks`, which must have room.
    :return: (pos, w, status).
    """
    part = np.zeros(11, np.int64)
    digest = np.zeros(24, np.uint8)
    status = DONE if final else NEED_MORE
    while pos < end:
        row = state[ROWS]
        if row >= rows.shape[0]:
            state[ROOM_NEEDED] = 0
            return pos, w, OUT_FULL
        why = 0
        slot = 0
        a = _0
        b = _0
        p = _read_head(text, pos, end, part, digest, state)
        if p >= 0:
            partition = (_load8(digest, 0) | (_load8(digest, 1) << 8)) & 4095
            if part[_VOID_TIME] != 0:
                part[_VOID_TIME] += extra_ttl
            if partition < first or partition > last:
                why = ELSEWHERE
            else:
                if marks.shape[0] != 0:
                    a = _load64_le(digest, 4)
                    b = _load64_le(digest, 12)
                    slot = _slot(keys, marks, a, b)
                    if marks[slot] != 0:
                        why = SUPERSEDED if marks[slot] == HELD else GONE
                if why != 0:
                    pass
                elif not _is_chosen(text, part[_SET_AT], part[_SET_SIZE], set_names, set_ends):
                    why = OTHER_SET
                elif part[_VOID_TIME] != 0 and part[_VOID_TIME] <= now:
                    why = EXPIRED
            void_time = part[_VOID_TIME]
            p, v = _put_row(
                text, p, end, out, w, namespace, info2, info3, now, digest, why != 0, bin_names, bin_ends, part, state
            )
        if p < 0:
            status = _settle(state, p, pos, end, final)
            break
        if v == _FULL:
            return pos, w, OUT_FULL
        pos = p
        state[RECORDS] += 1
        if remember and why != ELSEWHERE and marks[slot] == 0:
            keys[slot, 0] = a
            keys[slot, 1] = b
            marks[slot] = HELD
        if why == 0 and v == w:
            why = NO_BIN
        if why != 0:
            state[why] += 1
            continue
        rows[row, 0] = w
        rows[row, 1] = void_time
        state[ROWS] = row + 1
        w = v
    if pos == end:
        state[SOURCE_NEEDED] = 1
    return pos, w, status


# What `decode` takes behind `rows` when every record is wanted.
EVERYTHING: Final[tuple[Any, ...]] = (
    *(0, PARTITIONS - 1, 0),
    *(np.zeros(0, np.uint8), np.zeros(0, np.int64)),
    *(np.zeros(0, np.uint8), np.zeros(0, np.int64)),
    *(np.zeros((0, 2), np.uint64), np.zeros(0, np.uint8), False),
)


@_entry
def delete_rows(
    digests: Bytes,
    pos: int,
    end: int,
    out: Bytes,
    w: int,
    state: Ints,
    namespace: Bytes,
    rows: Ints,
    first: int,
    last: int,
    keys: Longs,
    marks: Bytes,
    write: bool,
) -> tuple[int, int, int]:
    """Remember digests[pos:end] (20 bytes each) as deleted and, when `write`, make rows of a batch delete of them.

    A digest that stands in `keys` already is left out: a newer restore point held its record, or knew the same.
    Parameters and return as of `decode`.
    """
    size = 38 + 5 + namespace.shape[0]
    while pos + 20 <= end:
        row = state[ROWS]
        if row >= rows.shape[0] or size + SLACK > out.shape[0] - w:
            state[ROOM_NEEDED] = size + SLACK
            return pos, w, OUT_FULL
        partition = (_load8(digests, pos) | (_load8(digests, pos + 1) << 8)) & 4095
        a = _load64_le(digests, pos + 4)
        b = _load64_le(digests, pos + 12)
        slot = _slot(keys, marks, a, b)
        wanted = partition >= first and partition <= last and marks[slot] == 0
        if wanted:
            keys[slot, 0] = a
            keys[slot, 1] = b
            marks[slot] = DELETED
        if wanted and write:
            _put_row_head(out, w, row, digests, pos, 0x03, 0, 0, 0)
            _wire16(out, w + 34, 1)
            _wire16(out, w + 36, 0)
            _wire32(out, w + 38, namespace.shape[0] + 1)
            _store8(out, w + 42, 0)
            _copy(out, w + 43, namespace, 0, namespace.shape[0])
            rows[row, 0] = w
            rows[row, 1] = 0
            state[ROWS] = row + 1
            w += size
        pos += 20
    return pos, w, DONE


# -------------------------------------------------------------------------------------- answers to a batch

UNANSWERED: Final = 255  # in `codes`


@_entry
def gather(out: Bytes, rows: Ints, chosen: Ints, target: Bytes, w: int) -> int:
    """Copy rows of a batch to target[w:] and number them anew from 0; return w behind them.

    :param rows: as `decode` filled it, with where the last row ends in one more entry.
    :param chosen: int64[n], indexes into `rows`.
    """
    for i in range(chosen.shape[0]):
        start = rows[chosen[i], 0]
        size = rows[chosen[i] + 1, 0] - start
        _copy(target, w, out, start, size)
        _wire32(target, w, i)
        w += size
    return w


@_entry
def outcomes(src: Bytes, pos: int, end: int, state: Ints, codes: Bytes, generations: Ints) -> tuple[int, int]:
    """Read the answers to the rows of a batch.

    :param codes: uint8[rows], filled with the result code of each row.
    :param generations: int64[rows], filled with the generation that each record has now.
    :return: (pos, status): DONE after the last message, with state[RESULT] as its code.
    """
    while True:
        if state[FRAME_LEFT] == 0:
            if pos + 8 > end:
                state[SOURCE_NEEDED] = 8
                return pos, NEED_MORE
            if _load16(src, pos) != 0x0203:
                state[WHY] = _FRAME
                return pos, BROKEN
            size = (_load16(src, pos + 2) << 32) | _load32(src, pos + 4)
            if size < 22 or size > MAX_FRAME:
                state[WHY] = _FRAME_SIZE
                return pos, BROKEN
            state[FRAME_LEFT] = size
            pos += 8
        if pos + 22 > end:
            state[SOURCE_NEEDED] = 22
            return pos, NEED_MORE
        if _load8(src, pos) != 22:
            state[WHY] = _HEADER
            return pos, BROKEN
        p = pos + 22
        for _ in range(_load16(src, pos + 18) + _load16(src, pos + 20)):
            if p + 4 > end:
                state[SOURCE_NEEDED] = p + 4 - pos
                return pos, NEED_MORE
            p += 4 + _load32(src, p)
            if p - pos > state[FRAME_LEFT]:
                state[WHY] = _LENGTHS
                return pos, BROKEN
        if p > end:
            state[SOURCE_NEEDED] = p - pos
            return pos, NEED_MORE
        code = _load8(src, pos + 5)
        if _load8(src, pos + 3) & 1 != 0:
            state[RESULT] = code
            return p, DONE
        row = _load32(src, pos + 14)
        if row >= codes.shape[0]:
            state[WHY] = _LENGTHS
            return pos, BROKEN
        codes[row] = code
        generations[row] = _load32(src, pos + 6)
        state[FRAME_LEFT] -= p - pos
        pos = p


@_entry
def add_present(
    out: Bytes, rows: Ints, codes: Bytes, count: int, horizon: int, counts: Ints, fingerprints: Longs, expiring: Ints
) -> None:
    """Count the records that are in the target after a batch: written now, or there before and left as they were.

    :param horizon: void time; records that expire before it are counted in `expiring`, int64[4096], too.
    :param counts, fingerprints: as of `scan`.
    """
    for row in range(count):
        if codes[row] == 0 or codes[row] == 3 or codes[row] == 5:
            at = rows[row, 0] + 4
            partition = (_load8(out, at) | (_load8(out, at + 1) << 8)) & 4095
            counts[partition] += 1
            fingerprints[partition] += _load64_le(out, at + 12)
            if rows[row, 1] != 0 and rows[row, 1] < horizon:
                expiring[partition] += 1
