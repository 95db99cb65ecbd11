"""Partition queries to their end: whatever node or connection is lost on the way, no partition comes short or twice.

The server says nothing when a partition of an answer is complete; only the LAST message ends the whole answer. So a
partition counts as read when it was part of an answer that ended with LAST and result 0 and was not reported
unavailable in it. All others are asked again, at whoever owns them now, each after its last digest: within a partition
records come from the highest digest to the lowest, so nothing is repeated and nothing is left out.
"""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbops.aerospike import kernel
from dbops.aerospike.cluster import READ_SECONDS, Cluster, ClusterNotReady, ClusterUnreachable
from dbops.aerospike.wire import (
    PARTITIONS,
    Connection,
    ConnectionLost,
    ServerBusy,
    partition_query,
    result_error,
)
from dbops.errors import RetryableError

log = logging.getLogger(__name__)

PATIENCE_SECONDS = (
    120.0  # a node that died is out of the cluster after a few seconds; its partitions are owned soon after
)
STREAMS = 4  # nodes read at once; bounds the memory of a slice in a big cluster
_BUFFER = 2 << 20
_LARGEST_MESSAGE = 32 << 20

Bytes = NDArray[np.uint8]


class PartitionsIncomplete(RetryableError):
    """Some partitions could not be read to their end."""


