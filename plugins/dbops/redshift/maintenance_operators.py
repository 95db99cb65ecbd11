"""Operators of the maintenance DAGs. The driver and its clients are imported when a task runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from dbops.adapter import connection, open_ledger
from dbops.alerts import Alert, Severity
from dbops.alerts.airflow import report as tell
from dbops.connections import ConnectionMissing
from dbops.errors import ConfigurationError, FinalError, RetryableError
from dbops.platform import Platform, Redshift, load_platform

if TYPE_CHECKING:
    from airflow.sdk import Context
    from sqlalchemy import Engine

    from dbops.redshift.cloudwatch import CloudWatch
    from dbops.redshift.health import Check
    from dbops.redshift.maintain import Maintainer
    from dbops.redshift.session import Session

RUNBOOKS = {
    "redshift_queries": "redshift_slow_queries",
    "redshift_queues": "redshift_queues",
    "redshift_failed_queries": "redshift_failed_queries",
    "redshift_cpu": "redshift_cpu",
    "redshift_disk": "redshift_disk",
    "redshift_loads": "redshift_load_errors",
    "redshift_transactions": "redshift_open_transactions",
}
"""Of the incident that a check raises."""

TITLES = {
    "redshift_queries": "queries are slow",
    "redshift_queues": "statements wait long in queues",
    "redshift_failed_queries": "many statements fail",
    "redshift_cpu": "CPU is high",
    "redshift_disk": "disk fills up",
    "redshift_loads": "loads failed or left lines out",
    "redshift_transactions": "transactions stay open",
}

MAINTENANCE = "redshift_maintenance"
REPORT = "redshift_report"
MOST_LINES = 100


class MaintenanceFailed(FinalError):
    """Statements of a plan failed, or were not finished."""


class CouldNotLook(RetryableError):
    """A check has no value."""


def warehouse() -> tuple[Platform, Redshift]:
    """:raises ConfigurationError: the platform has none."""
    platform = load_platform()
    if platform.redshift is None:
        raise ConfigurationError(f"platform {platform.name} has no redshift: describe the warehouse in its file")
    return platform, platform.redshift


def run_of(context: Context) -> str:
    """What a run is called in the ledger."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def open_warehouse(redshift: Redshift) -> Session:
    from dbops.redshift.session import open_session

    return open_session(connection(redshift.connection))


def _cloudwatch(redshift: Redshift) -> CloudWatch | None:
    """None: Airflow has no such connection, and system views are asked instead."""
    from dbops.redshift.cloudwatch import CloudWatch

    try:
        return CloudWatch(connection(redshift.aws_connection), redshift.region, redshift.name)
    except ConnectionMissing:
        return None


def send_summary(
    context: Context, ledger: Engine, cluster: str, title: str, lines: Sequence[str], runbook: str
) -> None:
    """Send a report to the summary channel; a retry that has nothing else to say sends none."""
    from dbops.ledger import find_action, record_action

    run = run_of(context)
    past = find_action(ledger, REPORT, cluster, run)
    digest = hashlib.sha256("\n".join([title, *lines]).encode()).hexdigest()
    if past is not None and past.details.get("digest") == digest:
        return
    key = f"report/{run}"
    shown = list(lines[:MOST_LINES])
    if len(lines) > MOST_LINES:
        shown.append(f"and {len(lines) - MOST_LINES} lines more in the log")
    alert = Alert(severity=Severity.SUMMARY, key=key, title=title, what="\n".join(shown), runbook=runbook)
    tell(context, [alert], [key])  # which ends at once: a report is no problem that lasts
    now = datetime.now(UTC)
    record_action(
        ledger,
        name=REPORT,
        target=cluster,
        run=run,
        started_at=now,
        finished_at=now,
        outcome="done",
        message=title,
        details={"digest": digest},
    )


