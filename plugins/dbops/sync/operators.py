"""Operators of the DAG that validates synchronisation. The engine is imported when a task runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from dbops.adapter import connection, open_ledger
from dbops.approval_operators import APPROVAL
from dbops.errors import ConfigurationError, DbopsError, RetryableError
from dbops.platform import Platform, load_platform
from dbops.platform.sync import Sync

if TYPE_CHECKING:
    from airflow.sdk import Context

    from dbops.aerospike.cluster import Access
    from dbops.sync.validate import PairResult

FULL = "full"
NO_REPAIR, DRY_RUN, REPAIR = "no", "dry run", "repair"


class Incomplete(RetryableError):
    """Some pairs could not be looked at."""


def _sync(platform: Platform) -> Sync:
    if platform.sync is None:
        raise ConfigurationError(f"platform {platform.name} has no section `sync`")
    return platform.sync


def _access(platform: Platform, name: str) -> Access:
    from dbops.aerospike.cluster import Access

    cluster = platform.aerospike.cluster(name)
    return Access.of(cluster.name, cluster.seeds, connection(cluster.connection))


def _run(context: Context) -> str:
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def _since(context: Context) -> datetime | None:
    hours = context["params"].get("window_hours")
    return None if not hours else datetime.now(UTC) - timedelta(hours=hours)


class PlanValidation(BaseOperator):
    """What is compared: one unit per pair, cluster and slice. Reads the trigger form: `pairs`, `clusters`."""

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from dbops.aerospike.wire import PARTITIONS

        sync, params = _sync(load_platform()), context["params"]
        wanted = params.get("pairs") or [pair.name for pair in sync.pairs]
        clusters, since = params.get("clusters"), _since(context)
        units = []
        for pair in (sync.pair(name) for name in wanted):
            count = 1 if since is not None else pair.slices
            for cluster in pair.clusters:
                if clusters and cluster not in clusters:
                    continue
                for n in range(count):
                    units.append({
                        "pair": pair.name,
                        "cluster": cluster,
                        "first": PARTITIONS * n // count,
                        "last": PARTITIONS * (n + 1) // count,
                        "since": since.isoformat() if since else None,
                    })
        if not units:
            raise ConfigurationError("the form leaves no pair of `sync` to validate: no cluster of it was chosen")
        return units


def _validated(platform: Platform, unit: dict[str, Any], listed: int) -> PairResult:
    from dbops.sync.validate import Validation

    sync = _sync(platform)
    pair = sync.pair(unit["pair"])
    validation = Validation(
        pair, unit["cluster"], connection(sync.connection), _access(platform, unit["cluster"]),
        max_replica_lag=sync.max_replica_lag, listed=listed, partitions=range(unit["first"], unit["last"]),
    )  # fmt: skip
    return validation.run(datetime.fromisoformat(unit["since"]) if unit["since"] else None)


class ValidatePair(BaseOperator):
    """Compare one slice of a set with its table, with a second look after the lag.

    Guarantees: reads only. Drift is a result, not a failure; the task fails when it could not look.

    :param unit: as `PlanValidation` makes it.
    """

    template_fields: Sequence[str] = ("unit",)

    def __init__(self, *, unit: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.sync.report import difference_in_words

        unit, platform = self.unit, load_platform()
        cast("dict[str, Any]", context)["unit_name"] = f"{unit['cluster']} {unit['pair']} {unit['first']}"
        found = _validated(platform, unit, _sync(platform).listed)
        self.log.info("%s: %s", found.target, found.message)
        for one in found.differences:
            self.log.warning("%s: %s", found.target, difference_in_words(one))
        if found.unmapped:
            self.log.warning("pair %s speaks of no column %s: map or ignore it", found.pair, ", ".join(found.unmapped))
        return found.document()


class ReportValidation(BaseOperator):
    """Write a check row for each set, raise or end its incident, and fail when some could not be looked at.

    Runs after all slices, whatever became of them. A run of some pairs ends no incident of others; one of a window of
    changes ends none at all, as it did not look at everything.

    :param validate_task, plan_task: task ids of the `ValidatePair` and `PlanValidation` of this DAG.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, validate_task: str = "validate", plan_task: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.validate_task, self.plan_task = validate_task, plan_task

    def execute(self, context: Context) -> dict[str, int]:
        from dbops.sync.report import result_of

        units = context["ti"].xcom_pull(task_ids=self.plan_task)
        if units is None:
            raise Incomplete(f"task {self.plan_task} left no plan: it failed; clear it and what follows")
        platform = load_platform()
        documents = list(context["ti"].xcom_pull(task_ids=self.validate_task, map_indexes=range(len(units))) or [])
        results, missing = [], []
        for place in dict.fromkeys((unit["pair"], unit["cluster"]) for unit in units):
            mine = [n for n, unit in enumerate(units) if (unit["pair"], unit["cluster"]) == place]
            parts = [documents[n] for n in mine if n < len(documents) and documents[n] is not None]
            if len(parts) < len(mine):
                pair = _sync(platform).pair(place[0])
                missing.append(f"{place[1]}/{pair.namespace}.{pair.set}")
            else:
                results.append([result_of(part) for part in parts])
        done = _remember(context, platform, results, missing)
        if missing:
            raise Incomplete(f"could not compare {', '.join(missing)}: see the failed tasks of {self.validate_task}")
        return done


