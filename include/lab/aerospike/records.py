"""Records as ready wire bytes.

A record is kept as the very message that a query answers with: header, fields namespace, digest, set and (if
it was sent) key, then the bins as read operations. A partition holds its messages in one run of bytes, from
the highest to the lowest digest, so that a query sends the run as it is; changes since then lie beside it and
are merged when the run is asked for again.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from dbops_lab.aerospike.protocol import (
    EPOCH,
    F_DIGEST,
    F_KEY,
    F_NAMESPACE,
    F_SET,
    FIELD,
    HEADER,
    HEADER_SIZE,
    PARTITIONS,
    U16,
    U32,
    field,
)

Message = tuple[bytes, int]  # the wire bytes and the last update in milliseconds since EPOCH
FLAT_OVERHEAD = 39  # of a stored record, so that the 1 MiB limit bites where the real server's does


class Clock:
    """Time as this cluster sees it; the lab can set it off."""

    def __init__(self) -> None:
        self.offset_ms = 0

    def now_ms(self) -> int:
        """Milliseconds since 2010-01-01 UTC: the unit of last-update times."""
        return time.time_ns() // 1_000_000 - EPOCH * 1000 + self.offset_ms

    def now(self) -> int:
        """Seconds since 2010-01-01 UTC: the unit of void times."""
        return self.now_ms() // 1000


class Record(NamedTuple):
    """A message taken apart."""

    generation: int
    void_time: int
    set_name: bytes
    key: bytes | None
    n_ops: int
    ops_at: int
    wire: bytes
    updated: int

    @property
    def ops(self) -> bytes:
        return self.wire[self.ops_at :]

    def bins(self) -> dict[bytes, tuple[int, bytes]]:
        found: dict[bytes, tuple[int, bytes]] = {}
        wire, at = self.wire, self.ops_at
        for _ in range(self.n_ops):
            after = at + 4 + U32.unpack_from(wire, at)[0]
            value_at = at + 8 + wire[at + 7]
            found[wire[at + 8 : value_at]] = (wire[at + 5], wire[value_at:after])
            at = after
        return found


def pack_bins(bins: dict[bytes, tuple[int, bytes]]) -> bytes:
    parts: list[bytes] = []
    for name, (particle, value) in bins.items():
        parts += (U32.pack(4 + len(name) + len(value)), bytes((1, particle, 0, len(name))), name, value)
    return b"".join(parts)


class SetInfo:
    """What is counted per set."""

    __slots__ = ("bytes", "name", "objects", "truncate_at", "truncating")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.objects = 0
        self.bytes = 0
        self.truncate_at = 0
        self.truncating = False


class Partition:
    """The records of one partition of one namespace."""

    __slots__ = (
        "_digest_at",
        "changes",
        "count",
        "newest",
        "run",
        "soonest_end",
        "starts",
        "swept",
        "updates",
        "views",
    )

    def __init__(self, digest_at: int) -> None:
        self._digest_at = digest_at
        self.run = b""
        self.starts = array("Q", (0,))  # of each message in the run, and where the last one ends
        self.updates = array("Q")
        self.changes: dict[bytes, Message | None] = {}  # None: a record of the run that is gone
        self.views: dict[tuple[bytes | None, bool], bytes] = {}
        self.count = 0
        self.newest = 0  # the latest update of any record that was ever here
        self.soonest_end = 0  # no record expires before this second (0: none expires)
        self.swept = 0  # the truncations of the namespace that were applied here

    def digest(self, index: int) -> bytes:
        at = self.starts[index] + self._digest_at
        return self.run[at : at + 20]

    def place(self, digest: bytes) -> int:
        """Index in the run of the first record whose digest is not higher."""
        low, high = 0, len(self.updates)
        run, starts, shift = self.run, self.starts, self._digest_at
        while low < high:
            middle = (low + high) // 2
            at = starts[middle] + shift
            if run[at : at + 20] > digest:
                low = middle + 1
            else:
                high = middle
        return low

    def get(self, digest: bytes) -> Message | None:
        if digest in self.changes:
            return self.changes[digest]
        index = self.place(digest)
        if index < len(self.updates) and self.digest(index) == digest:
            return self.run[self.starts[index] : self.starts[index + 1]], self.updates[index]
        return None

    def put(self, digest: bytes, message: Message, *, is_new: bool) -> None:
        self.changes[digest] = message
        self.count += is_new
        self.newest = max(self.newest, message[1])
        void_time = U32.unpack_from(message[0], 10)[0]
        if void_time and (not self.soonest_end or void_time < self.soonest_end):
            self.soonest_end = void_time

    def remove(self, digest: bytes) -> None:
        """Of a record that is there."""
        self.changes[digest] = None
        self.count -= 1

    def pack(self) -> None:
        """Merge the changes into the run."""
        if not self.changes:
            return
        run, starts, updates = self.run, self.starts, self.updates
        pieces, sizes, fresh_updates = [], array("Q"), array("Q")
        done = 0
        for digest in sorted(self.changes, reverse=True):
            index = self.place(digest)
            if index > done:
                pieces.append(run[starts[done] : starts[index]])
                sizes.extend(starts[i + 1] - starts[i] for i in range(done, index))
                fresh_updates.extend(updates[done:index])
            is_there = index < len(updates) and self.digest(index) == digest
            done = index + 1 if is_there else index
            message = self.changes[digest]
            if message is not None:
                pieces.append(message[0])
                sizes.append(len(message[0]))
                fresh_updates.append(message[1])
        if done < len(updates):
            pieces.append(run[starts[done] :])
            sizes.extend(starts[i + 1] - starts[i] for i in range(done, len(updates)))
            fresh_updates.extend(updates[done:])
        self.run = b"".join(pieces)
        self.starts = array("Q", accumulate(sizes, initial=0))
        self.updates = fresh_updates
        self.changes = {}
        self.views = {}

    def keep(self, kept: list[int]) -> None:
        """Keep only these indexes of the (packed) run."""
        starts = self.starts
        self.run = b"".join([self.run[starts[i] : starts[i + 1]] for i in kept])
        self.starts = array("Q", accumulate((starts[i + 1] - starts[i] for i in kept), initial=0))
        self.updates = array("Q", (self.updates[i] for i in kept))
        self.views = {}
        self.count = len(kept)


class Namespace:
    """The records and counters of one namespace, shared by all nodes of the cluster."""

    def __init__(self, name: str, clock: Clock, default_ttl: int = 0) -> None:
        self.name = name
        self.wire_name = name.encode()
        self.clock = clock
        self.default_ttl = default_ttl
        self.nsup_period = 120  # seconds between two looks for expired records
        self.room_bytes = 4 << 30  # what it says it has room for
        self.stop_writes = False
        self.prefix = field(F_NAMESPACE, self.wire_name) + FIELD.pack(21, F_DIGEST)
        self.digest_at = HEADER_SIZE + len(self.prefix)
        self.partitions = [Partition(self.digest_at) for _ in range(PARTITIONS)]
        self.sets: dict[bytes, SetInfo] = {}
        self.no_set = SetInfo(b"")  # records without a set
        self.set_fields: dict[bytes, bytes] = {b"": b""}
        self.truncations = 0  # how many there were
        self.truncate_at = 0  # of the whole namespace
        self.counters: dict[str, int] = {}
        self.unswept = 0  # partitions that the last truncation has not reached yet

    @property
    def objects(self) -> int:
        return self.no_set.objects + sum(item.objects for item in self.sets.values())

    @property
    def data_bytes(self) -> int:
        return self.no_set.bytes + sum(item.bytes for item in self.sets.values())

    def count(self, name: str, by: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by

    def set_info(self, name: bytes) -> SetInfo:
        if not name:
            return self.no_set
        info = self.sets.get(name)
        if info is None:
            info = self.sets[name] = SetInfo(name)
            self.set_fields[name] = field(F_SET, name)
        return info

    # ------------------------------------------------------------------ one record

    def partition(self, digest: bytes) -> Partition:
        found = self.partitions[(digest[0] | digest[1] << 8) & 0xFFF]
        if found.swept != self.truncations:
            self.sweep(found)
        return found

    def read(self, digest: bytes) -> Record | None:
        """The record, also one that has expired and was not reaped yet."""
        message = self.partition(digest).get(digest)
        return None if message is None else self.open(*message)

    def open(self, wire: bytes, updated: int) -> Record:
        _, _, _, _, _, _, generation, void_time, _, n_fields, n_ops = HEADER.unpack_from(wire)
        at = self.digest_at + 20
        set_name, key = b"", None
        for _ in range(n_fields - 2):
            size, kind = FIELD.unpack_from(wire, at)
            if kind == F_SET:
                set_name = wire[at + 5 : at + 4 + size]
            else:
                key = wire[at + 5 : at + 4 + size]
            at += 4 + size
        return Record(generation, void_time, set_name, key, n_ops, at, wire, updated)

    def has_expired(self, void_time: int) -> bool:
        return void_time != 0 and self.clock.now() > void_time

    def message(
        self,
        digest: bytes,
        generation: int,
        void_time: int,
        set_name: bytes,
        key: bytes | None,
        n_ops: int,
        ops: bytes,
    ) -> bytes:
        set_field = self.set_fields.get(set_name)
        if set_field is None:
            self.set_info(set_name)
            set_field = self.set_fields[set_name]
        n_fields = 2 + bool(set_name) + (key is not None)
        key_field = b"" if key is None else FIELD.pack(len(key) + 1, F_KEY) + key
        return b"".join((
            HEADER.pack(22, 0, 0, 0, 0, 0, generation, void_time, 0, n_fields, n_ops),
            self.prefix,
            digest,
            set_field,
            key_field,
            ops,
        ))

    def write(self, digest: bytes, wire: bytes, set_name: bytes, old: Record | None, updated: int) -> None:
        """Keep this message; `old` is the record that it takes the place of."""
        self.partition(digest).put(digest, (wire, updated), is_new=old is None)
        info = self.set_info(set_name)
        info.bytes += len(wire)
        if old is None:
            info.objects += 1
        else:
            info.bytes -= len(old.wire)

    def delete(self, digest: bytes, old: Record) -> None:
        self.partition(digest).remove(digest)
        info = self.set_info(old.set_name)
        info.objects -= 1
        info.bytes -= len(old.wire)

    # ------------------------------------------------------------------ many records

    def load(self, set_name: bytes, rows: bytes, updated: int | None = None) -> int:
        """Rows of a digest, `ROW` (generation, void time, sizes), the key and the bins, counted."""
        at, end, count = 0, len(rows), 0
        when = self.clock.now_ms() if updated is None else updated
        info = self.set_info(set_name)
        prefix, set_field, n_fields = self.prefix, self.set_fields[set_name], 2 + bool(set_name)
        read_row, pack_header = ROW.unpack_from, HEADER.pack
        while at < end:
            digest = rows[at : at + 20]
            generation, void_time, key_size, n_ops, ops_size = read_row(rows, at + 20)
            key_at = at + ROW_HEAD
            ops_at = key_at + key_size
            at = ops_at + ops_size
            if key_size:
                key_field = FIELD.pack(key_size + 1, F_KEY) + rows[key_at:ops_at]
                header = pack_header(22, 0, 0, 0, 0, 0, generation, void_time, 0, n_fields + 1, n_ops)
                wire = b"".join((header, prefix, digest, set_field, key_field, rows[ops_at:at]))
            else:
                header = pack_header(22, 0, 0, 0, 0, 0, generation, void_time, 0, n_fields, n_ops)
                wire = b"".join((header, prefix, digest, set_field, rows[ops_at:at]))
            partition = self.partition(digest)
            old = partition.get(digest) if partition.count else None
            partition.put(digest, (wire, when), is_new=old is None)
            info.bytes += len(wire)
            if old is None:
                info.objects += 1
            else:
                before = self.set_info(self.open(*old).set_name)
                before.bytes -= len(old[0])
                before.objects -= 1
                info.objects += 1
            count += 1
        return count

    def ready(self, pid: int) -> Partition:
        """The partition, packed, without truncated and expired records."""
        partition = self.partitions[pid]
        expires = partition.soonest_end and self.clock.now() > partition.soonest_end
        if partition.swept != self.truncations or expires:
            self.sweep(partition)
        partition.pack()
        return partition

    def view(self, partition: Partition, set_name: bytes | None, *, no_bins: bool) -> bytes:
        """All records of a ready partition (of one set) as one run of messages."""
        if set_name is None and not no_bins:
            return partition.run
        if set_name is not None and not no_bins and len(self.sets) == 1 and not self.no_set.objects:
            return partition.run
        found = partition.views.get((set_name, no_bins))
        if found is None:
            pieces = []
            for wire, updated in self.messages(partition, 0):
                if no_bins:
                    record = self.open(wire, updated)
                    if set_name is None or record.set_name == set_name:
                        pieces.append(without_bins(record))
                elif self.is_in_set(wire, set_name):
                    pieces.append(wire)
            found = partition.views[set_name, no_bins] = b"".join(pieces)
        return found

    def is_in_set(self, wire: bytes, set_name: bytes | None) -> bool:
        if set_name is None:
            return True
        return wire.startswith(self.set_fields[set_name], self.digest_at + 20)

    def messages(self, partition: Partition, first: int) -> Iterator[Message]:
        run, starts, updates = partition.run, partition.starts, partition.updates
        for index in range(first, len(updates)):
            yield run[starts[index] : starts[index + 1]], updates[index]

    def objects_of_sets(self, pids: Iterable[int]) -> dict[bytes, int]:
        """Looks at every record of these partitions."""
        counts: dict[bytes, int] = dict.fromkeys(self.sets, 0)
        for pid in pids:
            for wire, updated in self.messages(self.ready(pid), 0):
                name = self.open(wire, updated).set_name
                counts[name] = counts.get(name, 0) + 1
        return counts

    # ------------------------------------------------------------------ truncate and expiry

    def truncate(self, set_name: bytes | None, before: int) -> None:
        """Drop what was updated before this millisecond; partitions follow when they are next looked at."""
        if set_name is None:
            self.truncate_at = max(self.truncate_at, before)
        else:
            if set_name not in self.sets:
                return
            info = self.sets[set_name]
            info.truncate_at = max(info.truncate_at, before)
            info.truncating = True
        self.truncations += 1
        self.unswept = PARTITIONS

    def sweep(self, partition: Partition) -> None:
        if partition.swept != self.truncations:
            partition.swept = self.truncations
            self.unswept -= 1
            if not self.unswept:
                for info in self.sets.values():
                    info.truncating = False
        if not partition.count:
            return
        partition.pack()
        now = self.clock.now()
        kept, soonest = [], 0
        for index, (wire, updated) in enumerate(self.messages(partition, 0)):
            void_time = U32.unpack_from(wire, 10)[0]
            record = self.open(wire, updated)
            info = self.set_info(record.set_name)
            has_expired = void_time != 0 and now > void_time
            if has_expired or updated < info.truncate_at or updated < self.truncate_at:
                info.objects -= 1
                info.bytes -= len(wire)
                if has_expired:
                    self.count("expired_objects")
                continue
            kept.append(index)
            if void_time and (not soonest or void_time < soonest):
                soonest = void_time
        partition.soonest_end = soonest
        if len(kept) != partition.count:
            partition.keep(kept)


def without_bins(record: Record) -> bytes:
    wire = record.wire
    n_fields = U16.unpack_from(wire, 18)[0]
    head = HEADER.pack(22, 0x20, 0, 0, 0, 0, record.generation, record.void_time, 0, n_fields, 0)
    return head + wire[HEADER_SIZE : record.ops_at]


ROW_STEP = 5000  # rows that are loaded before others get a turn
ROW_HEAD = 34
ROW = struct.Struct(">HIHHI")  # generation, void time, size of key, bins, size of bins; follows the digest


def split_rows(rows: bytes, step: int) -> Iterator[bytes]:
    """Pieces of so many rows (see `Namespace.load`). Raises ValueError when the last row is cut short."""
    at = start = count = 0
    end = len(rows)
    while at < end:
        if at + ROW_HEAD > end:
            raise ValueError("the last row is cut short")
        key_size = rows[at + 26] << 8 | rows[at + 27]
        at += ROW_HEAD + key_size + int.from_bytes(rows[at + 30 : at + 34], "big")
        count += 1
        if count == step:
            yield rows[start:at]
            start, count = at, 0
    if at != end:
        raise ValueError("the last row is cut short")
    if start < end:
        yield rows[start:end]