class CheckWarehouse(BaseOperator):
    """Look at statements, queues, CPU, disk, loads, open transactions, storage and use of tables.

    Guarantees: each check has a row in the ledger. A limit that is passed is one incident for as long as it lasts; its
    severity is that of the limit. A check that could not look fails the task after the others were done.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import checks_since, record_check
        from dbops.redshift.health import LONGEST_LOOK_BACK, USE, Look, check_health, in_words, look_back
        from dbops.redshift.session import open_session

        platform, redshift = warehouse()
        ledger, now = open_ledger(platform), datetime.now(UTC)
        seen = [check for check in checks_since(ledger, USE, redshift.name, now - LONGEST_LOOK_BACK) if check.ok]
        before = [check.at for check in seen if check.run != run_of(context)]
        with open_session(connection(redshift.connection)) as session:
            look = Look(
                session=session,
                platform=platform,
                redshift=redshift,
                since=look_back(now, max(before, default=None)),
                now=now,
                cloudwatch=_cloudwatch(redshift),
            )
            checks = check_health(look)
        for line in in_words(checks):
            self.log.info("%s", line)
        for check in checks:
            record_check(
                ledger,
                name=check.name,
                target=redshift.name,
                run=run_of(context),
                at=now,
                ok=check.ok,
                message=check.message,
                value=check.value,
                limit=check.limit,
                unit=check.unit,
                details=check.details,
            )
        # What could not be looked at neither begins nor ends a problem.
        watched = [check for check in checks if check.name in RUNBOOKS and check.error is None]
        problems = [_alert(redshift.name, check, check.severity) for check in watched if check.severity is not None]
        tell(context, problems, [_key(redshift.name, check) for check in watched if check.severity is None])
        blind = [check for check in checks if check.error is not None]
        if blind:
            text = "; ".join(f"{check.name}: {check.message}" for check in blind)
            final = all(isinstance(check.error, FinalError) for check in blind)
            raise FinalError(text) if final else CouldNotLook(text)
        return {"checks": len(checks), "problems": [check.name for check in checks if not check.ok]}


def _key(cluster: str, check: Check) -> str:
    return f"{check.name}/{cluster}"


def _alert(cluster: str, check: Check, severity: Severity) -> Alert:
    unit = f" {check.unit}" if check.unit else ""
    return Alert(
        severity=severity,
        key=_key(cluster, check),
        title=f"Redshift {cluster}: {TITLES[check.name]}",
        what=check.message,
        value=None if check.value is None else f"{check.value:g}{unit}",
        limit=None if check.limit is None else f"{check.limit:g}{unit}",
        runbook=RUNBOOKS[check.name],
    )


class PlanMaintenance(BaseOperator):
    """Decide which tables are vacuumed and analyzed, how, and in which order; store the plan in the ledger.

    Guarantees: nothing is changed here. The plan stands in the log with a reason for each table, also those that need
    nothing. Reads the trigger form: `tables`, `dry_run`.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.redshift.plan import plan_in_words, plan_maintenance, store_plan
        from dbops.redshift.session import open_session

        platform, redshift = warehouse()
        params = context["params"]
        with open_session(connection(redshift.connection)) as session:
            plan, decisions = plan_maintenance(
                session, redshift, run=run_of(context), tables=params.get("tables") or ()
            )
        for line in plan_in_words(plan, decisions):
            self.log.info("%s", line)
        if params.get("dry_run"):
            raise AirflowSkipException(f"dry run: would run {len(plan.steps)} statements; the log says which, and why")
        store_plan(open_ledger(platform), plan)
        return {"tables": plan.tables, "statements": len(plan.steps), "advice": len(plan.advice)}


