"""Operators of the DAG that checks the ETL. Drivers and clients are imported when a task runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import BaseOperator

from dbops.adapter import connection, open_ledger
from dbops.errors import ConfigurationError, FinalError, RetryableError
from dbops.platform import Platform, load_platform

if TYPE_CHECKING:
    from airflow.sdk import Context
    from sqlalchemy import Engine

BACKFILL, SCHEDULED = "backfill", "scheduled"


class CouldNotLook(RetryableError):
    """A check saw nothing."""


def _run(context: Context) -> str:
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def _type(context: Context) -> str:
    return str(getattr(context["dag_run"], "run_type", "")).rpartition(".")[2].lower()


class PlanEtlChecks(BaseOperator):
    """Which hours of which pipelines are judged: one unit per pipeline.

    A run of the schedule judges the hour of its data interval, hours before it that no run has judged, and those that
    were not well when they were last looked at; and how each pipeline is now. One of a backfill judges the hour of its
    data interval and nothing else. By hand, the form says which. Reads the trigger form: `pipelines`, `hour`.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from dbops.etl.check import etl_of, newest_due
        from dbops.etl.incidents import hours_to_judge
        from dbops.etl.jobs import floor_hour

        platform, params, now = load_platform(), context["params"], datetime.now(UTC)
        etl = etl_of(platform)
        names = params.get("pipelines") or [one.name for one in etl.pipelines]
        start, kind = context.get("data_interval_start"), _type(context)
        if kind == BACKFILL and start is None:
            raise ConfigurationError(
                "this run of a backfill has no data interval: it does not say which hour it is for"
            )
        told = params.get("hour")
        if told:
            hour = floor_hour(_moment(str(told)))
        elif kind in (BACKFILL, SCHEDULED) and start is not None:
            hour = floor_hour(start)
        else:
            hour = newest_due(etl, now)
        only = bool(told) or kind == BACKFILL
        ledger = open_ledger(platform)
        units = []
        for name in names:
            etl.pipeline(name)
            hours = [hour] if only else hours_to_judge(ledger, etl, name, hour, now)
            units.append({"pipeline": name, "hours": [one.isoformat() for one in hours], "now": not only})
            self.log.info("%s: %s", name, ", ".join(f"{one:%Y-%m-%dT%H}" for one in hours))
        return units


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"Hour is {text!r}: write it as 2026-11-22T13:00") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


class CheckPipeline(BaseOperator):
    """Judge the hours of one pipeline, and how it is now; write each result to the ledger.

    Guarantees: reads only. What is not well is a result and no failure; the task fails when a check could not look,
    after the others were done and written down.

    :param unit: as `PlanEtlChecks` makes it.
    """

    template_fields: Sequence[str] = ("unit",)

    def __init__(self, *, unit: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def execute(self, context: Context) -> dict[str, int]:
        from dbops.etl.check import check_hour, check_now, opened_look
        from dbops.etl.findings import Outcome, in_words
        from dbops.etl.incidents import record

        unit, platform = self.unit, load_platform()
        cast("dict[str, Any]", context)["unit_name"] = unit["pipeline"]
        ledger = open_ledger(platform)
        found = []
        with opened_look(platform, connection) as look:
            pipeline = look.etl.pipeline(unit["pipeline"])
            for hour in map(datetime.fromisoformat, unit["hours"]):
                look.known_rows = _counted(ledger, pipeline.name, hour)
                found += check_hour(look, pipeline, hour)
            if unit["now"]:
                found += check_now(look, pipeline)
        for line in in_words(found):
            self.log.info("%s", line)
        record(ledger, _run(context), look.now, found)
        blind = [one for one in found if one.outcome == Outcome.BLIND]
        if blind:
            said = "; ".join(f"{one.target} {one.check}: {one.message}" for one in blind[:5])
            said += f" and {len(blind) - 5} more" if len(blind) > 5 else ""
            final = all(isinstance(one.error, FinalError) for one in blind)
            raise FinalError(said) if final else CouldNotLook(said)
        return {"checks": len(found), "problems": sum(not one.ok for one in found)}


def _counted(ledger: Engine, pipeline: str, hour: datetime) -> Any:
    """Rows of files that the ledger knows from an earlier look, by their digest."""
    from dbops.etl.findings import FILES, target_of
    from dbops.ledger import checks_since

    rows = checks_since(ledger, FILES, target_of(pipeline, hour), hour)
    known = {
        row.details["digest"]: int(row.value) for row in rows if row.value is not None and row.details.get("digest")
    }
    return known.get


class ReportEtl(BaseOperator):
    """Raise, update and end the incidents of all pipelines, by what the ledger knows after this run.

    One incident per pipeline and kind of problem, for as long as an hour has it; what only follows from another problem
    raises none. Runs whatever became of the checks, and fails when one of them could not look.

    :param check_task, plan_task: task ids of the `CheckPipeline` and `PlanEtlChecks` of this DAG.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, check_task: str = "check", plan_task: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check_task, self.plan_task = check_task, plan_task

    def execute(self, context: Context) -> dict[str, int]:
        from dbops.alerts.airflow import report
        from dbops.etl.check import etl_of
        from dbops.etl.incidents import PREFIX, alerts_of, failing_now
        from dbops.ledger import open_incidents

        platform: Platform = load_platform()
        etl, ledger, now = etl_of(platform), open_ledger(platform), datetime.now(UTC)
        failing = failing_now(ledger, etl, now)
        units = context["ti"].xcom_pull(task_ids=self.plan_task)
        of_now = any(unit["now"] for unit in units or ())
        alerts = alerts_of(failing, etl, of_now=of_now, since=now - etl.recheck)
        for alert in alerts:
            self.log.warning("%s\n%s", alert.title, alert.what)
        lasting = {alert.key for alert in alerts_of(failing, etl)}
        ended = sorted(open_incidents(ledger, PREFIX) - lasting)  # those of pipelines that are gone too
        report(context, alerts, ended)
        if units is None:
            raise CouldNotLook(f"task {self.plan_task} left no plan: it failed; clear it and what follows")
        done = list(context["ti"].xcom_pull(task_ids=self.check_task, map_indexes=range(len(units))) or [])
        missing = [unit["pipeline"] for n, unit in enumerate(units) if n >= len(done) or done[n] is None]
        if missing:
            raise CouldNotLook(f"could not look at all of {', '.join(missing)}: see the failed tasks {self.check_task}")
        return {"failing": len(failing), "incidents": len(alerts), "ended": len(ended)}
