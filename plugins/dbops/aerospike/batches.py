"""Batch writes: rows that the kernel made, to the nodes that own their partitions, and what became of each."""

from __future__ import annotations

import queue
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dbops.aerospike import kernel
from dbops.aerospike.cluster import Access, Cluster, ClusterNotReady, ClusterUnreachable
from dbops.aerospike.wire import EPOCH, MESSAGE, PARTITIONS, RESULTS, Connection, ConnectionLost, result_error
from dbops.backups.restores import Failure, Policy, RestorePlan
from dbops.errors import RetryableError

PATIENCE_SECONDS = 120.0
_ROWS = 2000  # of a batch
_BYTES = 512 << 10
_HEAD = 40  # of a batch message, before its rows
_SAMPLES = 64  # records that are read back
_NAMED = 100  # failures that are named
EXPIRES_SOON = 86400

_NOT_FOUND, _GENERATION, _EXISTS = 2, 3, 5
_AGAIN = np.array([7, 9, 11, 14, 18, kernel.UNANSWERED], np.uint8)  # time-outs, partition away, hot key, overload
_REFUSALS = {
    3: "its generation is not higher",
    4: "the server takes it for malformed, or holds this digest in another set",
    8: "the server has no room",
    10: "the name of a bin is too long or there are too many",
    12: "a bin of the target has another type",
    13: "the record is too big for the target",
    19: "the target holds another key under this digest",
    21: "the name of a bin is too long",
    22: "the server forbids it, as it does a TTL where nothing removes what expires (nsup-period 0)",
    160: "a GeoJSON value is not valid",
}

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


class RestoreStopped(RetryableError):
    """Another slice of the same process failed, or a person stopped the command."""


class Batch:
    """Rows on their way: `out[_HEAD:used]`, where each begins and where the last one ends."""

    def __init__(self) -> None:
        self.out: Bytes = np.empty(_BYTES, np.uint8)
        self.rows: Ints = np.zeros((_ROWS + 1, 2), np.int64)
        self.clear()

    def clear(self) -> None:
        self.used, self.count = _HEAD, 0
        self.deletes: list[tuple[int, int]] = []

    def grow(self, needed: int) -> None:
        self.out = np.empty(max(2 * self.out.size, _HEAD + needed + kernel.SLACK), np.uint8)


@dataclass
class _Node:
    connection: Connection
    message: Bytes = field(default_factory=lambda: np.empty(_BYTES, np.uint8))
    answer: bytearray = field(default_factory=lambda: bytearray(1 << 16))


class WritesIncomplete(RetryableError):
    """Rows could not be written: the nodes were away or busy for too long."""


