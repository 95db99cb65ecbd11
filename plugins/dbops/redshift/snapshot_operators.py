"""Operators of snapshots and restores of Redshift. What AWS has made is found again: a retry makes nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from dbops.adapter import connection, open_ledger
from dbops.approval_operators import APPROVAL, is_approved
from dbops.connections import ConnectionMissing
from dbops.errors import ConfigurationError, DbopsError, FinalError, RetryableError
from dbops.platform import Platform, Redshift, Severity, duration_text, load_platform

if TYPE_CHECKING:
    from airflow.sdk import Context

    from dbops.redshift.restore_cluster import RestorePlan
    from dbops.redshift.snapshots import Snapshots

POLL = timedelta(seconds=30)
AGE, RPO, RTO = "redshift_snapshot_age", "redshift_rpo", "redshift_rto"
PLAN = "plan"  # XCom key


class SnapshotTooOld(FinalError):
    """No usable snapshot is younger than the platform file allows."""


class SnapshotSlow(FinalError):
    """A snapshot is not done within its time; it goes on by itself."""


class NotExpired(FinalError):
    """Snapshots that a plan lets go are still there."""


def warehouse(platform: Platform) -> Redshift:
    """:raises ConfigurationError: the platform has none."""
    if platform.redshift is None:
        raise ConfigurationError(f"platform {platform.name} has no section `redshift`: add it to its file")
    return platform.redshift


def run_of(context: Context) -> str:
    """What a run is called in the ledger."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def _snapshots(redshift: Redshift, namespace: str | None = None) -> Snapshots:
    from dbops.redshift.snapshots import open_snapshots

    return open_snapshots(redshift, connection(redshift.aws_connection), namespace)


def _client(redshift: Redshift) -> Any:
    from dbops.redshift.api import redshift_client

    return redshift_client(connection(redshift.aws_connection), redshift.region, serverless=redshift.serverless)


# --- the daily look ---------------------------------------------------------------------------------------


class CheckSnapshots(BaseOperator):
    """Compare the age of the newest usable snapshot with the platform file, and remember how the warehouse is set up.

    Guarantees: no snapshot, one that is not available, and an API that cannot be asked are failures. Writes the checks
    `redshift_snapshot_age`, `redshift_rpo`, and `redshift_settings`: what a restore needs when the source is gone.

    :raises SnapshotTooOld: it is older than `snapshots.max_age`.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import record_check
        from dbops.redshift.restore_cluster import SETTINGS, StoredSettings, read_settings
        from dbops.redshift.snapshots import check_age

        platform = load_platform()
        redshift, ledger, now = warehouse(platform), open_ledger(platform), datetime.now(UTC)
        max_age, rpo = redshift.snapshots.max_age, platform.objectives.redshift.rpo
        note = partial(record_check, ledger, target=redshift.name, run=run_of(context), at=now, unit="s")
        try:
            settings = StoredSettings(settings=read_settings(_client(redshift), redshift))
            note(
                name=SETTINGS,
                ok=True,
                message="for a restore without the source",
                details=settings.model_dump(mode="json"),
            )
            found = check_age(_snapshots(redshift).list(), max_age, now)
        except DbopsError as problem:
            for name, limit in ((AGE, max_age), (RPO, rpo)):
                note(name=name, ok=False, limit=limit.total_seconds(), message=f"could not look: {problem}")
            raise
        seconds = None if found.age is None else round(found.age.total_seconds(), 3)
        newest = None if found.newest is None else found.newest.id
        note = partial(note, value=seconds, message=found.message, details={"newest": newest})
        note(name=AGE, ok=found.ok, limit=max_age.total_seconds())
        note(name=RPO, ok=found.age is not None and found.age < rpo, limit=rpo.total_seconds())
        self.log.info("%s: %s", redshift.name, found.message)
        if not found.ok:
            raise SnapshotTooOld(
                f"{redshift.name}: {found.message}; take one now (`dbops redshift snapshots take`) and find out why "
                "none is taken by itself"
            )
        return {"newest": newest, "age_seconds": seconds}


class RecordFigures(BaseOperator):
    """Count the last closed days of each archived table, and write them down: what a restored warehouse is held against
    when its source is gone."""

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, int]:
        from dbops.ledger import record_check
        from dbops.redshift.figures import count_days
        from dbops.redshift.restore_cluster import FIGURES
        from dbops.redshift.session import open_session

        platform = load_platform()
        redshift, now = warehouse(platform), datetime.now(UTC)
        first, until = now.date() - timedelta(days=redshift.snapshots.check_days), now.date()
        session = open_session(connection(redshift.connection))
        try:
            found = count_days(session, redshift.archive.tables, first, until)
        finally:
            session.close()
        record_check(
            open_ledger(platform),
            name=FIGURES,
            target=redshift.name,
            run=run_of(context),
            at=now,
            ok=True,
            value=found.rows,
            unit="rows",
            message=f"{len(found.days)} tables from {first} to {until}",
            details=found.model_dump(mode="json"),
        )
        counted = {table: sum(days.values()) for table, days in found.days.items()}
        self.log.info("rows of %s to %s: %s", first, until, counted)
        return counted


class PlanSnapshotExpiry(BaseOperator):
    """Decide which snapshots of ours may go, with a reason for each snapshot in the log; nothing is deleted here.

    Reads the trigger form: `dry_run`.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> list[dict[str, str]]:
        from dbops.redshift.snapshots import plan_snapshot_expiry

        platform = load_platform()
        redshift, now = warehouse(platform), datetime.now(UTC)
        snapshots = _snapshots(redshift)
        plan = plan_snapshot_expiry(snapshots.list(), platform.name, redshift.snapshots.keep, platform.retention, now)
        for decision in plan.decisions:
            verb = "keeps" if decision.keep else "lets go"
            self.log.info("%s %s %s: it %s", snapshots.source, verb, decision.point.id, decision.reason)
        gone = [
            {"id": item.point.id, "created_at": item.point.snapshot_at.isoformat(), "reason": item.reason}
            for item in plan.expire
        ]
        dry_run = bool(context["params"].get("dry_run"))
        wanted = plan.approval if gone and not dry_run else None
        text = wanted and "\n".join([
            f"{snapshots.source}: {wanted}",
            *(f"{item['id']}: {item['reason']}" for item in gone),
        ])
        context["ti"].xcom_push(APPROVAL, text)
        if dry_run:
            raise AirflowSkipException(f"dry run: {len(gone)} snapshots would go, nothing does")
        return gone


