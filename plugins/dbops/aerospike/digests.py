"""Inventories of record digests, and which digests vanished between two of them.

An `.asb` incremental cannot say that a record was deleted. So a namespace with `track_deletes` keeps, per restore
point, the digests that were present; a digest that the parent point (or this point's own data) holds and that is
absent now was deleted or has expired. All runs here are one partition's digests from the highest to the lowest, which
is the order in which the server sends them, so two runs are compared in one pass with bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from dbops.backups.cipher import Ranges
from dbops.errors import FinalError

DIGEST = 20
BLOCK = 1 << 20  # bytes of one read; a multiple of DIGEST is cut from it

Bytes = NDArray[np.uint8]


class InventoryDamaged(FinalError):
    """A committed inventory is not what its manifest says."""


@nb.njit(nogil=True, cache=True)
def _compare(a: Any, i: Any, b: Any, j: Any) -> Any:
    for k in range(20):
        if a[i + k] != b[j + k]:
            return 1 if a[i + k] > b[j + k] else -1
    return 0


@nb.njit(nogil=True, cache=True)
def _subtract(older: Any, i: Any, present: Any, j: Any, out: Any) -> Any:
    """Until one run ends: digests of `older` that `present` lacks go to `out`; both positions and the size of `out`."""
    w = 0
    while i < older.size and j < present.size:
        order = _compare(older, i, present, j)
        if order > 0:
            out[w : w + 20] = older[i : i + 20]
            w += 20
        if order >= 0:
            i += 20
        if order <= 0:
            j += 20
    return i, j, w


@nb.njit(nogil=True, cache=True)
def _union(a: Any, i: Any, b: Any, j: Any, out: Any) -> Any:
    """Until one run ends: the digests of both, each once, go to `out`; returns both positions and the size."""
    w = 0
    while i < a.size and j < b.size:
        order = _compare(a, i, b, j)
        if order >= 0:
            out[w : w + 20] = a[i : i + 20]
            i += 20
        else:
            out[w : w + 20] = b[j : j + 20]
        if order <= 0:
            j += 20
        w += 20
    return i, j, w


_NONE: Bytes = np.empty(0, np.uint8)


def union(a: Iterator[Bytes], b: Iterator[Bytes]) -> Iterator[Bytes]:
    """Both runs as one, in order, a digest that stands in both once. Blocks are whole digests."""
    x, y, i, j = _NONE, _NONE, 0, 0
    while True:
        if i == x.size:
            x, i = next(a, _NONE), 0
        if j == y.size:
            y, j = next(b, _NONE), 0
        if not x.size or not y.size:
            break
        out = np.empty(x.size - i + y.size - j, np.uint8)
        i, j, size = _union(x, i, y, j, out)
        yield out[:size]
    for rest, tail in ((x[i:], a), (y[j:], b)):
        if rest.size:
            yield rest
            yield from tail


class Vanished:
    """What of an older run is absent from the present one, which arrives block by block."""

    def __init__(self, older: Iterator[Bytes], out: Callable[[memoryview], object]) -> None:
        """:param out: takes blocks of vanished digests, in order."""
        self._older, self._out = older, out
        self._block, self._at = _NONE, 0
        self.count = 0

    def feed(self, present: Bytes) -> None:
        """The next present digests, in order."""
        at = 0
        while at < present.size and self._fill():
            out = np.empty(self._block.size - self._at, np.uint8)
            self._at, at, size = _subtract(self._block, self._at, present, at, out)
            self._emit(out[:size])

    def finish(self) -> None:
        """No more present digests: whatever is left of the older run has vanished."""
        while self._fill():
            self._emit(self._block[self._at :])
            self._at = self._block.size

    def _fill(self) -> bool:
        if self._at == self._block.size:
            self._block, self._at = next(self._older, _NONE), 0
        return bool(self._block.size)

    def _emit(self, block: Bytes) -> None:
        if block.size:
            self.count += block.size // DIGEST
            self._out(block.data)


class Inventory:
    """The digests of a committed restore point, read ahead: partitions asked in ascending order cost few requests.

    :param store: where the objects can be read as digests, decrypted if need be.
    :param objects: (key, first partition, last partition) of the inventory's objects.
    :param counts: digests per partition, 4096 of them.
    """

    def __init__(self, store: Ranges, objects: Sequence[tuple[str, int, int]], counts: Sequence[int]) -> None:
        self._store, self._objects, self._counts = store, objects, counts
        self._key, self._start, self._block = "", 0, _NONE

    def partition(self, partition: int) -> Iterator[Bytes]:
        """The digests of one partition, in blocks of at most BLOCK bytes.

        :raises InventoryDamaged: an object is shorter than the counts say, or holds what is no digest of the partition.
        """
        key, first, last = next(entry for entry in self._objects if entry[1] <= partition <= entry[2])
        offset, left = DIGEST * sum(self._counts[first:partition]), DIGEST * self._counts[partition]
        end = DIGEST * sum(self._counts[first : last + 1])
        while left:
            if self._key != key or not self._start <= offset < self._start + self._block.size:
                self._read(key, offset, min(BLOCK // DIGEST * DIGEST, end - offset))
            at = offset - self._start
            block = self._block[at : at + left]
            # Encrypted data that was changed, or read with a wrong key, is noise, and nobody would call it missing.
            if np.any((block[0::DIGEST] | (block[1::DIGEST].astype(np.uint16) & 15) << 8) != partition):
                raise InventoryDamaged(
                    f"read digests from {key}: those at {offset} are not of partition {partition}; the parent restore "
                    "point is damaged: verify it, and take a full backup"
                )
            yield block
            offset, left = offset + block.size, left - block.size

    def _read(self, key: str, offset: int, size: int) -> None:
        data = b"".join(self._store.read(key, offset, size))
        if len(data) != size:
            raise InventoryDamaged(
                f"read digests from {key}: {len(data)} bytes at {offset}, expected {size}; the parent restore point "
                "is damaged: verify it, and take a full backup"
            )
        self._key, self._start, self._block = key, offset, np.frombuffer(data, np.uint8)
