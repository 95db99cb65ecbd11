"""Airflow operators of PostgreSQL's health, report and maintenance."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from dbops.adapter import connection, open_ledger
from dbops.alerts import Alert, Severity
from dbops.errors import ConfigurationError, DbopsError, FinalError, RetryableError
from dbops.platform import Platform, Postgres, load_platform

if TYPE_CHECKING:
    from airflow.sdk import Context

    from dbops.postgres.health import Check, OpenSession
    from dbops.postgres.maintain import Outcome, Step

REPORT, PLAN, STEP = "postgres_report", "postgres_plan", "postgres_maintenance"
"""Names of the actions, in the ledger."""
MOST_LINES = 60
MOST_NAMED = 5


def instance() -> tuple[Platform, Postgres]:
    """:raises ConfigurationError: the platform has none."""
    platform = load_platform()
    if platform.postgres is None:
        raise ConfigurationError(f"platform {platform.name} has no postgres: describe the instance in its file")
    return platform, platform.postgres


def run_of(context: Context) -> str:
    """What a run is called in the ledger."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def reader(postgres: Postgres) -> OpenSession:
    """Opens read-only sessions of the monitoring role."""
    from dbops.postgres.session import Session

    info = connection(postgres.connection)
    return lambda database: Session(info, database=database, read_only=True)


