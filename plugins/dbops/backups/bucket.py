"""What the bucket does for the backups by itself: its lifecycle rules, and replication to another region.

The lifecycle is a net behind the sweep, no second retention: none of our rules ever ends a current object.
Unfinished uploads are dropped after `UPLOAD_DAYS`, when no sweep has done it. In a versioned bucket, what was deleted
or replaced can be brought back for `VERSION_DAYS`, then its versions and delete markers go (Object Lock is stronger).

The archive of the warehouse has the same two, one for each table that moves its rows to cheaper storage by their age
(its documents stay where they can be read at once), and one that ends leases, of which every archived day leaves one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from dbops.backups import catalog, restores
from dbops.backups.catalog import RestorePoint
from dbops.backups.manifest import Sha256, Utc, backup_prefix
from dbops.backups.store import FROZEN, NotFound, S3Store, Store
from dbops.platform import duration_text

ROOT: Final = "aerospike/"
UPLOAD_DAYS = 7
VERSION_DAYS = 30
LEASE_DAYS = 7
REPLICATED = frozenset({"COMPLETED", "COMPLETE", "REPLICA"})
_READERS = 16


# --- lifecycle ----------------------------------------------------------------------------------------------


@dataclass
class LifecycleReport:
    """What was found and done."""

    changed: bool
    warnings: list[str]
    """Rules of others that touch the backups."""


def ensure_lifecycle(
    store: S3Store, wanted: Sequence[dict[str, Any]] | None = None, *, root: str = ROOT
) -> LifecycleReport:
    """Make the bucket have our rules, and keep all others as they are. Writes only when something differs.

    :param wanted: None: those of the backups.
    :param root: where what they are for lies, below the store's prefix.
    :raises StoreRefused: the login may not read or write the bucket's lifecycle.
    """
    found = store.lifecycle()
    wanted = rules(store.prefix) if wanted is None else wanted
    ours = {rule["ID"] for rule in wanted}
    others = [rule for rule in found["Rules"] if rule.get("ID") not in ours]
    mine = [rule for rule in found["Rules"] if rule.get("ID") in ours]
    changed = sorted(mine, key=_id) != sorted(wanted, key=_id)
    if changed:
        store.set_lifecycle({**found, "Rules": [*map(_modern, others), *wanted]})
    return LifecycleReport(changed, [text for rule in others for text in _harm(store, rule, root)])


def rules(prefix: str) -> list[dict[str, Any]]:
    """Our rules for backups, and what is written down about restores, below a prefix of the bucket."""
    return [*upkeep_rules(f"{prefix}{ROOT}"), _old_versions(f"{prefix}{restores.ROOT}")]


def archive_rules(prefix: str, folders: Sequence[str], classes: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """Our rules for the archive below a prefix of the bucket.

    :param folders: of the archived tables.
    :param classes: days of age, and the storage class from then on.
    """
    moves = [{"Days": days, "StorageClass": name} for days, name in sorted(classes)]
    tables = [
        {
            "ID": f"dbops {prefix}{folder} storage classes",
            "Status": "Enabled",
            "Filter": {"Prefix": f"{prefix}{folder}/"},
            "Transitions": moves,
        }
        for folder in folders
        if moves
    ]
    leases = {
        "ID": f"dbops {prefix} ended leases",
        "Status": "Enabled",
        "Filter": {"Prefix": f"{prefix}_leases/"},
        "Expiration": {"Days": LEASE_DAYS},
    }
    return [*upkeep_rules(prefix), *tables, leases]


def upkeep_rules(prefix: str) -> list[dict[str, Any]]:
    """The rules that every kind of backup has: unfinished uploads and old versions go."""
    unfinished = {
        "ID": f"dbops {prefix} unfinished uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UPLOAD_DAYS},
    }
    return [unfinished, _old_versions(prefix)]


def _old_versions(prefix: str) -> dict[str, Any]:
    return {
        "ID": f"dbops {prefix} old versions",
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "NoncurrentVersionExpiration": {"NoncurrentDays": VERSION_DAYS},
        "Expiration": {"ExpiredObjectDeleteMarker": True},
    }


def _id(rule: dict[str, Any]) -> str:
    return str(rule.get("ID"))


def _modern(rule: dict[str, Any]) -> dict[str, Any]:
    """The same rule with a filter: S3 takes no configuration in which only some have the older form."""
    if "Prefix" not in rule or "Filter" in rule:
        return rule
    return {name: value for name, value in rule.items() if name != "Prefix"} | {"Filter": {"Prefix": rule["Prefix"]}}


def _harm(store: S3Store, rule: dict[str, Any], root: str) -> Iterator[str]:
    """What another's rule does to backups that retention wants to keep, or to the archive, which nothing ends."""
    filter_ = rule.get("Filter") or {}
    prefix = str((filter_.get("And") or filter_).get("Prefix", rule.get("Prefix", "")))
    ours = f"{store.prefix}{root}"
    if rule.get("Status") != "Enabled" or not (ours.startswith(prefix) or prefix.startswith(ours)):
        return
    if (filter_.get("And") or filter_).get("Tags") or "Tag" in filter_:
        return  # our objects have no tags
    name = f"lifecycle rule {rule.get('ID', 'without a name')!r} of {store.url}"
    ends = rule.get("Expiration") or {}
    if "Days" in ends or "Date" in ends:
        when = f"after {ends['Days']} days" if "Days" in ends else f"from {ends['Date']} on"
        what = "backups" if root else "archived days"
        decided = ", whatever retention decides" if root else ""
        yield f"{name} deletes {what} {when}{decided}: narrow its filter, or remove it"
    slow = [move for move in rule.get("Transitions") or () if move.get("StorageClass") in FROZEN]
    if slow and root:
        yield (
            f"{name} moves backups to {slow[0]['StorageClass']}: they can then be neither verified nor restored before "
            "they were thawed; choose a class that can be read at once"
        )


