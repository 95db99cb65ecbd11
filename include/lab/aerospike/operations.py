"""Commands on one record: read, write, delete. A batch row is such a command too."""

from __future__ import annotations

import struct
from collections.abc import Callable

from dbops_lab.aerospike import cdt, expressions, hll, particles
from dbops_lab.aerospike.protocol import (
    BIN_NAME,
    BLOB,
    CREATE_ONLY,
    CREATE_OR_REPLACE,
    DELETE,
    DURABLE_DELETE,
    ENTERPRISE_ONLY,
    EXISTS,
    F_INDEX_RANGE,
    F_KEY,
    F_TRANSACTION,
    F_UDF_FILE,
    FILTERED_OUT,
    FLOAT,
    FORBIDDEN,
    GENERATION_EQUAL,
    GENERATION_GREATER,
    GET_ALL,
    INCOMPATIBLE_TYPE,
    INTEGER,
    KEY_MISMATCH,
    LANGUAGE_BLOBS,
    LONGEST_TTL,
    NIL,
    NO_BINS,
    NO_ROOM,
    NOT_FOUND,
    OK,
    OP,
    OP_ADD,
    OP_APPEND,
    OP_CDT_MODIFY,
    OP_CDT_READ,
    OP_DELETE_ALL,
    OP_HLL_MODIFY,
    OP_HLL_READ,
    OP_PREPEND,
    OP_READ,
    OP_TOUCH,
    OP_WRITE,
    PARAMETER,
    READ,
    REPLACE_ONLY,
    RESPOND_ALL,
    STRING,
    TOO_BIG,
    TTL_KEEP,
    TTL_NEVER,
    UNSUPPORTED,
    UPDATE_ONLY,
    WRITE,
    WRONG_GENERATION,
    Operation,
    Refused,
    answer,
    op,
    read_ops,
)
from dbops_lab.aerospike.records import FLAT_OVERHEAD, Namespace, Record, pack_bins

LONGEST_BIN_NAME, LONGEST_SET_NAME = 15, 63
LARGEST_RECORD = 1 << 20
MOST_BINS = 32_767
MODIFIES = frozenset((OP_ADD, OP_APPEND, OP_PREPEND, OP_CDT_MODIFY, OP_HLL_MODIFY, OP_DELETE_ALL))
READS = frozenset((OP_READ, OP_CDT_READ, OP_HLL_READ))
KNOWN = MODIFIES | READS | {OP_WRITE, OP_TOUCH}

NOT_HERE = frozenset((F_UDF_FILE, F_TRANSACTION, F_INDEX_RANGE))  # fields of commands that are not supported

Bins = dict[bytes, tuple[int, bytes]]


class Command:
    """One record command: a whole message or a row of a batch."""

    __slots__ = (
        "data",
        "digest",
        "fields",
        "filter",
        "generation",
        "info1",
        "info2",
        "info3",
        "n_ops",
        "namespace",
        "ops_at",
        "ops_end",
        "origin",
        "row",
        "set_name",
        "ttl",
    )

    data: bytes
    digest: bytes
    fields: dict[int, bytes]
    filter: expressions.Expression | None
    generation: int
    info1: int
    info2: int
    info3: int
    n_ops: int
    namespace: Namespace
    ops_at: int
    ops_end: int
    origin: str  # what its counters begin with
    row: int
    set_name: bytes
    ttl: int


def run(command: Command) -> bytes:
    """The answer, one message. Refusals are answers as well."""
    record: Record | None = None
    namespace = command.namespace
    kind = "write" if command.info2 & WRITE else "read"
    try:
        if len(command.digest) != 20 or len(command.set_name) > LONGEST_SET_NAME:
            raise Refused(PARAMETER)
        if not NOT_HERE.isdisjoint(command.fields):
            raise Refused(UNSUPPORTED)
        record = namespace.read(command.digest)
        if command.info2 & WRITE:
            if command.info2 & DELETE:
                kind = "delete"
                reply = _delete(command, record)
            else:
                reply = _write(command, record)
        elif command.info1 & READ:
            if record is not None and namespace.has_expired(record.void_time):
                record = None
            reply = _read(command, record)
        else:
            raise Refused(PARAMETER)
    except Refused as problem:
        if problem.code == FILTERED_OUT:
            namespace.count(f"{command.origin}_{kind}_filtered_out")
        elif problem.code == NOT_FOUND and kind != "write":
            namespace.count(f"{command.origin}_{kind}_not_found")
        else:
            namespace.count(f"{command.origin}_{kind}_error")
        if record is None:
            return answer(problem.code, row=command.row)
        return answer(problem.code, record.generation, record.void_time, row=command.row)
    namespace.count(f"{command.origin}_{kind}_success")
    return reply


