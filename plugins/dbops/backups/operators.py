"""Operators of the retention and RPO DAGs. The store and its client are imported when a task runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from dbops.adapter import open_ledger, open_platform_store
from dbops.approval_operators import APPROVAL, is_approved
from dbops.errors import DbopsError, FinalError, RetryableError
from dbops.platform import AerospikeCluster, Namespace, Platform, load_platform

if TYPE_CHECKING:
    from airflow.sdk import Context

    from dbops.backups.store import Store

MOST_NAMED = 10


class PolicyChanged(FinalError):
    """The retention of a namespace is another one than when the plan was made."""


class ForeignRule(FinalError):
    """A lifecycle rule of somebody else deletes or freezes backups."""


class NotReplicated(FinalError):
    """Backups have not arrived in the other region."""


def _namespaces(context: Context, cluster_name: str) -> tuple[Platform, AerospikeCluster, list[Namespace]]:
    """What the trigger form leaves of a cluster."""
    platform = load_platform()
    cluster = platform.aerospike.cluster(cluster_name)
    wanted = context["params"].get("namespaces") or [namespace.name for namespace in cluster.namespaces]
    return platform, cluster, [cluster.namespace(name) for name in wanted]


def _run(context: Context) -> str:
    """What a run is called in the ledger."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def _holder(context: Context) -> str:
    """Who holds a lease: the same in every retry of a task, another one in the tasks beside it."""
    return f"{_run(context)}/{context['ti'].task_id}"


def _raise(problems: dict[str, DbopsError]) -> None:
    """One error for all that went wrong; it may be retried when one of them may."""
    if problems:
        text = "; ".join(f"{name}: {error}" for name, error in list(problems.items())[:MOST_NAMED])
        text += f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        retryable = any(isinstance(error, RetryableError) for error in problems.values())
        raise (RetryableError if retryable else FinalError)(text)


def _not_removed(failed: dict[str, str]) -> FinalError:
    named = "; ".join(f"{id}: {why}" for id, why in list(failed.items())[:MOST_NAMED])
    return FinalError(f"{len(failed)} could not be removed: {named}")


