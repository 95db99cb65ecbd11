"""Operators of the Aerospike backup DAGs. The engine is imported when a task runs, not when a DAG file is parsed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from dbops.adapter import connection, log_progress, open_keys, open_ledger, open_platform_store
from dbops.aerospike.assets import VERIFIED_FULL, backup_asset
from dbops.errors import FinalError
from dbops.platform import AerospikeCluster, Platform, load_platform

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pydantic import JsonValue

    from dbops.aerospike.cluster import Access
    from dbops.backups.manifest import BackupPlan

PLANS = "plans"  # XCom key: the plans of a run, one per namespace


class RunRefused(FinalError):
    """What the trigger form holds cannot be done."""


def _cluster(name: str) -> tuple[Platform, AerospikeCluster]:
    platform = load_platform()
    return platform, platform.aerospike.cluster(name)


def _access(cluster: AerospikeCluster) -> Access:
    from dbops.aerospike.cluster import Access

    return Access.of(cluster.name, cluster.seeds, connection(cluster.connection))


def _holder(context: Context) -> str:
    """Who holds a lease: the same in every task and retry of a run."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def _plans(context: Context, task_id: str) -> list[BackupPlan]:
    from dbops.backups.manifest import BackupPlan

    found = context["ti"].xcom_pull(task_ids=task_id, key=PLANS)
    if found is None:
        raise AirflowException(f"task {task_id} left no plan: it failed; clear it and what follows")
    return [BackupPlan.model_validate(plan) for plan in found]


def _name_map_index(context: Context, variable: str, name: str) -> None:
    """Set the variable that the task's `map_index_template` shows instead of the map index."""
    cast("dict[str, Any]", context)[variable] = name


