"""Operators of the archive DAGs. The warehouse, the bucket and their clients are imported when a task runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from dbops.adapter import connection, open_ledger
from dbops.alerts.airflow import notify, resolve
from dbops.alerts.alert import Alert
from dbops.approval_operators import APPROVAL
from dbops.errors import ConfigurationError, DbopsError, FinalError, RetryableError
from dbops.platform import Platform, Severity, load_platform

if TYPE_CHECKING:
    from airflow.sdk import Context

    from dbops.redshift.archive_parts import ArchivePlace
    from dbops.redshift.archive_plan import ArchivePlan
    from dbops.redshift.data_api import DataApiSession
    from dbops.redshift.session import ConnectorSession

BACKFILL = "backfill"
MOST_NAMED = 10


class ForeignRule(FinalError):
    """A lifecycle rule of somebody else deletes archived days."""


class VacuumSkipped(RetryableError):
    """VACUUM ran and gave nothing back, for as long as it was waited for."""


def _place(platform: Platform) -> ArchivePlace:
    from dbops.redshift.archive_parts import open_place

    return open_place(platform, connection(platform.storage.connection))


def _session(platform: Platform) -> ConnectorSession | DataApiSession:
    from dbops.redshift.archive_parts import warehouse
    from dbops.redshift.session import open_session

    return open_session(connection(warehouse(platform).connection))


def _run(context: Context) -> str:
    """What a run is called in the ledger."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def _remember(platform: Platform, place: ArchivePlace) -> Any:
    from dbops.ledger import record_archived_part

    ledger = open_ledger(platform)
    return lambda part: record_archived_part(ledger, part, place.url)


