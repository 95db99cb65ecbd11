"""From results to incidents: one per pipeline and kind of problem, told by its cause and not by what follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dbops.alerts import Alert, Severity
from dbops.etl.findings import (
    CHECKS,
    FILES,
    FRESHNESS,
    KEYS,
    LOAD,
    RECONCILIATION,
    REFERENCES,
    ROWS,
    RUN,
    SCHEDULE,
    SUCCESS,
    TWICE,
    Family,
    Finding,
    Outcome,
    target_of,
)
from dbops.ledger import actions_since, failing_checks, last_looks, record_action, record_check
from dbops.platform.etl import HOUR, Etl

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from dbops.ledger import PastCheck

ACCEPTED = "etl_accept"
"""Name of the action by which a person takes an hour as it is."""
PREFIX = "etl_"
MOST_HOURS = 48
"""Of one pipeline, that one run looks at."""
MOST_NAMED = 8
DAY = timedelta(days=1)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)

_ARRIVAL = (RUN, FILES, LOAD, TWICE, RECONCILIATION)
_CAUSES: dict[str, tuple[str, ...]] = {
    FILES: (RUN,), LOAD: (RUN, FILES), RECONCILIATION: (RUN, FILES, LOAD, TWICE), ROWS: _ARRIVAL, KEYS: (TWICE,),
}  # fmt: skip
"""A check fails because another one does: it is written down, and raises no incident of its own."""
_WHEN_EMPTY = (*_ARRIVAL, ROWS)
_TITLES = {
    Family.LATE: "is late",
    Family.FAILED: "its job fails",
    Family.LOAD: "rows are missing or doubled",
    Family.DATA: "its rows are not as they should be",
}


@dataclass(frozen=True)
class Failing:
    """A result that is not well."""

    check: str
    pipeline: str
    hour: datetime | None
    outcome: Outcome
    family: Family
    message: str
    details: Any

    @property
    def key(self) -> str:
        """Of its incident."""
        if self.check == SCHEDULE:
            return f"{SCHEDULE}/{self.details.get('rule')}"
        if self.check == SUCCESS:
            return f"{SUCCESS}/{self.pipeline}"
        return f"{self.family}/{self.pipeline}"


def record(ledger: Engine, run: str, at: datetime, findings: Iterable[Finding]) -> None:
    """Write the results down; a retry of the same run replaces its rows."""
    for one in findings:
        details = {
            "outcome": str(one.outcome), "family": str(one.family), "pipeline": one.pipeline,
            "hour": one.hour.isoformat() if one.hour else None,
        }  # fmt: skip
        record_check(
            ledger, name=one.check, target=one.target, run=run, at=at, ok=one.ok, message=one.message, value=one.value,
            limit=one.limit, unit=one.unit, details={**one.details, **details},
        )  # fmt: skip


def accept(ledger: Engine, pipeline: str, hour: datetime, reason: str, who: str) -> None:
    """A person takes an hour as it is: it is looked at no more, and is part of no incident."""
    now = datetime.now(UTC)
    record_action(
        ledger, name=ACCEPTED, target=target_of(pipeline, hour), run=f"cli/{now.isoformat()}", started_at=now,
        finished_at=now, outcome="done", message=reason, details={"by": who},
    )  # fmt: skip


def failing_now(
    ledger: Engine, etl: Etl, now: datetime, *, since: datetime = NEVER, is_blind_too: bool = False
) -> list[Failing]:
    """What the ledger knows to be not well and nobody has accepted, of the pipelines that there are.

    :param since: only what was looked at since then. An hour that is looked at no more is no better for that; what was
        found about now counts for as long as hours are looked at again.
    :param is_blind_too: also what could not be looked at, which neither begins nor ends a problem.
    """
    known, recent = {one.name for one in etl.pipelines}, now - etl.recheck - DAY
    accepted = {action.target for action in actions_since(ledger, ACCEPTED, since)}
    rows = failing_checks(ledger, CHECKS, since, blind=None if is_blind_too else Outcome.BLIND)
    return [
        _failing(row)
        for row in rows
        if row.details.get("pipeline") in known and row.target not in accepted
        and (row.details.get("hour") or row.at >= recent)
    ]  # fmt: skip


def _failing(row: PastCheck) -> Failing:
    hour = row.details.get("hour")
    return Failing(
        row.name, row.details["pipeline"], datetime.fromisoformat(hour) if hour else None,
        Outcome(row.details["outcome"]), Family(row.details["family"]), row.message, row.details,
    )  # fmt: skip


def hours_to_judge(ledger: Engine, etl: Etl, pipeline: str, hour: datetime, now: datetime) -> list[datetime]:
    """The hour, those before it that no run has judged since the first that one has, and those that are not well yet.

    At most `MOST_HOURS`: the hour, then those that were never judged, the oldest first, then those whose last look is
    longest ago, so that the next run goes on with the others. The oldest of them first.
    """
    oldest = now - etl.recheck
    looks = {_hour_of(target): at for target, at in last_looks(ledger, ROWS, f"{pipeline}/").items()}
    wanted = set()
    if looks:
        first = max(min(looks), oldest.replace(minute=0, second=0, microsecond=0))
        wanted = {first + HOUR * n for n in range(int((hour - first) / HOUR))} - looks.keys()
    failing = failing_now(ledger, etl, now, since=oldest - DAY, is_blind_too=True)
    wanted |= {one.hour for one in failing if one.pipeline == pipeline and one.hour is not None}
    before = [one for one in wanted if oldest <= one < hour]
    before.sort(key=lambda one: (looks.get(one, NEVER), one))
    return [*sorted(before[: MOST_HOURS - 1]), hour]


def _hour_of(target: str) -> datetime:
    return datetime.fromisoformat(f"{target.rpartition('/')[2]}:00+00:00")


def alerts_of(failing: Sequence[Failing], etl: Etl, *, of_now: bool = True, since: datetime = NEVER) -> list[Alert]:
    """One alert for each problem.

    :param of_now: also of what was found about now. A run that only judged hours knows no news of that.
    :param since: hours before it are looked at no more.
    """
    roots = [one for one in failing if (of_now or one.hour is not None) and not _is_consequence(one, failing, etl)]
    groups: dict[str, list[Failing]] = {}
    for one in roots:
        groups.setdefault(one.key, []).append(one)
    return [_alert(key, found, etl, since) for key, found in sorted(groups.items())]


def _is_consequence(one: Failing, failing: Sequence[Failing], etl: Etl) -> bool:
    """Another problem that is told explains it."""
    mine = [other for other in failing if other.pipeline == one.pipeline]
    if one.check == FRESHNESS:
        causes = [other for other in mine if other.check in _ARRIVAL]
    elif one.hour is None:
        return False
    else:
        here = [other for other in mine if other.hour == one.hour and other is not one]
        if one.details.get("empty") and any(other.check in _WHEN_EMPTY for other in here):
            return True
        causes = [other for other in here if other.check in _CAUSES.get(one.check, ())]
    if any(cause.family != one.family or _is_consequence(cause, failing, etl) for cause in causes):
        return True
    if one.check == RUN and one.family == Family.LATE and not one.details.get("runs"):
        return any(other.check == SCHEDULE for other in mine)
    return one.check == REFERENCES and _other_is_to_blame(one, failing, etl)


def _other_is_to_blame(one: Failing, failing: Sequence[Failing], etl: Etl) -> bool:
    """Rows refer to nothing because the other table's rows did not arrive."""
    tables = {found.table: found.name for found in etl.pipelines}
    references = {reference.column: reference for reference in etl.pipeline(one.pipeline).references}
    assert one.hour is not None
    blamed = []
    for column, found in one.details.items():
        if column not in references or not isinstance(found, dict) or not found.get("orphans"):
            continue
        reference = references[column]
        first = one.hour - reference.back
        blamed.append(
            any(
                other.pipeline == tables.get(reference.table) and other.check in _ARRIVAL and other.hour is not None
                and first - HOUR < other.hour <= one.hour
                for other in failing
            )
        )  # fmt: skip
    return bool(blamed) and all(blamed)