class PlanRetention(BaseOperator):
    """Decide for each namespace which restore points may go, and store each plan that lets any go.

    Guarantees: nothing is deleted here. The plan stands in the log with a reason for each restore point, kept ones too.
    Reads the trigger form: `namespaces`, `dry_run`.

    :param cluster: name in the platform file.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, cluster: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster = cluster

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from dbops.backups.expire import in_words, plan_namespace, store_plan

        platform, _, namespaces = _namespaces(context, self.cluster)
        store, dry_run = open_platform_store(platform), bool(context["params"].get("dry_run"))
        done: list[dict[str, Any]] = []
        asked: list[str] = []
        for namespace in namespaces:
            plan = plan_namespace(store, self.cluster, namespace.name, namespace.retention, by=_run(context))
            self.log.info("%s", in_words(plan))
            for item in plan.items:
                if item.keep:
                    self.log.info("%s keeps %s: it %s", plan.name, item.id, item.reason)
            gone = plan.expire
            done.append({
                "namespace": namespace.name,
                "expire": len(gone),
                "keep": len(plan.items) - len(gone),
                "bytes": sum(item.stored_bytes for item in gone),
                "plan": store_plan(store, plan) if gone and not dry_run else None,
                "approval": plan.approval is not None,
            })
            if plan.approval:
                asked.append(in_words(plan))
        if dry_run:
            found = ", ".join(f"{one['expire']} of {one['namespace']}" for one in done)
            raise AirflowSkipException(f"dry run: would expire {found}; the log says which, and why")
        context["ti"].xcom_push(APPROVAL, "\n\n".join(asked) or None)
        return done


class ApplyRetention(BaseOperator):
    """Carry stored plans of this run out: exactly these, and of them only what may still go.

    Safe to repeat: a retry goes on where the one before it stopped. One namespace that cannot be done (a backup runs)
    does not hold back others. Each restore point that goes has a row in the ledger.

    :param cluster: name in the platform file.
    :param approval_task: task id of the `ApprovePlan` of this DAG: carry out the plans that it approved. None: those
        that need no approval.
    :param plan_task: task id of the `PlanRetention` of this DAG.
    """

    template_fields: Sequence[str] = ()

    def __init__(
        self, *, cluster: str, approval_task: str | None = None, plan_task: str = "plan", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.cluster, self.approval_task, self.plan_task = cluster, approval_task, plan_task

    def execute(self, context: Context) -> list[dict[str, Any]]:
        plans = context["ti"].xcom_pull(task_ids=self.plan_task)
        if plans is None:
            raise AirflowException(f"task {self.plan_task} left no plan: it failed; clear it and what follows")
        platform = load_platform()
        store = open_platform_store(platform)
        approved = self.approval_task is not None and is_approved(context, self.approval_task)
        done: list[dict[str, Any]] = []
        problems: dict[str, DbopsError] = {}
        for found in plans:
            if found["plan"] is None or found["approval"] is not (self.approval_task is not None):
                continue
            try:
                done.append(self._apply(context, platform, store, found["plan"], approved))
            except DbopsError as error:
                problems[found["namespace"]] = error
        _raise(problems)
        return done

    def _apply(self, context: Context, platform: Platform, store: Store, key: str, approved: bool) -> dict[str, Any]:
        from dbops.backups.expire import PlanItem, expire, read_plan
        from dbops.ledger import record_expiry

        plan, ledger = read_plan(store, key), open_ledger(platform)
        policy = platform.aerospike.cluster(plan.cluster).namespace(plan.namespace).retention
        if policy != plan.policy:
            raise PolicyChanged(
                f"retention of {plan.name}: the platform file has changed since the plan was made "
                f"({plan.made_at:%FT%TZ}); nothing was deleted: trigger a new run"
            )
        failed: list[DbopsError] = []

        def remember(item: PlanItem, outcome: Any, message: str) -> None:
            try:
                record_expiry(
                    ledger,
                    plan.cluster,
                    plan.namespace,
                    item.id,
                    run=_run(context),
                    at=datetime.now(UTC),
                    outcome=outcome,
                    message=message,
                    details={"plan": f"{store.url}/{key}", "stored_bytes": item.stored_bytes},
                )
            except DbopsError as error:  # what was begun is finished first; the retry writes the rows again
                failed[:] = [error]

        outcome = expire(store, plan, key, holder=_holder(context), approved=approved, on_point=remember)
        for id, why in outcome.skipped.items():
            self.log.warning("%s keeps %s after all: it %s", plan.name, id, why)
        if failed:
            raise failed[0]
        if outcome.failed:
            named = "; ".join(f"{id}: {why}" for id, why in list(outcome.failed.items())[:MOST_NAMED])
            raise FinalError(f"retention of {plan.name}: {len(outcome.failed)} were not deleted: {named}")
        return {
            "namespace": plan.namespace,
            "expired": len(outcome.expired) + len(outcome.gone),
            "finished": len(outcome.finished),
            "skipped": len(outcome.skipped),
            "objects": outcome.objects,
            "bytes": outcome.stored_bytes,
        }


class SweepOrphans(BaseOperator):
    """Remove what nobody will finish: interrupted deletions, and what is older than the namespace's `grace`: backups
    that were never committed, unfinished uploads, marks of restores that are over.

    A namespace whose backup runs is left for the next day. What is written down about restores of any namespace goes
    when it is old enough.

    :param cluster: name in the platform file.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, cluster: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster = cluster

    def execute(self, context: Context) -> dict[str, Any]:
        from dataclasses import asdict

        from dbops.backups.expire import sweep
        from dbops.backups.restores import sweep_restores
        from dbops.ledger import record_expired

        platform, _, namespaces = _namespaces(context, self.cluster)
        store, ledger = open_platform_store(platform), open_ledger(platform)
        done: dict[str, Any] = {}
        problems: dict[str, DbopsError] = {}
        for namespace in namespaces:
            try:
                swept = sweep(store, self.cluster, namespace.name, namespace.retention.grace, holder=_holder(context))
                for id in swept.finished:
                    record_expired(ledger, self.cluster, namespace.name, id, datetime.now(UTC))
            except DbopsError as error:
                problems[namespace.name] = error
                continue
            self.log.info("%s/%s: %s", self.cluster, namespace.name, swept)
            if swept.failed:
                problems[namespace.name] = _not_removed(swept.failed)
            done[namespace.name] = {
                name: len(value) if isinstance(value, list | dict) else value for name, value in asdict(swept).items()
            }
        try:
            policies = [there.retention for cluster in platform.aerospike.clusters for there in cluster.namespaces]
            restores, failed = sweep_restores(store, policies)
        except DbopsError as error:
            problems["restores"] = error
        else:
            self.log.info("written down about restores, and old enough to go: %s", restores)
            if failed:
                problems["restores"] = _not_removed(failed)
        _raise(problems)
        return done