def _check_filter_and_key(command: Command, record: Record) -> None:
    if command.filter is not None and not command.filter.holds(command.namespace, record):
        raise Refused(FILTERED_OUT)
    key = command.fields.get(F_KEY)
    if key is not None and record.key is not None and key != record.key:
        raise Refused(KEY_MISMATCH)


# ---------------------------------------------------------------------- read


def _read(command: Command, record: Record | None) -> bytes:
    if record is None:
        raise Refused(NOT_FOUND)
    if command.set_name and record.set_name != command.set_name:
        raise Refused(PARAMETER)
    _check_filter_and_key(command, record)
    n_ops, ops = 0, b""
    if not command.info1 & NO_BINS:
        if command.info1 & GET_ALL:
            n_ops, ops = record.n_ops, record.ops
        else:
            n_ops, ops = _answer_reads(command, record)
    return answer(OK, record.generation, record.void_time, row=command.row, n_ops=n_ops, ops=ops)


def _answer_reads(command: Command, record: Record) -> tuple[int, bytes]:
    if not command.n_ops:
        raise Refused(PARAMETER)
    bins = record.bins()
    parts = []
    for operation in read_ops(command.data, command.ops_at, command.n_ops):
        if len(operation.name) > LONGEST_BIN_NAME:
            raise Refused(BIN_NAME)
        found = _read_op(operation, bins)
        if found is not None or command.info2 & RESPOND_ALL:
            parts.append(op(operation.code, operation.name, *(found or (NIL, b""))))
    return len(parts), b"".join(parts)


def _read_op(operation: Operation, bins: Bins) -> tuple[int, bytes] | None:
    code = operation.code
    if code not in READS:
        raise Refused(UNSUPPORTED if code in (7, 12) else PARAMETER)
    value = bins.get(operation.name)
    if code == OP_READ or value is None:
        return value
    return cdt.read(value, operation.value) if code == OP_CDT_READ else hll.read(value, operation.value)


# ---------------------------------------------------------------------- delete


def _delete(command: Command, record: Record | None) -> bytes:
    """Of an expired record as well, as long as it was not reaped."""
    if command.info2 & DURABLE_DELETE:
        raise Refused(ENTERPRISE_ONLY)
    if record is None:
        raise Refused(NOT_FOUND)
    _check_generation(command, record.generation)
    if command.set_name and record.set_name != command.set_name:
        raise Refused(PARAMETER)
    _check_filter_and_key(command, record)
    command.namespace.delete(command.digest, record)
    return answer(OK, row=command.row)


# ---------------------------------------------------------------------- write


def _check_generation(command: Command, current: int) -> None:
    if command.info2 & GENERATION_EQUAL and command.generation != current:
        raise Refused(WRONG_GENERATION)
    if command.info2 & GENERATION_GREATER and command.generation <= current:
        raise Refused(WRONG_GENERATION)