class Writer:
    """Batches to the nodes that own their partitions, several at once, and the account of what became of them.

    :param connections: batches on their way at once, each over connections of its own; 0 = write nothing (dry run).
    """

    def __init__(self, access: Access, plan: RestorePlan, first: int, last: int, connections: int) -> None:
        self.access, self.plan, self.namespace = access, plan, plan.target.namespace
        self.outcomes = dict.fromkeys(("inserted", "updated", "existing", "failed", "removed", "planned"), 0)
        self.failures: list[Failure] = []
        self.counts: Ints = np.zeros(PARTITIONS, np.int64)
        self.fingerprints = np.zeros(PARTITIONS, np.uint64)
        self.expiring: Ints = np.zeros(PARTITIONS, np.int64)
        self.again = 0
        self._lock = threading.Lock()
        self._problem: BaseException | None = None
        self._samples: dict[bytes, bytes] = {}
        total = max(1, plan.records * (last - first + 1) // PARTITIONS)
        self._sample_every = max(1, total // _SAMPLES)
        self._sample_next = 0
        self._written = 0
        self._work: queue.Queue[Batch | None] = queue.Queue()
        self._free: queue.Queue[Batch] = queue.Queue()
        for _ in range(connections + 2):
            self._free.put(Batch())
        self._ahead = self._clock()
        self._threads = [
            threading.Thread(target=self._run, name=f"write-{number}", daemon=True) for number in range(connections)
        ]
        for thread in self._threads:
            thread.start()
        self.batch = self._free.get()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._problem = self._problem or RestoreStopped(f"restore {self.plan.id} was stopped")
        self._end()

    def _clock(self) -> float:
        """How far the clock of the target is ahead of ours: void times are compared with its clock."""
        with Cluster(self.access) as cluster:
            cluster.wait_ready(self.namespace, PATIENCE_SECONDS)
            times = cluster.namespace_state(self.namespace).node_times
        return (sum(times) / len(times) + 0.5 if times else time.time()) - time.time()

    def now(self) -> int:
        """Seconds since 2010 by the clock of the target."""
        return int(time.time() + self._ahead) - EPOCH

    def check(self) -> None:
        """:raises WritesIncomplete: or what else ended a writing thread."""
        if self._problem is not None:
            raise self._problem

    def filled(self, batch: Batch, rows: int, *, deletes: bool = False) -> None:
        """The kernel has put so many more rows into the batch."""
        if deletes and rows:
            batch.deletes.append((batch.count, batch.count + rows))
        batch.count += rows
        batch.rows[batch.count, 0] = batch.used

    def submit(self) -> None:
        """Send the batch, and have an empty one as `batch` when one is free."""
        if not self._threads:
            with self._lock:
                self.outcomes["planned"] += self.batch.count
            self.batch.clear()
            return
        self._work.put(self.batch)
        while True:
            self.check()
            try:
                self.batch = self._free.get(timeout=0.5)
            except queue.Empty:
                continue
            self.batch.clear()
            return

    def finish(self) -> None:
        """Send what is left and wait for all answers."""
        if self.batch.count:
            self.submit()
        self._end()
        self.check()

    def _end(self) -> None:
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    # ------------------------------------------------------------------ threads

    def _run(self) -> None:
        try:
            with Route(self.access, self.namespace) as route:
                while (batch := self._work.get()) is not None:
                    if self._problem is not None:
                        return
                    self._settle(batch, *route.write(batch, self.check))
                    self._free.put(batch)
                with self._lock:
                    self.again += route.again
        except BaseException as problem:
            self._problem = self._problem or problem

    def _settle(self, batch: Batch, codes: Bytes, generations: Ints) -> None:
        """Account for every row of a batch."""
        removed = 0
        writes = np.ones(batch.count, np.bool_)
        for start, stop in batch.deletes:
            found = codes[start:stop]
            removed += int((found == 0).sum())
            writes[start:stop] = False
            writes[start:stop] |= (found != 0) & (found != _NOT_FOUND)  # a refused delete is a failure like any other
        fine = writes & (codes == 0)
        existing = writes & ((codes == _EXISTS) | (codes == _GENERATION))
        failed = np.flatnonzero(writes & ~fine & ~existing)
        present = np.where(writes, codes, np.uint8(kernel.UNANSWERED)).astype(np.uint8)
        inserted = int((generations[fine] == 1).sum())
        with self._lock:
            kernel.add_present(
                batch.out, batch.rows, present, batch.count, self.now() + EXPIRES_SOON,
                self.counts, self.fingerprints, self.expiring,
            )  # fmt: skip
            self.outcomes["inserted"] += inserted
            self.outcomes["updated"] += int(fine.sum()) - inserted
            self.outcomes["existing"] += int(existing.sum())
            self.outcomes["removed"] += removed
            self.outcomes["failed"] += len(failed)
            for row in failed[: _NAMED - len(self.failures)].tolist():
                self.failures.append(_failure(batch, row, int(codes[row])))
            self._sample(batch, fine)

    def _sample(self, batch: Batch, fine: NDArray[np.bool_]) -> None:
        """Keep a copy of one row now and then."""
        for row in np.flatnonzero(fine)[:: self._sample_every].tolist():
            if self._written + row >= self._sample_next and len(self._samples) < _SAMPLES:
                start, end = int(batch.rows[row, 0]), int(batch.rows[row + 1, 0])
                copy = batch.out[start:end].tobytes()
                self._samples[copy[4:24]] = copy
                self._sample_next = self._written + row + self._sample_every
        self._written += batch.count

    # ------------------------------------------------------------------ samples

    def compare_samples(self) -> tuple[int, list[str]]:
        """Read the sampled records back; how many were compared, and what differs."""
        if not self._samples:
            return 0, []
        digests = list(self._samples)
        batch = Batch()
        name = self.namespace.encode()
        rows = [
            struct.pack(">I20sBBBBIHHIB", number, digest, 0x0A, 3, 0, 0, 0, 1, 0, len(name) + 1, 0) + name
            for number, digest in enumerate(digests)
        ]
        for row in rows:
            batch.rows[batch.count, 0] = batch.used
            batch.out[batch.used : batch.used + len(row)] = np.frombuffer(row, np.uint8)
            batch.used += len(row)
            batch.count += 1
            batch.rows[batch.count, 0] = batch.used
        with Route(self.access, self.namespace) as route:
            found = route.read(batch, self.check)
        differing = []
        partial = bool(self.plan.bins) or self.plan.policy is Policy.UPDATE
        for digest, answer in zip(digests, found, strict=True):
            _, wanted = parsed_row(self._samples[digest])
            expires = int.from_bytes(self._samples[digest][30:34], "big") != 0xFFFFFFFF
            if answer is None:
                if not expires:
                    differing.append(f"digest {digest.hex()}: was written and is not there")
                continue
            names = [
                name
                for name in wanted.keys() | (set() if partial else answer.keys())
                if not _same(wanted.get(name), answer.get(name))
            ]
            if names:
                shown = ", ".join(name.decode(errors="replace") for name in names)
                differing.append(f"digest {digest.hex()}: bins {shown} are not as in the backup")
        return len(digests), differing


class Route:
    """One thread's connections to the nodes of the target."""

    def __init__(self, access: Access, namespace: str) -> None:
        self._cluster = Cluster(access)
        self._namespace = namespace
        self._nodes: dict[str, _Node] = {}
        self._names: list[str] = []
        self._owner: Ints | None = None
        self.again = 0

    def __enter__(self) -> Route:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._nodes.values():
            node.connection.close()
        self._cluster.close()

    def write(self, batch: Batch, check: Callable[[], None]) -> tuple[Bytes, Ints]:
        """Send all rows until each has an answer that stands; the result code and the generation of each.

        :raises WritesIncomplete: no row got one for `PATIENCE_SECONDS`.
        :raises Refused: a node refuses the batch for good.
        """
        codes: Bytes = np.full(batch.count, kernel.UNANSWERED, np.uint8)
        generations: Ints = np.zeros(batch.count, np.int64)
        pending = np.arange(batch.count)
        moved, pause, problem = time.monotonic(), 0.05, ""
        while True:
            try:
                problem = self._round(batch, pending, codes, generations) or problem
            except (ClusterNotReady, ClusterUnreachable, ConnectionLost) as lost:
                problem, self._owner = str(lost), None
            left = pending[np.isin(codes[pending], _AGAIN)]
            if not left.size:
                return codes, generations
            check()
            if left.size < pending.size:
                moved, pause = time.monotonic(), 0.05
            elif time.monotonic() - moved > PATIENCE_SECONDS:
                code = int(codes[left[0]])
                said = problem if code == kernel.UNANSWERED else f"code {code} ({RESULTS.get(code, 'unknown')})"
                raise WritesIncomplete(
                    f"write to {self._namespace} of cluster {self._cluster.access.cluster}: {left.size} rows got no "
                    f"answer that stands for {PATIENCE_SECONDS:g} s; last: {said}; run the restore again when the "
                    "cluster is stable: what is written already is written again"
                )
            pending, self._owner = left, None
            self.again += 1
            time.sleep(pause)
            pause = min(2.0, pause * 2)

    def read(self, batch: Batch, check: Callable[[], None]) -> list[dict[bytes, tuple[int, bytes]] | None]:
        """Bins of each record of a batch of reads; None where there is no record."""
        answers: list[dict[bytes, tuple[int, bytes]] | None] = [None] * batch.count
        codes: Bytes = np.full(batch.count, kernel.UNANSWERED, np.uint8)
        for attempt in range(20):
            for name, chosen in self._by_node(batch, np.arange(batch.count)):
                try:
                    node = self._send(name, batch, chosen)
                    for row, code, bins in _read_answers(node.connection):
                        codes[chosen[row]] = code
                        answers[chosen[row]] = bins if code == 0 else None
                except ConnectionLost:
                    self._drop(name)
            if not np.isin(codes, _AGAIN).any():
                break
            check()
            self._owner = None
            time.sleep(min(2.0, 0.1 * 2**attempt))
        return answers

    def _by_node(self, batch: Batch, pending: Ints) -> list[tuple[str, Ints]]:
        if self._owner is None:
            owners = self._cluster.owners(self._namespace)
            self._names = sorted(set(owners))
            number = {name: at for at, name in enumerate(self._names)}
            self._owner = np.array([number[name] for name in owners], np.int64)
        at = batch.rows[pending, 0] + 4
        partitions = batch.out[at].astype(np.int64) | (batch.out[at + 1].astype(np.int64) & 15) << 8
        owner = self._owner[partitions]
        return [(name, pending[owner == number]) for number, name in enumerate(self._names) if (owner == number).any()]

    def _round(self, batch: Batch, pending: Ints, codes: Bytes, generations: Ints) -> str:
        """Ask every pending row once, at its owner; what went wrong, or nothing."""
        problem = ""
        asked: list[tuple[str, _Node, Ints]] = []
        for name, chosen in self._by_node(batch, pending):
            try:
                asked.append((name, self._send(name, batch, chosen), chosen))
            except ConnectionLost as lost:
                problem = str(lost)
                self._drop(name)
        for name, node, chosen in asked:
            found = np.full(chosen.size, kernel.UNANSWERED, np.uint8)
            now: Ints = np.zeros(chosen.size, np.int64)
            try:
                self._receive(node, found, now)
            except ConnectionLost as lost:
                problem = str(lost)
                self._drop(name)
            codes[chosen], generations[chosen] = found, now
        return problem

    def _drop(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        if node is not None:
            node.connection.close()

    def _send(self, name: str, batch: Batch, chosen: Ints) -> _Node:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = _Node(self._cluster.connect(name))
        if chosen.size == batch.count:
            message, used = batch.out, batch.used
        else:
            if node.message.size < batch.used:
                node.message = np.empty(batch.out.size, np.uint8)
            message = node.message
            used = kernel.gather(batch.out, batch.rows, chosen, message, _HEAD)
        # Frame of a message with one field, the batch; 0x0D: answer each row, also behind one that failed.
        struct.pack_into(
            ">Q4BxBIIIHHIBIB", message.data, 0,
            2 << 56 | MESSAGE << 48 | used - 8, 22, 0x08, 0, 0, 0, 0, 0, 30_000, 1, 0, used - 34, 41, chosen.size, 0x0D,
        )  # fmt: skip
        node.connection.send(message.data[:used])
        return node

    def _receive(self, node: _Node, codes: Bytes, generations: Ints) -> None:
        state = np.zeros(kernel.STATE_SIZE, np.int64)
        have = pos = 0
        while True:
            if have == len(node.answer):
                node.answer.extend(bytes(len(node.answer)))
            have += node.connection.receive_into(memoryview(node.answer)[have:])
            pos, status = kernel.outcomes(np.frombuffer(node.answer, np.uint8), pos, have, state, codes, generations)
            if status == kernel.DONE:
                code = int(state[kernel.RESULT])
                if code and code not in _AGAIN:
                    raise result_error(f"write a batch to {self._namespace} at {node.connection.where}", code)
                return
            if status == kernel.BROKEN:
                raise ConnectionLost(
                    f"{node.connection.where} sent an answer that cannot be read: found "
                    f"{kernel.reason(int(state[kernel.WHY]))}"
                )
            if pos == have:
                pos = have = 0


def _read_answers(connection: Connection) -> Iterator[tuple[int, int, dict[bytes, tuple[int, bytes]]]]:
    """Row, result code and bins of each answer to a small batch of reads."""
    while True:
        head = int.from_bytes(connection.exactly(8), "big")
        body = connection.exactly(head & 0xFFFFFFFFFFFF)
        at = 0
        while at < len(body):
            info3, code = body[at + 3], body[at + 5]
            row, fields, ops = struct.unpack_from(">IHH", body, at + 14)
            at += 22
            for _ in range(fields):
                at += 4 + int.from_bytes(body[at : at + 4], "big")
            bins, at = _parsed_ops(body, at, ops)
            if info3 & 1:
                return
            yield row, code, bins


def _parsed_ops(data: bytes, at: int, count: int) -> tuple[dict[bytes, tuple[int, bytes]], int]:
    bins = {}
    for _ in range(count):
        size, _, kind, _, name = struct.unpack_from(">IBBBB", data, at)
        bins[data[at + 8 : at + 8 + name]] = (kind, data[at + 8 + name : at + 4 + size])
        at += 4 + size
    return bins, at


def parsed_row(row: bytes) -> tuple[dict[int, bytes], dict[bytes, tuple[int, bytes]]]:
    """Fields and bins of a row as `kernel.decode` writes it; a nil bin is no bin."""
    fields, ops = struct.unpack_from(">HH", row, 34)
    at, found = 38, {}
    for _ in range(fields):
        size, kind = struct.unpack_from(">IB", row, at)
        found[kind] = row[at + 5 : at + 4 + size]
        at += 4 + size
    bins, _ = _parsed_ops(row, at, ops)
    return found, {name: value for name, value in bins.items() if value[0]}


def _same(wanted: tuple[int, bytes] | None, found: tuple[int, bytes] | None) -> bool:
    """Whether the server holds what was sent. It computes the cells of GeoJSON, and may sort an unordered map."""
    if wanted is None or found is None or wanted[0] != found[0]:
        return wanted == found
    kind, ours, theirs = wanted[0], wanted[1], found[1]
    if kind == 23:
        return ours[3:] == theirs[3 + 8 * int.from_bytes(theirs[1:3], "big") :]
    return ours == theirs or (kind == 19 and sorted(ours) == sorted(theirs))


def _failure(batch: Batch, row: int, code: int) -> Failure:
    data = batch.out[int(batch.rows[row, 0]) : int(batch.rows[row + 1, 0])].tobytes()
    fields, _ = parsed_row(data)
    reason = _REFUSALS.get(code) or RESULTS.get(code) or "see the Aerospike error codes"
    return Failure(
        digest=data[4:24].hex(),
        set=fields.get(1, b"").decode(errors="replace"),
        reason=f"code {code}: {reason}",
    )
