"""What is written down about a restore: its plan, what became of each slice, and the report. Kept in the store."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from dbops import __version__
from dbops.backups.in_use import holds
from dbops.backups.manifest import PARTITIONS, BackupId, Count, Document, Fingerprint, ManifestError, Partition, Utc
from dbops.backups.store import NotFound, Store, StoreRefused
from dbops.errors import FinalError
from dbops.platform import Retention

ROOT: Final = "restores/"
RestoreId = Annotated[str, Field(pattern=r"^\d{8}T\d{6}Z-(restore|dryrun)-[0-9a-f]{8}$")]
KEPT = timedelta(days=30)
_restore_id: TypeAdapter[str] = TypeAdapter(RestoreId)


class Policy(StrEnum):
    """What to do with a record that the target holds already."""

    REPLACE = "replace"
    UPDATE = "update"
    MISSING = "missing"
    NEWER = "newer"


POLICIES = {
    Policy.REPLACE: "each record becomes what the backup holds, records that it knows as deleted are deleted",
    Policy.UPDATE: "the backup's bins are written over those of the target, other bins stay",
    Policy.MISSING: "only records that the target does not hold are written",
    Policy.NEWER: "a record is replaced only by one of a higher generation",
}


RestoreEngine = Literal["native", "asrestore"]
When = Literal["before", "after"]


class RestoreTarget(Document):
    """Where a restore writes to: a cluster of the platform file, or its scratch cluster."""

    cluster: str
    namespace: str
    is_scratch: bool = False

    @property
    def text(self) -> str:
        return f"{self.cluster}/{self.namespace}"


class RestorePlan(Document):
    """One restore's decisions, made once and handed to every slice."""

    id: RestoreId
    cluster: str
    namespace: str
    points: list[BackupId] = Field(min_length=1)
    """The chain, the full first; the last one is the state that is wanted."""
    snapshot_at: Utc
    """Of the last point: the target will hold what the source held at some moment at or after it."""
    wanted_at: Utc | None = None
    """The point in time that was asked for."""
    target: RestoreTarget
    policy: Policy = Policy.REPLACE
    sets: tuple[str, ...] = ()
    bins: tuple[str, ...] = ()
    extra_ttl: Count = 0
    """Seconds."""
    dry_run: bool = False
    definitions: When = "after"
    """When indexes and UDFs are made: before or after the records are written."""
    engine: RestoreEngine = "native"
    """What writes the records."""
    engine_version: str = __version__
    engine_path: str | None = None
    slices: list[tuple[Partition, Partition]]
    holder: str = Field(min_length=1)
    started_at: Utc
    records: Count
    """That the points hold; a record that changed stands in several."""
    text_bytes: Count
    target_records: Count
    """That the target held when the plan was made."""
    indexes: tuple[str, ...] = ()
    udfs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def needs_approval(self) -> bool:
        """Whether a person must agree: it writes to a place that is in use or that holds data."""
        return not self.dry_run and (not self.target.is_scratch or self.target_records > 0)

    def describe(self) -> str:
        """The plan in words, for the person who approves it; Markdown."""
        lines = [
            f"**Restore {self.cluster}/{self.namespace} to {self.target.text}** as of {self.snapshot_at:%F %T} UTC"
            + (f" (asked for: {self.wanted_at:%F %T} UTC)" if self.wanted_at else ""),
            "",
            f"- points: {', '.join(self.points)}",
            f"- about {self.records:,} records, {self.text_bytes / 1e6:,.1f} MB of text, in {len(self.slices)} slices",
            f"- the target holds {self.target_records:,} records now",
            f"- policy {self.policy}: {POLICIES[self.policy]}",
        ]
        if self.sets:
            lines.append(f"- only sets {', '.join(self.sets)}")
        if self.bins:
            lines.append(f"- only bins {', '.join(self.bins)}")
        if self.extra_ttl:
            lines.append(f"- records that expire live {timedelta(seconds=self.extra_ttl)} longer")
        if self.definitions == "before":
            lines.append("- indexes and UDFs are made before the records are written")
        if self.engine != "native":
            lines.append(f"- {self.engine} {self.engine_version} writes the records")
        lines += [f"- **mind**: {warning}" for warning in self.warnings]
        return "\n".join(lines)