class RunMaintenance(BaseOperator):
    """Carry out the plan of this run: one VACUUM or ANALYZE at a time, within the window.

    Guarantees: no statement starts after `window.last_start`, none runs past `window.hard_end`; both count from the
    scheduled time of the run, or from the start of one by hand. What is done is proven by Redshift's history and the
    table's figures. Safe to repeat: a retry goes on with what is not done, and finds out what became of a statement
    whose connection was lost. Each statement has a row in the ledger with figures before and after.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._maintainer: Maintainer | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import record_action
        from dbops.redshift.maintain import Deadlines, Maintainer, in_words
        from dbops.redshift.plan import stored_plan

        platform, redshift = warehouse()
        ledger, run = open_ledger(platform), run_of(context)
        plan = stored_plan(ledger, redshift.name, run)
        begins_at = _begin(context)
        self.log.info("the window began at %s", begins_at.isoformat(timespec="seconds"))
        started = datetime.now(UTC)
        record = partial(record_action, ledger, name=MAINTENANCE, target=redshift.name, run=run, started_at=started)
        record(outcome="running")
        self._maintainer = Maintainer(
            lambda: open_warehouse(redshift),
            Deadlines.of(redshift.window, begins_at),
            old_transaction=redshift.health.old_transaction,
            ledger=ledger,
        )
        results = self._maintainer.carry_out(plan)
        failed = [result for result in results if result.outcome == "failed"]
        told = in_words(results, datetime.now(UTC) - started)
        record(finished_at=datetime.now(UTC), outcome="failed" if failed else "done", message=told)
        if failed:
            named = "; ".join(f"{result.step.statement}: {result.message}" for result in failed[:3])
            raise MaintenanceFailed(f"maintenance of {redshift.name}: {told}: {named}")
        return {name: sum(result.outcome == name for result in results) for name in ("done", "skipped")}

    def on_kill(self) -> None:
        if self._maintainer is not None:
            self._maintainer.cancel()


def _begin(context: Context) -> datetime:
    """When the window of a run begins: a scheduled run that starts late has less of it."""
    run = context["dag_run"]
    is_scheduled = getattr(run.run_type, "value", run.run_type) == "scheduled"
    begin = run.run_after if is_scheduled else run.start_date
    found: datetime = begin or datetime.now(UTC)
    return found.astimezone(UTC)


class ReportMaintenance(BaseOperator):
    """Send what became of the plan to the summary channel, with the growth of the warehouse.

    What needs a person (no right to a table, a transaction that never ends) is an incident until a run without it.
    Runs whatever became of the maintenance, and fails when that did.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import actions_of, checks_since, find_action
        from dbops.redshift.health import DISK, STORAGE
        from dbops.redshift.plan import STEPS, stored_plan
        from dbops.redshift.report import LOOK_BACK, growth_in_words, weekly_report

        if context["params"].get("dry_run"):
            raise AirflowSkipException("dry run: nothing to report")
        platform, redshift = warehouse()
        ledger, run, since = open_ledger(platform), run_of(context), datetime.now(UTC) - LOOK_BACK
        plan = stored_plan(ledger, redshift.name, run)
        growth = growth_in_words(
            [check for check in checks_since(ledger, STORAGE, redshift.name, since) if check.ok],
            [check for check in checks_since(ledger, DISK, redshift.name, since) if check.value is not None],
            platform.limits[DISK],
        )
        report = weekly_report(plan, actions_of(ledger, run, STEPS), growth)
        for line in report.lines:
            self.log.info("%s", line)
        send_summary(context, ledger, redshift.name, report.title, report.lines, "redshift_maintenance")
        blocked = Alert(
            severity=Severity.WARNING,
            key=f"{MAINTENANCE}/{redshift.name}",
            title=f"Redshift {redshift.name}: tables cannot be maintained",
            what="\n".join(report.problems[:10]),
            value=f"{len(report.problems)} statements",
            runbook="redshift_maintenance_blocked",
        )
        is_whole = not context["params"].get("tables")
        tell(
            context,
            [blocked] if report.problems else [],
            [blocked.key] if is_whole and not report.problems else [],
        )
        whole = find_action(ledger, MAINTENANCE, redshift.name, run)
        if report.failed or report.missing or whole is None or whole.outcome != "done":
            raise MaintenanceFailed(f"{report.title}: see the task `maintain`")
        return {"done": report.done, "skipped": report.skipped}


