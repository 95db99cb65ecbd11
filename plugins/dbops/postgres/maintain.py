"""Daily maintenance: which tables and indexes need work (`plan`), and doing it one by one (`carry_out`).

A plan is made and stored before anything happens, and carried out as it stands. Each step looks again right before it
works: a table that somebody works on, a lock that is held, or the end of the window leave it for the next day. Every
step may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from dbops.errors import DbopsError
from dbops.platform import PostgresMaintenance
from dbops.postgres.reports import run_report, text_for
from dbops.postgres.session import LockHeld, PostgresUnreachable, RightsMissing, Session, StatementCancelled
from dbops.sql import quoted

MB = 1 << 20
LEAST_LEFT = timedelta(seconds=1)
"""With less until the end of the window nothing is started."""


class Work(StrEnum):
    """In the order in which it is done."""

    DROP = "drop_leftover"
    FREEZE = "vacuum_freeze"
    VACUUM = "vacuum"
    ANALYZE = "analyze"
    REINDEX = "reindex"


@dataclass(frozen=True)
class Step:
    """One statement on one table or index."""

    work: Work
    schema: str
    table: str
    index: str | None
    oid: int
    """Of the table."""
    bytes: int
    reason: str

    @property
    def target(self) -> str:
        return f"{self.schema}.{self.index or self.table}"

    @property
    def statement(self) -> str:
        table = quoted(self.schema, self.table)
        index = quoted(self.schema, self.index) if self.index else ""
        return {
            Work.DROP: f"drop index concurrently if exists {index}",
            Work.FREEZE: f"vacuum (freeze, analyze) {table}",
            Work.VACUUM: f"vacuum (analyze) {table}",
            Work.ANALYZE: f"analyze {table}",
            Work.REINDEX: f"reindex index concurrently {index}",
        }[self.work]


@dataclass(frozen=True)
class Plan:
    """What one database needs; `left` is what was seen and is not done, with the reason."""

    database: str
    steps: tuple[Step, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {"database": self.database, "steps": [asdict(step) for step in self.steps], "left": dict(self.left)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Plan:
        steps = tuple(Step(**(step | {"work": Work(step["work"])})) for step in document["steps"])
        return cls(document["database"], steps, document["left"])


Result = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    step: Step
    result: Result
    message: str
    started_at: datetime
    finished_at: datetime
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    error: DbopsError | None = None
    """Why it failed, or what made it skip when trying again may help."""


# --- the plan -----------------------------------------------------------------------------------------------


def plan(session: Session, settings: PostgresMaintenance) -> Plan:
    """What the database of this session needs, by its figures now.

    :raises RightsMissing: the role may maintain none of the tables.
    """
    tables = session.query(text_for("table_figures", session.version)).dicts()
    if tables and not any(table["may_maintain"] for table in tables):
        raise RightsMissing(
            f"{session.where}: role {session.info.login} may maintain none of {len(tables)} tables; it must own "
            "them, or from PostgreSQL 17 on have the role pg_maintain: include/sql/postgres/grants.sql",
            "42501",
        )
    ((xids, multixacts),) = session.rows(text_for("freeze_limits", session.version))
    left: dict[str, str] = {}
    steps = []
    for table in tables:
        step = judge_table(table, settings, int(xids), int(multixacts))
        if step is not None and not table["may_maintain"]:
            left[step.target] = f"needs {step.work} ({step.reason}), but role {session.info.login} may not"
        elif step is not None:
            steps.append(step)
    allowed = {f"{table['schema']}.{table['name']}": table for table in tables}
    try:
        more, also_left = _indexes(session, settings, allowed)
    except LockHeld as error:  # of a single index; the tables are known and need not wait for it
        more, also_left = [], {"indexes": f"could not be looked at: {error}"}
    order = list(Work)
    steps = sorted([*steps, *more], key=lambda step: (order.index(step.work), step.bytes, step.target))
    return Plan(str(session.info.schema), tuple(steps), left | also_left)


def judge_table(
    table: Mapping[str, Any], settings: PostgresMaintenance, freeze_xids: int, freeze_multixacts: int
) -> Step | None:
    """What one table needs, by a row of table_figures.sql; VACUUM analyzes too.

    :param freeze_xids, freeze_multixacts: ages at which autovacuum freezes, whatever else it does.
    """
    age = max(table["xid_age"] / freeze_xids, table["multixact_age"] / freeze_multixacts) * 100
    rows = table["live"] + table["dead"]
    dead = 100 * table["dead"] / rows if rows else 0.0
    changed = 100 * table["changed"] / max(table["live"], 1)

    def step(work: Work, reason: str) -> Step:
        return Step(work, table["schema"], table["name"], None, table["oid"], table["bytes"], reason)

    if age >= settings.freeze_percent:
        return step(Work.FREEZE, f"its oldest row is at {age:.0f} % of the age at which autovacuum is forced")
    if table["dead"] >= settings.dead_rows and dead >= settings.dead_percent:
        return step(Work.VACUUM, f"{table['dead']:,} dead rows, {dead:.0f} %")
    if table["changed"] >= settings.changed_rows and changed >= settings.changed_percent:
        return step(Work.ANALYZE, f"{table['changed']:,} rows changed since the statistics were made, {changed:.0f} %")
    if table["analyzed_at"] is None and table["live"] > 0:
        return step(Work.ANALYZE, "it was never analyzed")
    return None


def _indexes(
    session: Session, settings: PostgresMaintenance, tables: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Step], dict[str, str]]:
    owners = {
        (row["schema"], row["index"]): row
        for row in session.query(text_for("index_tables", session.version)).dicts()
    }  # fmt: skip
    steps: list[Step] = []
    left: dict[str, str] = {}

    def add(work: Work, row: Mapping[str, Any], reason: str) -> None:
        name = f"{row['schema']}.{row['index']}"
        table = tables.get(f"{row['schema']}.{row['table']}")
        if table is None or (row["schema"], row["index"]) not in owners:
            left[name] = f"{reason}; it cannot be rebuilt while it is used (exclusion constraint, extension)"
        elif not table["may_maintain"]:
            left[name] = f"{reason}; role {session.info.login} may not work on it"
        elif work is Work.REINDEX and row["bytes"] > settings.largest_index_mb * MB:
            left[name] = f"{reason}; with {row['bytes'] / MB:,.0f} MB it is larger than largest_index_mb"
        else:
            steps.append(Step(work, row["schema"], row["table"], row["index"], table["oid"], row["bytes"], reason))

    for row in run_report(session, "invalid_indexes").dicts():
        name = f"{row['schema']}.{row['index']}"
        if row["building"]:
            left[name] = "it is being built"
        elif row["leftover"]:
            add(Work.DROP, row, "an interrupted REINDEX CONCURRENTLY left it")
        elif settings.reindex_invalid:
            add(Work.REINDEX, row, "it is invalid: no query uses it, and every write pays for it")
        else:
            left[name] = "it is invalid, and reindex_invalid is off"
    for row in run_report(session, "index_bloat").dicts():
        if row["waste_percent"] is None or row["waste_percent"] < settings.index_bloat_percent:
            continue
        if row["waste_bytes"] < settings.index_waste_mb * MB:
            continue
        reason = f"about {row['waste_percent']:.0f} % of {row['bytes'] / MB:,.1f} MB hold no entry"
        if row["doubt"]:
            left[f"{row['schema']}.{row['index']}"] = f"{reason}, but: {row['doubt']}"
        elif f"{row['schema']}.{row['table']}" not in settings.reindex_tables:
            left[f"{row['schema']}.{row['index']}"] = f"{reason}; its table is not among reindex_tables"
        else:
            add(Work.REINDEX, row, reason)
    return steps, left


# --- carrying it out ----------------------------------------------------------------------------------------


def carry_out(
    session: Session,
    steps: Iterable[Step],
    settings: PostgresMaintenance,
    *,
    last_start: datetime,
    hard_end: datetime,
    started: Callable[[Step], None] = lambda step: None,
    finished: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Do the steps one after the other.

    One that fails holds back no other. Nothing starts after `last_start`, and no statement outlasts `hard_end`.

    :param session: its role may maintain the tables.
    :param started, finished: called before and after each step.
    :raises PostgresUnreachable: the connection was lost; what was done is done, and told to `finished`.
    """
    outcomes = []
    for step in steps:
        began = datetime.now(UTC)
        started(step)
        try:
            outcome = _try(session, step, settings, began, last_start, hard_end)
        except PostgresUnreachable as error:
            finished(Outcome(step, "failed", str(error), began, datetime.now(UTC), error=error))
            raise
        finished(outcome)
        outcomes.append(outcome)
    return outcomes


