"""The statements that no single statement of PostgreSQL does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dbops_lab.redshift import append, vacuum
from dbops_lab.redshift.backend import FAILED, IDLE, BackendError
from dbops_lab.redshift.bulk import Session as BulkSession
from dbops_lab.redshift.errors import unsupported
from dbops_lab.redshift.faults import DURING, Order
from dbops_lab.redshift.statements import Plan, plan
from dbops_lab.redshift.wire import Disconnected

if TYPE_CHECKING:
    from dbops_lab.redshift.copy import CopyDone
    from dbops_lab.redshift.history import History
    from dbops_lab.redshift.session import Session
    from dbops_lab.redshift.unload import UnloadDone

SLICES = 2


def run(made: Plan, session: Session, fault: Order | None) -> int:
    """Run it; how many rows it is counted with.

    :raises BackendError: it failed; what it did in the client's transaction is undone with that.
    """
    is_cut = fault is not None and fault.drop == DURING
    delay = fault.delay if fault is not None else 0.0
    if made.special == "vacuum":
        vacuum.vacuum(made.text, session, delay=delay, is_cut=is_cut)
        return 0
    if delay:
        session.upstream.query(f"SELECT pg_sleep({delay})")
    if made.special == "analyze":
        vacuum.analyze(made.text, session)
        return 0
    if made.special == "append":
        with transaction(session):
            return append.run(made.text, session)
    if session.proxy.s3 is None:
        raise unsupported(f"{made.special.upper()} without S3: start it with --s3-endpoint")
    failing = {"unload_slice": fault.slice} if fault is not None and fault.slice is not None else {}
    bulk = BulkSession(
        session.history.user, session.history.query_id, SLICES, lambda query: translated_query(query), failing
    )
    with transaction(session):
        if made.special == "copy":
            return _copy(made, session, bulk, is_cut=is_cut)
        return _unload(made, session, bulk, is_cut=is_cut)


@contextlib.contextmanager
def transaction(session: Session) -> Iterator[None]:
    """The client's transaction, or one of its own that ends with the block."""
    if session.upstream.status != IDLE:
        yield
        return
    session.upstream.execute("BEGIN")
    try:
        yield
    except BackendError:
        session.upstream.is_cancelled = False
        session.upstream.execute("ROLLBACK")
        raise
    session.upstream.execute("COMMIT")


def translated_query(query: str) -> str:
    """A SELECT of Redshift as PostgreSQL takes it."""
    made = plan(query)
    if made.kind != "SELECT":
        raise BackendError("0A000", "UNLOAD source must be a SELECT statement")
    return made.sql


# ---------------------------------------------------------------------------------------------- COPY


def _copy(made: Plan, session: Session, bulk: BulkSession, *, is_cut: bool) -> int:
    from dbops_lab.redshift import copy

    try:
        done = copy.run(made.text, session.upstream, session.proxy.s3, bulk)
    except copy.CopyFailed as failed:
        _record_copy(failed.done, session.history)
        raise
    if is_cut:
        raise Disconnected
    name = f"SELECT {done.table_id}::regclass::text"
    session.upstream.query(f"SELECT rs.changed(({name}), 'load', {done.loaded_rows})")
    _record_copy(done, session.history)
    session.history.last |= {"pg_last_copy_id": session.history.query_id, "pg_last_copy_count": done.loaded_rows}
    for said in done.notices:
        session.notice("00000", said, severity="INFO")
    return done.loaded_rows


def _record_copy(done: CopyDone, history: History) -> None:
    history.record(
        "load", status=done.status, table_id=done.table_id, table_name=done.table, started=_naive(done.started),
        ended=_naive(done.ended), data_source=done.data_source, file_format=done.file_format,
        loaded_rows=done.loaded_rows, loaded_bytes=done.loaded_bytes, files=done.source_file_count,
        errors=done.error_count, error=done.error_message or None,
    )  # fmt: skip
    for number, file in enumerate(done.files):
        history.record(
            "load_file", table_id=done.table_id, at=_naive(file.ended), started=_naive(file.started),
            filename=file.filename, file_format=done.file_format, lines=file.lines_scanned,
            bytes=file.bytes_scanned, slice=number % SLICES, status=done.status,
        )  # fmt: skip
    for error in done.errors:
        history.record(
            "load_error", table_id=done.table_id, table_name=done.table, at=_naive(done.ended), **vars(error)
        )


# ---------------------------------------------------------------------------------------------- UNLOAD


class _Cut:
    """S3 until the manifest comes: there the connection ends."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    def put_object(self, **words: Any) -> None:
        raise Disconnected


def _unload(made: Plan, session: Session, bulk: BulkSession, *, is_cut: bool) -> int:
    from dbops_lab.redshift import unload

    s3 = session.proxy.s3
    try:
        done = unload.run(made.text, session.upstream, _Cut(s3) if is_cut else s3, bulk)
    except unload.UnloadFailed as failed:
        _record_unload(failed.done, session.history)
        raise
    if is_cut:
        raise Disconnected
    _record_unload(done, session.history)
    session.history.last |= {"pg_last_unload_id": session.history.query_id, "pg_last_unload_count": done.rows}
    for said in done.notices:
        session.notice("00000", said, severity="INFO")
    return done.rows


def _record_unload(done: UnloadDone, history: History) -> None:
    history.record(
        "unload", status=done.status, started=_naive(done.started), ended=_naive(done.ended),
        file_format=done.file_format, rows=done.rows, bytes=done.size, files=len(done.files),
        error=done.error_message or None, destination=done.location, compression=done.compression,
    )  # fmt: skip
    for number, file in enumerate(done.files):
        history.record(
            "unload_file", started=_naive(file.started), ended=_naive(file.ended), path=file.path,
            rows=file.line_count, bytes=file.transfer_size, file_format=done.file_format, slice=number % SLICES,
        )  # fmt: skip


def _naive(at: datetime) -> datetime:
    """As the system views have it: UTC without saying so."""
    return at.astimezone(UTC).replace(tzinfo=None)


__all__ = ["FAILED", "SLICES", "run", "transaction", "translated_query"]