class EnsureLifecycle(BaseOperator):
    """See to it that the bucket has the lifecycle rules of `dbops.backups.bucket`, and name rules of others that
    delete or freeze backups. Rules of others are never changed.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.backups.bucket import ensure_lifecycle
        from dbops.backups.store import S3Store

        store = open_platform_store(load_platform())
        if not isinstance(store, S3Store):
            raise AirflowSkipException(f"{store.url} is no bucket")
        report = ensure_lifecycle(store)
        if report.warnings:
            raise ForeignRule("; ".join(report.warnings))
        self.log.info("lifecycle of %s: %s", store.url, "written" if report.changed else "as it should be")
        return {"changed": report.changed}


class CheckReplication(BaseOperator):
    """Ask the bucket whether every committed restore point has arrived in `storage.replica_region`.

    :param cluster: name in the platform file.
    :raises AirflowSkipException: no such region is configured.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, cluster: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster = cluster

    def execute(self, context: Context) -> dict[str, int]:
        from dbops.backups.bucket import check_replication

        platform, _, namespaces = _namespaces(context, self.cluster)
        region = platform.storage.replica_region
        if region is None:
            raise AirflowSkipException("no storage.replica_region is configured")
        store = open_platform_store(platform)
        problems: list[str] = []
        done = {"replicated": 0, "pending": 0, "objects": 0}
        for namespace in namespaces:
            report = check_replication(store, self.cluster, namespace.name, region, namespace.retention.grace)
            problems += report.problems
            done["replicated"] += len(report.replicated)
            done["pending"] += len(report.pending)
            done["objects"] += report.objects
            if report.pending:
                self.log.warning("on their way to %s: %s", region, ", ".join(report.pending))
        self.log.info("replication to %s: %s", region, done)
        if problems:
            more = f" and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
            raise NotReplicated(
                f"{len(problems)} restore points are not in {region}: {'; '.join(problems[:MOST_NAMED])}{more}"
            )
        return done


class CheckRpo(BaseOperator):
    """Measure how old the newest restorable point of every namespace is, and compare it with the RPO.

    Each namespace gets a row in the ledger (`aerospike_rpo`), and an incident of its own for as long as its objective
    is exceeded. One that cannot be looked at holds back no other, keeps the incident that it has, and fails the task.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, int]:
        from dbops.alerts.airflow import report
        from dbops.backups.rpo import CHECK, INCIDENTS, State, alert_of, measure
        from dbops.ledger import known_since, open_incidents, record_check

        platform = load_platform()
        places = [
            (cluster.name, namespace.name)
            for cluster in platform.aerospike.clusters
            for namespace in cluster.namespaces
        ]
        ledger, found = open_ledger(platform), measure(open_platform_store(platform), platform, places)
        errors = {one.target: one.error for one in found if one.error is not None}
        known: dict[str, datetime | None] = {}
        ended: set[str] = set()
        for one in found:
            self.log.log(INFO if one.state is State.KEPT else WARNING, "%s: %s: %s", one.target, one.state, one.message)
        try:
            for one in found:
                record_check(
                    ledger,
                    name=CHECK,
                    target=one.target,
                    run=_run(context),
                    at=one.at,
                    ok=one.state is State.KEPT,
                    value=one.age.total_seconds() if one.age is not None else None,
                    limit=one.rpo.total_seconds(),
                    unit="s",
                    message=one.message,
                    details={"state": one.state, "point": one.point},
                )
                if one.state is State.NEVER:
                    known[one.target] = known_since(ledger, CHECK, one.cluster, one.namespace)
            # A namespace that left the platform file while its incident was open is nobody's problem any more.
            lasting = {one.key for one in found if one.state is not State.KEPT}
            ended = open_incidents(ledger, INCIDENTS) - lasting
        except DbopsError as error:  # what is exceeded is told all the same
            errors["ledger"] = error
        alerts = [alert for one in found if (alert := alert_of(one, known.get(one.target)))]
        report(context, alerts, sorted(ended))
        _raise(errors)
        return {state: sum(one.state is state for one in found) for state in State}
