"""Operators of the restore and drill DAGs. The engine is imported when a task runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from dbops.adapter import connection, log_progress, open_keys, open_ledger, open_platform_store
from dbops.approval_operators import APPROVAL
from dbops.errors import ConfigurationError, FinalError
from dbops.platform import SCRATCH, Platform, Scratch, load_platform

if TYPE_CHECKING:
    from airflow.sdk import Context

    from dbops.aerospike.cluster import Access
    from dbops.backups.restores import RestorePlan

PLAN = "restore_plan"  # XCom key
DRILL = "aerospike_restore_drill"  # name of the action in the ledger
SAME = "(the same)"  # in the form, for the cluster that the backup is of; no cluster can be named so


class RestoreRefused(ConfigurationError):
    """What the trigger form holds cannot be done."""


def _holder(context: Context) -> str:
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def _scratch(platform: Platform) -> Scratch:
    if platform.aerospike.scratch is None:
        raise RestoreRefused(f"platform {platform.name} has no aerospike.scratch: name a cluster for drills there")
    return platform.aerospike.scratch


def access_of(platform: Platform, name: str) -> Access:
    """Address and login of a cluster of the platform, or of its scratch cluster."""
    from dbops.aerospike.cluster import Access

    there = _scratch(platform) if name == SCRATCH else platform.aerospike.cluster(name)
    return Access.of(name, there.seeds, connection(there.connection))


def point_in_time(text: str | None) -> datetime | None:
    """:raises RestoreRefused: it is no time, or one without a time zone."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise RestoreRefused(f"point in time {text!r}: write it as 2026-11-24T06:00:00Z") from None
    if found.tzinfo is None:
        raise RestoreRefused(f"point in time {text!r} has no time zone: add Z or an offset such as +02:00")
    return found.astimezone(UTC)