class Failure(Document):
    """A record that the target refused."""

    digest: str
    set: str
    reason: str


class Outcomes(Document):
    """What became of every record that was read, in numbers."""

    read: Count = 0
    inserted: Count = 0
    updated: Count = 0
    existing: Count = 0
    """Left alone: the target held it (policy `missing`), or one of the same or a higher generation (`newer`)."""
    superseded: Count = 0
    """Not written: a newer point of the chain held it too."""
    deleted: Count = 0
    """Not written: a newer point of the chain knows that it was deleted."""
    other_set: Count = 0
    no_bin: Count = 0
    expired: Count = 0
    planned: Count = 0
    """Would be written (dry run)."""
    failed: Count = 0
    removed: Count = 0
    """Deleted from the target; not among those read."""

    def accounted(self) -> bool:
        """Whether every record that was read is in one of the other numbers."""
        rest = self.model_dump(exclude={"read", "removed"})
        return bool(self.read == sum(rest.values()))

    @classmethod
    def total(cls, parts: Sequence[Outcomes]) -> Outcomes:
        return cls(**{name: sum(getattr(part, name) for part in parts) for name in cls.model_fields})


class RestoreSliceResult(Document):
    """What one slice did. The lists have an entry per partition of the slice."""

    restore_id: RestoreId
    first: Partition
    last: Partition
    outcomes: Outcomes
    failures: list[Failure]
    """The first ones; `outcomes.failed` counts them all."""
    present: list[Count]
    """Records that the target must hold now because this slice wrote or met them."""
    fingerprints: list[Fingerprint]
    expiring: list[Count]
    """Of those, how many expire within a day."""
    compared: Count
    """Records that were read back and compared bin by bin."""
    differing: list[str]
    """What was found to differ, in words."""
    seconds: float = Field(ge=0)
    again: Count = 0
    """Batches of which rows were sent again."""


class RestoreReport(Document):
    """The end of a restore."""

    id: RestoreId
    cluster: str
    namespace: str
    target: str
    points: list[BackupId]
    dry_run: bool
    ok: bool
    problems: list[str]
    warnings: list[str]
    outcomes: Outcomes
    failures: list[Failure]
    compared: Count
    target_records: Count
    """That the target held at the end."""
    indexes: list[str]
    udfs: list[str]
    started_at: Utc
    finished_at: Utc

    @property
    def seconds(self) -> float:
        return (self.finished_at - self.started_at).total_seconds()


class Restored(Document):
    """That a namespace was restored to: its next backup is a full one."""

    at: Utc
    restore: RestoreId


