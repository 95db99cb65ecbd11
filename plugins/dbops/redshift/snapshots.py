"""Snapshots of a cluster or serverless namespace: is the newest one young enough, take one, let old ones of ours go.

Both kinds of Redshift behind the same functions. Automated snapshots of a serverless namespace are its recovery points.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from dbops.backups.retention import Point, Policy, RetentionPlan, plan_retention
from dbops.connections import ConnectionInfo
from dbops.errors import FinalError, RetryableError
from dbops.platform import Redshift, Retention, duration_text
from dbops.redshift.api import (
    PLATFORM_TAG,
    RUN_TAG,
    NotThere,
    TakenName,
    as_dict,
    as_list,
    calls,
    name_of,
    redshift_client,
)

USABLE = frozenset({"available", "final snapshot"})
"""https://docs.aws.amazon.com/redshift/latest/APIReference/API_Snapshot.html; of Serverless only the first."""
PENDING = frozenset({"creating", "copying"})
LONGEST_ID = 200
CLOCK_SKEW = timedelta(minutes=10)


class ForeignSnapshot(FinalError):
    """A snapshot of that name exists and was not taken by this run."""


class SnapshotFailed(FinalError):
    """AWS could not take the snapshot."""


class SnapshotPending(RetryableError):
    """It is not done within the time that was waited for."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot, or a recovery point of a serverless namespace.

    :param created_at: the moment whose data it holds.
    :param source: the cluster or namespace that it is of.
    """

    id: str
    kind: Literal["automated", "manual"]
    status: str
    created_at: datetime
    source: str
    arn: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    megabytes: float | None = None
    is_recovery_point: bool = False

    @property
    def is_usable(self) -> bool:
        return self.status in USABLE


class Snapshots(Protocol):
    """The snapshots of one cluster or namespace.

    Each method raises ApiUnreachable when AWS does not answer, ApiRefused when it does not let us.
    """

    @property
    def source(self) -> str: ...

    def list(self) -> list[Snapshot]:
        """All of them, the oldest first.

        :raises NotThere: the cluster or workgroup does not exist, and has left no snapshots.
        """
        ...

    def get(self, id: str) -> Snapshot | None:
        """The manual snapshot of that name, whoever's it is."""
        ...

    def create(self, id: str, tags: Mapping[str, str]) -> Snapshot:
        """:raises TakenName: there is one."""
        ...

    def delete(self, id: str) -> None:
        """Nothing happens when it is gone."""
        ...


def open_snapshots(redshift: Redshift, connection: ConnectionInfo, namespace: str | None = None) -> Snapshots:
    """The snapshots of the platform's warehouse. Connects to nothing yet.

    :param namespace: of a serverless workgroup that is gone and cannot tell it any more.
    """
    client = redshift_client(connection, redshift.region, serverless=redshift.serverless)
    if redshift.serverless:
        return ServerlessSnapshots(client, redshift.name, namespace)
    return ClusterSnapshots(client, redshift.name)


class ClusterSnapshots:
    """Of a provisioned cluster."""

    def __init__(self, client: Any, cluster: str) -> None:
        self._client, self.source = client, cluster

    def list(self) -> list[Snapshot]:
        with calls(f"list the snapshots of cluster {self.source}"):
            pages = self._client.get_paginator("describe_cluster_snapshots").paginate(ClusterIdentifier=self.source)
            found = [_of_cluster(item) for page in pages for item in page["Snapshots"]]
        return _ordered(item for item in found if item.source == self.source)

    def get(self, id: str) -> Snapshot | None:
        try:
            with calls(f"describe snapshot {id}"):
                found = self._client.describe_cluster_snapshots(SnapshotIdentifier=id)["Snapshots"]
        except NotThere:
            return None
        return _of_cluster(found[0]) if found else None

    def create(self, id: str, tags: Mapping[str, str]) -> Snapshot:
        with calls(f"take snapshot {id} of cluster {self.source}"):
            made = self._client.create_cluster_snapshot(
                SnapshotIdentifier=id, ClusterIdentifier=self.source, Tags=as_list(tags)
            )
        return _of_cluster(made["Snapshot"])

    def delete(self, id: str) -> None:
        try:
            with calls(f"delete snapshot {id} of cluster {self.source}"):
                self._client.delete_cluster_snapshot(SnapshotIdentifier=id, SnapshotClusterIdentifier=self.source)
        except NotThere:
            return


def _of_cluster(found: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        id=found["SnapshotIdentifier"],
        kind="automated" if found.get("SnapshotType") == "automated" else "manual",
        status=str(found.get("Status", "")).lower(),
        created_at=found["SnapshotCreateTime"].astimezone(UTC),
        source=found["ClusterIdentifier"],
        arn=found.get("SnapshotArn", ""),
        tags=as_dict(found.get("Tags")),
        megabytes=found.get("TotalBackupSizeInMegaBytes"),
    )