class CheckCluster(BaseOperator):
    """Fail early, with one clear message, when the cluster, the bucket, a login or the backup key is not usable.

    :param cluster: name in the platform file.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, cluster: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster = cluster

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.aerospike.backup import READY_SECONDS
        from dbops.aerospike.cluster import Cluster

        platform, cluster = _cluster(self.cluster)
        open_platform_store(platform).check()
        key = open_keys(platform).current
        with Cluster(_access(cluster)) as reader:
            for namespace in cluster.namespaces:
                reader.wait_ready(namespace.name, READY_SECONDS, lambda reason: self.log.info("waiting: %s", reason))
            found = {"nodes": len(reader.nodes), "build": reader.build(), "cluster_key": reader.key()}
        if key is not None:
            found["encryption"] = str(key)
        self.log.info("cluster %s is usable: %s", self.cluster, found)
        return found


class PlanSlices(BaseOperator):
    """Decide what to read: one plan per namespace, one mapped task per slice.

    Guarantees: a namespace is leased to this run before anything is read. A scheduled or backfilled run whose window is
    covered by a committed restore point (its snapshot is at or after the window's end) takes none, and names it; the
    others start at the watermark of their chain, so one backup covers every window that was missed.

    Reads the trigger form: `namespaces`, `kind`, `slices`, `dry_run`.

    :param cluster: name in the platform file.
    :param kind: `full` or `incremental`, when the form does not say.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, cluster: str, kind: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster, self.kind = cluster, kind

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from dbops.aerospike.backup import plan_backup, release_lease
        from dbops.backups.manifest import Kind

        params = context["params"]
        platform, cluster = _cluster(self.cluster)
        store, access, keys = open_platform_store(platform), _access(cluster), open_keys(platform)
        kind = Kind(params.get("kind") or self.kind)
        wanted = params.get("namespaces") or [namespace.name for namespace in cluster.namespaces]
        namespaces = [cluster.namespace(name) for name in wanted]
        covered = self._covered(context, store, kind)
        plans: list[BackupPlan] = []
        try:
            for namespace in namespaces:
                if point := covered.get(namespace.name):
                    self.log.info("%s: the window is covered by restore point %s", namespace.name, point)
                    continue
                plan = plan_backup(
                    platform,
                    cluster,
                    namespace,
                    kind,
                    access,
                    store,
                    holder=_holder(context),
                    slices=params.get("slices"),
                    keys=keys,
                )
                plans.append(plan)
                self.log.info(
                    "%s: %s backup %s of about %s records in %d slices, %s",
                    namespace.name,
                    plan.kind,
                    plan.id,
                    f"{plan.expected_records:,}",
                    len(plan.slices),
                    f"changes since {plan.modified_after:%FT%TZ} (after {plan.parent})"
                    if plan.parent
                    else "all records",
                )
        except BaseException:
            for plan in plans:
                release_lease(store, plan)
            raise
        documents = [plan.model_dump(mode="json") for plan in plans]
        if params.get("dry_run") or not plans:
            for plan in plans:
                release_lease(store, plan)
            context["ti"].xcom_push(PLANS, [])
            if not plans:
                raise AirflowSkipException(f"every namespace is covered already: {covered}")
            context["ti"].xcom_push("dry_run", documents)
            raise AirflowSkipException(f"dry run: would take {', '.join(f'{p.namespace} {p.id}' for p in plans)}")
        context["ti"].xcom_push(PLANS, documents)
        return [
            {"namespace": plan.namespace, "first": first, "last": last} for plan in plans for first, last in plan.slices
        ]

    def _covered(self, context: Context, store: Any, kind: Any) -> dict[str, str]:
        """Namespace -> id of the restore point that covers this run's window; empty for a run without one."""
        from dbops.backups.catalog import covering, restore_points
        from dbops.backups.manifest import Kind

        end: datetime | None = context["dag_run"].data_interval_end
        if end is None or str(context["dag_run"].run_type) in ("manual", "DagRunType.MANUAL"):
            return {}
        _, cluster = _cluster(self.cluster)
        found = {}
        for namespace in cluster.namespaces:
            points = restore_points(store, cluster.name, namespace.name)
            if point := covering(points, end, Kind.FULL if kind is Kind.FULL else None):
                found[namespace.name] = point.id
        return found


class AerospikeBackupSlice(BaseOperator):
    """Read one slice of partitions of one namespace and store it. Safe to repeat: a retry overwrites its own objects.

    :param cluster: name in the platform file.
    :param slice: `{"namespace": ..., "first": ..., "last": ...}` of `PlanSlices`.
    :param plan_task: task id of the `PlanSlices` of this DAG.
    """

    template_fields: Sequence[str] = ("slice",)

    def __init__(self, *, cluster: str, slice: dict[str, Any], plan_task: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster, self.slice, self.plan_task = cluster, slice, plan_task

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.aerospike.backup import backup_slice

        namespace, first, last = self.slice["namespace"], self.slice["first"], self.slice["last"]
        name = f"{namespace} {first:04d}-{last:04d}"
        _name_map_index(context, "slice_name", name)
        platform, cluster = _cluster(self.cluster)
        plan = next(plan for plan in _plans(context, self.plan_task) if plan.namespace == namespace)
        result = backup_slice(
            _access(cluster),
            open_platform_store(platform),
            plan,
            first,
            last,
            keys=open_keys(platform),
            on_progress=log_progress(name),
        )
        done = {
            "namespace": namespace,
            "first": first,
            "last": last,
            "records": sum(result.counts),
            "bytes": sum(entry.size for entry in result.objects),
            "seconds": round(result.seconds, 3),
            "resumed": result.resumed,
        }
        self.log.info("%s: %s", name, done)
        return done

    def on_kill(self) -> None:
        from dbops.aerospike.official import stop_programs

        stop_programs()


class CommitBackup(BaseOperator):
    """Write the manifest of one namespace, after which the restore point exists; then its ledger row and asset event.

    Runs whatever became of the slices: a namespace whose slices are all there is committed although another one's
    failed. Safe to repeat: a committed backup is adopted.

    :param cluster: name in the platform file.
    :param namespace: its namespace.
    :param plan_task: task id of the `PlanSlices` of this DAG.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, cluster: str, namespace: str, plan_task: str = "plan", **kwargs: Any) -> None:
        kwargs.setdefault("outlets", [backup_asset(cluster, namespace)])
        super().__init__(**kwargs)
        self.cluster, self.namespace, self.plan_task = cluster, namespace, plan_task

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.aerospike.backup import commit_backup, release_lease
        from dbops.backups import catalog
        from dbops.errors import DbopsError
        from dbops.ledger import record_restore_point

        plans = [plan for plan in _plans(context, self.plan_task) if plan.namespace == self.namespace]
        if not plans:
            raise AirflowSkipException(f"{self.namespace} is not part of this run")
        (plan,) = plans
        platform, cluster = _cluster(self.cluster)
        store = open_platform_store(platform)
        try:
            manifest = commit_backup(_access(cluster), store, plan)
        except DbopsError:
            # All slices are over, so nobody of this run reads any more; a re-run takes the lease again.
            release_lease(store, plan)
            raise
        location = f"{store.url}/{manifest.prefix}"
        done: dict[str, Any] = {
            "id": manifest.id,
            "kind": str(manifest.kind),
            "cluster": manifest.cluster,
            "namespace": manifest.namespace,
            "records": manifest.records,
            "deleted": manifest.deleted,
            "bytes": manifest.stored_bytes,
            "snapshot_at": manifest.snapshot_at.isoformat(),
            "location": location,
        }
        record_restore_point(open_ledger(platform), manifest, location, catalog.manifest_sha256(manifest))
        context["outlet_events"][backup_asset(self.cluster, self.namespace)].extra = done
        self.log.info("committed: %s", done)
        return done


class FindUnverified(BaseOperator):
    """Name the committed restore points that nobody has read back yet: those of the triggering events, or all.

    :raises AirflowSkipException: there are none.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> list[dict[str, str]]:
        from dbops.backups.catalog import restore_points

        platform = load_platform()
        store = open_platform_store(platform)
        places = self._triggered(context) or [
            (cluster.name, namespace.name)
            for cluster in platform.aerospike.clusters
            for namespace in cluster.namespaces
        ]
        found = [
            {"cluster": cluster, "namespace": namespace, "id": point.id}
            for cluster, namespace in places
            for point in restore_points(store, cluster, namespace)
            if point.verified is None
        ]
        self.log.info("%d restore points were never read back", len(found))
        if not found:
            raise AirflowSkipException("every restore point has been read back already")
        # Airflow maps over at most 1024; the next run takes the rest, the newest first.
        return sorted(found, key=lambda point: point["id"], reverse=True)[:1024]

    @staticmethod
    def _triggered(context: Context) -> list[tuple[str, str]]:
        events = [event for found in (context.get("triggering_asset_events") or {}).values() for event in found]
        return sorted({(event.extra["cluster"], event.extra["namespace"]) for event in events if event.extra.get("id")})


class VerifyRestorePoint(BaseOperator):
    """Read every object of a restore point back and compare it with its manifest; remember the outcome.

    A point that is encrypted with a key that this installation lacks is not called verified: a wrong key fails the
    task, no key at all is a warning in its log.

    :param point: `{"cluster": ..., "namespace": ..., "id": ...}` of `FindUnverified`.
    """

    template_fields: Sequence[str] = ("point",)

    def __init__(self, *, point: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.point = point

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.backups.catalog import find
        from dbops.backups.cipher import WrongKey
        from dbops.backups.verify import Damaged, verify
        from dbops.ledger import record_verification

        cluster, namespace, id = self.point["cluster"], self.point["namespace"], self.point["id"]
        name = f"{cluster}/{namespace} {id}"
        _name_map_index(context, "point_name", name)
        platform = load_platform()
        store = open_platform_store(platform)
        report = verify(store, find(store, cluster, namespace, id), keys=open_keys(platform))
        for warning in report.warnings:
            self.log.warning("%s: %s", name, warning)
        if report.ok and isinstance(report.unread, WrongKey):
            raise report.unread
        done = {
            **self.point,
            "point": name,
            "verified": report.conclusive,
            "objects": report.objects,
            "records": report.records,
            "bytes": report.bytes,
        }
        if not report.conclusive:
            return done | {"unread": str(report.unread)}
        record_verification(
            open_ledger(platform),
            cluster,
            namespace,
            id,
            at=report.at,
            ok=report.ok,
            problems=report.problems,
        )
        if not report.ok:
            raise Damaged(f"restore point {name} is damaged: {'; '.join(report.problems)}")
        self.log.info("%s is whole: %d objects, %d records", name, report.objects, report.records)
        return done


class TellVerified(BaseOperator):
    """Add an event of `VERIFIED_FULL` that names the fulls which this run found whole: drills follow it.

    One task and one event for all of them, with an asset that Airflow knows before it runs: of two tasks that add their
    first event through an alias at once, Airflow fails one for good.

    :param verify_task: task id of the `VerifyRestorePoint` of this DAG; those that failed hold back no other.
    :raises AirflowSkipException: there are none.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, verify_task: str = "verify", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verify_task = verify_task

    def execute(self, context: Context) -> list[JsonValue]:
        results = context["ti"].xcom_pull(task_ids=[self.verify_task]) or ()
        points: list[JsonValue] = [
            {name: done[name] for name in ("cluster", "namespace", "id")}
            for done in results
            if isinstance(done, dict) and done["verified"] and done["id"].endswith("-full")
        ]
        if not points:
            raise AirflowSkipException("no full restore point was found whole")
        context["outlet_events"][VERIFIED_FULL].extra = {"points": points}
        return points