class PlanRestore(BaseOperator):
    """Decide what the restore writes, check that the target can take it, and lease the target.

    Guarantees: nothing is written. The plan is stored in the bucket; when a person must agree, its text is left for the
    task that asks. Reads the trigger form.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> list[dict[str, int]]:
        from dbops.aerospike.restore import plan_restore
        from dbops.backups.restores import Policy, RestoreTarget

        params = context["params"]
        platform = load_platform()
        cluster = platform.aerospike.cluster(params["cluster"])
        namespace = cluster.namespace(params["namespace"])
        target_cluster = params.get("target_cluster") or SAME
        if target_cluster == SAME:
            target_cluster = cluster.name
        is_scratch = target_cluster == SCRATCH
        default = _scratch(platform).namespace if is_scratch else namespace.name
        plan = plan_restore(
            open_platform_store(platform),
            cluster.name,
            namespace.name,
            access_of(platform, target_cluster),
            RestoreTarget(
                cluster=target_cluster,
                namespace=params.get("target_namespace") or default,
                is_scratch=is_scratch,
            ),
            holder=_holder(context),
            id=params.get("restore_point") or None,
            at=point_in_time(params.get("point_in_time")),
            policy=Policy(params["policy"]),
            sets=params.get("sets") or (),
            bins=params.get("bins") or (),
            extra_ttl=timedelta(seconds=params.get("extra_ttl_seconds") or 0),
            dry_run=bool(params.get("dry_run")),
            allow_unverified=bool(params.get("allow_unverified")),
            definitions=params.get("indexes") or "after",
            engine=params.get("engine") or "native",
            engine_path=cluster.asrestore_path,
            keys=open_keys(platform),
        )
        self.log.info("%s", plan.describe())
        context["ti"].xcom_push(PLAN, plan.model_dump(mode="json"))
        context["ti"].xcom_push(APPROVAL, plan.describe() if plan.needs_approval else None)
        return [{"first": first, "last": last} for first, last in plan.slices]


def _plan(context: Context, task_id: str) -> RestorePlan:
    from dbops.backups.restores import RestorePlan

    found = context["ti"].xcom_pull(task_ids=task_id, key=PLAN)
    if found is None:
        raise AirflowException(f"task {task_id} left no plan: it failed; clear it and what follows")
    return RestorePlan.model_validate(found)


class RestoreSlice(BaseOperator):
    """Write one slice of partitions to the target. Safe to repeat. Records that the target refuses are counted and
    named; `CheckRestore` fails the run for them.

    :param slice: `{"first": ..., "last": ...}` of `PlanRestore`.
    :param plan_task: task id of the `PlanRestore` of this DAG.
    """

    template_fields: Sequence[str] = ("slice",)

    def __init__(self, *, slice: dict[str, int], plan_task: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slice, self.plan_task = slice, plan_task

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.aerospike.restore import restore_slice

        first, last = self.slice["first"], self.slice["last"]
        platform, plan = load_platform(), _plan(context, self.plan_task)
        name = f"{plan.target.text} {first:04d}-{last:04d}"
        result = restore_slice(
            access_of(platform, plan.target.cluster),
            open_platform_store(platform),
            plan,
            first,
            last,
            keys=open_keys(platform),
            on_progress=log_progress(name),
        )
        for failure in result.failures:
            self.log.error("refused: %s of set %r: %s", failure.digest, failure.set, failure.reason)
        done = {"first": first, "last": last, "seconds": round(result.seconds, 3), **result.outcomes.model_dump()}
        self.log.info("%s: %s", name, done)
        return done

    def on_kill(self) -> None:
        from dbops.aerospike.official import stop_programs

        stop_programs()


class RestoreDefinitions(BaseOperator):
    """Make the secondary indexes and register the UDFs of the restore point; nothing when they are there.

    :param when: `before` or `after` the records: skipped when the form asks for the other one.
    :param plan_task: task id of the `PlanRestore` of this DAG.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, when: str, plan_task: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.when, self.plan_task = when, plan_task

    def execute(self, context: Context) -> dict[str, list[str]]:
        from dbops.aerospike.restore import restore_definitions

        platform, plan = load_platform(), _plan(context, self.plan_task)
        if plan.dry_run:
            raise AirflowSkipException("dry run: no index is made")
        if plan.definitions != self.when:
            raise AirflowSkipException(f"indexes are made {plan.definitions} the records, as the form says")
        indexes, udfs = restore_definitions(
            access_of(platform, plan.target.cluster), open_platform_store(platform), plan, open_keys(platform)
        )
        return {"indexes": indexes, "udfs": udfs}


class CheckRestore(BaseOperator):
    """Compare what the target holds with what was written; write the report and the ledger row; give the target free.

    :param plan_task: task id of the `PlanRestore` of this DAG.
    :param definitions_tasks: those of the `RestoreDefinitions`, of which one has run.
    :raises RestoreFailed: records were refused or are missing; names them.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, definitions_tasks: Sequence[str], plan_task: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan_task, self.definitions_tasks = plan_task, tuple(definitions_tasks)

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.aerospike.restore import check_restore, require_ok
        from dbops.ledger import record_action

        platform, plan = load_platform(), _plan(context, self.plan_task)
        found = [context["ti"].xcom_pull(task_ids=task_id) for task_id in self.definitions_tasks]
        made: dict[str, list[str]] = next(filter(None, found), {})
        report = check_restore(
            access_of(platform, plan.target.cluster),
            open_platform_store(platform),
            plan,
            (made.get("indexes", []), made.get("udfs", [])),
        )
        details = report.model_dump(mode="json", exclude={"problems", "failures"})
        record_action(
            open_ledger(platform),
            name="aerospike_restore",
            target=report.target,
            run=_holder(context),
            started_at=report.started_at,
            finished_at=report.finished_at,
            outcome="done" if report.ok else "failed",
            message="; ".join(report.problems),
            details=details,
        )
        self.log.info("%s", details)
        require_ok(report)
        return details


class ReleaseTarget(BaseOperator):
    """Give target and restore points free when the plan will not be carried out: backups and retention need not wait
    until what it holds has ended by itself.

    :raises AirflowSkipException: there is no plan, so nothing is held.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, plan_task: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan_task = plan_task

    def execute(self, context: Context) -> None:
        from dbops.aerospike.restore import release_target

        if context["ti"].xcom_pull(task_ids=self.plan_task, key=PLAN) is None:
            raise AirflowSkipException(f"task {self.plan_task} left no plan: nothing is held")
        plan = _plan(context, self.plan_task)
        release_target(open_platform_store(load_platform()), plan)
        self.log.info("restore %s is not carried out; %s is free", plan.id, plan.target.text)