def _remember(
    context: Context, platform: Platform, results: list[list[PairResult]], missing: Sequence[str] = ()
) -> dict[str, int]:
    from dbops.alerts.airflow import report
    from dbops.ledger import record_check
    from dbops.sync.report import CHECK, alert_of, drift_key, merged

    sync, ledger = _sync(platform), open_ledger(platform)
    found = [merged(parts, sync.listed) for parts in results]
    error: DbopsError | None = None
    try:
        for one in found:
            record_check(
                ledger, name=CHECK, target=one.target, run=_run(context), at=one.at, ok=one.ok, value=one.drift,
                limit=0, unit="rows", message=one.message, details=one.document() | _counts(platform, one),
            )  # fmt: skip
        for name in missing:
            record_check(
                ledger, name=CHECK, target=name, run=_run(context), at=datetime.now(UTC), ok=False,
                message="could not look: see the run", unit="rows",
            )  # fmt: skip
    except DbopsError as problem:  # what was found is told all the same
        error = problem
    ended = [drift_key(one.target) for one in found if one.ok and one.since is None]
    report(context, [alert for one in found if (alert := alert_of(one))], ended)
    if error is not None:
        raise error
    return {"sets": len(found), "rows": sum(one.rows for one in found), "drift": sum(one.drift for one in found)}


def _counts(platform: Platform, found: PairResult) -> dict[str, Any]:
    """The nodes' own counts beside what was read; they are no reason to fail."""
    from dbops.aerospike.cluster import Cluster
    from dbops.sync.status import counts

    try:
        with Cluster(_access(platform, found.cluster)) as cluster:
            cluster.refresh()
            return {"counts": counts(cluster, _sync(platform).pair(found.pair))}
    except DbopsError as error:
        return {"counts": {"error": str(error)}}