class ExpireSnapshots(BaseOperator):
    """Delete exactly what the plan names; a ledger row each.

    A snapshot that is not what the plan saw any more stays and fails the task; one that is gone already is done.

    :param approval_task: the task that asks; only then an approved plan is carried out, and only there.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, plan_task: str = "plan", approval_task: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan_task, self.approval_task = plan_task, approval_task

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import record_action
        from dbops.redshift.snapshots import expire_snapshot

        ti = context["ti"]
        wants_approval = bool(ti.xcom_pull(task_ids=self.plan_task, key=APPROVAL))
        if wants_approval != bool(self.approval_task):
            raise AirflowSkipException(
                "the plan waits for a person" if wants_approval else "the plan needs no approval"
            )
        if self.approval_task and not is_approved(context, self.approval_task):
            raise AirflowSkipException("nobody has approved the plan")
        plan: list[dict[str, str]] = ti.xcom_pull(task_ids=self.plan_task) or []
        if not plan:
            raise AirflowSkipException("no snapshot may go")
        platform = load_platform()
        redshift, ledger = warehouse(platform), open_ledger(platform)
        snapshots, problems = _snapshots(redshift), []
        retryable = False
        for item in plan:
            at = datetime.now(UTC)
            try:
                why = expire_snapshot(snapshots, item["id"], datetime.fromisoformat(item["created_at"]), platform.name)
            except DbopsError as problem:
                why, retryable = str(problem), retryable or isinstance(problem, RetryableError)
            if why:
                problems.append(f"{item['id']}: {why}")
            record_action(
                ledger,
                name="expire",
                target=f"redshift/{snapshots.source}/{item['id']}",
                run=run_of(context),
                started_at=at,
                finished_at=datetime.now(UTC),
                outcome="failed" if why else "done",
                message=why or item["reason"],
                details=item,
            )
        if problems:
            raise (RetryableError if retryable else NotExpired)("; ".join(problems))
        return {"expired": [item["id"] for item in plan]}


# --- before risky work ------------------------------------------------------------------------------------


class TakeSnapshot(BaseSensorOperator):
    """Take a manual snapshot before risky work and wait until it can be used, without holding a worker's slot.

    Guarantees: one snapshot per run and task, whatever is retried or killed: its name is made of them, and what is
    there already is adopted. It is tagged, and `redshift_snapshots` lets it go after `snapshots.keep`. The returned
    value is its name. Writes the action `redshift_snapshot`.

    :param reason: what it is taken for, in words; stands on the snapshot.
    :param limit: how long it may take; then the task fails, and the snapshot goes on by itself.
    """

    template_fields: Sequence[str] = ("reason",)

    def __init__(
        self,
        *,
        reason: str,
        limit: timedelta = timedelta(hours=2),
        poke_interval: timedelta | float = POLL,
        **kwargs: Any,
    ) -> None:
        super().__init__(mode="reschedule", poke_interval=poke_interval, timeout=limit + timedelta(hours=1), **kwargs)
        self.reason, self.limit = reason, limit

    def poke(self, context: Context) -> bool | PokeReturnValue:
        from dbops.ledger import record_action
        from dbops.redshift.api import tags_of
        from dbops.redshift.snapshots import begin_snapshot, snapshot_id

        platform = load_platform()
        redshift, run = warehouse(platform), run_of(context)
        snapshots = _snapshots(redshift)
        id = snapshot_id(run, snapshots.source, self.task_id)
        note = partial(
            record_action, open_ledger(platform), name="redshift_snapshot", target=f"{snapshots.source}/{id}", run=run
        )
        found = begin_snapshot(snapshots, id, tags_of(platform.name, run, self.reason))
        now = datetime.now(UTC)
        self.log.info("snapshot %s of %s is %s", id, snapshots.source, found.status)
        if found.is_usable:
            details = {"reason": self.reason, "created_at": found.created_at.isoformat(), "megabytes": found.megabytes}
            note(started_at=found.created_at, finished_at=now, outcome="done", details=details)
            return PokeReturnValue(True, id)
        if now - found.created_at > self.limit:
            raise SnapshotSlow(
                f"snapshot {id} of {snapshots.source} is {found.status} since {duration_text(now - found.created_at)}, "
                f"{duration_text(self.limit)} are allowed; it goes on by itself: clear this task to wait for it again"
            )
        note(started_at=found.created_at, outcome="running", details={"reason": self.reason})
        return False


class SnapshotBeforeMaintenance(TakeSnapshot):
    """Take a snapshot when the maintenance plan of this run is one that `snapshots.before_maintenance` wants it for.

    Guarantees: as `TakeSnapshot`. Where none is wanted it ends well and returns None, so that the maintenance goes on;
    the log says why.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(reason="before maintenance {{ run_id }}", **kwargs)

    def poke(self, context: Context) -> bool | PokeReturnValue:
        from dbops.redshift.plan import stored_plan

        platform = load_platform()
        redshift = warehouse(platform)
        when = redshift.snapshots.before_maintenance
        plan = stored_plan(open_ledger(platform), redshift.name, run_of(context))
        wanted = {"never": (), "risky": plan.risky, "always": plan.steps}[when]
        if not wanted:
            self.log.info("no snapshot: before_maintenance is %s, %d statements sort", when, len(plan.risky))
            return PokeReturnValue(True, None)
        try:
            connection(redshift.aws_connection)
        except ConnectionMissing:
            if when == "always":
                raise
            self.log.warning("no snapshot: Airflow has no connection %s to the API", redshift.aws_connection)
            return PokeReturnValue(True, None)
        return super().poke(context)