def _try(
    session: Session,
    step: Step,
    settings: PostgresMaintenance,
    began: datetime,
    last_start: datetime,
    hard_end: datetime,
) -> Outcome:
    def end(result: Result, message: str, **more: Any) -> Outcome:
        return Outcome(step, result, message, began, datetime.now(UTC), **more)

    if began >= last_start or hard_end - began < LEAST_LEFT:
        return end("skipped", f"the window ended at {last_start:%H:%M:%S} UTC")
    before: Mapping[str, Any] = {}
    try:
        if why := _must_wait(session, step, settings):
            return end("skipped", why)
        before = figures(session, step)
        if not before:
            return end("skipped", "it does not exist any more")
        if step.work is Work.DROP and before["valid"]:
            return end("skipped", "it is valid now: it is no leftover")
        session.limits(settings.lock_timeout, min(_limit(step.work, settings), hard_end - datetime.now(UTC)))
        warnings = session.run(step.statement)
        refused = [text for text in warnings if "skipping" in text or "permission denied" in text]
        after = figures(session, step)
        if refused:
            message = f"{step.statement}: {'; '.join(refused)}"
            error = RightsMissing(f"{message}; include/sql/postgres/grants.sql says what is needed", "42501")
            return end("failed", message, before=before, after=after, error=error)
        return end("done", _in_words(step, before, after), before=before, after=after)
    except (LockHeld, StatementCancelled) as error:
        left = _clean_up(session, step, settings)
        if isinstance(error, LockHeld):
            return end("skipped", f"{error}{left}", before=before, error=error)
        return end("failed", f"{error}{left}", before=before, error=error)
    except PostgresUnreachable:
        raise
    except DbopsError as error:
        return end("failed", f"{error}{_clean_up(session, step, settings)}", before=before, error=error)


