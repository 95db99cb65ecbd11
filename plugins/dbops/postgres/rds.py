"""The PostgreSQL instance as RDS knows it: its automated backups, how far it can be brought back, its snapshots.

What is done with snapshots (take, adopt, wait, let go) is the same as for Redshift: `dbops.redshift.snapshots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dbops import aws
from dbops.aws import RUN_TAG, NotThere, TakenName, as_dict, as_list
from dbops.backups.store import aws_client
from dbops.connections import ConnectionInfo
from dbops.platform import Postgres, PostgresRds, duration_text
from dbops.redshift.snapshots import (
    PENDING,
    Age,
    ForeignSnapshot,
    Snapshot,
    begin_snapshot,
    check_age,
    expire_snapshot,
    plan_snapshot_expiry,
    snapshot_id,
    wait_for_snapshot,
)

__all__ = [
    "Age", "ForeignSnapshot", "Instance", "InstanceSnapshots", "Recovery", "Snapshot", "begin_copy", "begin_snapshot",
    "calls", "check_automated", "check_recovery", "describe", "expire_snapshot", "open_copies", "open_snapshots",
    "places", "plan_snapshot_expiry", "rds_client", "snapshot_id", "wait_for_snapshot",
]  # fmt: skip

POLICY = "include/iam/rds-policy.json"
CLOCK_SKEW = timedelta(minutes=10)


def calls(what: str) -> AbstractContextManager[None]:
    """As `dbops.aws.calls`.

    :param what: what is attempted on what: `describe instance exchange-v2`.
    """
    return aws.calls(what, POLICY)


def rds_client(connection: ConnectionInfo, region: str) -> Any:
    return aws_client(connection, region, "rds")


# --- the instance -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Instance:
    """What RDS says about an instance.

    :param backup_window: `23:00-00:00`, UTC.
    :param backup_retention: of automated backups; zero: there are none, and no recovery to a moment.
    :param latest_restorable: the newest moment that it can be brought back to; None: to none.
    """

    id: str
    status: str
    engine_version: str
    arn: str
    storage_gb: int
    backup_window: str
    backup_retention: timedelta
    latest_restorable: datetime | None
    encrypted: bool
    deletion_protection: bool
    multi_az: bool
    tags: Mapping[str, str] = field(default_factory=dict)


def describe(client: Any, instance: str) -> Instance:
    """:raises NotThere: there is none of that name in the client's region."""
    with calls(f"describe instance {instance}"):
        found = client.describe_db_instances(DBInstanceIdentifier=instance)["DBInstances"][0]
    latest = found.get("LatestRestorableTime")
    return Instance(
        id=found["DBInstanceIdentifier"],
        status=str(found.get("DBInstanceStatus", "")).lower(),
        engine_version=str(found.get("EngineVersion", "")),
        arn=found.get("DBInstanceArn", ""),
        storage_gb=int(found.get("AllocatedStorage", 0)),
        backup_window=str(found.get("PreferredBackupWindow", "")),
        backup_retention=timedelta(days=int(found.get("BackupRetentionPeriod", 0))),
        latest_restorable=latest.astimezone(UTC) if latest else None,
        encrypted=bool(found.get("StorageEncrypted")),
        deletion_protection=bool(found.get("DeletionProtection")),
        multi_az=bool(found.get("MultiAZ")),
        tags=as_dict(found.get("TagList")),
    )


@dataclass(frozen=True)
class Recovery:
    """What would be lost if the instance were gone now.

    :param age: of the newest moment that it can be brought back to; None: to none.
    :param settings: where the settings of its automated backups differ from the platform file.
    """

    ok: bool
    age: timedelta | None
    message: str
    settings: tuple[str, ...]


def check_recovery(instance: Instance, wanted: PostgresRds, rpo: timedelta, now: datetime) -> Recovery:
    """Whether recovery to a moment would lose less than `rpo`, and automated backups are set as they should be.

    A moment that lies in the future proves nothing.

    :param now: aware UTC.
    """
    settings = []
    if not instance.backup_retention:
        settings.append("automated backups are switched off (backup retention is 0 days)")
    elif instance.backup_retention < wanted.backup_retention:
        settings.append(
            f"automated backups are kept {duration_text(instance.backup_retention)}, "
            f"{duration_text(wanted.backup_retention)} are wanted"
        )
    if wanted.backup_window and instance.backup_window != wanted.backup_window:
        settings.append(
            f"the backup window is {instance.backup_window or 'not set'} UTC, {wanted.backup_window} UTC is wanted"
        )
    latest = instance.latest_restorable
    if latest is None:
        return Recovery(False, None, f"{instance.id} can be brought back to no moment", tuple(settings))
    if latest > now + CLOCK_SKEW:
        message = f"{instance.id} says it can be brought back to {latest:%FT%TZ}, which lies in the future"
        return Recovery(False, None, message, tuple(settings))
    age = max(now - latest, timedelta(0))
    ok = age <= rpo
    message = f"{instance.id} can be brought back to {latest:%FT%TZ}, {duration_text(age)} ago"
    return Recovery(ok, age, message if ok else f"{message}; {duration_text(rpo)} are allowed", tuple(settings))


# --- snapshots ----------------------------------------------------------------------------------------------


def open_snapshots(postgres: Postgres, connection: ConnectionInfo) -> InstanceSnapshots:
    """The snapshots of the platform's instance. Connects to nothing yet."""
    return InstanceSnapshots(rds_client(connection, postgres.region), postgres.name)


