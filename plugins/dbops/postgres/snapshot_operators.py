"""Operators of RDS: how far PostgreSQL can be brought back, its snapshots, and their copies in another region.

What RDS has made is found again: a retry makes nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowSkipException

from dbops.adapter import connection, open_ledger
from dbops.errors import ConfigurationError, DbopsError, FinalError, RetryableError
from dbops.platform import Platform, Postgres, PostgresRds, duration_text, load_platform

if TYPE_CHECKING:
    from airflow.sdk import Context

    from dbops.postgres.rds import InstanceSnapshots

POLL = timedelta(seconds=30)
AGE, RPO, SETTINGS = "postgres_snapshot_age", "postgres_rpo", "postgres_rds_settings"


class NotRecoverable(FinalError):
    """There is no automated backup that is young enough, or they are not set as they should be."""


class RecoveryLate(RetryableError):
    """More than the RPO would be lost if the instance were gone now. RDS catches up by itself, or does not."""


class SnapshotSlow(FinalError):
    """A snapshot, or its copy, is not done within its time; it goes on by itself."""


def rds_of(platform: Platform) -> tuple[Postgres, PostgresRds]:
    """:raises ConfigurationError: the platform has no instance on RDS."""
    if platform.postgres is None or platform.postgres.rds is None:
        raise ConfigurationError(f"platform {platform.name} has no section `postgres.rds`: add it to its file")
    return platform.postgres, platform.postgres.rds


def run_of(context: Context) -> str:
    """What a run is called in the ledger."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def _snapshots(postgres: Postgres) -> InstanceSnapshots:
    from dbops.postgres.rds import open_snapshots

    return open_snapshots(postgres, connection(postgres.aws_connection))


def snapshot_places(postgres: Postgres, rds: PostgresRds) -> dict[str, InstanceSnapshots]:
    """By region: where snapshots of ours are."""
    from dbops.postgres.rds import places

    return places(postgres, rds, connection(postgres.aws_connection))