# --- restore ----------------------------------------------------------------------------------------------


class PlanRestoreCluster(BaseOperator):
    """Decide which snapshot is restored to which new cluster, and with which settings; nothing is made here.

    Guarantees: the name of the platform's warehouse, and one that exists, is refused. Settings are those of the source,
    or, when it is gone, the newest that the ledger has. Reads the trigger form.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.redshift.restore_cluster import WorkgroupSettings, known_settings, plan_restore

        params, platform = context["params"], load_platform()
        redshift = warehouse(platform)
        known = known_settings(open_ledger(platform), redshift)
        namespace = known[0].namespace if known and isinstance(known[0], WorkgroupSettings) else None
        plan = plan_restore(
            _client(redshift),
            _snapshots(redshift, namespace),
            redshift,
            platform=platform.name,
            run=run_of(context),
            reason=params.get("reason") or "",
            asked_at=context["dag_run"].start_date or datetime.now(UTC),
            snapshot=params.get("snapshot") or None,
            target=params.get("cluster") or None,
            known=known,
        )
        self.log.info("%s", plan.describe())
        context["ti"].xcom_push(PLAN, plan.model_dump(mode="json"))
        return {"target": plan.target, "snapshot": plan.snapshot}


def _plan(context: Context, task_id: str) -> RestorePlan:
    from dbops.redshift.restore_cluster import RestorePlan

    found = context["ti"].xcom_pull(task_ids=task_id, key=PLAN)
    if found is None:
        raise AirflowException(f"task {task_id} left no plan: it failed; clear it and what follows")
    return RestorePlan.model_validate(found)


class RestoreCluster(BaseSensorOperator):
    """Make the new cluster of the plan and wait until it is available, without holding a worker's slot.

    Guarantees: what this run has made is adopted, whatever was killed; nothing else is touched. When it fails, the
    error says what exists and how it is removed. Writes the action `redshift_restore`.

    :param plan_task: task id of the `PlanRestoreCluster` of this DAG.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, plan_task: str = "plan", poke_interval: timedelta | float = POLL, **kwargs: Any) -> None:
        super().__init__(mode="reschedule", poke_interval=poke_interval, timeout=timedelta(days=2), **kwargs)
        self.plan_task = plan_task

    def poke(self, context: Context) -> bool | PokeReturnValue:
        from dbops.ledger import record_action
        from dbops.redshift.restore_cluster import RestoreFailed, advance

        platform, plan = load_platform(), _plan(context, self.plan_task)
        redshift, now = warehouse(platform), datetime.now(UTC)
        note = partial(
            record_action,
            open_ledger(platform),
            name="redshift_restore",
            target=plan.target,
            run=plan.run,
            started_at=plan.asked_at,
            details=plan.model_dump(mode="json"),
        )
        note(outcome="running")
        try:
            progress = advance(_client(redshift), plan, redshift.snapshots.restore_timeout, now)
        except RestoreFailed as problem:
            note(outcome="failed", finished_at=now, message=str(problem))
            raise
        self.log.info("%s is %s", plan.target, progress.status)
        if not progress.done:
            return False
        return PokeReturnValue(
            True, {"host": progress.host, "port": progress.port, "available_at": datetime.now(UTC).isoformat()}
        )