class ReviewTables(BaseOperator):
    """Look at distribution, sort keys and use of tables; give advice with the exact statement. Changes nothing."""

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import checks_since
        from dbops.redshift import review
        from dbops.redshift.health import LONGEST_LOOK_BACK, USE
        from dbops.redshift.session import open_session
        from dbops.redshift.views import table_figures

        platform, redshift = warehouse()
        ledger, now = open_ledger(platform), datetime.now(UTC)
        since = now - redshift.review.unused_after
        usage = review.usage_of(checks_since(ledger, USE, redshift.name, since), since)
        with open_session(connection(redshift.connection)) as session:
            tables = table_figures(session)
            advice = review.read_advisor(session, tables)
            alerts = review.read_alerts(session, now - LONGEST_LOOK_BACK)
        advice += review.table_advice(tables, alerts, usage, redshift.archive, redshift.review)
        unused, why_not = review.unused_tables(tables, usage, redshift.review, now)
        self._record(context, ledger, review.ADVICE, [str(one) for one in advice], f"{len(tables)} tables looked at")
        told = why_not or f"not read for {redshift.review.unused_after.days} days"
        self._record(context, ledger, review.UNUSED, [str(one) for one in unused], told)
        return {"tables": len(tables), "advice": len(advice), "unused": len(unused)}

    def _record(self, context: Context, ledger: Engine, name: str, lines: list[str], told: str) -> None:
        record_review(context, ledger, name, lines, told)
        for line in [f"{name}: {told}: {len(lines)}", *lines]:
            self.log.info("%s", line)


class FindColdData(BaseOperator):
    """Find old rows in large tables that no archive covers. Reads one column of each, by its sort key."""

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.redshift import review
        from dbops.redshift.session import open_session
        from dbops.redshift.views import table_figures

        platform, redshift = warehouse()
        before = datetime.now(UTC) - redshift.review.cold_after
        with open_session(connection(redshift.connection)) as session:
            candidates = review.cold_candidates(
                table_figures(session), review.read_date_columns(session), redshift.archive, redshift.review
            )
            cold = review.look_for_cold(session, candidates, before)
        lines = [str(one) for one in cold]
        told = f"rows before {before:%Y-%m-%d} that no archive takes, in {len(candidates)} tables looked at"
        record_review(context, open_ledger(platform), review.COLD, lines, told)
        for line in [told, *lines]:
            self.log.info("%s", line)
        return {"looked_at": len(candidates), "cold": len(cold)}


def record_review(context: Context, ledger: Engine, name: str, lines: Sequence[str], told: str) -> None:
    """Write down what a part of the monthly review found; `ReportReview` sends it.

    :param lines: one for each thing that a person should look at.
    """
    from dbops.ledger import record_check

    _, redshift = warehouse()
    record_check(
        ledger,
        name=name,
        target=redshift.name,
        run=run_of(context),
        at=datetime.now(UTC),
        ok=not lines,
        message=told,
        value=float(len(lines)),
        details={"lines": list(lines)},
    )


class ReportReview(BaseOperator):
    """Send what the parts of the monthly review found to the summary channel.

    Runs whatever became of them, and fails when one has left nothing.

    :param parts: names of the checks that the parts write down, with a headline for each.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, parts: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import checks_since

        platform, redshift = warehouse()
        ledger, run = open_ledger(platform), run_of(context)
        since = datetime.now(UTC) - timedelta(days=7)
        lines: list[str] = []
        counts: dict[str, int] = {}
        missing = []
        for name, headline in self.parts.items():
            found = [check for check in checks_since(ledger, name, redshift.name, since) if check.run == run]
            if not found:
                missing.append(name)
                lines.append(f"{headline}: could not be looked at")
                continue
            told = found[-1].details.get("lines", [])
            counts[name] = int(found[-1].value or 0)
            lines += [f"{headline} ({counts[name]}): {found[-1].message}", *told]
        for line in lines:
            self.log.info("%s", line)
        title = f"Redshift {redshift.name}: monthly review"
        send_summary(context, ledger, redshift.name, title, lines, "redshift_review")
        if missing:
            raise FinalError(f"{title}: {', '.join(missing)} left nothing: see the tasks before this one")
        return counts
