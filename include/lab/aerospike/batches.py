"""Batches: many record commands in one message, an answer each, then a bare message flagged LAST."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

from dbops_lab.aerospike import operations
from dbops_lab.aerospike.expressions import Expression
from dbops_lab.aerospike.protocol import (
    F_BATCH,
    F_BATCH_WITH_SET,
    F_FILTER,
    F_NAMESPACE,
    F_SET,
    FILTERED_OUT,
    MESSAGE,
    NOT_FOUND,
    OK,
    PARAMETER,
    U16,
    U32,
    Refused,
    Request,
    answer,
    frame,
    last,
    read_fields,
    skip_ops,
)
from dbops_lab.aerospike.records import Namespace

REPORT_ALL = 0x04
SAME, HAS_INFO, HAS_GENERATION, HAS_TTL, HAS_INFO4 = 0x01, 0x02, 0x04, 0x08, 0x10
PLAIN = HAS_INFO | HAS_GENERATION | HAS_TTL  # what clients send with a write
PLAIN_HEAD = struct.Struct(">BBBHIHH")
FORGIVEN = frozenset((OK, NOT_FOUND, FILTERED_OUT))
ANSWER_FRAME = 256 * 1024


class Batch:
    """Rows are read and done one after the other, so a batch of any size can be answered piece by piece."""

    def __init__(
        self,
        request: Request,
        namespaces: Mapping[str, Namespace],
        reach: Callable[[operations.Command], None],
    ) -> None:
        data = request.fields.get(F_BATCH) or request.fields.get(F_BATCH_WITH_SET)
        if data is None or len(data) < 5:
            raise Refused(PARAMETER)
        self._data = data
        self._count = int.from_bytes(data[:4], "big")
        if not self._count:
            raise Refused(PARAMETER)
        self._reports_all = bool(data[4] & REPORT_ALL)
        self._namespaces = namespaces
        self._reach = reach
        self._filter = Expression(request.fields[F_FILTER]) if F_FILTER in request.fields else None
        self._own_filters: dict[bytes, Expression] = {}

    def frames(self) -> Iterator[bytes]:
        parts: list[bytes] = []
        size, result = 0, OK
        try:
            for command in self._commands():
                reply = self._answer(command)
                parts.append(reply)
                size += len(reply)
                if not self._reports_all and reply[5] not in FORGIVEN:
                    result = reply[5]
                    break
                if size >= ANSWER_FRAME:
                    yield frame(MESSAGE, b"".join(parts))
                    parts, size = [], 0
        except Refused as problem:
            result = problem.code
        if parts:
            yield frame(MESSAGE, b"".join(parts))
        yield frame(MESSAGE, last(result))

    def _answer(self, command: operations.Command) -> bytes:
        try:
            self._reach(command)
        except Refused as problem:
            return answer(problem.code, row=command.row)
        return operations.run(command)

    def _commands(self) -> Iterator[operations.Command]:
        data, end = self._data, len(self._data)
        at = 5
        command = operations.Command()
        command.origin = "batch_sub"
        is_first = True
        for _ in range(self._count):
            if at + 25 > end:
                raise Refused(PARAMETER)
            command.row = int.from_bytes(data[at : at + 4], "big")
            command.digest = data[at + 4 : at + 24]
            flags = data[at + 24]
            at += 25
            if flags & SAME:
                if is_first:
                    raise Refused(PARAMETER)
            else:
                at = self._read_row(command, flags, at)
                is_first = False
            yield command

    def _read_head(self, command: operations.Command, flags: int, at: int) -> tuple[int, int]:
        """Any mixture of the optional parts; the number of fields and where they begin come back."""
        data = self._data
        size = 5 + 2 * bool(flags & HAS_INFO) + bool(flags & HAS_INFO4)
        size += 2 * bool(flags & HAS_GENERATION) + 4 * bool(flags & HAS_TTL)
        if at + size + 5 > len(data):
            raise Refused(PARAMETER)
        command.info1, command.info2, command.info3 = data[at], 0, 0
        command.generation = command.ttl = 0
        at += 1
        if flags & HAS_INFO:
            command.info2, command.info3 = data[at], data[at + 1]
            at += 2
        at += bool(flags & HAS_INFO4)
        if flags & HAS_GENERATION:
            command.generation = U16.unpack_from(data, at)[0]
            at += 2
        if flags & HAS_TTL:
            command.ttl = U32.unpack_from(data, at)[0]
            at += 4
        command.n_ops = U16.unpack_from(data, at + 2)[0]
        return U16.unpack_from(data, at)[0], at + 4

    def _read_row(self, command: operations.Command, flags: int, at: int) -> int:
        """Fill in what this row says; where the next one begins comes back."""
        data = self._data
        if flags == PLAIN:
            if at + 18 > len(data):
                raise Refused(PARAMETER)
            (
                command.info1,
                command.info2,
                command.info3,
                command.generation,
                command.ttl,
                n_fields,
                command.n_ops,
            ) = PLAIN_HEAD.unpack_from(data, at)
            at += PLAIN_HEAD.size
        else:
            n_fields, at = self._read_head(command, flags, at)
        command.fields, at = read_fields(data, at, n_fields or 1)
        command.data = data
        command.ops_at = at
        command.ops_end = at = skip_ops(data, at, command.n_ops)
        namespace = self._namespaces.get(command.fields.get(F_NAMESPACE, b"").decode("latin-1"))
        if namespace is None:
            raise Refused(PARAMETER)  # as the real server: the rest of the batch is given up
        command.namespace = namespace
        command.set_name = command.fields.get(F_SET, b"")
        command.filter = self._filter
        own = command.fields.get(F_FILTER)
        if own is not None:
            command.filter = self._own_filters.get(own) or self._own_filters.setdefault(own, Expression(own))
        return at