class CheckRestoredCluster(BaseOperator):
    """Count the closed days of the archived tables in the new cluster and compare; put the time beside the RTO.

    Compared with the source as it is now, or, when it cannot be asked, with the figures that `RecordFigures` wrote
    last. Writes the action `redshift_restore` and the check `redshift_rto`; one that took longer raises a warning.

    :raises RestoreFailed: data is missing, or there was nothing to compare with. The cluster stays.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, plan_task: str = "plan", restore_task: str = "restore", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan_task, self.restore_task = plan_task, restore_task

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import record_action, record_check
        from dbops.redshift.restore_cluster import (
            Progress,
            RestoreFailed,
            count_reference,
            count_restored,
            left_behind,
            report_restore,
        )

        platform, plan = load_platform(), _plan(context, self.plan_task)
        redshift, ledger = warehouse(platform), open_ledger(platform)
        made = context["ti"].xcom_pull(task_ids=self.restore_task)
        progress = Progress(True, "available", made["host"], made["port"])
        source = connection(redshift.connection)
        restored = count_restored(source, redshift, plan, progress)
        reference = count_reference(ledger, source, redshift, plan)
        rto = platform.objectives.redshift.rto
        report = report_restore(
            plan,
            progress,
            redshift,
            restored,
            reference,
            available_at=datetime.fromisoformat(made["available_at"]),
            rto=rto,
            now=datetime.now(UTC),
        )
        done = report.model_dump(mode="json")
        record_action(
            ledger,
            name="redshift_restore",
            target=plan.target,
            run=plan.run,
            started_at=plan.asked_at,
            finished_at=report.finished_at,
            outcome="done" if report.ok else "failed",
            message="; ".join(report.problems),
            details=plan.model_dump(mode="json") | {"report": done},
        )
        record_check(
            ledger,
            name=RTO,
            target=redshift.name,
            run=plan.run,
            at=report.finished_at,
            ok=report.in_time,
            value=report.seconds,
            limit=report.rto_seconds,
            unit="s",
            message=f"restore of {plan.snapshot} to {plan.target}",
            details={step.name: step.seconds for step in report.steps},
        )
        self.log.info("%s", done)
        self._tell(context, redshift, plan, report.seconds, rto, in_time=report.in_time)
        if not report.ok:
            raise RestoreFailed(f"{'; '.join(report.problems)}. {left_behind(_client(redshift), plan)}")
        return done

    def _tell(
        self, context: Context, redshift: Redshift, plan: RestorePlan, seconds: float, rto: timedelta, *, in_time: bool
    ) -> None:
        from dbops.alerts.airflow import notify, resolve
        from dbops.alerts.alert import Alert

        key = f"{RTO}/{redshift.name}"
        if in_time:
            resolve(key)
            return
        notify(
            Alert(
                severity=Severity.WARNING,
                key=key,
                title=f"Restoring {redshift.name} takes longer than its RTO",
                what=f"{plan.snapshot} was restored to {plan.target}; the time to recovery is more than was promised.",
                value=duration_text(timedelta(seconds=round(seconds))),
                limit=duration_text(rto),
                run_url=str(context["ti"].log_url),
                runbook="redshift_restore",
            )
        )
