"""Operators of the DAG that compares the three databases. What they need is imported when a task runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import partial
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from dbops.adapter import connection, open_ledger
from dbops.alerts import Alert
from dbops.errors import ConfigurationError, DbopsError
from dbops.platform import Platform, load_platform
from dbops.platform.consistency import Consistency

if TYPE_CHECKING:
    from airflow.sdk import Context

    from dbops.aerospike.cluster import Access


class CheckSpend(BaseOperator):
    """Compare the spend of each line item and day in PostgreSQL, Aerospike and Redshift.

    Guarantees: reads only. A row in the ledger and an incident for each system that is wrong; a day that differed is
    looked at until it is the same. The task fails when it could not look. Reads the trigger form: `first_day`,
    `last_day`.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.consistency.report import SPEND, spend_alert, spend_in_words
        from dbops.consistency.spend import SpendCheck, systems

        platform, consistency = _platform()
        if consistency.spend is None:
            raise AirflowSkipException("`consistency` of this platform compares no spend")

        def look(days: Sequence[date]) -> list[_Found]:
            results = SpendCheck(platform, connection, lambda name: _access(platform, name)).run(days)
            return [
                _Found(
                    one.system, one.ok, float(one.differ), "line items and days", one.message, one.wrong_days,
                    [spend_in_words(item) for item in one.differences], partial(spend_alert, one),
                )
                for one in results
            ]  # fmt: skip

        return _check(self, context, platform, consistency, SPEND, systems(platform), look)