def open_copies(postgres: Postgres, connection: ConnectionInfo, region: str) -> InstanceSnapshots:
    """Their copies in another region."""
    return InstanceSnapshots(rds_client(connection, region), postgres.name)


def places(postgres: Postgres, rds: PostgresRds, connection: ConnectionInfo) -> dict[str, InstanceSnapshots]:
    """By region: where snapshots of ours are."""
    found = {postgres.region: open_snapshots(postgres, connection)}
    if rds.copy_region:
        found[rds.copy_region] = open_copies(postgres, connection, rds.copy_region)
    return found


class InstanceSnapshots:
    """The snapshots of an instance in one region: `dbops.redshift.snapshots.Snapshots`."""

    def __init__(self, client: Any, instance: str) -> None:
        self.client, self.source = client, instance

    @property
    def region(self) -> str:
        return str(self.client.meta.region_name)

    def list(self) -> list[Snapshot]:
        """All of them, the oldest first; also when the instance is gone."""
        with calls(f"list the snapshots of {self.source} in {self.region}"):
            pages = self.client.get_paginator("describe_db_snapshots").paginate(DBInstanceIdentifier=self.source)
            found = [_snapshot(item) for page in pages for item in page["DBSnapshots"]]
        return sorted(found, key=lambda item: (item.created_at, item.id))

    def get(self, id: str) -> Snapshot | None:
        """The snapshot of that name, whoever's it is."""
        try:
            with calls(f"describe snapshot {id} in {self.region}"):
                found = self.client.describe_db_snapshots(DBSnapshotIdentifier=id)["DBSnapshots"]
        except NotThere:
            return None
        return _snapshot(found[0]) if found else None

    def create(self, id: str, tags: Mapping[str, str]) -> Snapshot:
        """:raises TakenName: there is one."""
        with calls(f"take snapshot {id} of {self.source}"):
            made = self.client.create_db_snapshot(
                DBSnapshotIdentifier=id, DBInstanceIdentifier=self.source, Tags=as_list(tags)
            )
        return replace(_snapshot(made["DBSnapshot"]), tags=dict(tags))

    def delete(self, id: str) -> None:
        """Nothing happens when it is gone."""
        try:
            with calls(f"delete snapshot {id} of {self.source} in {self.region}"):
                self.client.delete_db_snapshot(DBSnapshotIdentifier=id)
        except NotThere:
            return


def _snapshot(found: Mapping[str, Any]) -> Snapshot:
    """A copy is as old as what it was copied from: that is the moment whose data it holds."""
    times = [found[name] for name in ("OriginalSnapshotCreateTime", "SnapshotCreateTime") if found.get(name)]
    # RDS tells no time before the data is at hand: it is of now.
    created = min(times, default=datetime.now(UTC))
    return Snapshot(
        id=found["DBSnapshotIdentifier"],
        kind="automated" if found.get("SnapshotType") in ("automated", "awsbackup") else "manual",
        status=str(found.get("Status", "")).lower(),
        created_at=created.astimezone(UTC),
        source=found["DBInstanceIdentifier"],
        arn=found.get("DBSnapshotArn", ""),
        tags=as_dict(found.get("TagList")),
        megabytes=float(found["AllocatedStorage"]) * 1024 if found.get("AllocatedStorage") else None,
    )


def begin_copy(
    copies: InstanceSnapshots, snapshot: Snapshot, region: str, tags: Mapping[str, str], kms_key: str | None = None
) -> Snapshot:
    """Copy a usable snapshot to another region under its name, or adopt the copy of an earlier try of the same run.

    One that has failed is removed and made again. It is not waited for: ask again until `is_usable`.

    :param copies: of the region that it is copied to.
    :param region: the one that it is copied from.
    :raises ForeignSnapshot: the name is taken there by something else.
    """
    found = copies.get(snapshot.id)
    if found is not None:
        if found.source != copies.source or found.tags.get(RUN_TAG) != tags[RUN_TAG]:
            raise ForeignSnapshot(
                f"copy snapshot {snapshot.id} to {copies.region}: one of that name exists there, of {found.source}, "
                f"with tag {RUN_TAG} {found.tags.get(RUN_TAG)!r}; nothing was done: rename or delete it, or trigger "
                "a new run"
            )
        if found.is_usable or found.status in PENDING:
            return found
        copies.delete(snapshot.id)
    words: dict[str, Any] = {"KmsKeyId": kms_key} if kms_key else {}
    try:
        with calls(f"copy snapshot {snapshot.id} from {region} to {copies.region}"):
            made = copies.client.copy_db_snapshot(
                SourceDBSnapshotIdentifier=snapshot.arn,
                TargetDBSnapshotIdentifier=snapshot.id,
                SourceRegion=region,
                Tags=as_list(tags),
                **words,
            )
    except TakenName:
        there = copies.get(snapshot.id)
        if there is None or there.tags.get(RUN_TAG) != tags[RUN_TAG]:
            raise
        return there
    return replace(_snapshot(made["DBSnapshot"]), tags=dict(tags))


def check_automated(snapshots: Sequence[Snapshot], max_age: timedelta, now: datetime) -> Age:
    """Whether the newest automated snapshot is younger than `max_age`."""
    return check_age([item for item in snapshots if item.kind == "automated"], max_age, now)