class FindDrills(BaseOperator):
    """Name the restore points to drill: after a verified full, the newest of each namespace that an event names or
    whose last full was never drilled (Airflow may lose an event that comes while it makes a run); else of every one.

    :raises AirflowSkipException: there are none.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> list[dict[str, str]]:
        from dbops.aerospike.drill import newest_points
        from dbops.ledger import never_drilled

        platform = load_platform()
        _scratch(platform)
        events = [event for found in (context.get("triggering_asset_events") or {}).values() for event in found]
        places = [
            (cluster.name, namespace.name)
            for cluster in platform.aerospike.clusters
            for namespace in cluster.namespaces
        ]
        points = [point for event in events for point in event.extra.get("points", ())]
        if named := {(point["cluster"], point["namespace"]) for point in points}:
            named.update(place for place in never_drilled(open_ledger(platform), DRILL) if place in places)
            places = sorted(named)
        found = newest_points(open_platform_store(platform), places)
        if not found:
            raise AirflowSkipException("no namespace has a verified restore point yet")
        return found[:1024]  # Airflow maps over no more


class DrillRestorePoint(BaseOperator):
    """Restore a point to the scratch namespace, compare and time it, empty the namespace; ledger rows of both.

    :param point: `{"cluster": ..., "namespace": ..., "id": ...}` of `FindDrills`.
    :raises DrillFailed: something differs, or the restore took longer than the RTO.
    """

    template_fields: Sequence[str] = ("point",)

    def __init__(self, *, point: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.point = point

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.aerospike.drill import DrillFailed, run_drill
        from dbops.ledger import record_action, record_check

        platform = load_platform()
        scratch = _scratch(platform)
        cluster, namespace, id = self.point["cluster"], self.point["namespace"], self.point["id"]
        name, run = f"{cluster}/{namespace} {id}", f"{_holder(context)}/{context['ti'].map_index}"
        ledger, started = open_ledger(platform), datetime.now(UTC)
        note = partial(record_action, ledger, name=DRILL, target=f"{cluster}/{namespace}", run=run)
        try:
            drill = run_drill(
                open_platform_store(platform),
                cluster,
                namespace,
                id,
                access_of(platform, SCRATCH),
                scratch.namespace,
                production=[access_of(platform, there.name) for there in platform.aerospike.clusters],
                rto=platform.aerospike.cluster(cluster).objectives.rto,
                holder=run,
                workers=scratch.workers,
                keys=open_keys(platform),
                on_progress=log_progress(name),
            )
        except FinalError as problem:
            ended, details = datetime.now(UTC), {"point": name}
            note(started_at=started, finished_at=ended, outcome="failed", message=str(problem), details=details)
            raise
        report = drill.report
        done = {
            "point": name,
            "ok": drill.ok,
            "seconds": round(drill.seconds, 3),
            "rto_seconds": drill.rto.total_seconds(),
            "records": report.target_records,
            "compared": report.compared,
            "problems": list(drill.problems),
        }
        note(
            started_at=started,
            finished_at=report.finished_at,
            outcome="done" if drill.ok else "failed",
            message="; ".join(drill.problems),
            details=done,
        )
        record_check(
            ledger,
            name="aerospike_rto",
            target=f"{cluster}/{namespace}",
            run=run,
            at=report.finished_at,
            ok=drill.seconds <= drill.rto.total_seconds(),
            value=round(drill.seconds, 3),
            limit=drill.rto.total_seconds(),
            unit="s",
            message=f"restore drill of {id}",
        )
        self.log.info("%s", done)
        if not drill.ok:
            raise DrillFailed(f"drill of {name}: {'; '.join(drill.problems)}")
        return done