class CheckCampaigns(BaseOperator):
    """Look for events of Redshift that name a campaign which PostgreSQL does not have.

    Guarantees: as `CheckSpend`, for each table of events.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.consistency.campaigns import check_campaigns, event_systems
        from dbops.consistency.report import CAMPAIGNS, campaign_alert, campaign_in_words

        platform, consistency = _platform()
        if consistency.campaigns is None:
            raise AirflowSkipException("`consistency` of this platform looks at no events")

        def look(days: Sequence[date]) -> list[_Found]:
            return [
                _Found(
                    one.system, one.ok, float(one.unknown), "events", one.message, one.wrong_days,
                    [campaign_in_words(item) for item in one.found], partial(campaign_alert, one),
                )
                for one in check_campaigns(platform, connection, days)
            ]  # fmt: skip

        return _check(self, context, platform, consistency, CAMPAIGNS, event_systems(platform), look)


class SendSummary(BaseOperator):
    """Mail how the checks of the data have been: those that fail now in words, and a chart of each.

    Guarantees: it is sent once for a run, whatever became of the tasks before it.

    :param checks: what the names of the checks begin with, as the ledger has them.
    """

    template_fields: Sequence[str] = ("checks",)

    def __init__(self, *, checks: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.checks = checks

    def execute(self, context: Context) -> dict[str, int]:
        from dbops.alerts.airflow import report
        from dbops.consistency.report import SUMMARY, summary_alert
        from dbops.ledger import record_action
        from dbops.ledger.read import find_action
        from dbops.ledger.trends import trends

        platform, consistency = _platform()
        ledger, now, run = open_ledger(platform), datetime.now(UTC), _run(context)
        found = trends(ledger, self.checks, now - consistency.trend)
        for one in found:
            self.log.log(INFO if one.ok else WARNING, "%s %s: %s", one.name, one.target, one.message)
        done = find_action(ledger, SUMMARY, platform.name, run)
        if done is None or done.outcome != "done":  # a retry sends no second one
            alert = summary_alert(run, found, now)
            report(context, [alert], [alert.key])  # a report is no problem that lasts
            record_action(
                ledger, name=SUMMARY, target=platform.name, run=run, started_at=now, finished_at=datetime.now(UTC),
                outcome="done", message=alert.title,
            )  # fmt: skip
        return {"checks": len(found), "failing": sum(not one.ok for one in found)}


class _Found:
    """What a check says of one system, whichever check it is."""

    def __init__(
        self, system: str, ok: bool, value: float, unit: str, message: str, wrong_days: Sequence[date],
        lines: list[str], alert: Callable[[Sequence[date]], Alert],
    ) -> None:  # fmt: skip
        self.system, self.ok, self.value, self.unit, self.message = system, ok, value, unit, message
        self.wrong_days, self.lines, self.alert = wrong_days, lines, alert


def _check(
    task: BaseOperator, context: Context, platform: Platform, consistency: Consistency, check: str,
    targets: Sequence[str], look: Callable[[Sequence[date]], list[_Found]],
) -> dict[str, Any]:  # fmt: skip
    from dbops.alerts.airflow import report
    from dbops.consistency.days import open_after, settled
    from dbops.consistency.report import OPEN_DAYS, open_days
    from dbops.ledger import newest_check, record_check

    ledger, now, run = open_ledger(platform), datetime.now(UTC), _run(context)
    before: dict[str, list[date]] = {target: [] for target in targets}
    broken: DbopsError | None = None
    try:
        for target in targets:
            newest = newest_check(ledger, check, target)
            before[target] = open_days(newest[1] if newest else None)
    except DbopsError as error:  # what is wrong with the data is told all the same
        broken = error
    days = _days(context, consistency, before, now)
    task.log.info("%s to %s: %d days", days[0], days[-1], len(days))
    try:
        found = look(days)
    except DbopsError as error:
        with suppress(DbopsError):  # what is wrong with the look is the error of this task
            for target in targets if broken is None else ():
                record_check(
                    ledger, name=check, target=target, run=run, at=now, ok=False, message=f"could not look: {error}",
                    details={OPEN_DAYS: [day.isoformat() for day in before[target]]},
                )  # fmt: skip
        raise
    problems, well = [], []
    for one in found:
        task.log.info("%s: %s", one.system, one.message)
        for line in one.lines:
            task.log.warning("%s: %s", one.system, line)
        left = open_after(before[one.system], days, one.wrong_days, settled(now, consistency.settle))
        if not one.ok:
            problems.append(one.alert(left))
        elif not left and broken is None:  # else nobody knows which days are open
            well.append(f"{check}/{one.system}")
        try:
            if broken is None:
                record_check(
                    ledger, name=check, target=one.system, run=run, at=now, ok=not left, value=one.value, limit=0,
                    unit=one.unit, message=one.message,
                    details={"first_day": days[0].isoformat(), "last_day": days[-1].isoformat(),
                             OPEN_DAYS: [day.isoformat() for day in left], "differences": one.lines},
                )  # fmt: skip
        except DbopsError as error:
            broken = error
    report(context, problems, well)
    if broken is not None:
        raise broken
    return {"days": len(days)} | {one.system: int(one.value) for one in found}


def _days(
    context: Context, consistency: Consistency, before: Mapping[str, Sequence[date]], now: datetime
) -> list[date]:
    from dbops.consistency.days import days_between, days_to_look_at, settled

    first, last = (
        date.fromisoformat(text) if (text := context["params"].get(name)) else None
        for name in ("first_day", "last_day")
    )
    if first is None and last is None:
        still_open = {day for days in before.values() for day in days}
        return days_to_look_at(now, consistency.settle, consistency.days, still_open)
    try:
        return days_between(first, last, settled(now, consistency.settle), consistency.days)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _platform() -> tuple[Platform, Consistency]:
    platform = load_platform()
    if platform.consistency is None:
        raise ConfigurationError(f"platform {platform.name} has no section `consistency`")
    return platform, platform.consistency


def _access(platform: Platform, name: str) -> Access:
    from dbops.aerospike.cluster import Access

    cluster = platform.aerospike.cluster(name)
    return Access.of(cluster.name, cluster.seeds, connection(cluster.connection))


def _run(context: Context) -> str:
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"
