"""What validation and status checks say to people: check rows, alerts, and slices of a pair as one result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from dbops.alerts import Alert, Severity
from dbops.platform import duration_text
from dbops.sync.status import TableStatus
from dbops.sync.validate import Difference, FieldDifference, PairResult

CHECK, STATUS_CHECK = "sync_validation", "sync_status"
"""Names of the checks in the ledger, and what the keys of their incidents begin with."""
DRIFT, STALLED = "sync_drift", "sync_stalled"
"""Runbooks."""
MOST_NAMED = 10


def drift_key(target: str) -> str:
    return f"{CHECK}/{target}"


def status_key(table: str) -> str:
    return f"{STATUS_CHECK}/{table}"


def merged(slices: Sequence[PairResult], listed: int) -> PairResult:
    """The slices of one pair and cluster as one result. The table is read by each of them, its rows once in all."""
    first = slices[0]
    return replace(
        first,
        at=min(one.at for one in slices),
        seconds=round(sum(one.seconds for one in slices), 3),
        differences=tuple(one for part in slices for one in part.differences)[:listed],
        **{
            name: sum(getattr(one, name) for one in slices)
            for name in ("rows", "records", "missing", "extra", "different", "duplicates", "in_flight")
        },
    )


def result_of(document: dict[str, Any]) -> PairResult:
    """A result from its JSON."""
    known = {name: document[name] for name in PairResult.__dataclass_fields__}
    known["at"] = datetime.fromisoformat(document["at"])
    known["since"] = datetime.fromisoformat(document["since"]) if document["since"] else None
    known["unmapped"] = tuple(document["unmapped"])
    known["differences"] = tuple(
        Difference(
            one["kind"], one["key"], one["digest"], tuple(FieldDifference(**field) for field in one["fields"]),
            tuple(one["row_key"]) if one["row_key"] is not None else None,
        )
        for one in document["differences"]
    )  # fmt: skip
    return PairResult(**known)


def difference_in_words(one: Difference) -> str:
    """`different 4711: budget_total 10.00 is not budget 9000000`."""
    name = f"{one.kind} {one.key if one.key is not None else one.digest}"
    fields = [
        f"{field.column} {_value(field.postgres, 'NULL')} is not {field.bin} {_value(field.aerospike, 'no bin')}"
        for field in one.fields
    ]
    return name + (f": {', '.join(fields)}" if fields else "")


def _value(value: str | None, none: str) -> str:
    return none if value is None else value


def alert_of(found: PairResult) -> Alert | None:
    """The alert that a pair deserves; None when both sides are the same."""
    if found.ok:
        return None
    named = [f"- {difference_in_words(one)}" for one in found.differences[:MOST_NAMED]]
    if found.drift > len(named):
        named.append(f"- and {found.drift - len(named):,} more (check_result {CHECK}, or `dbops sync validate`)")
    what = (
        f"{found.target} does not hold what the table of pair {found.pair} says, after the time that changes have to "
        f"arrive: {found.message}.\n" + "\n".join(named)
    )
    return Alert(
        severity=Severity.WARNING,
        key=drift_key(found.target),
        title=f"{found.target} has drifted from PostgreSQL",
        what=what,
        value=f"{found.drift:,} of {found.rows:,} rows",
        limit="0",
        runbook=DRIFT,
    )


def status_alert_of(found: TableStatus) -> Alert | None:
    """The alert that a table deserves; None when the syncer is in step."""
    if not found.problems:
        return None
    return Alert(
        severity=Severity.CRITICAL if found.age is None or found.age > found.max_age else Severity.WARNING,
        key=status_key(found.table),
        title=f"The syncer does not carry {found.table}",
        what=f"sync_status of {found.table} says {found.status}: {'; '.join(found.problems)}.\n"
        "Changes of it do not reach the bidders.",
        since=found.last_sync,
        value=duration_text(found.age) if found.age is not None else "never in step",
        limit=duration_text(found.max_age),
        runbook=STALLED,
    )


def total(results: Iterable[PairResult]) -> str:
    """One line of many results."""
    found = list(results)
    drift, rows = sum(one.drift for one in found), sum(one.rows for one in found)
    return f"{len(found)} sets, {rows:,} rows: {drift:,} differences"