@dataclass
class Tally:
    """What was read of each partition so far; arrays of 4096, filled by the kernel."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(PARTITIONS, np.int64))
    fingerprints: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(PARTITIONS, np.uint64))
    last: Bytes = field(default_factory=lambda: np.zeros((PARTITIONS, 20), np.uint8))
    seen: Bytes = field(default_factory=lambda: np.zeros(PARTITIONS, np.uint8))
    unavailable: Bytes = field(default_factory=lambda: np.zeros(PARTITIONS, np.uint8))

    @property
    def arrays(self) -> tuple[Any, ...]:
        """In the order that the kernel takes them."""
        return self.counts, self.fingerprints, self.last, self.seen, self.unavailable

    @property
    def records(self) -> int:
        return int(self.counts.sum())


Kernel = Callable[..., tuple[int, int, int]]


class Output:
    """A preallocated buffer that a kernel fills and that is handed on when it is full enough."""

    def __init__(self, take: Callable[[memoryview], object], size: int = 512 << 10) -> None:
        self.take = take
        self.buffer: Bytes = np.empty(size, np.uint8)
        self.used = 0

    def flush(self) -> None:
        if self.used:
            self.take(self.buffer.data[: self.used])
            self.used = 0

    def make_room(self) -> None:
        """After the kernel found no room: empty it, or grow it when it is empty already."""
        if self.used:
            self.flush()
        else:
            self.buffer = np.empty(self.buffer.size * 2, np.uint8)


class _Answer:
    """One query on its way: the connection, the bytes not parsed yet, and the partitions that were asked."""

    def __init__(self, node: str, connection: Connection, partitions: list[int]) -> None:
        self.node, self.connection, self.partitions = node, connection, partitions
        self.buffer: Bytes = np.empty(_BUFFER, np.uint8)
        self.begin(partitions)

    def begin(self, partitions: list[int]) -> None:
        self.partitions = partitions
        self.have = 0
        self.state = np.zeros(8, np.int64)

    def receive(self) -> None:
        self.have += self.connection.receive_into(self.buffer.data[self.have :])

    def keep(self, pos: int) -> None:
        """Drop what was parsed; make the buffer big enough for the next message."""
        left = self.have - pos
        need = int(self.state[3])
        if need > _LARGEST_MESSAGE:
            raise ConnectionLost(f"{self.connection.where} sent a message of {need} bytes: not an Aerospike answer")
        if need > self.buffer.size:
            grown = np.empty(max(need, self.buffer.size * 2), np.uint8)
            grown[:left] = self.buffer[pos : self.have]
            self.buffer = grown
        elif pos:
            self.buffer[:left] = self.buffer[pos : self.have].copy()
        self.have = left


class Drain:
    """Reads partitions through one kernel into one output.

    :param parse: `kernel.encode` or `kernel.digests`.
    :param tally: what was read; a later `run` of the same partitions resumes after it.
    :param on_bytes: called after each received block, for progress.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        parse: Kernel,
        tally: Tally,
        output: Output,
        *,
        filter_expression: bytes = b"",
        no_bins: bool = False,
        set_name: str = "",
        bins: Sequence[str] = (),
        records_per_second: int = 0,
        on_block: Callable[[], None] = lambda: None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.cluster, self.namespace, self.parse, self.tally, self.output = (
            cluster,
            namespace,
            parse,
            tally,
            output,
        )
        self.filter_expression, self.no_bins = filter_expression, no_bins
        self.set_name, self.bins = set_name, bins
        self.records_per_second, self.on_block, self.patience = records_per_second, on_block, patience
        self.resumed = 0
        self._owners: list[str] | None = None
        self._idle: dict[str, _Answer] = {}

    def close(self) -> None:
        for answer in self._idle.values():
            answer.connection.close()
        self._idle.clear()

    def run(self, partitions: Iterable[int]) -> None:
        """Read these partitions to their end; the output is left unflushed.

        :raises PartitionsIncomplete: no partition and no record arrived for `patience` seconds.
        :raises Refused: the server refuses the query for good.
        """
        pending = sorted(partitions)
        last_progress, pause = time.monotonic(), 0.1
        problems: list[str] = []
        while pending:
            before = (len(pending), self.tally.records)
            try:
                if self._owners is None:
                    self._owners = self.cluster.owners(self.namespace)
                done = self._round(pending, self._owners, problems)
            except (ClusterUnreachable, ClusterNotReady, ConnectionLost) as problem:
                problems.append(str(problem))
                done = set()
            pending = [partition for partition in pending if partition not in done]
            if not pending:
                return
            self._owners = None
            if (len(pending), self.tally.records) != before:
                last_progress, pause = time.monotonic(), 0.1
            elif time.monotonic() - last_progress > self.patience:
                raise PartitionsIncomplete(
                    f"read {self.namespace} of cluster {self.cluster.access.cluster}: {len(pending)} partitions "
                    f"({pending[0]}...{pending[-1]}) gave nothing for {self.patience:g} s; last problems: "
                    f"{'; '.join(problems[-3:])}; run the slice again when the cluster is stable"
                )
            self.resumed += 1
            log.warning(
                "%d partitions of %s are asked again: %s",
                len(pending),
                self.namespace,
                problems[-1] if problems else "",
            )
            time.sleep(pause)
            pause = min(2.0, pause * 2)

    # ------------------------------------------------------------------ rounds

    def _round(self, pending: list[int], owners: list[str], problems: list[str]) -> set[int]:
        """Ask every pending partition once; the ones that were read to their end."""
        by_node: dict[str, list[int]] = {}
        for partition in pending:
            by_node.setdefault(owners[partition], []).append(partition)
        self.tally.unavailable[pending] = 0
        done: set[int] = set()
        with selectors.DefaultSelector() as selector:
            try:
                self._read(selector, list(by_node.items()), done, problems)
            finally:
                for key in list(selector.get_map().values()):
                    key.data.connection.close()
        return done

    def _read(
        self,
        selector: selectors.BaseSelector,
        waiting: list[tuple[str, list[int]]],
        done: set[int],
        problems: list[str],
    ) -> None:
        nodes = len(waiting)
        while waiting or selector.get_map():
            while waiting and len(selector.get_map()) < STREAMS:
                node, partitions = waiting.pop()
                try:
                    answer = self._ask(node, partitions, nodes)
                except ConnectionLost as problem:
                    problems.append(str(problem))
                    continue
                selector.register(answer.connection.sock, selectors.EVENT_READ, answer)
            ready = selector.select(READ_SECONDS) if selector.get_map() else []
            answers = [key.data for key, _ in ready] or [key.data for key in selector.get_map().values()]
            for answer in answers:
                if self._step(answer, bool(ready), done, problems):
                    selector.unregister(answer.connection.sock)
                    if answer.connection.sock.fileno() != -1:
                        self._idle[answer.node] = answer

    def _ask(self, node: str, partitions: list[int], nodes: int) -> _Answer:
        answer = self._idle.pop(node, None)
        if answer:
            answer.begin(partitions)
        else:
            answer = _Answer(node, self.cluster.connect(node), partitions)
        resume = [partition for partition in partitions if self.tally.seen[partition]]
        try:
            answer.connection.send(
                partition_query(
                    self.namespace,
                    [partition for partition in partitions if not self.tally.seen[partition]],
                    [self.tally.last[partition].tobytes() for partition in resume],
                    filter_expression=self.filter_expression,
                    no_bins=self.no_bins,
                    set_name=self.set_name,
                    bins=self.bins,
                    records_per_second=max(1, self.records_per_second // nodes) if self.records_per_second else 0,
                )
            )
        except ConnectionLost:
            answer.connection.close()
            raise
        return answer

    def _step(self, answer: _Answer, readable: bool, done: set[int], problems: list[str]) -> bool:
        """Receive and parse what is there; True when this answer is over, well or not."""
        try:
            if not readable:
                raise ConnectionLost(f"{answer.connection.where} sent nothing for {READ_SECONDS:g} s")
            while True:
                answer.receive()
                if self._parse(answer):
                    done.update(p for p in answer.partitions if not self.tally.unavailable[p])
                    missing = [p for p in answer.partitions if self.tally.unavailable[p]]
                    if missing:
                        problems.append(f"{answer.connection.where}: {len(missing)} partitions are not there now")
                    return True
                # TLS may hold decrypted bytes that the selector cannot see.
                if not (pending := getattr(answer.connection.sock, "pending", None)) or not pending():
                    return False
        except (ConnectionLost, ServerBusy) as problem:
            problems.append(str(problem))
            answer.connection.close()
            return True

    def _parse(self, answer: _Answer) -> bool:
        """Everything complete in the buffer goes through the kernel; True at the end of the answer."""
        pos, output = 0, self.output
        while True:
            pos, output.used, status = self.parse(
                answer.buffer, pos, answer.have, output.buffer, output.used, answer.state, *self.tally.arrays
            )
            if status == kernel.OUT_FULL:
                output.make_room()
                continue
            if status == kernel.NEED_MORE:
                answer.keep(pos)
                self.on_block()
                return False
            if status == kernel.BROKEN:
                raise ConnectionLost(
                    f"{answer.connection.where} sent an answer that cannot be read: found "
                    f"{kernel.reason(int(answer.state[1]))}"
                )
            if code := int(answer.state[1]):
                raise result_error(f"query {self.namespace} at {answer.connection.where}", code)
            self.on_block()
            return True
