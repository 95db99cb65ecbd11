"""The side of Aerospike: a set's records by partition query, hashed where they arrive."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbops.aerospike.cluster import Access, Cluster
from dbops.aerospike.drain import Drain, Output, Tally
from dbops.aerospike.kernel import OUT_FULL, SOURCE_NEEDED
from dbops.sync import kernel
from dbops.sync.plan import Plan, Work
from dbops.sync.postgres import Rows

Bytes = NDArray[np.uint8]
Longs = NDArray[np.uint64]
_NONE: Longs = np.empty(0, np.uint64)
_records_kernel: Callable[..., Any] = kernel.records
_positions_kernel: Callable[..., Any] = kernel.positions
_record_kernel: Callable[..., Any] = kernel.record


@dataclass(frozen=True)
class Found:
    """A record in words."""

    digest: bytes
    key: str | None
    """The user key, when the cluster stores it."""
    void_time: int
    bins: dict[str, Any]
    hash: int
    hashes: tuple[int, ...]
    """Of the mapped columns."""


class Records:
    """The set of a pair in one cluster."""

    def __init__(self, access: Access, plan: Plan) -> None:
        self.plan, self.pair = plan, plan.pair
        self.cluster = Cluster(access)
        self.cluster.refresh()

    def close(self) -> None:
        self.cluster.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state(self) -> str:
        """The cluster key: what was read between two equal ones was read from a cluster that did not change."""
        return self.cluster.key(self.pair.namespace)

    def add_up(self, mask: Bytes, table: Longs) -> int:
        """All records of the mask into `table`; how many there are."""
        return int(self._read(mask, table, Rows(0, 1))[kernel.ROWS])

    def collect(self, mask: Bytes) -> Longs:
        """The records of the mask one by one, from the partitions that it touches."""
        rows = Rows()
        return rows.cut(int(self._read(mask, _NONE, rows)[kernel.FOUND]))

    def _read(self, mask: Bytes, table: Longs, rows: Rows) -> Any:
        tally, work = np.zeros(kernel.STATE, np.int64), Work()
        hashes: Longs = np.zeros(len(self.plan.columns), np.uint64)

        def parse(
            source: Bytes, pos: int, end: int, out: Bytes, w: int, state: Any, *tallies: Any
        ) -> tuple[int, int, int]:
            while True:
                pos, status = _records_kernel(
                    source, pos, end, state, *tallies, *self.plan.hashing, self.plan.names, mask, table, rows.data,
                    rows.width, tally, hashes, *work.texts,
                )  # fmt: skip
                if status != OUT_FULL:
                    return pos, w, status
                if needed := int(state[SOURCE_NEEDED]):
                    work.grow(needed)
                else:
                    rows.grow()

        self._drain(parse, _partitions(mask))
        return tally

    def _drain(self, parse: Any, partitions: Iterable[int], *, no_bins: bool = False) -> None:
        drain = Drain(
            self.cluster, self.pair.namespace, parse, Tally(), Output(lambda data: None, 1), no_bins=no_bins,
            set_name=self.pair.set,
            bins=[one.bin for one in self.plan.columns] if self.pair.select_bins and not no_bins else (),
        )  # fmt: skip
        try:
            drain.run(partitions)
        finally:
            drain.close()

    def pick(self, digests: Collection[bytes], *, no_bins: bool = False) -> dict[bytes, Found]:
        """These records in words; those that are gone are left out."""
        wanted, found = set(digests), {}
        work, mask = Work(), mask_of(digests)
        hashes: Longs = np.zeros(len(self.plan.columns), np.uint64)
        positions = np.zeros(2 * 4096, np.int64)

        def parse(
            source: Bytes, pos: int, end: int, out: Bytes, w: int, state: Any, *tallies: Any
        ) -> tuple[int, int, int]:
            while True:
                pos, count, status = _positions_kernel(source, pos, end, state, *tallies, mask, positions)
                for at, size in positions[: 2 * count].reshape(-1, 2).tolist():
                    message = source[at : at + size]
                    one = self._found(message.copy(), wanted, work, hashes)
                    if one is not None:
                        found[one.digest] = one
                if status != OUT_FULL:
                    return pos, w, status

        self._drain(parse, _partitions(mask), no_bins=no_bins)
        return found

    def _found(self, message: Bytes, wanted: set[bytes], work: Work, hashes: Longs) -> Found | None:
        data = message.tobytes()
        digest, key, at = b"", None, 22
        fields, ops = struct.unpack_from(">HH", data, 18)
        for _ in range(fields):
            size, kind = struct.unpack_from(">IB", data, at)
            body = data[at + 5 : at + 4 + size]
            if kind == 4:
                digest = body
            elif kind == 2:
                key = str(value_of(body[0], body[1:]))
            at += 4 + size
        if digest not in wanted:
            return None
        bins = {}
        for _ in range(ops):
            size, _, particle, _, length = struct.unpack_from(">IBBBB", data, at)
            name = data[at + 8 : at + 8 + length].decode("utf-8", "replace")
            bins[name] = value_of(particle, data[at + 8 + length : at + 4 + size])
            at += 4 + size
        work.grow(message.size)
        padded = np.concatenate((message, np.zeros(32, np.uint8)))
        row = _record_kernel(padded, message.size, *self.plan.hashing, self.plan.names, hashes, *work.texts)
        void_time = struct.unpack_from(">I", data, 10)[0]
        return Found(digest, key, void_time, bins, int(row), tuple(map(int, hashes)))


def mask_of(digests: Iterable[bytes]) -> Bytes:
    """The buckets of these digests."""
    mask = np.zeros(kernel.BUCKETS, np.uint8)
    for digest in digests:
        mask[(digest[0] | (digest[1] & 15) << 8) << kernel.SUB | digest[2] & (1 << kernel.SUB) - 1] = 1
    return mask


def _partitions(mask: Bytes) -> list[int]:
    found: list[int] = np.flatnonzero(mask.reshape(4096, -1).any(axis=1)).tolist()
    return found


def value_of(particle: int, data: bytes) -> Any:
    """A particle as a Python value; what has none here is shown by its type and size."""
    if particle == 1:
        return int.from_bytes(data, "big", signed=True)
    if particle == 2:
        return struct.unpack(">d", data)[0]
    if particle == 3:
        return data.decode("utf-8", "replace")
    if particle == 17:
        return data != b"\0"
    if particle in (19, 20):
        try:
            return _unpacked(memoryview(data), 0)[0]
        except (IndexError, struct.error, RecursionError, TypeError):
            pass
    return f"<particle type {particle}, {len(data)} bytes>"


_EXTENSION = object()


def _unpacked(data: memoryview, at: int) -> tuple[Any, int]:
    """A value of MessagePack as Aerospike writes it: texts begin with their particle type."""
    c = data[at]
    at += 1
    if c < 0x80:
        return c, at
    if c < 0x90:
        return _map(data, at, c & 15)
    if c < 0xA0:
        return _list(data, at, c & 15)
    if c < 0xC0:
        return _letters(data, at, c & 31)
    if c >= 0xE0:
        return c - 256, at
    if c in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[c], at
    for code, form in _NUMBERS.items():
        if c == code:
            return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    wide = _WIDTHS.get(c, 0)
    if 0xD4 <= c <= 0xD8:
        return _EXTENSION, at + 1 + (1 << (c - 0xD4))
    if not wide:
        raise TypeError(f"byte {c} of MessagePack")
    n = int.from_bytes(data[at : at + wide], "big")
    at += wide
    if c in (0xDC, 0xDD):
        return _list(data, at, n)
    if c in (0xDE, 0xDF):
        return _map(data, at, n)
    if c in (0xC7, 0xC8, 0xC9):
        return _EXTENSION, at + 1 + n
    return _letters(data, at, n)


_WIDTHS = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC4: 1, 0xC5: 2, 0xC6: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4, 0xC7: 1, 0xC8: 2,
           0xC9: 4}  # fmt: skip
_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
            0xD3: ">q"}  # fmt: skip


def _letters(data: memoryview, at: int, n: int) -> tuple[str, int]:
    body = bytes(data[at : at + n])
    return body[1:].decode("utf-8", "replace") if body[:1] == b"\x03" else f"<{n - 1} bytes>", at + n


def _list(data: memoryview, at: int, n: int) -> tuple[list[Any], int]:
    found = []
    for _ in range(n):
        value, at = _unpacked(data, at)
        if value is not _EXTENSION:
            found.append(value)
    return found, at


def _map(data: memoryview, at: int, n: int) -> tuple[dict[Any, Any], int]:
    found = {}
    for _ in range(n):
        key, at = _unpacked(data, at)
        value, at = _unpacked(data, at)
        if key is not _EXTENSION:
            found[key if isinstance(key, str | int | float) else json.dumps(key)] = value
    return found, at


def shown(value: Any) -> str | None:
    """A bin's value as a text that can stand beside PostgreSQL's."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def batches(mask: Bytes, sizes: NDArray[np.int64], most: int) -> Iterator[Bytes]:
    """The mask in parts of whole partitions, of at most `most` rows where one partition has fewer."""
    per = np.where(mask != 0, sizes, 0).reshape(4096, -1).sum(axis=1)
    part, total = np.zeros((4096, kernel.BUCKETS // 4096), np.uint8), 0
    whole = mask.reshape(4096, -1)
    for partition in np.flatnonzero(whole.any(axis=1)):
        if total and total + per[partition] > most:
            yield part.reshape(-1)
            part, total = np.zeros_like(part), 0
        part[partition] = whole[partition]
        total += int(per[partition])
    if part.any():
        yield part.reshape(-1)