class CheckRecovery(BaseOperator):
    """Compare LatestRestorableTime with the RPO, the newest automated snapshot with its age, and the settings.

    Guarantees: what is not there, and an API that cannot be asked, are failures. Writes the checks `postgres_rpo`,
    `postgres_snapshot_age` and `postgres_rds_settings`.

    :raises RecoveryLate: the RPO is not kept; all else is as it should be.
    :raises NotRecoverable: something else is not as the platform file wants it; the others were looked at too.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import record_check
        from dbops.postgres.rds import check_automated, check_recovery, describe

        platform = load_platform()
        postgres, rds = rds_of(platform)
        ledger, now, rpo = open_ledger(platform), datetime.now(UTC), platform.objectives.postgres.rpo
        note = partial(record_check, ledger, target=postgres.name, run=run_of(context), at=now)
        try:
            snapshots = _snapshots(postgres)
            found = check_recovery(describe(snapshots.client, postgres.name), rds, rpo, now)
            age = check_automated(snapshots.list(), rds.max_age, now)
        except DbopsError as problem:
            for name in (RPO, AGE, SETTINGS):
                note(name=name, ok=False, message=f"could not look: {problem}")
            raise
        seconds = found.age.total_seconds() if found.age is not None else None
        note(name=RPO, ok=found.ok, value=seconds, limit=rpo.total_seconds(), unit="s", message=found.message)
        note(
            name=AGE,
            ok=age.ok,
            value=age.age.total_seconds() if age.age is not None else None,
            limit=rds.max_age.total_seconds(),
            unit="s",
            message=f"automated: {age.message}",
            details={"newest": age.newest.id if age.newest else None},
        )
        settings = "; ".join(found.settings)
        note(name=SETTINGS, ok=not settings, message=settings or "as the platform file wants them")
        self.log.info("%s; automated: %s; %s", found.message, age.message, settings or "settings are as they should be")
        others = [text for text, ok in ((f"automated: {age.message}", age.ok), (settings, not settings)) if not ok]
        late = [] if found.ok else [found.message]
        if late or others:
            kind = NotRecoverable if others else RecoveryLate
            raise kind(
                f"{postgres.name}: {'; '.join([*late, *others])}. Take a snapshot now (`dbops postgres backup "
                "snapshot`) and correct the instance"
            )
        return {"latest_restorable_seconds": seconds, "newest": age.newest.id if age.newest else None}


class TakeRdsSnapshot(BaseSensorOperator):
    """Take a manual snapshot of the instance and wait until it can be used, without holding a worker's slot.

    Guarantees: one snapshot per run and task, whatever is retried or killed: its name is made of them, and what is
    there already is adopted; one of another is refused. It is tagged, and `postgres_backup` lets it go after
    `rds.keep`. The returned value is its name. Writes the action `postgres_snapshot`.

    :param reason: what it is taken for, in words; stands on the snapshot.
    :param limit: how long it may take; then the task fails, and the snapshot goes on by itself. None:
        `rds.snapshot_timeout`.
    """

    template_fields: Sequence[str] = ("reason",)

    def __init__(
        self,
        *,
        reason: str,
        limit: timedelta | None = None,
        poke_interval: timedelta | float = POLL,
        **kwargs: Any,
    ) -> None:
        # The age of the snapshot ends the waiting, in words; this is only a net behind it.
        timeout = timedelta(days=2) if limit is None else limit + timedelta(hours=1)
        super().__init__(mode="reschedule", poke_interval=poke_interval, timeout=timeout, **kwargs)
        self.reason, self.limit = reason, limit

    def poke(self, context: Context) -> bool | PokeReturnValue:
        from dbops.aws import tags_of
        from dbops.ledger import record_action
        from dbops.postgres.rds import begin_snapshot, snapshot_id

        platform, run = load_platform(), run_of(context)
        postgres, rds = rds_of(platform)
        snapshots, limit = _snapshots(postgres), self.limit or rds.snapshot_timeout
        id = snapshot_id(run, postgres.name, self.task_id)
        note = partial(
            record_action, open_ledger(platform), name="postgres_snapshot", target=f"{postgres.name}/{id}", run=run
        )
        found, now = begin_snapshot(snapshots, id, tags_of(platform.name, run, self.reason)), datetime.now(UTC)
        began = context["ti"].get_first_reschedule_date(context) or now
        self.log.info("snapshot %s of %s is %s", id, postgres.name, found.status)
        if found.is_usable:
            details = {"reason": self.reason, "created_at": found.created_at.isoformat()}
            note(started_at=found.created_at, finished_at=now, outcome="done", details=details)
            return PokeReturnValue(True, id)
        _check_time(f"snapshot {id} of {postgres.name}", found.status, now - began, limit)
        note(started_at=began, outcome="running", details={"reason": self.reason})
        return False


class CopyRdsSnapshot(BaseSensorOperator):
    """Copy a snapshot to `rds.copy_region` and wait for it, without holding a worker's slot; skipped without one.

    Guarantees: as `TakeRdsSnapshot`. Writes the action `postgres_snapshot_copy`.

    :param snapshot_task: the `TakeRdsSnapshot` whose snapshot is copied.
    """

    template_fields: Sequence[str] = ()

    def __init__(
        self, *, snapshot_task: str = "snapshot", poke_interval: timedelta | float = POLL, **kwargs: Any
    ) -> None:
        super().__init__(mode="reschedule", poke_interval=poke_interval, timeout=timedelta(days=2), **kwargs)
        self.snapshot_task = snapshot_task

    def poke(self, context: Context) -> bool | PokeReturnValue:
        from dbops.aws import NotThere, tags_of
        from dbops.ledger import record_action
        from dbops.postgres.rds import begin_copy

        platform, run = load_platform(), run_of(context)
        postgres, rds = rds_of(platform)
        if rds.copy_region is None:
            raise AirflowSkipException("the platform file names no region for copies (postgres.rds.copy_region)")
        places, id = snapshot_places(postgres, rds), context["ti"].xcom_pull(task_ids=self.snapshot_task)
        snapshot = places[postgres.region].get(id)
        if snapshot is None:
            raise NotThere(f"copy snapshot {id} of {postgres.name}: it is gone; trigger a new run")
        note = partial(
            record_action,
            open_ledger(platform),
            name="postgres_snapshot_copy",
            target=f"{postgres.name}/{rds.copy_region}/{id}",
            run=run,
        )
        copies, now = places[rds.copy_region], datetime.now(UTC)
        tags = tags_of(platform.name, run, f"copy from {postgres.region}")
        found = begin_copy(copies, snapshot, postgres.region, tags, rds.copy_kms_key)
        began = context["ti"].get_first_reschedule_date(context) or now
        self.log.info("copy of snapshot %s in %s is %s", id, rds.copy_region, found.status)
        if found.is_usable:
            note(started_at=began, finished_at=now, outcome="done")
            return PokeReturnValue(True, id)
        _check_time(f"copy of snapshot {id} in {rds.copy_region}", found.status, now - began, rds.snapshot_timeout)
        note(started_at=began, outcome="running")
        return False


def _check_time(what: str, status: str, age: timedelta, limit: timedelta) -> None:
    if age > limit:
        raise SnapshotSlow(
            f"{what} is {status} since {duration_text(age)}, {duration_text(limit)} are allowed; it goes on by "
            "itself: clear this task to wait for it again"
        )
