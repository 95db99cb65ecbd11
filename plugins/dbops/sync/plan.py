"""A pair as the arrays that the kernel takes, and the identity of keys."""

from __future__ import annotations

import hashlib
import struct
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbops.errors import ConfigurationError
from dbops.platform.sync import SyncColumn, SyncPair
from dbops.sync import kernel

Longs = NDArray[np.uint64]

FORMS = {
    "text": (kernel.TEXT, 0),
    "integer": (kernel.INTEGER, 0),
    "double": (kernel.DOUBLE, 0),
    "bool": (kernel.BOOL, 0),
    "bool_int": (kernel.BOOL, 0),
    "epoch_us": (kernel.TIMESTAMP, 1),
    "epoch_ms": (kernel.TIMESTAMP, 1_000),
    "epoch_s": (kernel.TIMESTAMP, 1_000_000),
    "iso": (kernel.TIMESTAMP, 0),
    "scaled": (kernel.SCALED, 0),
    "decimal": (kernel.DECIMAL, 0),
    "json": (kernel.JSON, 0),
    "json_text": (kernel.JSON, 1),  # every text is JSON
}
INTEGER_KEY, TEXT_KEY = 1, 3  # particle types
_PLANES = 0x30000  # no code point beyond has a decomposition or a combining class
_SURROGATES = range(0xD800, 0xE000)


@cache
def decompositions() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each code point: combining class << 32 | length << 24 | place of its full decomposition; and these."""
    where, codes = np.zeros(_PLANES, np.int64), [0]
    for code in range(0xC0, _PLANES):
        if code in _SURROGATES:
            continue
        letter = chr(code)
        order, made = unicodedata.combining(letter), unicodedata.normalize("NFD", letter)
        if made != letter:
            where[code] = len(made) << 24 | len(codes)
            codes += map(ord, made)
        where[code] |= order << 32
    return where, np.array(codes, np.int64)


class Work:
    """Room that one thread works in; grows with the largest row."""

    def __init__(self, scratch: int = 1 << 16) -> None:
        self.where, self.codes = decompositions()
        self.marks = np.zeros(64, np.int64)
        self.levels: Longs = np.zeros(4 * 65, np.uint64)
        self.scratch = np.zeros(scratch, np.uint8)
        self.words = np.zeros(5, np.uint32)
        self.block_words = np.zeros(16, np.uint32)

    def grow(self, size: int) -> None:
        """For a row of so many bytes."""
        if self.scratch.size < 4 * size + 64:
            self.scratch = np.zeros(8 * size + 64, np.uint8)

    @property
    def texts(self) -> tuple[Any, ...]:
        """In the order in which the kernel takes them."""
        return self.scratch, self.marks, self.where, self.codes, self.levels


class Plan:
    """What of a pair is compared, in the order of `columns`.

    :param types: of each column of the table: its type in words, as PostgreSQL says it.
    """

    def __init__(self, pair: SyncPair, types: dict[str, str] | None = None) -> None:
        self.pair, self.columns = pair, pair.columns
        kinds, scales = [], []
        for one in pair.columns:
            kind, scale = FORMS[one.form]
            if kind == kernel.INTEGER and types is not None and types.get(one.column, "").startswith(_REALS):
                kind = kernel.SCALED  # a cast to an integer would round, and hide a difference
            if kind == kernel.TEXT and types is not None and types.get(one.column) == "uuid":
                kind = kernel.UUID
            kinds.append(kind)
            scales.append(one.scale if one.form == "scaled" else scale)
        self.kinds, self.scales = np.array(kinds, np.int64), np.array(scales, np.int64)
        # A seed for each bin, by its name: two columns whose values were exchanged do not add up to the same.
        self.seeds = np.array([_seed(one.bin) for one in pair.columns], np.uint64)
        self.names = np.zeros(2 * len(pair.columns), np.uint64)
        for number, one in enumerate(pair.columns):
            self.names[2 * number : 2 * number + 2] = np.frombuffer(one.bin.encode().ljust(16, b"\0"), np.uint64)
        self.defaults = np.zeros(len(pair.columns), np.uint64)
        work = Work()
        for number, one in enumerate(pair.columns):
            if one.default is not None:
                self.defaults[number] = _default(one, int(self.kinds[number]), int(self.scales[number]), work)
        # A key that is one UUID comes as such: the server need not write it out.
        self.is_uuid_key = (
            types is not None
            and pair.key_type == "text"
            and pair.key == f"{{{pair.key_columns[0]}}}"
            and types.get(pair.key_columns[0]) == "uuid"
        )
        particle = INTEGER_KEY if pair.key_type == "integer" else TEXT_KEY
        self.prefix = pair.set.encode() + bytes((particle,))

    @property
    def keys_only(self) -> tuple[Any, ...]:
        return self.kinds[:0], self.scales[:0], self.seeds[:0], self.defaults[:0]

    @property
    def hashing(self) -> tuple[Any, ...]:
        return self.kinds, self.scales, self.seeds, self.defaults

    def block(self, size: int = 4096) -> NDArray[np.uint8]:
        """Room for a key that is hashed, behind what stands before every key."""
        made = np.zeros(max(size, len(self.prefix) + 256), np.uint8)
        made[: len(self.prefix)] = np.frombuffer(self.prefix, np.uint8)
        return made

    def digests(self, keys: Iterable[str]) -> list[bytes]:
        """Of keys in words, 20 bytes each."""
        work, found = Work(), []
        for key in keys:
            data = struct.pack(">q", int(key)) if self.pair.key_type == "integer" else key.encode()
            block = self.block(len(self.prefix) + len(data) + 256)
            source = np.frombuffer(data + b"\0" * 8, np.uint8)
            kernel.digest_of(source, len(data), block, len(self.prefix), work.words, work.block_words)
            found.append(work.words.tobytes())
        return found


_REALS = ("numeric", "double", "real")


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") | 1


def _default(column: SyncColumn, kind: int, scale: int, work: Work) -> np.uint64:
    value = column.default
    if isinstance(value, bool):
        particle, data = 17, bytes((value,))
    elif isinstance(value, int):
        particle, data = 1, struct.pack(">q", value)
    elif isinstance(value, float):
        particle, data = 2, struct.pack(">d", value)
    else:
        particle, data = 3, str(value).encode()
    work.grow(len(data))
    source = np.frombuffer(data + b"\0" * 16, np.uint8)
    found = kernel.bin_hash(kind, scale, particle, source, len(data), *work.texts)
    good = {
        "bool": bool,
        "bool_int": int,
        "integer": int,
        "scaled": int,
        "double": float,
        "text": str,
        "decimal": str,
        "iso": str,
    }
    wanted = good.get(column.form, int if column.form.startswith("epoch") else None)
    if wanted is not None and not (type(value) is wanted or (wanted is float and type(value) is int)):
        raise ConfigurationError(f"sync: the default of {column.bin} is {value!r}, which is no {column.form}")
    return np.uint64(found)


def identities(low: Sequence[int] | Longs, high: Sequence[int] | Longs, rest: Sequence[int] | Longs) -> list[bytes]:
    """Digests from their words."""
    return [struct.pack("<QQI", int(a), int(b), int(c) & 0xFFFFFFFF) for a, b, c in zip(low, high, rest, strict=True)]