class CheckSyncStatus(BaseOperator):
    """Compare what the syncer says of each table with the limits: age of its last step, errors, a pause.

    A row in the ledger and an incident per table.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, int]:
        from dbops.alerts.airflow import report
        from dbops.ledger import record_check
        from dbops.sync.report import STATUS_CHECK, status_alert_of, status_key
        from dbops.sync.status import table_status

        platform = load_platform()
        sync = _sync(platform)
        if sync.status is None:
            raise AirflowSkipException("this platform's syncer has no table of its status")
        found = table_status(connection(sync.connection), sync.status, sync.pairs)
        error: DbopsError | None = None
        try:
            ledger = open_ledger(platform)
            for one in found:
                self.log.info("%s: %s", one.table, one.message)
                record_check(
                    ledger, name=STATUS_CHECK, target=one.table, run=_run(context), at=one.at, ok=not one.problems,
                    value=one.age.total_seconds() if one.age is not None else None, limit=one.max_age.total_seconds(),
                    unit="s", message=one.message, details={"status": one.status, "errors": one.errors},
                )  # fmt: skip
        except DbopsError as problem:
            error = problem
        well = [status_key(one.table) for one in found if not one.problems]
        report(context, [alert for one in found if (alert := status_alert_of(one))], well)
        if error is not None:
            raise error
        return {"tables": len(found), "problems": sum(bool(one.problems) for one in found)}


class PlanSyncRepair(BaseOperator):
    """Name every record that a repair would touch, from a fresh comparison of the pairs that drifted.

    Guarantees: touches nothing. Skipped unless the form asks for a repair; a dry run ends here, its plan in the log.

    :param validate_task, plan_task: task ids of the `ValidatePair` and `PlanValidation` of this DAG.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, validate_task: str = "validate", plan_task: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.validate_task, self.plan_task = validate_task, plan_task

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from dataclasses import asdict

        from dbops.sync.repair import in_words, plan_repair

        wanted = context["params"].get("repair", NO_REPAIR)
        if wanted == NO_REPAIR:
            raise AirflowSkipException("no repair was asked for")
        platform = load_platform()
        sync = _sync(platform)
        units = context["ti"].xcom_pull(task_ids=self.plan_task)
        documents = list(context["ti"].xcom_pull(task_ids=self.validate_task, map_indexes=range(len(units))) or [])
        drifted = [unit for unit, found in zip(units, documents, strict=True) if found and found["drift"]]
        if not drifted:
            raise AirflowSkipException("nothing differs")
        plan = plan_repair([_validated(platform, unit, sync.most_repaired) for unit in drifted], sync.most_repaired)
        text = in_words(plan, sync)
        self.log.info("%s", text)
        if wanted == DRY_RUN or not plan:
            raise AirflowSkipException(f"dry run: {len(plan)} records would be put right; the log says which")
        context["ti"].xcom_push(APPROVAL, text)
        return [asdict(one) for one in plan]


class RepairSync(BaseOperator):
    """Carry out the plan that a person approved, then compare the same pairs again.

    Safe to repeat: a record becomes what PostgreSQL says at that moment. Fails when drift is left.

    :param repair_plan_task, plan_task: task ids of the `PlanSyncRepair` and `PlanValidation` of this DAG.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, repair_plan_task: str = "plan_repair", plan_task: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.repair_plan_task, self.plan_task = repair_plan_task, plan_task

    def execute(self, context: Context) -> dict[str, int]:
        from dbops.ledger import record_action
        from dbops.sync.repair import Repair, repair
        from dbops.sync.report import total

        platform = load_platform()
        sync, ledger, began = _sync(platform), open_ledger(platform), datetime.now(UTC)
        found = context["ti"].xcom_pull(task_ids=self.repair_plan_task)
        plan = [Repair(**one | {"row_key": tuple(one["row_key"]) if one["row_key"] else None}) for one in found]
        done = repair(
            sync,
            plan,
            postgres=connection(sync.connection),
            syncer=connection(sync.syncer.connection) if sync.syncer is not None else None,
            accesses={name: _access(platform, name) for name in dict.fromkeys(one.cluster for one in plan)},
        )
        record_action(
            ledger, name="sync_repair", target=",".join(dict.fromkeys(f"{one.cluster}/{one.pair}" for one in plan)),
            run=_run(context), started_at=began, finished_at=datetime.now(UTC), outcome="done",
            message=f"{len(plan)} records: {done}",
            details={"records": [one.key or one.digest for one in plan], **done},
        )  # fmt: skip
        touched = {(one.pair, one.cluster) for one in plan}
        units = [u for u in context["ti"].xcom_pull(task_ids=self.plan_task) if (u["pair"], u["cluster"]) in touched]
        results: dict[tuple[str, str], list[PairResult]] = {}
        for unit in units:
            again = _validated(platform, unit | {"since": None}, sync.listed)
            results.setdefault((unit["pair"], unit["cluster"]), []).append(again)
        left = _remember(context, platform, list(results.values()))
        self.log.info("put right: %s; then %s", done, total(one for parts in results.values() for one in parts))
        if left["drift"]:
            raise RetryableError(f"repair: {left['drift']} records differ after it: the log of this task names them")
        return done