class ServerlessSnapshots:
    """Of the namespace of a serverless workgroup."""

    def __init__(self, client: Any, workgroup: str, namespace: str | None = None) -> None:
        self._client, self._workgroup, self._namespace = client, workgroup, namespace
        self._source: str | None = None

    @property
    def source(self) -> str:
        if self._source is None:
            try:
                with calls(f"describe workgroup {self._workgroup}"):
                    found = self._client.get_workgroup(workgroupName=self._workgroup)["workgroup"]
                self._source = str(found["namespaceName"])
            except NotThere:
                if self._namespace is None:
                    raise
                self._source = self._namespace
        return self._source

    def list(self) -> list[Snapshot]:
        with calls(f"list the snapshots of namespace {self.source}"):
            pages = self._client.get_paginator("list_snapshots").paginate(namespaceName=self.source)
            found = [self._with_tags(item) for page in pages for item in page["snapshots"]]
            pages = self._client.get_paginator("list_recovery_points").paginate(namespaceName=self.source)
            found += [_of_recovery_point(item) for page in pages for item in page["recoveryPoints"]]
        return _ordered(found)

    def get(self, id: str) -> Snapshot | None:
        try:
            with calls(f"describe snapshot {id}"):
                return self._with_tags(self._client.get_snapshot(snapshotName=id)["snapshot"])
        except NotThere:
            return None

    def create(self, id: str, tags: Mapping[str, str]) -> Snapshot:
        with calls(f"take snapshot {id} of namespace {self.source}"):
            made = self._client.create_snapshot(
                snapshotName=id, namespaceName=self.source, tags=as_list(tags, lower=True)
            )
        return _of_namespace(made["snapshot"], tags)

    def delete(self, id: str) -> None:
        try:
            with calls(f"delete snapshot {id} of namespace {self.source}"):
                self._client.delete_snapshot(snapshotName=id)
        except NotThere:
            return

    def _with_tags(self, found: Mapping[str, Any]) -> Snapshot:
        """Tags cost a call each: only what bears a name of ours is asked for them."""
        if not found["snapshotName"].startswith("dbops-") or not found.get("snapshotArn"):
            return _of_namespace(found, {})
        tags = self._client.list_tags_for_resource(resourceArn=found["snapshotArn"])["tags"]
        return _of_namespace(found, as_dict(tags))


def _of_namespace(found: Mapping[str, Any], tags: Mapping[str, str]) -> Snapshot:
    return Snapshot(
        id=found["snapshotName"],
        kind="manual",
        status=str(found.get("status", "")).lower(),
        created_at=found["snapshotCreateTime"].astimezone(UTC),
        source=found["namespaceName"],
        arn=found.get("snapshotArn", ""),
        tags=dict(tags),
        megabytes=found.get("totalBackupSizeInMegaBytes"),
    )


def _of_recovery_point(found: Mapping[str, Any]) -> Snapshot:
    """One that is listed can be restored: it has no status."""
    return Snapshot(
        id=found["recoveryPointId"],
        kind="automated",
        status="available",
        created_at=found["recoveryPointCreateTime"].astimezone(UTC),
        source=found["namespaceName"],
        megabytes=found.get("totalSizeInMegaBytes"),
        is_recovery_point=True,
    )


def _ordered(found: Iterable[Snapshot]) -> list[Snapshot]:
    return sorted(found, key=lambda item: (item.created_at, item.id))


# --- how old is the newest --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Age:
    """What the check of the newest snapshot found.

    :param age: of the newest usable one; None: there is none.
    """

    ok: bool
    age: timedelta | None
    newest: Snapshot | None
    message: str


def check_age(snapshots: Sequence[Snapshot], max_age: timedelta, now: datetime) -> Age:
    """Whether the newest usable snapshot is younger than `max_age`.

    Only what AWS calls available counts: one that is being taken, has failed, has a status that is not known here or
    lies in the future is named, and proves nothing.

    :param now: aware UTC.
    """
    usable = [item for item in snapshots if item.is_usable and item.created_at <= now + CLOCK_SKEW]
    newest = max(usable, key=lambda item: item.created_at, default=None)
    after = [
        item for item in snapshots if item not in usable and (newest is None or item.created_at > newest.created_at)
    ]
    named = "; ".join(f"{item.id} of {item.created_at:%FT%TZ} is {_state(item, now)}" for item in after[-3:])
    if newest is None:
        return Age(False, None, None, f"there is no usable snapshot{f': {named}' if named else ''}")
    age = max(now - newest.created_at, timedelta(0))
    ok = age < max_age
    message = f"newest usable snapshot {newest.id} ({newest.kind}) is {duration_text(age)} old"
    if not ok:
        message += f", {duration_text(max_age)} are allowed"
    return Age(ok, age, newest, f"{message}{f'; newer, but not usable: {named}' if named else ''}")


