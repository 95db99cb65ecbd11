"""VACUUM and ANALYZE: what they do to a table's figures, what they refuse, and what they leave in the history."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbops_lab.redshift.ddl import Reader
from dbops_lab.redshift.errors import BackendError, syntax_error
from dbops_lab.redshift.journal import now
from dbops_lab.redshift.lexer import Token, identifier, literal, tokenize
from dbops_lab.redshift.rewrite import Group, tree, word
from dbops_lab.redshift.wire import Disconnected

if TYPE_CHECKING:
    from dbops_lab.redshift.session import Session

FULL, SORT, DELETE, REINDEX, RECLUSTER = "full", "sort", "delete", "reindex", "recluster"
THRESHOLD = 95
RUNNING = threading.Lock()
"""One VACUUM at a time on a cluster; the process is the cluster."""


@dataclass(frozen=True)
class Command:
    """A VACUUM statement."""

    kind: str
    table: str  # quoted; empty = all tables
    threshold: int
    is_boosted: bool


@dataclass(frozen=True)
class Table:
    """A table as VACUUM and ANALYZE find it."""

    id: int
    schema: str
    name: str
    may_vacuum: bool
    may_analyze: bool
    sortstyle: str
    sortkeys: int
    diststyle: str
    physical: int
    deleted: int
    unsorted: int
    modified: int
    analyzed: int | None
    megabytes: int

    @property
    def sorted_percent(self) -> float:
        return 100.0 * (self.physical - self.unsorted) / self.physical if self.physical else 100.0


def parse(statement: str) -> Command:
    reader = Reader(tree(tokenize(statement)))
    reader.expect("vacuum")
    kind = FULL
    for name, words in ((FULL, ("full",)), (SORT, ("sort", "only")), (DELETE, ("delete", "only")),
                        (REINDEX, ("reindex",)), (RECLUSTER, ("recluster",))):  # fmt: skip
        if reader.accept(*words):
            kind = name
            break
    table = "" if reader.is_done or word(reader.next) in ("to", "boost") else reader.qualified()
    threshold, has_threshold = THRESHOLD, False
    if reader.accept("to"):
        node = reader.take()
        if not isinstance(node, Token) or node.kind != "number" or not 0 <= float(node.text) <= 100:
            raise BackendError("22023", "the threshold of VACUUM must be an integer between 0 and 100")
        threshold, has_threshold = int(node.text), True
        reader.expect("percent")
    is_boosted = reader.accept("boost")
    if not reader.is_done:
        reader.fail()
    if not table and (has_threshold or is_boosted or kind in (REINDEX, RECLUSTER)):
        raise syntax_error("")
    if kind in (REINDEX, RECLUSTER) and has_threshold:
        raise BackendError("0A000", f"VACUUM {kind.upper()} is not supported with TO threshold PERCENT")
    if kind == REINDEX and is_boosted:
        raise BackendError("0A000", "VACUUM REINDEX is not supported with BOOST")
    return Command(kind, table, threshold, is_boosted)


def vacuum(statement: str, session: Session, *, delay: float = 0.0, is_cut: bool = False) -> None:
    """Run it in the client's session.

    :param delay: seconds that it takes longer for each table (a fault that was ordered).
    :param is_cut: the connection ends when it has started on its first table (a fault that was ordered).
    """
    command = parse(statement)
    tables = find(session, command.table)
    if not RUNNING.acquire(blocking=False):
        raise BackendError("55000", "VACUUM is running", hint="re-execute after other vacuum finished")
    try:
        for table in tables:
            _vacuum_table(command, table, session, delay=delay, is_cut=is_cut)
    finally:
        RUNNING.release()


def find(session: Session, name: str) -> list[Table]:
    """The table of that name, or all of the database.

    :raises BackendError: there is none.
    """
    which = f"= {literal(name)}::regclass" if name else "IS NOT NULL"
    _, rows = session.upstream.query(f"SELECT * FROM rs.maintained WHERE relid {which} ORDER BY relid")
    if name and not rows:
        raise BackendError("42809", f"{name} is not a table")
    return [_table(row) for row in rows]


def _table(row: tuple[str | None, ...]) -> Table:
    relid, schema, name, is_own, may_vacuum, may_analyze, style, keys, dist, *figures, analyzed, size = row
    physical, deleted, unsorted, modified = (int(value or 0) for value in figures)
    return Table(
        id=int(relid or 0), schema=schema or "", name=name or "", may_vacuum="t" in (is_own, may_vacuum),
        may_analyze="t" in (is_own, may_analyze), sortstyle=style or "", sortkeys=int(keys or 0), diststyle=dist or "",
        physical=physical, deleted=deleted, unsorted=unsorted, modified=modified,
        analyzed=None if analyzed is None else int(analyzed), megabytes=int(size or 0),
    )  # fmt: skip


def _vacuum_table(command: Command, table: Table, session: Session, *, delay: float, is_cut: bool) -> None:
    if command.kind == REINDEX and table.sortstyle != "interleaved":
        raise BackendError("0A000", f'VACUUM REINDEX: table "{table.name}" has no interleaved sort key')
    if command.kind == RECLUSTER and (table.sortstyle == "interleaved" or table.diststyle == "all"):
        what = "interleaved sort keys" if table.sortstyle == "interleaved" else "DISTSTYLE ALL"
        raise BackendError("0A000", f"VACUUM RECLUSTER is not supported on tables with {what}")
    if not table.may_vacuum:
        session.notice("01000", f'skipping "{table.name}" --- only table or database owner can vacuum it')
        _record(command, table, session, "Skipped")
        return
    skipped, sorts, deletes = _phases(command, table)
    if skipped:
        _record(command, table, session, skipped)
        return
    started = _record(command, table, session, _started(command, sorts=sorts, deletes=deletes))
    if delay:
        session.upstream.query(f"SELECT pg_sleep({delay})")
    if is_cut:
        raise Disconnected
    reclaimed = _reclaimable(command, table, session, is_full=sorts) if deletes else 0
    freed = _run(table, session, reclaimed=reclaimed, sorts=sorts, part=0.9 if command.kind == RECLUSTER else 1.0)
    session.history.record(
        "vacuum", **started, ended=now(), status="Finished", rows=table.physical - reclaimed, reclaimed=reclaimed,
        freed=freed, sorted_after=table.physical - reclaimed - (0 if sorts else table.unsorted),
        blocks=table.megabytes - freed,
    )  # fmt: skip


def _phases(command: Command, table: Table) -> tuple[str, bool, bool]:
    """Why it is skipped, whether it sorts, whether it deletes."""
    if table.physical == 0:
        return "Skipped (0 rows)", False, False
    has_key = table.sortkeys > 0
    is_sorted = not has_key or table.unsorted == 0
    is_enough = is_sorted or (command.threshold < 100 and table.sorted_percent >= command.threshold)
    if command.kind == SORT:
        if is_sorted:
            return "Skipped (sort only)", False, False
        return (f"Skipped (sort only, sorted>={command.threshold}%)", False, False) if is_enough else ("", True, False)
    if command.kind == DELETE:
        return ("Skipped (delete only)", False, False) if table.deleted == 0 else ("", False, True)
    if command.kind == RECLUSTER:
        return ("Skipped", False, False) if is_sorted else ("", True, False)
    if command.kind == REINDEX:
        return "", True, True
    if is_enough and table.deleted == 0:
        return ("Skipped" if is_sorted else f"Skipped(sorted>={command.threshold}%)"), False, False
    return "", not is_enough, True


def _started(command: Command, *, sorts: bool, deletes: bool) -> str:
    if command.kind == REINDEX:
        return "Started Reindex"
    if not sorts:
        return (
            "Started Delete Only" if command.kind == DELETE else f"Started Delete Only (Sorted >= {command.threshold}%)"
        )
    return "Started" if deletes else "Started Sort Only"


def _reclaimable(command: Command, table: Table, session: Session, *, is_full: bool) -> int:
    """How many of the deleted rows can go: none while an older transaction is open that might see them."""
    _, rows = session.upstream.query("SELECT rs.has_older_transactions()")
    if rows[0][0] == "t" or command.threshold == 0:
        return 0
    if is_full or command.threshold == 100:
        return table.deleted
    live = table.physical - table.deleted
    allowed = int(live * (100 - command.threshold) / command.threshold)
    return table.deleted if table.deleted > allowed else 0


def _run(table: Table, session: Session, *, reclaimed: int, sorts: bool, part: float) -> int:
    """The work itself; how many megabytes it freed."""
    if reclaimed:
        session.proxy.compact(table.id)
        session.upstream.query(f"SELECT rs.vacuumed({table.id}, {reclaimed}, false, 1)")
        session.proxy.vacuum_postgres(table.id)
    if sorts:
        session.upstream.query(f"SELECT rs.vacuumed({table.id}, 0, true, {part})")
    _, rows = session.upstream.query(f"SELECT rs.megabytes({table.id})")
    return table.megabytes - int(rows[0][0] or 0)


def _record(command: Command, table: Table, session: Session, status: str) -> dict[str, object]:
    common = {
        "table_id": table.id, "schema_name": table.schema, "table_name": table.name, "form": command.kind,
        "started": now(), "rows_before": table.physical, "megabytes_before": table.megabytes,
        "sorted_before": table.physical - table.unsorted, "reclaimable": table.deleted, "threshold": command.threshold,
    }  # fmt: skip
    session.history.record(
        "vacuum", **common, ended=now() if status.startswith("Skipped") else None, status=status, rows=table.physical,
        reclaimed=0, freed=0, sorted_after=table.physical - table.unsorted, blocks=table.megabytes,
    )  # fmt: skip
    return common


# ---------------------------------------------------------------------------------------------- ANALYZE


def analyze(statement: str, session: Session) -> None:
    """`ANALYZE [VERBOSE] [table [(columns)]] [PREDICATE COLUMNS | ALL COLUMNS]`."""
    reader = Reader(tree(tokenize(statement)))
    reader.take()
    reader.accept("verbose")
    name = "" if reader.is_done or word(reader.next) in ("predicate", "all") else reader.qualified()
    columns = reader.names() if isinstance(reader.next, Group) else []
    is_predicate = reader.accept("predicate", "columns")
    if not is_predicate:
        reader.accept("all", "columns")
    if not reader.is_done:
        reader.fail()
    threshold = float(session.history.settings.get("analyze_threshold_percent", "10") or 10)
    for table in find(session, name):
        if not table.may_analyze:
            session.notice("01000", f'skipping "{table.name}" --- only table or database owner can analyze it')
            continue
        _analyze_table(table, session, threshold, columns, is_predicate=is_predicate)


def _analyze_table(table: Table, session: Session, threshold: float, columns: list[str], *, is_predicate: bool) -> None:
    started = now()
    live = table.physical - table.deleted
    changed = 100.0 * table.modified / table.physical if table.physical else 0.0
    is_fresh = table.analyzed is not None and (table.modified == 0 or changed < threshold)
    status = "Skipped" if is_fresh else "PredicateColumn" if is_predicate else "Full"
    if not is_fresh:
        listed = f" ({', '.join(map(identifier, columns))})" if columns else ""
        session.upstream.query(f"SELECT rs.analyzed({table.id}, {live})")
        session.upstream.query(f"ANALYZE {identifier(table.schema)}.{identifier(table.name)}{listed}")
    session.history.record(
        "analyze", table_id=table.id, schema_name=table.schema, table_name=table.name, status=status, started=started,
        ended=now(), rows=live, modified=table.modified, threshold=threshold,
    )  # fmt: skip
