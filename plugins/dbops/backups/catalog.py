"""Which restore points of a namespace exist, which can be restored, and how a new one is committed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from dbops.backups.manifest import (
    BackupId,
    BackupPlan,
    Kind,
    Manifest,
    ManifestError,
    SliceResult,
    Verified,
    backup_prefix,
    pack_fingerprints,
)
from dbops.backups.store import AlreadyExists, NotFound, Store
from dbops.errors import FinalError

log = logging.getLogger(__name__)

_READERS = 16
_T = TypeVar("_T")
_R = TypeVar("_R")
_backup_id: TypeAdapter[str] = TypeAdapter(BackupId)


class IncompleteBackup(FinalError):
    """A backup cannot be committed: a slice is missing, or what it says that it stored is not there."""


class CommitConflict(FinalError):
    """Another backup was committed under the same id."""


class BrokenChain(FinalError):
    """A restore point cannot be restored: something that it needs is missing or damaged."""


@dataclass(frozen=True)
class RestorePoint:
    """A committed backup, or one whose manifest cannot be read: then `damage` says why."""

    cluster: str
    namespace: str
    id: str
    kind: Kind
    snapshot_at: datetime
    manifest_sha256: str
    verified: Verified | None = None
    damage: str | None = None
    _manifest: Manifest | None = None

    @property
    def manifest(self) -> Manifest:
        """:raises ManifestError: it cannot be read."""
        if self._manifest is None:
            raise ManifestError(self.damage)
        return self._manifest

    @property
    def prefix(self) -> str:
        return backup_prefix(self.cluster, self.namespace, self.id)

    @property
    def problem(self) -> str | None:
        """What is known to be wrong with this point alone, without those it builds on."""
        if self.damage:
            return self.damage
        if self.verified and not self.verified.ok:
            found = "; ".join(self.verified.problems)
            return f"{self.id}: was found damaged at {self.verified.at:%FT%TZ}: {found}"
        return None


@dataclass(frozen=True)
class Attempt:
    """Objects of a backup that was not committed: it still runs, or it died."""

    id: str
    prefix: str
    objects: int
    stored_bytes: int
    last_write_at: datetime


# --- keys ---------------------------------------------------------------------------------------------------


def lease_key(cluster: str, namespace: str) -> str:
    return f"{backup_prefix(cluster, namespace)}_lease.json"


def object_key(backup: BackupPlan | Manifest, name: str) -> str:
    """Key of an object of a backup; of the backup's prefix when `name` is empty."""
    return backup.prefix + name


def manifest_key(cluster: str, namespace: str, id: str) -> str:
    return f"{backup_prefix(cluster, namespace, id)}manifest.json"


def verified_key(cluster: str, namespace: str, id: str) -> str:
    return f"{backup_prefix(cluster, namespace, id)}verified.json"


def expired_key(cluster: str, namespace: str, id: str) -> str:
    """The manifest's bytes under another name, while a restore point is deleted: without its manifest it is none."""
    return f"{backup_prefix(cluster, namespace, id)}expired.json"


def _result_key(plan: BackupPlan, first: int, last: int) -> str:
    return object_key(plan, f"slice_{first:04d}_{last:04d}.json")


# --- reading ------------------------------------------------------------------------------------------------


def restore_points(store: Store, cluster: str, namespace: str) -> list[RestorePoint]:
    """All committed backups of a namespace, the oldest snapshot first; damaged ones are among them."""
    ids = list(_ids(store, cluster, namespace))
    found = _parallel(lambda id: _restore_point(store, cluster, namespace, id), ids)
    return sorted((point for point in found if point), key=lambda point: (point.snapshot_at, point.id))


def find(store: Store, cluster: str, namespace: str, id: str) -> RestorePoint:
    """One restore point by its id.

    :raises NotFound: there is none, or it was never committed.
    """
    point = _restore_point(store, cluster, namespace, id) if _is_id(id) else None
    if point is None:
        raise NotFound(
            f"{store.url}/{backup_prefix(cluster, namespace, id)}: no such restore point; "
            "`dbops backup list` shows those that exist"
        )
    return point