class CheckHealth(BaseOperator):
    """Look at connections, sessions, statements, replication, wraparound, checksums, disk and sequences.

    Guarantees: each check has a row in the ledger. A limit that is passed is one incident for as long as it lasts, with
    the severity of the limit. What could not be looked at keeps the incident that it has, and fails the task after the
    others were done.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.alerts.airflow import report
        from dbops.ledger import open_incidents, record_check
        from dbops.postgres.health import TITLES, check_health, could_not_look
        from dbops.postgres.places import storage_gb
        from dbops.postgres.statements import keep_counters, load_counters

        platform, postgres = instance()
        ledger, now, run = open_ledger(platform), datetime.now(UTC), run_of(context)
        before, broken, gone = None, None, set[str]()
        try:
            before = load_counters(ledger, postgres.name, run)
        except DbopsError as error:  # what is wrong with PostgreSQL is told all the same
            broken = error
        health = check_health(
            platform, postgres, reader(postgres), before, now, volume=partial(storage_gb, postgres, connection)
        )
        for check in health.checks:
            self.log.log(INFO if check.ok else WARNING, "%s: %s", check.key, check.message)
        try:
            for check in health.checks:
                record_check(
                    ledger,
                    name=check.name,
                    target=check.target,
                    run=run,
                    at=now,
                    ok=check.ok,
                    value=check.value,
                    limit=check.limit,
                    unit=check.unit,
                    message=check.message,
                    details=plain(check.details),
                )
            if health.counters is not None:
                keep_counters(ledger, postgres.name, run, health.counters)
            # A database that left the platform file while its incident was open is nobody's problem any more.
            known = {check.key for check in health.checks}
            gone = {key for key in open_incidents(ledger, "postgres_") if key.partition("/")[0] in TITLES} - known
        except DbopsError as error:
            broken = error
        report(
            context,
            [_alert(check, postgres) for check in health.checks if check.severity is not None],
            sorted(gone.union(check.key for check in health.checks if check.ok and not check.undecided)),
        )
        blind = could_not_look(health.checks)
        if blind is not None:
            raise blind
        if broken is not None:
            raise broken
        return {"checks": len(health.checks), "problems": [check.key for check in health.checks if not check.ok]}


def _alert(check: Check, postgres: Postgres) -> Alert:
    from dbops.postgres.health import RUNBOOKS, TITLES

    unit = f" {check.unit}" if check.unit else ""
    return Alert(
        severity=check.severity or Severity.WARNING,
        key=check.key,
        title=f"PostgreSQL {check.target}: {TITLES[check.name]}",
        what=check.message,
        value=None if check.value is None else f"{check.value:g}{unit}",
        limit=None if check.limit is None else f"{check.limit:g}{unit}",
        runbook=RUNBOOKS[check.name],
    )


class ReportInstance(BaseOperator):
    """Look at everything once a day, keep the sizes for the growth, and send the report to the summary channel.

    Guarantees: it is sent once for a run, also when parts could not be looked at: it says which, and the task fails.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import record_check
        from dbops.ledger.read import checks_since
        from dbops.postgres.report import LOOK_BACK, SIZE, compile_report
        from dbops.postgres.statements import keep_counters, load_counters

        platform, postgres = instance()
        ledger, now, run = open_ledger(platform), datetime.now(UTC), run_of(context)
        place = f"{postgres.name}/daily"
        past = {
            database: [
                row
                for row in checks_since(ledger, SIZE, f"{postgres.name}/{database}", now - LOOK_BACK)
                if row.run != run
            ]
            for database in postgres.databases
        }
        daily = compile_report(postgres, reader(postgres), past, load_counters(ledger, place, run), now)
        for line in daily.lines:
            self.log.info("%s", line)
        for sizes in daily.sizes:
            record_check(
                ledger,
                name=SIZE,
                target=f"{postgres.name}/{sizes.database}",
                run=run,
                at=now,
                ok=True,
                value=float(sizes.bytes),
                unit="B",
                message=f"{sizes.bytes} bytes",
                details={"tables": dict(sizes.tables)},
            )
        if daily.counters is not None:
            keep_counters(ledger, place, run, daily.counters)
        title = f"PostgreSQL {postgres.name}: {daily.findings} findings"
        self._send(context, postgres.name, title, daily.lines)
        if daily.blind:
            text = "; ".join(f"{name}: {error}" for name, error in list(daily.blind.items())[:MOST_NAMED])
            final = all(isinstance(error, FinalError) for error in daily.blind.values())
            raise (FinalError if final else RetryableError)(f"the report is not whole: {text}")
        return {"findings": daily.findings, "lines": len(daily.lines)}

    def _send(self, context: Context, name: str, title: str, lines: Sequence[str]) -> None:
        from dbops.alerts.airflow import report
        from dbops.ledger import record_action
        from dbops.ledger.read import find_action

        ledger, run = open_ledger(instance()[0]), run_of(context)
        sent = find_action(ledger, REPORT, name, run)
        if sent is not None and sent.outcome == "done":
            return  # a retry sends no second one
        shown = list(lines[:MOST_LINES])
        if len(lines) > MOST_LINES:
            shown.append(f"and {len(lines) - MOST_LINES} lines more in the log of the task")
        key = f"{REPORT}/{run}"
        alert = Alert(Severity.SUMMARY, key=key, title=title, what="\n".join(shown), runbook="postgres_report")
        report(context, [alert], [key])  # a report is no problem that lasts
        now = datetime.now(UTC)
        record_action(
            ledger, name=REPORT, target=name, run=run, started_at=now, finished_at=now, outcome="done", message=title
        )