def _limit(work: Work, settings: PostgresMaintenance) -> timedelta:
    if work is Work.ANALYZE:
        return settings.analyze_timeout
    return settings.vacuum_timeout if work in {Work.VACUUM, Work.FREEZE} else settings.reindex_timeout


def _must_wait(session: Session, step: Step, settings: PostgresMaintenance) -> str | None:
    """Why the step is left for another day: somebody is at the table, or CONCURRENTLY would wait for a transaction."""
    for row in session.query(text_for("busy_tables", session.version)).dicts():
        if row["oid"] == step.oid:
            autovacuum = row["backend_type"] == "autovacuum worker"
            who = "autovacuum" if autovacuum else f"pid {row['pid']} {row['application']!r}"
            return f"{who} is at work on the table ({row['mode']}: {row['query'] or '?'})"
    if step.work in {Work.REINDEX, Work.DROP}:
        for row in run_report(session, "long_transactions").dicts():
            age = row["transaction_s"]
            if row["database"] == session.info.schema and (age is None or age > settings.lock_timeout.total_seconds()):
                return (
                    f"a transaction of pid {row['pid']} ({row['role']} {row['application']!r}) is open for "
                    f"{age or 0:.0f} s: CONCURRENTLY would wait for it, and leave something behind if it gives up"
                )
    return None


def figures(session: Session, step: Step) -> dict[str, Any]:
    """The table or index of a step now; empty: there is no such."""
    if step.index is not None:
        found = session.query(text_for("index_figures", session.version), step.schema, step.index).dicts()
        return found[0] if found else {}
    for table in session.query(text_for("table_figures", session.version)).dicts():
        if table["oid"] == step.oid:
            kept = ("live", "dead", "changed", "xid_age", "vacuums", "analyzes")
            ((size,),) = session.rows(text_for("table_size", session.version), step.oid)
            return {"bytes": size or 0} | {name: table[name] for name in kept}
    return {}


def _clean_up(session: Session, step: Step, settings: PostgresMaintenance) -> str:
    """Drop what an interrupted REINDEX CONCURRENTLY of this step left; the next run would too."""
    if step.work is not Work.REINDEX:
        return ""
    try:
        session.limits(settings.lock_timeout, settings.analyze_timeout)
        leftovers = [
            row
            for row in run_report(session, "invalid_indexes").dicts()
            if (row["schema"], row["table"]) == (step.schema, step.table) and row["leftover"] and not row["building"]
        ]
        for row in leftovers:
            session.run(f"drop index concurrently if exists {quoted(row['schema'], row['index'])}")
    except DbopsError as error:
        return f"; what it left could not be removed: {error}; the next run tries again"
    return f"; what it left was removed: {', '.join(row['index'] for row in leftovers)}" if leftovers else ""


def _in_words(step: Step, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if step.work is Work.DROP:
        return f"dropped {before.get('bytes', 0) / MB:,.1f} MB"
    if step.work is Work.REINDEX:
        return f"{before['bytes'] / MB:,.1f} MB before, {after.get('bytes', 0) / MB:,.1f} MB after"
    if step.work is Work.ANALYZE:
        return f"{before['changed']:,} changed rows since the last statistics"
    return (
        f"{before['bytes'] / MB:,.1f} MB and {before['dead']:,} dead rows before, "
        f"{after.get('bytes', 0) / MB:,.1f} MB after; oldest transaction id {before['xid_age']:,} before, "
        f"{after.get('xid_age', 0):,} after"
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    """`3 done, 1 skipped, 0 failed`."""
    counted = {result: sum(one.result == result for one in outcomes) for result in ("done", "skipped", "failed")}
    return ", ".join(f"{count} {result}" for result, count in counted.items())