def uncommitted(store: Store, cluster: str, namespace: str) -> list[Attempt]:
    """Backups that left objects and no manifest, the oldest first; not those whose deletion has begun."""
    return sorted(
        (
            attempt
            for attempt in _parallel(
                lambda id: _attempt(store, cluster, namespace, id), list(_ids(store, cluster, namespace))
            )
            if attempt
        ),
        key=lambda attempt: attempt.id,
    )


def half_deleted(store: Store, cluster: str, namespace: str) -> list[str]:
    """Ids of restore points whose deletion was begun and has not ended, the oldest first."""

    def begun(id: str) -> bool:
        return (
            store.head(manifest_key(cluster, namespace, id)) is None
            and store.head(expired_key(cluster, namespace, id)) is not None
        )

    ids = sorted(_ids(store, cluster, namespace))
    return [id for id, found in zip(ids, _parallel(begun, ids), strict=True) if found]


def read_manifest(store: Store, cluster: str, namespace: str, id: str) -> Manifest:
    """:raises NotFound: there is no such restore point. :raises ManifestError: its manifest is damaged."""
    return find(store, cluster, namespace, id).manifest


def manifest_sha256(manifest: Manifest) -> str:
    """Hex SHA-256 of the manifest's bytes as `commit` stores them."""
    return hashlib.sha256(manifest.to_json()).hexdigest()


def _is_id(name: str) -> bool:
    try:
        _backup_id.validate_python(name)
    except ValidationError:
        return False
    return True


def _ids(store: Store, cluster: str, namespace: str) -> Iterator[str]:
    for prefix in store.list_prefixes(backup_prefix(cluster, namespace)):
        name = prefix.rstrip("/").rpartition("/")[2]
        if _is_id(name):
            yield name