class PlanMaintenance(BaseOperator):
    """Decide what a database needs, and store it: what follows carries out exactly this.

    :param database: of the platform file.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, database: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.database = database

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import record_action
        from dbops.ledger.read import find_action
        from dbops.postgres.maintain import Plan, plan
        from dbops.postgres.session import Session

        platform, postgres = instance()
        _must_be_wanted(context, self.database)
        ledger, run, target = open_ledger(platform), run_of(context), f"{postgres.name}/{self.database}"
        stored = find_action(ledger, PLAN, target, run)
        if stored is not None and stored.outcome == "done":
            found = Plan.from_document(stored.details)
        else:
            started = datetime.now(UTC)
            with Session(
                connection(postgres.maintenance_connection), database=self.database, read_only=True
            ) as session:
                found = plan(session, postgres.maintenance)
            record_action(
                ledger,
                name=PLAN,
                target=target,
                run=run,
                started_at=started,
                finished_at=datetime.now(UTC),
                outcome="done",
                message=f"{len(found.steps)} steps, {len(found.left)} left as they are",
                details=found.document(),
            )
        for step in found.steps:
            self.log.info("%s: %s", step.statement, step.reason)
        for name, why in found.left.items():
            self.log.info("left as it is: %s: %s", name, why)
        return {"steps": len(found.steps), "left": len(found.left)}


class RunMaintenance(BaseOperator):
    """Carry out the stored plan of a database, one step after the other, within the window.

    Guarantees: every step has a row in the ledger, with figures before and after. A retry does what is not done yet.
    The task fails when a step failed; one that was skipped (somebody is at the table, the window is over) waits for the
    next day.

    :param database: of the platform file.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, database: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.database = database

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger.read import actions_of, find_action
        from dbops.postgres.maintain import Plan, carry_out, summary
        from dbops.postgres.session import Session

        platform, postgres = instance()
        _must_be_wanted(context, self.database)
        ledger, run, settings = open_ledger(platform), run_of(context), postgres.maintenance
        target = f"{postgres.name}/{self.database}"
        stored = find_action(ledger, PLAN, target, run)
        if stored is None or stored.outcome != "done":
            raise FinalError(f"maintenance of {target}: run {run} has no stored plan; clear its plan task too")
        found = Plan.from_document(stored.details)
        if context["params"].get("dry_run"):
            raise AirflowSkipException(f"dry run: {len(found.steps)} steps stand in the log of the plan")
        done = {
            action.target
            for action in actions_of(ledger, run, [STEP])
            if action.outcome == "done"
        }  # fmt: skip
        steps = [step for step in found.steps if self._target(postgres, step) not in done]
        begin = _began(context)
        with Session(connection(postgres.maintenance_connection), database=self.database) as session:
            outcomes = carry_out(
                session,
                steps,
                settings,
                last_start=begin + settings.window.last_start,
                hard_end=begin + settings.window.hard_end,
                started=lambda step: self._record(context, postgres, step, None),
                finished=lambda outcome: self._record(context, postgres, outcome.step, outcome),
            )
        self.log.info("%s: %s; %d were done before", target, summary(outcomes), len(done))
        failed = [outcome for outcome in outcomes if outcome.result == "failed"]
        if failed:
            text = "; ".join(f"{one.step.work} of {one.step.target}: {one.message}" for one in failed[:MOST_NAMED])
            more = f" and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
            retry = any(isinstance(one.error, RetryableError) for one in failed)
            raise (RetryableError if retry else FinalError)(f"{len(failed)} steps failed: {text}{more}")
        counted = {one: sum(outcome.result == one for outcome in outcomes) for one in ("done", "skipped")}
        return counted | {"done_before": len(done)}

    def _target(self, postgres: Postgres, step: Step) -> str:
        return f"{postgres.name}/{self.database}/{step.target}/{step.work}"

    def _record(self, context: Context, postgres: Postgres, step: Step, outcome: Outcome | None) -> None:
        from dbops.ledger import record_action

        if outcome is not None:
            self.log.log(
                INFO if outcome.result == "done" else WARNING,
                "%s: %s: %s",
                step.statement,
                outcome.result,
                outcome.message,
            )
        record_action(
            open_ledger(load_platform()),
            name=STEP,
            target=self._target(postgres, step),
            run=run_of(context),
            started_at=datetime.now(UTC),
            finished_at=outcome.finished_at if outcome else None,
            outcome=outcome.result if outcome else "running",
            message=outcome.message if outcome else step.reason,
            details={
                "statement": step.statement,
                "reason": step.reason,
                "before": plain(outcome.before) if outcome else {},
                "after": plain(outcome.after) if outcome else {},
            },
        )


def _must_be_wanted(context: Context, database: str) -> None:
    if database not in context["params"].get("databases", [database]):
        raise AirflowSkipException(f"{database} is not among the databases of this run")


def _began(context: Context) -> datetime:
    """When the window of a run began: when a scheduled one was due, else when it was started. A retry has the same."""
    run = context["dag_run"]
    return (run.run_after if run.run_type == "scheduled" else run.start_date) or datetime.now(UTC)


def plain(value: Any) -> Any:
    """The same as JSON takes it: figures that are Decimal, times, addresses."""
    from decimal import Decimal

    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return float(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