def _alert(key: str, found: Sequence[Failing], etl: Etl, since: datetime) -> Alert:
    newest = sorted(found, key=lambda one: one.hour or datetime.max.replace(tzinfo=UTC), reverse=True)
    hours = sorted({one.hour for one in found if one.hour is not None})
    first = newest[0]
    lines = [f"- {_when(one)}{one.message}" for one in newest[:MOST_NAMED]]
    if len(newest) > MOST_NAMED:
        lines.append(f"- and {len(newest) - MOST_NAMED} more (check_result {PREFIX}*, or `dbops etl check`)")
    if left := sum(hour < since for hour in hours):
        lines.append(
            f"- {_hours(left)} of them, from {hours[0]:%Y-%m-%d %H}:00 UTC on, not looked at any more (`etl.recheck`): "
            "trigger or backfill etl_checks over them once they are right, or `dbops etl accept`"
        )
    is_critical = first.check == SUCCESS and first.outcome == Outcome.ERROR
    return Alert(
        severity=Severity.CRITICAL if is_critical else Severity.WARNING,
        key=key,
        title=_title(first),
        what=f"{_meaning(first)}\n" + "\n".join(lines),
        since=hours[0] + HOUR + etl.due if hours else None,
        value=_hours(len(hours)) if hours else None,
        runbook=str(first.family),
    )


def _title(one: Failing) -> str:
    if one.check == SCHEDULE:
        return f"ETL: EventBridge rule {one.details.get('rule')} starts nothing"
    if one.check == SUCCESS:
        return f"ETL {one.pipeline}: too few of its hours succeed"
    return f"ETL {one.pipeline}: {_TITLES[one.family]}"


def _meaning(one: Failing) -> str:
    return {
        Family.LATE: "Rows that should be in the warehouse are not there yet.",
        Family.FAILED: "The Glue job ended badly: its hours are not in the warehouse.",
        Family.LOAD: "What is in the table is not what lies in the files.",
        Family.DATA: "Rows arrived that can hardly be right: reports built on them are wrong.",
    }[one.family]


def _when(one: Failing) -> str:
    return f"{one.outcome}: {one.hour:%Y-%m-%d %H}:00 UTC: " if one.hour else f"{one.outcome}: "


def _hours(count: int) -> str:
    return "1 hour" if count == 1 else f"{count} hours"