# --- replication --------------------------------------------------------------------------------------------


class _Replicated(BaseModel):
    """Every object of the restore point was in the other region, seen at that time."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    at: Utc
    manifest_sha256: Sha256


@dataclass
class ReplicationReport:
    """Of the committed restore points of one namespace."""

    replicated: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    """On their way, and younger than the grace period."""
    problems: list[str] = field(default_factory=list)
    objects: int = 0
    """How many were looked at."""


def check_replication(
    store: Store,
    cluster: str,
    namespace: str,
    region: str,
    grace: timedelta,
    now: datetime | None = None,
) -> ReplicationReport:
    """Ask the bucket whether every object of every committed restore point has arrived in the other region.

    A point that has, is remembered in `replicated.json` beside its manifest and not asked for again.

    :param grace: how long objects may be on their way.
    """
    now, report = now or datetime.now(UTC), ReplicationReport()
    for point in catalog.restore_points(store, cluster, namespace):
        name = f"{cluster}/{namespace} {point.id}"
        if _known(store, point):
            report.replicated.append(name)
            continue
        keys = [catalog.manifest_key(cluster, namespace, point.id)]
        if point.damage is None:
            keys += [catalog.object_key(point.manifest, entry.name) for entry in point.manifest.objects]
        states = _states(store, keys)
        report.objects += len(keys)
        committed = point.snapshot_at if point.damage else point.manifest.finished_at
        problem = _problem(states, region, now - committed, grace)
        if problem:
            report.problems.append(f"{name}: {problem}")
        elif set(states.values()) <= REPLICATED:
            note = _Replicated(at=now, manifest_sha256=point.manifest_sha256)
            store.put(_key(point), note.model_dump_json().encode())
            report.replicated.append(name)
        else:
            report.pending.append(name)
    return report


def _key(point: RestorePoint) -> str:
    return f"{backup_prefix(point.cluster, point.namespace, point.id)}replicated.json"


def _known(store: Store, point: RestorePoint) -> bool:
    try:
        return _Replicated.model_validate_json(store.get(_key(point))).manifest_sha256 == point.manifest_sha256
    except (NotFound, ValidationError):
        return False


def _states(store: Store, keys: Sequence[str]) -> dict[str, str]:
    def ask(key: str) -> str:
        try:
            return store.protection(key).replication or "absent"
        except NotFound:
            return "missing"

    with ThreadPoolExecutor(_READERS, thread_name_prefix="replication") as pool:
        return dict(zip(keys, pool.map(ask, keys), strict=True))


def _problem(states: dict[str, str], region: str, age: timedelta, grace: timedelta) -> str | None:
    for state, text in (
        ("missing", "is not there any more: verify the restore point"),
        ("FAILED", f"could not be replicated to {region}: look at the rights of the bucket's replication role, then "
         "replicate it again with S3 Batch Replication"),
        ("absent", f"was not replicated to {region}: no rule of the bucket applied when it was written; correct the "
         "rule, then replicate what exists with S3 Batch Replication"),
    ):  # fmt: skip
        found = [key for key, value in states.items() if value == state]
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            return f"{found[0].rpartition('/')[2]}{more} {text}"
    waiting = [key for key, value in states.items() if value not in REPLICATED]
    if waiting and age > grace:
        return (
            f"{len(waiting)} objects are still on their way to {region} after {duration_text(age)} "
            f"({states[waiting[0]]}): is replication stuck?"
        )
    return None