def _state(snapshot: Snapshot, now: datetime) -> str:
    if snapshot.is_usable:
        return "in the future" if snapshot.created_at > now else snapshot.status
    return snapshot.status or "without a status"


# --- take one ---------------------------------------------------------------------------------------------


def snapshot_id(run: str, source: str, task: str = "snapshot") -> str:
    """The name of the snapshot that a run takes: the same in each of its retries."""
    dag = run.partition("/")[0]
    return name_of(f"{run}/{task}", source, dag, longest=LONGEST_ID)


def begin_snapshot(snapshots: Snapshots, id: str, tags: Mapping[str, str]) -> Snapshot:
    """Take the snapshot of that name, or adopt it when an earlier try of the same run has.

    One that has failed is removed and taken again. It is not waited for: ask again until `is_usable`.

    :param tags: of `api.tags_of`; the run in them decides what is adopted.
    :raises ForeignSnapshot: the name is taken by something else.
    """
    found = snapshots.get(id)
    if found is None:
        try:
            return snapshots.create(id, tags)
        except TakenName:
            found = snapshots.get(id)
            if found is None:
                raise
    if found.source != snapshots.source or found.tags.get(RUN_TAG) != tags[RUN_TAG]:
        raise ForeignSnapshot(
            f"take snapshot {id} of {snapshots.source}: one of that name exists, of {found.source}, with tag {RUN_TAG} "
            f"{found.tags.get(RUN_TAG)!r}; nothing was done: rename or delete it, or trigger a new run"
        )
    if found.is_usable or found.status in PENDING:
        return found
    snapshots.delete(id)
    return snapshots.create(id, tags)


def wait_for_snapshot(
    snapshots: Snapshots,
    id: str,
    tags: Mapping[str, str],
    limit: timedelta,
    *,
    poll: float = 15.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Snapshot:
    """Take or adopt it, and wait until it can be used.

    :raises SnapshotPending: it cannot within `limit`; ask again, it goes on by itself.
    """
    end = time.monotonic() + limit.total_seconds()
    while True:
        found = begin_snapshot(snapshots, id, tags)
        if found.is_usable:
            return found
        if time.monotonic() >= end:
            raise SnapshotPending(
                f"snapshot {id} of {snapshots.source} is still {found.status} after {duration_text(limit)}; it goes on "
                "by itself: run the same again to wait for it"
            )
        sleep(poll)


# --- let old ones go --------------------------------------------------------------------------------------


def is_ours(snapshot: Snapshot, platform: str) -> bool:
    """Whether this package took it, for that platform."""
    return snapshot.kind == "manual" and snapshot.tags.get(PLATFORM_TAG) == platform


def plan_snapshot_expiry(
    snapshots: Sequence[Snapshot], platform: str, keep: timedelta, policy: Retention, now: datetime
) -> RetentionPlan:
    """Which snapshots of ours may go: the rules of `backups.retention`, with every snapshot as a full backup.

    Automated snapshots and those of others are never let go; they count for the floor of newest good ones.

    :param keep: how long ours are kept.
    :param policy: floor, largest share that goes at once, grace; the platform's.
    """
    kept: Policy = policy.model_copy(update={"full": keep, "incremental": keep})
    return plan_retention([_point(item, platform) for item in snapshots], kept, now)


def _point(snapshot: Snapshot, platform: str) -> Point:
    held = None
    if snapshot.kind == "automated":
        held = "is an automated one: AWS lets it go"
    elif not is_ours(snapshot, platform):
        held = f"has no tag {PLATFORM_TAG}={platform}: dbops did not take it"
    elif snapshot.status in PENDING:
        held = f"is {snapshot.status}"
    return Point(
        id=snapshot.id,
        snapshot_at=snapshot.created_at,
        full=True,
        verified=snapshot.is_usable,
        problem=None if snapshot.is_usable else f"its status is {snapshot.status or 'unknown'}",
        held=held,
    )


def expire_snapshot(snapshots: Snapshots, id: str, created_at: datetime, platform: str) -> str | None:
    """Delete a snapshot that a plan names; why it was left, or None when it is gone.

    It is looked at again first: what has another age or owner now than in the plan stays.
    """
    found = snapshots.get(id)
    if found is None:
        return None
    if found.created_at != created_at or found.source != snapshots.source or not is_ours(found, platform):
        return "it is not what the plan saw any more"
    snapshots.delete(id)
    return None