def restore_id(now: datetime, *, dry_run: bool = False) -> str:
    """`20261124T101500Z-restore-1f2e3d4c`; of a dry run `20261124T101500Z-dryrun-1f2e3d4c`."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{'dryrun' if dry_run else 'restore'}-{secrets.token_hex(4)}"


def _key(id: str, name: str) -> str:
    return f"{ROOT}{id}/{name}.json"


def sweep_restores(
    store: Store, policies: Iterable[Retention], now: datetime | None = None
) -> tuple[list[str], dict[str, str]]:
    """Remove what is written down about restores, once nothing was added to it for long enough: for the grace period to
    what a dry run wrote (`dbops restore plan` is one), to all else for as long as fulls are kept, at least 30 days. A
    restore that still runs keeps it.

    :param policies: of every namespace of the platform; the longest period counts.
    :return: ids that are gone, and those that the store refused to delete, with why.
    """
    now = now or datetime.now(UTC)
    kept, grace = KEPT, timedelta(0)
    for policy in policies:
        kept, grace = max(kept, policy.full), max(grace, policy.grace)
    gone: list[str] = []
    failed: dict[str, str] = {}
    for prefix in list(store.list_prefixes(ROOT)):
        id = prefix.rstrip("/").rpartition("/")[2]
        before = now - (grace if "-dryrun-" in id else kept)
        started = _started(id)
        if started is None or started >= before:
            continue
        found = list(store.list(prefix))
        if any(item.modified_at is None or item.modified_at >= before for item in found) or _runs(store, id, now):
            continue
        plan = _key(id, "plan")
        try:
            # The plan says whether the restore runs: it goes last, so that a sweep may be interrupted.
            store.delete([item.key for item in found if item.key != plan])
            store.delete([plan])
        except StoreRefused as error:
            failed[id] = str(error)
            continue
        gone.append(id)
    return gone, failed


def _started(name: str) -> datetime | None:
    """When the restore of that id was planned; None when it is no id."""
    try:
        return datetime.strptime(_restore_id.validate_python(name)[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:  # of pydantic too
        return None


def _runs(store: Store, id: str, now: datetime) -> bool:
    """Whether a restore still keeps its points from retention, as each does while it runs; a dry run does not."""
    key = _key(id, "plan")
    try:
        plan = RestorePlan.from_json(store.get(key), f"{store.url}/{key}")
    except (NotFound, ManifestError):
        return False
    return holds(store, plan.cluster, plan.namespace, plan.holder, now)


def put_plan(store: Store, plan: RestorePlan) -> None:
    store.put(_key(plan.id, "plan"), plan.to_json())


def put_slice(store: Store, result: RestoreSliceResult) -> None:
    store.put(_key(result.restore_id, f"slice_{result.first:04d}_{result.last:04d}"), result.to_json())


def slices_done(store: Store, plan: RestorePlan) -> list[RestoreSliceResult]:
    """Results of the slices that ended, in order."""
    found = []
    for first, last in plan.slices:
        key = _key(plan.id, f"slice_{first:04d}_{last:04d}")
        try:
            found.append(RestoreSliceResult.from_json(store.get(key), f"{store.url}/{key}"))
        except NotFound:
            continue
    return found


def put_report(store: Store, report: RestoreReport) -> None:
    store.put(_key(report.id, "report"), report.to_json())


def read_report(store: Store, id: str) -> RestoreReport:
    """:raises NotFound: the restore did not end, or there was none of that id."""
    key = _key(id, "report")
    return RestoreReport.from_json(store.get(key), f"{store.url}/{key}")


def _restored_key(cluster: str, namespace: str) -> str:
    return f"aerospike/{cluster}/{namespace}/_restored.json"


def mark_restored(store: Store, plan: RestorePlan) -> None:
    """Remember, before anything is written, that the namespace's own history ends here."""
    document = Restored(at=datetime.now(UTC), restore=plan.id)
    store.put(_restored_key(plan.target.cluster, plan.target.namespace), document.to_json())


def restored_at(store: Store, cluster: str, namespace: str) -> datetime | None:
    """When a namespace was last restored to; None if never."""
    key = _restored_key(cluster, namespace)
    try:
        return Restored.from_json(store.get(key), f"{store.url}/{key}").at
    except NotFound:
        return None


def unpacked(results: Sequence[RestoreSliceResult]) -> tuple[list[int], list[int], list[int]]:
    """Present, fingerprints and expiring of all 4096 partitions.

    :raises FinalError: the slices are not all there.
    """
    present: list[int] = []
    fingerprints: list[int] = []
    expiring: list[int] = []
    for result in sorted(results, key=lambda result: result.first):
        if result.first != len(present):
            raise FinalError(f"slices of restore {result.restore_id} are missing before partition {result.first}")
        present += result.present
        fingerprints += [int(value, 16) for value in result.fingerprints]
        expiring += result.expiring
    if len(present) != PARTITIONS:
        raise FinalError(f"slices of the restore are missing from partition {len(present)} on")
    return present, fingerprints, expiring