def _parallel(call: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    with ThreadPoolExecutor(_READERS, thread_name_prefix="catalog") as pool:
        return list(pool.map(call, items))


def _restore_point(store: Store, cluster: str, namespace: str, id: str) -> RestorePoint | None:
    key = manifest_key(cluster, namespace, id)
    try:
        data = store.get(key)
    except NotFound:
        return None
    time, _, kind = id.partition("-")
    manifest, damage = None, None
    try:
        manifest = Manifest.from_json(data, f"{store.url}/{key}")
        if (manifest.cluster, manifest.namespace, manifest.id) != (cluster, namespace, id):
            damage = (
                f"{store.url}/{key}: is the manifest of {manifest.prefix}, not of the place where it lies; "
                "somebody copied it"
            )
            manifest = None
    except ManifestError as error:
        damage = str(error)
    sha256 = hashlib.sha256(data).hexdigest()
    return RestorePoint(
        cluster,
        namespace,
        id,
        Kind(kind),
        manifest.snapshot_at if manifest else datetime.strptime(time, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
        sha256,
        _verified(store, cluster, namespace, id, sha256),
        damage,
        manifest,
    )


def _verified(store: Store, cluster: str, namespace: str, id: str, manifest_sha256: str) -> Verified | None:
    key = verified_key(cluster, namespace, id)
    try:
        verified = Verified.from_json(store.get(key), f"{store.url}/{key}")
    except NotFound:
        return None
    except ManifestError as error:
        log.warning("%s; the restore point counts as not verified", error)
        return None
    return verified if verified.manifest_sha256 == manifest_sha256 else None


def _attempt(store: Store, cluster: str, namespace: str, id: str) -> Attempt | None:
    if store.head(manifest_key(cluster, namespace, id)):
        return None
    prefix = backup_prefix(cluster, namespace, id)
    count, size, last = 0, 0, datetime.min.replace(tzinfo=UTC)
    for item in store.list(prefix):
        if item.key == expired_key(cluster, namespace, id):
            return None
        count, size = count + 1, size + item.size
        last = max(last, item.modified_at or last)
    return Attempt(id, prefix, count, size, last) if count else None


# --- chains -------------------------------------------------------------------------------------------------


def chain(points: Iterable[RestorePoint], id: str) -> list[RestorePoint]:
    """What has to be restored, in this order, for the state of a point: its full, then each incremental.

    :raises BrokenChain: a link is missing, damaged, or does not reach to the one before it.
    """
    by_id = {point.id: point for point in points}
    links: list[RestorePoint] = []
    wanted: str | None = id
    while wanted is not None:
        point = by_id.get(wanted)
        if point is None:
            needs = f"{links[-1].id} builds on it" if links else "it was never committed"
            raise BrokenChain(f"{id} cannot be restored: {wanted} is missing, {needs}; choose an older point")
        if point.problem:
            raise BrokenChain(f"{id} cannot be restored: {point.problem}; choose an older point")
        if links:
            _check_link(id, point, links[-1])
        links.append(point)
        wanted = point.manifest.parent
    if len(links) > 1 and links[0].manifest.base != links[-1].id:
        raise BrokenChain(
            f"{id} cannot be restored: its base is {links[0].manifest.base}, its parents lead to "
            f"{links[-1].id}; choose an older point"
        )
    return links[::-1]


def link_problem(parent: RestorePoint, child: RestorePoint) -> str | None:
    """Why an incremental cannot be restored onto its parent; None when it can. Both have readable manifests."""
    try:
        _check_link(child.id, parent, child)
    except BrokenChain as error:
        return str(error)
    return None


def _check_link(id: str, parent: RestorePoint, child: RestorePoint) -> None:
    since = child.manifest.modified_after
    if parent.snapshot_at >= child.snapshot_at:
        raise BrokenChain(
            f"{id} cannot be restored: {child.id} is not younger than its parent {parent.id}; choose an older point"
        )
    if since is None or since > parent.snapshot_at:
        raise BrokenChain(
            f"{id} cannot be restored: {child.id} holds changes since {since:%FT%TZ}, its parent {parent.id} "
            f"is of {parent.snapshot_at:%FT%TZ}: what changed in between is in neither; choose an older point"
        )


def why_not_restorable(points: Iterable[RestorePoint], id: str) -> str | None:
    """The reason why a restore point cannot be restored; None when it can."""
    try:
        chain(points, id)
    except BrokenChain as error:
        return str(error)
    return None


def latest(points: Sequence[RestorePoint], kind: Kind | None = None) -> RestorePoint | None:
    """The newest point whose whole chain is there: what the next incremental builds on.

    :param kind: only points of this kind.
    """
    ordered = sorted(points, key=lambda point: point.snapshot_at, reverse=True)
    return next(
        (point for point in ordered if kind in (None, point.kind) and why_not_restorable(points, point.id) is None),
        None,
    )


@dataclass(frozen=True)
class Newest:
    """The newest restore point that was read back whole together with all that it builds on, if there is one."""

    point: RestorePoint | None
    newer: dict[str, str]
    """Ids of younger backups, the newest first, and why none of them counts."""


def newest_verified(store: Store, cluster: str, namespace: str) -> Newest:
    """Look for what can be counted on, from the newest backup back, and read no more manifests than that takes.

    Ids carry the whole second of the snapshot: of two of one second, either may be named.
    """
    read: dict[str, RestorePoint | None] = {}

    def point(id: str) -> RestorePoint | None:
        if id not in read:
            read[id] = _restore_point(store, cluster, namespace, id)
        return read[id]

    newer: dict[str, str] = {}
    for id in sorted(_ids(store, cluster, namespace), reverse=True):
        why = _why_not_verified(id, point)
        if why is None:
            return Newest(point(id), newer)
        newer[id] = why
    return Newest(None, newer)


def _why_not_verified(id: str, read: Callable[[str], RestorePoint | None]) -> str | None:
    links: dict[str, RestorePoint] = {}
    wanted: str | None = id
    while wanted is not None and wanted not in links:
        point = read(wanted)
        if point is None:
            break
        if why := _not_whole(point):
            return why if wanted == id else f"builds on {wanted}, which {why}"
        links[wanted] = point
        wanted = point.manifest.parent
    return why_not_restorable(links.values(), id) if links else "was not committed: it runs, or it died"


def _not_whole(point: RestorePoint) -> str | None:
    if point.damage:
        return f"has a manifest that cannot be read: {point.damage}"
    if point.verified is None:
        return "was never read back"
    if point.verified.ok:
        return None
    first, *more = point.verified.problems or ["no reason was kept"]
    return f"was found damaged: {first}" + (f" (and {len(more)} more)" if more else "")


def covering(points: Sequence[RestorePoint], window_end: datetime, kind: Kind | None = None) -> RestorePoint | None:
    """The first restorable point with its snapshot at or after a window's end; None when a backup is due.

    :param kind: FULL when only a full one will do; an incremental's window is covered by a full one too.
    """
    wanted = Kind.FULL if kind is Kind.FULL else None
    ordered = sorted(points, key=lambda point: point.snapshot_at)
    return next(
        (
            point
            for point in ordered
            if point.snapshot_at >= window_end
            and wanted in (None, point.kind)
            and why_not_restorable(points, point.id) is None
        ),
        None,
    )


# --- writing ------------------------------------------------------------------------------------------------


def put_slice_result(store: Store, plan: BackupPlan, result: SliceResult) -> None:
    """Keep the facts of a slice beside its data until the commit."""
    store.put(_result_key(plan, result.first, result.last), result.to_json())


def slice_results(store: Store, plan: BackupPlan) -> list[SliceResult]:
    """The facts of the slices that are done, in the plan's order; `commit` names those that are not."""

    def read(slice_: tuple[int, int]) -> SliceResult | None:
        key = _result_key(plan, *slice_)
        try:
            return SliceResult.from_json(store.get(key), f"{store.url}/{key}")
        except NotFound:
            return None

    return [result for result in _parallel(read, plan.slices) if result]


def delete_slice_results(store: Store, plan: BackupPlan) -> None:
    """Forget the facts of the slices: after the commit the manifest holds them."""
    store.delete(_result_key(plan, first, last) for first, last in plan.slices)


def commit(
    store: Store,
    plan: BackupPlan,
    results: Sequence[SliceResult],
    finished_at: datetime,
    cluster_key_after: str,
) -> Manifest:
    """Write the manifest, after which the backup exists. The same backup committed again is adopted.

    :raises IncompleteBackup: a slice is missing or does not fit, or an object is not in the store.
    :raises CommitConflict: there is another backup of the same id.
    """
    key = manifest_key(plan.cluster, plan.namespace, plan.id)
    what = f"commit {store.url}/{key}"
    if there := _restore_point(store, plan.cluster, plan.namespace, plan.id):
        return _adopt(what, plan, results, there)
    manifest = _manifest(what, plan, results, finished_at, cluster_key_after)
    try:
        put_manifest(store, manifest)
    except AlreadyExists:
        return _adopt(what, plan, results, find(store, plan.cluster, plan.namespace, plan.id))
    return manifest


def put_manifest(store: Store, manifest: Manifest) -> None:
    """Write a manifest, after which the backup exists.

    :raises IncompleteBackup: one of its objects is not in the store.
    :raises AlreadyExists: there is one of this id.
    """
    key = manifest_key(manifest.cluster, manifest.namespace, manifest.id)
    _check_stored(f"commit {store.url}/{key}", store, manifest)
    store.put(key, manifest.to_json(), if_absent=True)


def _adopt(what: str, plan: BackupPlan, results: Sequence[SliceResult], there: RestorePoint) -> Manifest:
    if there.damage:
        raise CommitConflict(f"{what}: there is a manifest, but {there.damage}; take a new backup")
    manifest = there.manifest
    for name, name_there in _PLANNED.items():
        ours, theirs = getattr(plan, name), getattr(manifest, name_there)
        if ours != theirs:
            raise CommitConflict(
                f"{what}: another backup was committed under this id ({name} is {theirs}, here {ours}); "
                "that one stands, run this one again"
            )
    if results:  # a retry after the commit finds no results any more
        stored = {entry.name: entry for entry in manifest.objects}
        for entry in (entry for result in results for entry in result.objects):
            if stored.get(entry.name) != entry:
                raise CommitConflict(
                    f"{what}: was committed with another {entry.name}; verify it, since this run has written "
                    "to the same objects"
                )
    log.info("%s: was committed already", what)
    return manifest


_PLANNED = {
    "kind": "kind",
    "snapshot_at": "snapshot_at",
    "started_at": "started_at",
    "modified_after": "modified_after",
    "base": "base",
    "parent": "parent",
    "cluster_name": "cluster_name",
    "cluster_key": "cluster_key_before",
    "platform_sha256": "platform_sha256",
    "engine": "engine",
    "encryption": "encryption",
}


def _manifest(
    what: str,
    plan: BackupPlan,
    results: Sequence[SliceResult],
    finished_at: datetime,
    cluster_key_after: str,
) -> Manifest:
    by_slice = {(result.first, result.last): result for result in results}
    missing = [f"{first}-{last}" for first, last in sorted(plan.slices) if (first, last) not in by_slice]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise IncompleteBackup(
            f"{what}: {len(missing)} of {len(plan.slices)} slices are missing: "
            f"{', '.join(missing[:10])}{more}; "
            "run these slices again, then commit"
        )
    foreign = [result for result in results if result.plan_id != plan.id]
    if foreign or len(by_slice) != len(results) or set(by_slice) != set(plan.slices):
        raise IncompleteBackup(f"{what}: the results are not those of the plan's slices; run the backup again")
    ordered = [by_slice[slice_] for slice_ in sorted(plan.slices)]
    objects = [entry for result in ordered for entry in result.objects]
    try:
        return Manifest(
            id=plan.id,
            kind=plan.kind,
            cluster=plan.cluster,
            namespace=plan.namespace,
            snapshot_at=plan.snapshot_at,
            started_at=plan.started_at,
            finished_at=finished_at,
            modified_after=plan.modified_after,
            base=plan.base,
            parent=plan.parent,
            cluster_name=plan.cluster_name,
            cluster_key_before=plan.cluster_key,
            cluster_key_after=cluster_key_after,
            server_build=plan.server_build,
            engine=plan.engine,
            engine_version=plan.engine_version,
            objects=objects,
            records=sum(sum(result.counts) for result in ordered),
            deleted=sum(sum(result.deleted or ()) for result in ordered),
            stored_bytes=sum(entry.size for entry in objects),
            text_bytes=sum(entry.text_bytes for entry in objects),
            partition_counts=_joined(result.counts for result in ordered),
            partition_fingerprints=pack_fingerprints([
                int(fingerprint, 16) for result in ordered for fingerprint in result.fingerprints
            ]),
            inventory_counts=_per_partition(what, "inventory", [result.inventory for result in ordered]),
            deleted_counts=_per_partition(what, "deleted", [result.deleted for result in ordered]),
            indexes=_joined(result.indexes for result in ordered),
            udfs=_joined(result.udfs for result in ordered),
            platform_sha256=plan.platform_sha256,
            encryption=plan.encryption,
        )
    except ValidationError as error:
        reasons = "; ".join(item["msg"] for item in error.errors(include_url=False, include_input=False))
        raise IncompleteBackup(f"{what}: the slices do not make a whole backup: {reasons}") from None


def _joined(lists: Iterable[list[_T]]) -> list[_T]:
    return [item for items in lists for item in items]


def _per_partition(what: str, name: str, lists: Sequence[list[int] | None]) -> list[int] | None:
    known = [counts for counts in lists if counts is not None]
    if not known:
        return None
    if len(known) < len(lists):
        raise IncompleteBackup(f"{what}: {len(lists) - len(known)} slices have no {name}; run the backup again")
    return _joined(known)


def _check_stored(what: str, store: Store, manifest: Manifest) -> None:
    there = {item.key: item.size for item in store.list(manifest.prefix)}
    for entry in manifest.objects:
        found = there.get(object_key(manifest, entry.name))
        if found != entry.size:
            size = "is not there" if found is None else f"has {found} bytes"
            again = "the adoption again" if entry.source else f"slice {entry.first}-{entry.last} again, then commit"
            raise IncompleteBackup(f"{what}: {entry.name} {size}, its slice stored {entry.size} bytes; run {again}")
