"""Queries by primary index (and by secondary index) over partitions, streamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

from dbops_lab.aerospike import indexes
from dbops_lab.aerospike.expressions import Expression
from dbops_lab.aerospike.protocol import (
    F_DIGESTS,
    F_FILTER,
    F_INDEX_EXPRESSION,
    F_INDEX_RANGE,
    F_INDEX_VALUE,
    F_MAX_RECORDS,
    F_NAMESPACE,
    F_PARTITIONS,
    F_RECORDS_PER_SECOND,
    F_SET,
    F_SOCKET_TIMEOUT,
    F_UDF_FILE,
    F_UDF_OP,
    FIELD,
    HEADER,
    HEADER_SIZE,
    NO_BINS,
    NO_NAMESPACE,
    OP_READ,
    PARAMETER,
    PARTITION_DONE,
    PARTITIONS,
    READ,
    U16,
    UNAVAILABLE,
    UNSUPPORTED,
    Refused,
    Request,
    answer,
    last,
    partition_of,
    read_ops,
)
from dbops_lab.aerospike.records import Namespace, Partition, Record, pack_bins, without_bins

CHUNK = 1 << 20
DEFAULT_SOCKET_TIMEOUT = 10.0


class Query:
    """A query that was found sound; raises Refused otherwise."""

    def __init__(self, request: Request, namespaces: Mapping[str, Namespace], index_table: indexes.Indexes) -> None:
        fields = request.fields
        namespace = namespaces.get(fields.get(F_NAMESPACE, b"").decode("latin-1"))
        if namespace is None:
            raise Refused(NO_NAMESPACE)
        if fields.keys() & {F_UDF_FILE, F_UDF_OP, F_INDEX_EXPRESSION} or not request.info1 & READ:
            raise Refused(UNSUPPORTED)  # aggregations and queries in the background
        if not request.info3 & PARTITION_DONE:
            raise Refused(UNSUPPORTED)
        self.namespace = namespace
        self.set_name = fields.get(F_SET) or None
        self.no_bins = bool(request.info1 & NO_BINS)
        self.resume = _resume_points(fields)
        self.rate = _number(fields, F_RECORDS_PER_SECOND, 4)
        self.limit = _number(fields, F_MAX_RECORDS, 8)
        self.socket_timeout = _number(fields, F_SOCKET_TIMEOUT, 4) / 1000 or DEFAULT_SOCKET_TIMEOUT
        self.filter = Expression(fields[F_FILTER]) if F_FILTER in fields else None
        self.bins = _bin_names(request)
        self.where = index_table.where(namespace, fields) if F_INDEX_RANGE in fields else None
        self.sent = 0
        self._started = time.monotonic()

    async def chunks(self, is_here: Callable[[int], bool], step: int | None = None) -> AsyncIterator[bytes]:
        """The messages in pieces of about a megabyte; the last piece ends with LAST.

        `step` makes pieces of so many records, for a fault that counts them.
        """
        pieces: list[bytes] = []
        size = since = 0
        pace = step or (max(1, self.rate // 20) if self.rate else 0)
        for pid, after in sorted(self.resume.items()):
            if not is_here(pid):
                pieces.append(answer(UNAVAILABLE, pid, info3=PARTITION_DONE))
                size += HEADER_SIZE
                continue
            if self.set_name is not None and self.set_name not in self.namespace.sets:
                continue
            if self.limit and self.sent >= self.limit:
                continue
            partition = self.namespace.ready(pid)
            if not partition.count:
                continue
            if after is None and self._is_plain and not pace:
                run = self.namespace.view(partition, self.set_name, no_bins=self.no_bins)
                self.sent += partition.count
                pieces.append(run)
                size += len(run)
            else:
                for wire in self._matching(partition, after):
                    pieces.append(wire)
                    size += len(wire)
                    since += 1
                    self.sent += 1
                    if pace and since >= pace:
                        yield b"".join(pieces)
                        await self._wait_for_rate()
                        pieces, size, since = [], 0, 0
                    if self.limit and self.sent >= self.limit:
                        break
            if size >= CHUNK:
                yield b"".join(pieces)
                pieces, size = [], 0
            elif pace:
                await self._wait_for_rate()
            elif not pid % 64:
                await asyncio.sleep(0)  # others are served while a filter finds nothing
        pieces.append(last())
        yield b"".join(pieces)

    async def _wait_for_rate(self) -> None:
        if self.rate:
            due = self._started + self.sent / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    @property
    def _is_plain(self) -> bool:
        return self.filter is None and self.bins is None and self.where is None and not self.limit

    def _matching(self, partition: Partition, after: bytes | None) -> Iterator[bytes]:
        """The answers for one partition, from the highest digest (below `after`) down."""
        namespace, set_name, expression = self.namespace, self.set_name, self.filter
        if expression is not None and partition.newest < expression.updated_since:
            return
        first = 0
        if after is not None:
            first = partition.place(after)
            if first < len(partition.updates) and partition.digest(first) == after:
                first += 1
        oldest = expression.updated_since if expression is not None else 0
        for wire, updated in list(namespace.messages(partition, first)):
            if updated < oldest or not namespace.is_in_set(wire, set_name):
                continue
            if self._is_plain and not self.no_bins:
                yield wire
                continue
            record = namespace.open(wire, updated)
            if expression is not None and not expression.holds(namespace, record):
                continue
            made = self._made(record)
            if made is not None:
                yield made

    def _made(self, record: Record) -> bytes | None:
        value: int | None = None
        if self.where is not None:
            found = self.where.matches(record)
            if found is None:
                return None
            value = found
        if self.no_bins:
            wire = without_bins(record)
        elif self.bins is not None:
            bins = record.bins()
            chosen = {name: bins[name] for name in self.bins if name in bins}
            if not chosen:
                return None
            head = HEADER.pack(
                22, 0, 0, 0, 0, 0, record.generation, record.void_time, 0,
                U16.unpack_from(record.wire, 18)[0], len(chosen),
            )  # fmt: skip
            wire = head + record.wire[HEADER_SIZE : record.ops_at] + pack_bins(chosen)
        else:
            wire = record.wire
        return wire if value is None else _with_index_value(wire, record.ops_at, value)


def _with_index_value(wire: bytes, ops_at: int, value: int) -> bytes:
    """A record found by a secondary index says what was found there, in a field (little-endian)."""
    found = FIELD.pack(9, F_INDEX_VALUE) + value.to_bytes(8, "little", signed=True)
    n_fields = U16.unpack_from(wire, 18)[0] + 1
    return wire[:18] + U16.pack(n_fields) + wire[20:ops_at] + found + wire[ops_at:]


def _number(fields: dict[int, bytes], kind: int, size: int) -> int:
    data = fields.get(kind)
    if data is None:
        return 0
    if len(data) != size:
        raise Refused(PARAMETER)
    return int.from_bytes(data, "big")


def _bin_names(request: Request) -> list[bytes] | None:
    if not request.n_ops:
        return None
    names = []
    for operation in read_ops(request.data, request.ops_at, request.n_ops):
        if operation.code != OP_READ:
            raise Refused(UNSUPPORTED)
        names.append(operation.name)
    return names


def _resume_points(fields: dict[int, bytes]) -> dict[int, bytes | None]:
    """Partition -> the digest after which it goes on (None: from its beginning)."""
    pids, digests = fields.get(F_PARTITIONS, b""), fields.get(F_DIGESTS, b"")
    if not pids and not digests:
        raise Refused(UNSUPPORTED)
    if len(pids) % 2 or len(digests) % 20:
        raise Refused(PARAMETER)
    points: dict[int, bytes | None] = {}
    for at in range(0, len(pids), 2):
        points[pids[at] | pids[at + 1] << 8] = None
    for at in range(0, len(digests), 20):
        digest = digests[at : at + 20]
        points[partition_of(digest)] = digest
    if len(points) != len(pids) // 2 + len(digests) // 20 or max(points) >= PARTITIONS:
        raise Refused(PARAMETER)
    return points