def _write(command: Command, record: Record | None) -> bytes:
    if not command.n_ops:
        raise Refused(PARAMETER)
    namespace = command.namespace
    if namespace.stop_writes:
        raise Refused(NO_ROOM)
    replaces = bool(command.info3 & (CREATE_OR_REPLACE | REPLACE_ONLY))
    if record is not None and namespace.has_expired(record.void_time):
        namespace.delete(command.digest, record)
        record = None

    only_writes = _only_writes(command)
    operations: list[Operation] = []
    must_exist = bool(command.info3 & (UPDATE_ONLY | REPLACE_ONLY))
    if not only_writes:
        operations = read_ops(command.data, command.ops_at, command.n_ops)
        must_exist |= _check_operations(command, operations, replaces=replaces)
    if record is None and must_exist:
        raise Refused(NOT_FOUND)
    if record is not None and command.info2 & CREATE_ONLY:
        raise Refused(EXISTS)
    _check_generation(command, record.generation if record else 0)
    if record is not None:
        if record.set_name != command.set_name:
            raise Refused(PARAMETER)
        _check_filter_and_key(command, record)
    void_time = _void_time(command, record)

    generation = 1 if record is None else record.generation % 0xFFFF + 1
    n_answers, answers = 0, b""
    if only_writes is not None and (record is None or replaces):
        n_ops, ops = command.n_ops, only_writes
        if command.info2 & RESPOND_ALL:
            n_answers, answers = _write_acknowledgements(command)
    else:
        bins: Bins = {} if record is None or replaces else record.bins()
        if only_writes is not None:
            operations = read_ops(command.data, command.ops_at, command.n_ops)
        n_answers, answers = _apply(command, operations, bins)
        if not bins:
            if record is None:
                raise Refused(NOT_FOUND)
            if command.info2 & DURABLE_DELETE:
                raise Refused(ENTERPRISE_ONLY)
            namespace.delete(command.digest, record)
            return answer(OK, row=command.row, n_ops=n_answers, ops=answers)
        if len(bins) > MOST_BINS:
            raise Refused(PARAMETER)
        n_ops, ops = len(bins), pack_bins(bins)

    key = command.fields.get(F_KEY)
    if key is None and record is not None:
        key = record.key
    if len(ops) - n_ops + FLAT_OVERHEAD + len(key or b"") + len(command.set_name) + 1 > LARGEST_RECORD:
        raise Refused(TOO_BIG)
    wire = namespace.message(command.digest, generation, void_time, command.set_name, key, n_ops, ops)
    namespace.write(command.digest, wire, command.set_name, record, namespace.clock.now_ms())
    return answer(OK, generation, void_time, row=command.row, n_ops=n_answers, ops=answers)


def _void_time(command: Command, record: Record | None) -> int:
    ttl = command.ttl
    if ttl == TTL_KEEP:
        if record is not None:
            return record.void_time
        ttl = 0
    if ttl == 0:
        ttl = command.namespace.default_ttl or TTL_NEVER
    if ttl == TTL_NEVER:
        return 0
    if ttl > LONGEST_TTL:
        raise Refused(PARAMETER)
    if not command.namespace.nsup_period:
        raise Refused(FORBIDDEN)
    return command.namespace.clock.now() + ttl


def _only_writes(command: Command) -> bytes | None:
    """The bins as they are kept, when all that the command does is to set different bins: the quick way."""
    data, at = command.data, command.ops_at
    ops = bytearray(data[at : command.ops_end])
    shift, names = at, set()
    unpack, as_sent, stored = OP.unpack_from, particles.AS_SENT, particles.stored
    for _ in range(command.n_ops):
        size, code, particle, _, name_size = unpack(data, at)
        value_at = at + 8 + name_size
        if code != OP_WRITE or not 0 < name_size <= LONGEST_BIN_NAME or particle == NIL:
            return None
        names.add(data[at + 8 : value_at])
        ops[at + 4 - shift] = OP_READ
        ops[at + 6 - shift] = 0
        at += 4 + size
        if particle not in as_sent and not (particle == INTEGER and at - value_at == 8):
            value = data[value_at:at]
            if stored(particle, value) != value:
                return None
    if len(names) != command.n_ops:
        return None
    return bytes(ops)


def _write_acknowledgements(command: Command) -> tuple[int, bytes]:
    data, at = command.data, command.ops_at
    parts: list[bytes] = []
    for _ in range(command.n_ops):
        name_size = data[at + 7]
        parts += (
            struct.pack(">IBBBB", 4 + name_size, OP_WRITE, NIL, 0, name_size),
            data[at + 8 : at + 8 + name_size],
        )
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return command.n_ops, b"".join(parts)