def _day(text: Any, name: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(str(text))
    except ValueError:
        raise ConfigurationError(f"{name} is {text!r}: write a day as 2026-01-31") from None


class PlanArchive(BaseOperator):
    """Decide which days of which tables are archived, oldest first, at most 1,024 in a run.

    Guarantees: nothing is deleted here. The plan stands in the log and in the bucket. A run of the schedule, or by
    hand, takes every day that is older than its table keeps. A run of a backfill takes the day of its data interval,
    and no other. Reads the trigger form: `tables`, `first_day`, `last_day`, `dry_run`.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> list[dict[str, str]]:
        from dbops.redshift.archive_marks import make_marks
        from dbops.redshift.archive_parts import PLANS, warehouse
        from dbops.redshift.archive_plan import plan_archive

        params = context["params"]
        platform = load_platform()
        settings, place = warehouse(platform).archive, _place(platform)
        tables = [settings.table(name) for name in params.get("tables") or ()] or list(settings.tables)
        first, last = _day(params.get("first_day"), "First day"), _day(params.get("last_day"), "Last day")
        if str(getattr(context["dag_run"], "run_type", "")).rpartition(".")[2].lower() == BACKFILL:
            first = last = _interval_day(context)
        now = datetime.now(UTC)
        dry_run = bool(params.get("dry_run"))
        with _session(platform) as session:
            if not dry_run:
                make_marks(session, place)
            plan = plan_archive(session, place, tables, now=now, first=first, last=last)
        self.log.info("%s", plan.describe())
        if dry_run:
            raise AirflowSkipException(f"dry run: would archive {len(plan.days)} days; the log says which, and why")
        place.store.put(f"{PLANS}/{now:%Y%m%dT%H%M%S.%fZ}.json", _document(plan, _run(context)))
        context["ti"].xcom_push(APPROVAL, _shown(plan) if plan.approval else None)
        return [{"table": day.table, "day": day.day.isoformat()} for day in plan.days]


def _interval_day(context: Context) -> date:
    """The day that a run of a backfill is for."""
    start = context["data_interval_start"]
    if start is None:
        raise ConfigurationError("this run of a backfill has no data interval: it does not say which day it is for")
    return start.astimezone(UTC).date()


def _document(plan: ArchivePlan, run: str) -> bytes:
    import json
    from dataclasses import asdict

    return json.dumps({"run": run, **asdict(plan)}, default=str, indent=1).encode()


def _shown(plan: ArchivePlan) -> str:
    """What a person approves: why, and what, by table."""
    lines = [str(plan.approval), ""]
    for table in sorted({day.table for day in plan.days}):
        days = [day for day in plan.days if day.table == table]
        rows = sum(day.rows or 0 for day in days)
        lines.append(f"{table}: {len(days)} days, {days[0].day} to {days[-1].day}, {rows:,} rows")
    return "\n".join(lines)


class ArchiveDay(BaseOperator):
    """Archive a day of a table and delete it there. Safe to repeat; a day that is done costs a look.

    Guarantees: a row is deleted only when the archive holds it, verified, and the ledger has a row for each part.

    :param slice: `{"table": ..., "day": ...}` of `PlanArchive`.
    """

    template_fields: Sequence[str] = ("slice",)

    def __init__(self, *, slice: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slice = slice

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import record_action
        from dbops.redshift.archive import archive_day
        from dbops.redshift.archive_parts import warehouse

        platform = load_platform()
        table = warehouse(platform).archive.table(self.slice["table"])
        day = date.fromisoformat(self.slice["day"])
        name = f"{table.dataset} {day}"
        context["slice_name"] = name  # type: ignore[typeddict-unknown-key]
        place, started = _place(platform), datetime.now(UTC)
        with _session(platform) as session:
            done = archive_day(
                session,
                place,
                table,
                day,
                holder=f"{_run(context)}/{name}",
                on_part=_remember(platform, place),
                reconnect=lambda: _session(platform),
            )
        # A retry tells of what the try before it did, which nobody heard of.
        found = {"archived": done.archived, "deleted": done.gone, "bytes": done.bytes, "parts": len(done.parts)}
        self.log.info("%s: %s", name, done.kept or found)
        record_action(
            open_ledger(platform),
            name="archive",
            target=f"{table.dataset}/{day}",
            run=_run(context),
            started_at=started,
            finished_at=datetime.now(UTC),
            outcome="skipped" if done.kept else "done",
            message=done.kept or "",
            details=found,
        )
        return {"table": table.table, "day": day.isoformat(), "kept": done.kept, **found}


class ReclaimArchived(BaseOperator):
    """VACUUM DELETE ONLY and ANALYZE, once for each table that days were deleted from, one after the other.

    Also what a day that failed left to the others is done. A VACUUM that gives nothing back is an error.

    :param archive_task: task id of the `ArchiveDay` of this DAG.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, archive_task: str = "archive", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.archive_task = archive_task

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from dbops.ledger import record_action
        from dbops.redshift.archive_parts import warehouse
        from dbops.redshift.archive_upkeep import has_deleted_rows, reclaim

        platform = load_platform()
        settings = warehouse(platform).archive
        deleted: Counter[str] = Counter()
        for one in _results(context, self.archive_task):
            if not one["kept"]:
                deleted[one["table"]] += one["deleted"]
        tables = [table for table in settings.tables if table.table in deleted and table.days == "rows"]
        ledger = open_ledger(platform)
        found: list[dict[str, Any]] = []
        problems: list[DbopsError] = []
        for table in tables:
            started = datetime.now(UTC)
            try:
                with _session(platform) as session:
                    # Asked, since a task may have been killed after it deleted and before it told.
                    if not deleted[table.table] and not has_deleted_rows(session, table.table):
                        continue
                    done = reclaim(session, table.table)
            except DbopsError as error:
                problems.append(error)
                continue
            if done.problem:
                problems.append(VacuumSkipped(done.problem))
            found.append({"table": table.table, **done.figures})
            self.log.info("%s: %s", table.table, done.figures)
            record_action(
                ledger,
                name="vacuum",
                target=table.table,
                run=_run(context),
                started_at=started,
                finished_at=datetime.now(UTC),
                outcome="skipped" if done.problem else "done",
                message=done.problem or "",
                details=done.figures,
            )
        if problems:
            retryable = any(isinstance(error, RetryableError) for error in problems)
            raise (RetryableError if retryable else FinalError)("; ".join(map(str, problems)))
        if not found:
            raise AirflowSkipException("no rows were deleted from a table that stays")
        return found


def _results(context: Context, task_id: str) -> list[dict[str, Any]]:
    """What the mapped tasks returned that did not fail."""
    return [done for done in context["ti"].xcom_pull(task_ids=[task_id]) or () if isinstance(done, dict)]


class ReportArchive(BaseOperator):
    """Tell the summary channel what was archived; nothing when nothing was.

    :param archive_task: task id of the `ArchiveDay` of this DAG.
    :param runbook: name of a page in include/runbooks, without `.md`.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, archive_task: str = "archive", runbook: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.archive_task, self.runbook = archive_task, runbook

    def execute(self, context: Context) -> dict[str, Any]:
        results = _results(context, self.archive_task)
        tables: dict[str, dict[str, int]] = {}
        for done in results:
            one = tables.setdefault(done["table"], {"days": 0, "rows": 0, "bytes": 0})
            if done["archived"] or done["deleted"]:
                one["days"] += 1
                one["rows"] += done["deleted"]
                one["bytes"] += done["bytes"]
        lines = [
            f"{table}: {one['days']} days, {one['rows']:,} rows, {one['bytes'] / 1e6:,.1f} MB"
            for table, one in sorted(tables.items())
            if one["days"]
        ]
        kept = [f"{done['table']} {done['day']} stays: {done['kept']}" for done in results if done["kept"]]
        if lines:
            key = f"report/{context['dag_run'].dag_id}"
            notify(
                Alert(
                    severity=Severity.SUMMARY,
                    key=key,
                    title="days of the warehouse were archived",
                    what="\n".join([*lines, *kept[:MOST_NAMED]]),
                    runbook=self.runbook,
                )
            )
            resolve(key)  # a report is no problem that lasts
        self.log.info("%s", "; ".join(lines) or "nothing was archived")
        return {"tables": tables, "kept": len(kept)}


class EnsureArchiveLifecycle(BaseOperator):
    """See to it that the bucket has the archive's lifecycle rules, and name rules of others that delete archived days.

    Rules of others are never changed.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.backups.bucket import archive_rules, ensure_lifecycle
        from dbops.redshift.archive_parts import folder

        place = _place(load_platform())
        settings = place.settings
        classes = [(one.after.days, one.name) for one in settings.storage_classes]
        wanted = archive_rules(place.store.prefix, [folder(table.dataset) for table in settings.tables], classes)
        report = ensure_lifecycle(place.store, wanted, root="")
        if report.warnings:
            raise ForeignRule("; ".join(report.warnings))
        self.log.info("lifecycle of %s: %s", place.url, "written" if report.changed else "as it should be")
        return {"changed": report.changed}


# --- restore ------------------------------------------------------------------------------------------------


class PlanArchiveRestore(BaseOperator):
    """Look up which parts of which days come back, and whether they can be read at once. Changes nothing.

    Reads the trigger form: `table`, `first_day`, `last_day`, `mode`, `keep_days`, `thaw`. With mode `attach`, the text
    of the plan is left for the task that asks a person.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> list[dict[str, str]]:
        from dbops.redshift.archive_plan import MOST_DAYS
        from dbops.redshift.archive_restore import plan_restore, require_attachable

        params = context["params"]
        first = _day(params["first_day"], "First day")
        if first is None:
            raise ConfigurationError("first_day is empty: name the days to bring back")
        last = _day(params.get("last_day"), "Last day") or first
        platform = load_platform()
        plan = plan_restore(_place(platform), params["table"], first, last, thaw=bool(params.get("thaw")))
        if len(plan.days) > MOST_DAYS:
            raise ConfigurationError(f"{len(plan.days)} days are more than the {MOST_DAYS} of a run: name fewer")
        self.log.info("%s", plan.describe())
        text = None
        if params["mode"] == "attach":
            with _session(platform) as session:
                require_attachable(session, plan)
            text = f"{plan.describe()}\n\nThe rows go into their table, and stay there for {params['keep_days']} days."
        context["ti"].xcom_push(APPROVAL, text)
        return [{"table": plan.dataset, "day": day.isoformat()} for day in plan.days]


class RestoreArchivedDay(BaseOperator):
    """Load an archived day into its side table, and compare it there with what was archived. Safe to repeat.

    :param slice: `{"table": ..., "day": ...}` of `PlanArchiveRestore`.
    """

    template_fields: Sequence[str] = ("slice",)

    def __init__(self, *, slice: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slice = slice

    def execute(self, context: Context) -> dict[str, int]:
        from dbops.redshift.archive_restore import restore_day

        name, day = self.slice["table"], date.fromisoformat(self.slice["day"])
        context["slice_name"] = f"{name} {day}"  # type: ignore[typeddict-unknown-key]
        platform = load_platform()
        place = _place(platform)
        with _session(platform) as session:
            done = restore_day(session, place, name, day, holder=f"{_run(context)}/{name} {day}")
        self.log.info("%s %s is in %s", name, day, done)
        return done


class AttachArchivedDay(BaseOperator):
    """Move a day from its side table into the table where it was. Safe to repeat.

    Skipped when the trigger form's `mode` is not `attach`.

    :param slice: `{"table": ..., "day": ...}` of `PlanArchiveRestore`.
    """

    template_fields: Sequence[str] = ("slice",)

    def __init__(self, *, slice: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slice = slice

    def execute(self, context: Context) -> int:
        from dbops.ledger import record_action
        from dbops.redshift.archive_restore import attach_day

        params = context["params"]
        name, day = self.slice["table"], date.fromisoformat(self.slice["day"])
        context["slice_name"] = f"{name} {day}"  # type: ignore[typeddict-unknown-key]
        if params["mode"] != "attach":
            raise AirflowSkipException("the side tables were asked for")
        platform = load_platform()
        place, started = _place(platform), datetime.now(UTC)
        with _session(platform) as session:
            rows = attach_day(
                session,
                place,
                name,
                day,
                holder=f"{_run(context)}/{name} {day}",
                keep=timedelta(days=params["keep_days"]),
                on_part=_remember(platform, place),
            )
        record_action(
            open_ledger(platform),
            name="attach",
            target=f"{name}/{day}",
            run=_run(context),
            started_at=started,
            finished_at=datetime.now(UTC),
            outcome="done",
            details={"rows": rows},
        )
        return rows