def _check_operations(command: Command, operations: list[Operation], *, replaces: bool) -> bool:
    """Whether the record must exist. Raises for a combination that the server refuses."""
    must_exist = has_read = has_read_all = has_result = False
    for operation in operations:
        code = operation.code
        if code == OP_TOUCH:
            if replaces:
                raise Refused(PARAMETER)
            must_exist = True
            continue
        if len(operation.name) > LONGEST_BIN_NAME:
            raise Refused(BIN_NAME)
        if code not in KNOWN:
            raise Refused(UNSUPPORTED if code in (7, 8, 12, 13) else PARAMETER)
        if replaces and (code in MODIFIES or (code == OP_WRITE and operation.particle == NIL)):
            raise Refused(PARAMETER)
        if code == OP_READ and not operation.name and command.info1 & GET_ALL:
            if command.info2 & RESPOND_ALL or has_read_all:
                raise Refused(PARAMETER)
            has_read = has_read_all = True
        elif code in READS:
            has_read = has_result = True
        elif code in (OP_CDT_MODIFY, OP_HLL_MODIFY):
            has_result = True
    if has_read and not command.info1 & READ:
        raise Refused(PARAMETER)
    if has_read_all and has_result:
        raise Refused(PARAMETER)
    if command.info1 & GET_ALL and not has_read_all:
        raise Refused(PARAMETER)
    return must_exist


def _apply(command: Command, operations: list[Operation], bins: Bins) -> tuple[int, bytes]:
    """Change the bins in place; the answers to the operations come back."""
    respond_all = bool(command.info2 & RESPOND_ALL)
    answers: list[bytes] = []
    for operation in operations:
        code, particle, name, value = operation
        result: tuple[int, bytes] | None = None
        responds = respond_all
        if code == OP_TOUCH:
            continue
        if code == OP_WRITE:
            if particle == NIL:
                bins.pop(name, None)
            else:
                bins[name] = (particle, particles.stored(particle, value))
        elif code == OP_DELETE_ALL:
            bins.clear()
        elif code in MODIFY:
            bins[name] = MODIFY[code](bins.get(name), particle, value)
        elif code in (OP_CDT_MODIFY, OP_HLL_MODIFY):
            modify = cdt.modify if code == OP_CDT_MODIFY else hll.modify
            changed, result = modify(bins.get(name), value)
            responds |= result is not None
            if changed is not None:
                bins[name] = changed
        elif code == OP_READ and not name and command.info1 & GET_ALL:
            answers += [op(OP_READ, item, *content) for item, content in bins.items()]
            continue
        else:
            result = _read_op(operation, bins)
            responds |= result is not None or code != OP_READ
        if responds:
            answers.append(op(code, name, *(result or (NIL, b""))))
    return len(answers), b"".join(answers)


def _add(old: tuple[int, bytes] | None, particle: int, value: bytes) -> tuple[int, bytes]:
    if particle not in (INTEGER, FLOAT):
        raise Refused(PARAMETER)
    value = particles.stored(particle, value)
    if old is None:
        return particle, value
    if old[0] != particle:
        raise Refused(INCOMPATIBLE_TYPE)
    if particle == FLOAT:
        return FLOAT, struct.pack(">d", struct.unpack(">d", old[1])[0] + struct.unpack(">d", value)[0])
    total = int.from_bytes(old[1], "big") + int.from_bytes(value, "big")
    return INTEGER, (total & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "big")


def _joined(old: tuple[int, bytes] | None, particle: int, value: bytes, *, in_front: bool) -> tuple[int, bytes]:
    if particle not in (STRING, BLOB) and particle not in LANGUAGE_BLOBS:
        raise Refused(PARAMETER)
    if old is None:
        return particle, value
    if old[0] != particle:
        raise Refused(INCOMPATIBLE_TYPE)
    return particle, value + old[1] if in_front else old[1] + value


def _append(old: tuple[int, bytes] | None, particle: int, value: bytes) -> tuple[int, bytes]:
    return _joined(old, particle, value, in_front=False)


def _prepend(old: tuple[int, bytes] | None, particle: int, value: bytes) -> tuple[int, bytes]:
    return _joined(old, particle, value, in_front=True)


MODIFY: dict[int, Callable[[tuple[int, bytes] | None, int, bytes], tuple[int, bytes]]] = {
    OP_ADD: _add,
    OP_APPEND: _append,
    OP_PREPEND: _prepend,
}
