"""Carrying out a retention plan in the store, and sweeping up what nobody will finish.

A plan is stored before anything is deleted (`_retention/<time>.json` beside the restore points), and is then carried
out exactly, under the namespace's lease: nothing that it does not name goes, and of what it names only what a look at
the present still lets go. A restore point goes in four steps, what builds on it before it:

1. `expired.json`, a copy of the manifest's bytes, is written;
2. `manifest.json` is deleted: from here on there is no such restore point;
3. unless somebody pinned it or began to restore it meanwhile (then it is put back), its objects are deleted;
4. `expired.json` is deleted.

Killed in between, the next run finds `expired.json` and goes on. In a versioned bucket all deletions are delete
markers: versions are never removed from here, so that for as long as the bucket keeps them (`dbops.backups.bucket`)
a mistake can be undone. What Object Lock protects is kept, and reported.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, ValidationError

from dbops.backups import catalog
from dbops.backups.catalog import RestorePoint
from dbops.backups.in_use import EVERY, forget_ended, in_use, pins
from dbops.backups.lease import Lease, LeaseHeld
from dbops.backups.manifest import Kind, Manifest, ManifestError, Utc, backup_prefix
from dbops.backups.retention import Point, RetentionPlan, plan_retention
from dbops.backups.store import AlreadyExists, NotFound, Store, StoreRefused
from dbops.errors import DbopsError, FinalError
from dbops.platform import Retention

log = logging.getLogger(__name__)

LEASE = timedelta(minutes=15)
PLANS_KEPT = timedelta(days=365)
MOST_SKEW = timedelta(minutes=10)
_READERS = 16


class MassExpiry(FinalError):
    """A plan would expire more than its policy lets go without a person's approval."""


class ClockOff(FinalError):
    """This machine's clock and the store's differ too much to decide how old anything is."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlanItem(_Document):
    """What becomes of one restore point, and why."""

    id: str
    kind: Kind
    snapshot_at: Utc
    manifest_sha256: str
    stored_bytes: int
    keep: bool
    reason: str
    needs: str | None
    """The point that it builds on."""


class ExpiryPlan(_Document):
    """The plan of one namespace, as it is stored. Items are ordered by snapshot, the oldest first."""

    cluster: str
    namespace: str
    made_at: Utc
    made_by: str
    policy: Retention
    approval: str | None
    newest_full: Utc | None
    items: list[PlanItem]

    @property
    def expire(self) -> list[PlanItem]:
        """In the order in which they go: what builds on another one before that one."""
        return [item for item in reversed(self.items) if not item.keep]

    @property
    def name(self) -> str:
        return f"{self.cluster}/{self.namespace}"


class LastExpiry(_Document):
    """When something last expired, and the newest verified full of then."""

    at: Utc
    plan: str
    newest_full: Utc | None


@dataclass
class Outcome:
    """What became of a plan."""

    expired: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    """What the plan lets go and an earlier try has deleted."""
    finished: list[str] = field(default_factory=list)
    """Deletions that an earlier run had begun."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Id -> why it stays although the plan lets it go."""
    failed: dict[str, str] = field(default_factory=dict)
    """Id -> why the store refused; the next run goes on with it."""
    objects: int = 0
    stored_bytes: int = 0


@dataclass
class Swept:
    """What a sweep removed."""

    finished: list[str] = field(default_factory=list)
    attempts: list[str] = field(default_factory=list)
    """Backups that were never committed."""
    uploads: int = 0
    """Unfinished uploads, or temporary files of a local directory."""
    marks: int = 0
    plans: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    skipped: str | None = None
    """Why nothing was swept: a backup of the namespace runs."""


OnPoint = Callable[[PlanItem, str, str], None]


def nobody(item: PlanItem, outcome: str, message: str) -> None:
    """Nobody is watching."""


# --- plan ---------------------------------------------------------------------------------------------------


def retention_prefix(cluster: str, namespace: str) -> str:
    return f"{backup_prefix(cluster, namespace)}_retention/"


def plan_namespace(
    store: Store, cluster: str, namespace: str, policy: Retention, *, by: str, now: datetime | None = None
) -> ExpiryPlan:
    """Look at what is there and decide what may go. Changes nothing.

    :param by: who asks, for the record.
    """
    now = now or datetime.now(UTC)
    found = catalog.restore_points(store, cluster, namespace)
    points = as_points(
        found, pins(store, cluster, namespace, [point.id for point in found]), in_use(store, cluster, namespace, now)
    )
    last = _last(store, cluster, namespace)
    plan = plan_retention(points, policy, now, last.newest_full if last else None)
    locked = _locks(store, cluster, namespace, [decision.point for decision in plan.expire], now)
    if locked:
        plan = plan_retention(
            [locked.get(point.id, point) for point in points], policy, now, last.newest_full if last else None
        )
    return _document(plan, found, cluster, namespace, policy, by, now)


def as_points(found: Sequence[RestorePoint], pinned: dict[str, str], used: dict[str, str]) -> list[Point]:
    """What retention has to know of Aerospike restore points, given as the catalog orders them."""
    by_id = {point.id: point for point in found}
    roots: dict[str, str] = {}
    points = []
    for point in found:
        parent, problem, changed_at = None, point.problem, point.snapshot_at
        roots[point.id] = point.id
        if point.damage is None:
            changed_at = point.manifest.finished_at
            parent = point.manifest.parent
        if point.verified and not point.verified.ok:
            changed_at = point.verified.at
        if parent is not None:
            roots[point.id] = roots.get(parent, parent)
            above = by_id.get(parent)
            if above is not None and above.damage is None:
                problem = problem or catalog.link_problem(above, point)
            if point.manifest.base != roots[point.id]:
                problem = problem or f"its base is {point.manifest.base}, its parents lead to {roots[point.id]}"
        points.append(
            Point(
                id=point.id,
                snapshot_at=point.snapshot_at,
                full=point.kind is Kind.FULL,
                parent=parent,
                verified=bool(point.verified and point.verified.ok),
                problem=problem,
                changed_at=changed_at,
                pinned=pinned.get(point.id),
                held=used.get(point.id) or used.get(EVERY),
            )
        )
    return points


def store_plan(store: Store, plan: ExpiryPlan) -> str:
    """Write a plan down, before anything of it is carried out; its key.

    :raises ClockOff: the store's clock says so.
    """
    made_at = plan.made_at.replace(microsecond=0)
    while True:
        key = f"{retention_prefix(plan.cluster, plan.namespace)}{made_at:%Y%m%dT%H%M%SZ}.json"
        try:
            store.put(key, plan.model_dump_json().encode(), if_absent=True)
            break
        except AlreadyExists:  # another plan of the same second
            made_at += timedelta(seconds=1)
    there, here = store.head(key), datetime.now(UTC)
    if there is not None and there.modified_at is not None and abs(there.modified_at - here) > MOST_SKEW:
        raise ClockOff(
            f"retention of {plan.name}: it is {here:%FT%TZ} here and {there.modified_at:%FT%TZ} at {store.url}; "
            "nothing expires by a clock that may be wrong: set this machine's clock"
        )
    return key


def read_plan(store: Store, key: str) -> ExpiryPlan:
    """:raises NotFound: there is none. :raises FinalError: it is no plan."""
    try:
        return ExpiryPlan.model_validate_json(store.get(key))
    except ValidationError as error:
        raise FinalError(
            f"{store.url}/{key}: is no retention plan ({error.error_count()} errors); make a new one"
        ) from None


def _document(
    plan: RetentionPlan,
    found: Sequence[RestorePoint],
    cluster: str,
    namespace: str,
    policy: Retention,
    by: str,
    now: datetime,
) -> ExpiryPlan:
    by_id = {point.id: point for point in found}
    items = []
    for decision in plan.decisions:
        point = by_id[decision.point.id]
        items.append(
            PlanItem(
                id=point.id,
                kind=point.kind,
                snapshot_at=point.snapshot_at,
                manifest_sha256=point.manifest_sha256,
                stored_bytes=0 if point.damage else point.manifest.stored_bytes,
                keep=decision.keep,
                reason=decision.reason,
                needs=decision.needs,
            )
        )
    return ExpiryPlan(
        cluster=cluster,
        namespace=namespace,
        made_at=now,
        made_by=by,
        policy=policy,
        approval=plan.approval,
        newest_full=plan.newest_full,
        items=items,
    )


def _locks(store: Store, cluster: str, namespace: str, points: Collection[Point], now: datetime) -> dict[str, Point]:
    """Those of the points that are locked, or whose locks could not be looked at."""
    if not points:
        return {}
    found: dict[str, Point] = {}
    try:
        if not store.has_locks():
            return {}
    except DbopsError as error:
        return {point.id: replace(point, held=_unseen(error)) for point in points}
    with ThreadPoolExecutor(_READERS, thread_name_prefix="locks") as pool:
        for point in points:
            keys = [item.key for item in store.list(backup_prefix(cluster, namespace, point.id))]
            try:
                seen = list(pool.map(store.protection, keys))
            except DbopsError as error:
                found[point.id] = replace(point, held=_unseen(error))
                continue
            until = max((one.locked_until for one in seen if one.locked_until), default=None)
            if any(one.legal_hold for one in seen):
                found[point.id] = replace(point, held="is under a legal hold, which ends when somebody lifts it")
            elif until is not None and until > now:
                found[point.id] = replace(point, locked_until=until)
    return found


def _unseen(error: DbopsError) -> str:
    return f"may be locked, which could not be looked at: {error}"


# --- carrying out -------------------------------------------------------------------------------------------


def expire(
    store: Store,
    plan: ExpiryPlan,
    key: str,
    *,
    holder: str,
    approved: bool = False,
    now: datetime | None = None,
    on_point: OnPoint = nobody,
) -> Outcome:
    """Delete what a stored plan lets go and what a look at the present still lets go. Safe to repeat.

    :param key: where the plan is stored.
    :param holder: who takes the namespace's lease; the same text in a retry.
    :param approved: a person has agreed to `plan.approval`.
    :param on_point: called after each point with `done` (also when an earlier try did it), `skipped` or `failed`, and
        the reason.
    :raises MassExpiry: the plan needs an approval and has none.
    :raises LeaseHeld: a backup of the namespace runs.
    """
    if plan.approval and not approved:
        raise MassExpiry(
            f"retention of {plan.name}: {plan.approval}; nothing was deleted: read the plan ({store.url}/{key}), "
            "correct the policy or approve"
        )
    lease = Lease.acquire(store, catalog.lease_key(plan.cluster, plan.namespace), holder, LEASE)
    try:
        return _expire(store, plan, key, lease, now or datetime.now(UTC), on_point)
    finally:
        lease.release()


def _expire(store: Store, plan: ExpiryPlan, key: str, lease: Lease, now: datetime, on_point: OnPoint) -> Outcome:
    outcome = Outcome()
    outcome.finished, outcome.failed = finish(store, plan.cluster, plan.namespace, now)
    present = plan_namespace(store, plan.cluster, plan.namespace, plan.policy, by=plan.made_by, now=now)
    there = {item.id: item for item in present.items}
    blocked: dict[str, str] = {}
    for item in plan.expire:
        seen = there.get(item.id)
        if seen is None:
            outcome.gone.append(item.id)
            on_point(item, "done", item.reason)
            continue
        why = seen.reason if seen.keep else blocked.get(item.id)
        if why is None:
            lease.renew()
            try:
                why = _expire_point(store, plan, item, now, outcome)
            except StoreRefused as error:
                outcome.failed[item.id] = str(error)
                on_point(item, "failed", str(error))
                _block(item, blocked)
                continue
        if why is not None:
            outcome.skipped[item.id] = why
            on_point(item, "skipped", why)
            _block(item, blocked)
            continue
        outcome.expired.append(item.id)
        on_point(item, "done", item.reason)
        log.info("%s %s expired: it %s", plan.name, item.id, item.reason)
    if outcome.expired and not outcome.failed:
        last = LastExpiry(at=now, plan=key, newest_full=present.newest_full)
        store.put(_last_key(plan.cluster, plan.namespace), last.model_dump_json().encode())
    return outcome


def _block(item: PlanItem, blocked: dict[str, str]) -> None:
    if item.needs is not None:
        blocked[item.needs] = f"{item.id}, which builds on it, was not deleted"


def _expire_point(store: Store, plan: ExpiryPlan, item: PlanItem, now: datetime, outcome: Outcome) -> str | None:
    """Delete a restore point; the reason why it was left, when it was."""
    manifest = catalog.manifest_key(plan.cluster, plan.namespace, item.id)
    marker = catalog.expired_key(plan.cluster, plan.namespace, item.id)
    data = store.get(manifest)
    if hashlib.sha256(data).hexdigest() != item.manifest_sha256:
        return "its manifest has changed since the plan was made"
    store.put(marker, data)
    store.delete([manifest])
    if why := _wanted(store, plan.cluster, plan.namespace, item.id, now):
        _put_back(store, manifest, marker, data)
        return why
    _delete_objects(store, plan.cluster, plan.namespace, item.id, outcome)
    return None


def _wanted(store: Store, cluster: str, namespace: str, id: str, now: datetime) -> str | None:
    used = in_use(store, cluster, namespace, now)
    pinned = pins(store, cluster, namespace, [id]).get(id)
    return used.get(id) or used.get(EVERY) or (f"is pinned {pinned}" if pinned else None)


def _put_back(store: Store, manifest: str, marker: str, data: bytes) -> None:
    with suppress(AlreadyExists):
        store.put(manifest, data, if_absent=True)
    store.delete([marker])


def _delete_objects(store: Store, cluster: str, namespace: str, id: str, outcome: Outcome | None = None) -> None:
    """All objects of a restore point that has no manifest any more, the marker last."""
    prefix, marker = backup_prefix(cluster, namespace, id), catalog.expired_key(cluster, namespace, id)
    found = [item for item in store.list(prefix) if item.key != marker]
    store.delete(item.key for item in found)
    store.abort_uploads(prefix)
    store.delete([marker])
    if outcome is not None:
        outcome.objects += len(found)
        outcome.stored_bytes += sum(item.size for item in found)


def finish(store: Store, cluster: str, namespace: str, now: datetime) -> tuple[list[str], dict[str, str]]:
    """Go on with deletions that were interrupted: ids that are gone now, and those that the store refused, with why.

    One that was pinned, or taken for a restore, before its first object went is put back.
    """
    done: list[str] = []
    failed: dict[str, str] = {}
    for id in reversed(catalog.half_deleted(store, cluster, namespace)):
        manifest, marker = catalog.manifest_key(cluster, namespace, id), catalog.expired_key(cluster, namespace, id)
        try:
            data = store.get(marker)
            if _wanted(store, cluster, namespace, id, now) and _is_whole(store, data):
                _put_back(store, manifest, marker, data)
                log.info("%s/%s %s: its deletion was interrupted, and it is wanted: it is back", cluster, namespace, id)
                continue
            _delete_objects(store, cluster, namespace, id)
        except StoreRefused as error:
            failed[id] = str(error)
            continue
        done.append(id)
        log.info("%s/%s %s: its interrupted deletion is finished", cluster, namespace, id)
    return done, failed


def _is_whole(store: Store, data: bytes) -> bool:
    """Whether every object that a manifest names is there in its size."""
    try:
        manifest = Manifest.from_json(data, "expired.json")
    except ManifestError:
        return False
    there = {item.key: item.size for item in store.list(manifest.prefix)}
    return all(there.get(catalog.object_key(manifest, entry.name)) == entry.size for entry in manifest.objects)


def _last_key(cluster: str, namespace: str) -> str:
    return f"{retention_prefix(cluster, namespace)}last.json"


def _last(store: Store, cluster: str, namespace: str) -> LastExpiry | None:
    key = _last_key(cluster, namespace)
    try:
        return LastExpiry.model_validate_json(store.get(key))
    except NotFound:
        return None
    except ValidationError:
        raise FinalError(f"{store.url}/{key}: is no note of the last expiry; delete it to plan without one") from None


# --- sweep --------------------------------------------------------------------------------------------------


def sweep(
    store: Store, cluster: str, namespace: str, grace: timedelta, *, holder: str, now: datetime | None = None
) -> Swept:
    """Remove what nobody will finish: interrupted deletions, and, older than `grace`, backups that were never
    committed, unfinished uploads, marks of restores that are over, and plans older than a year.

    Does nothing while a backup of the namespace runs: then one of these may be its work.
    """
    now = now or datetime.now(UTC)
    swept, before = Swept(), now - grace
    try:
        lease = Lease.acquire(store, catalog.lease_key(cluster, namespace), holder, LEASE)
    except LeaseHeld as error:
        swept.skipped = str(error)
        return swept
    try:
        swept.finished, swept.failed = finish(store, cluster, namespace, now)
        for attempt in catalog.uncommitted(store, cluster, namespace):
            if attempt.last_write_at >= before:
                continue
            lease.renew()
            try:
                store.delete([item.key for item in store.list(attempt.prefix)])
            except StoreRefused as error:
                swept.failed[attempt.id] = str(error)
                continue
            swept.attempts.append(attempt.id)
        swept.uploads = store.abort_uploads(backup_prefix(cluster, namespace), before)
        swept.marks = forget_ended(store, cluster, namespace, before)
        old = [item.key for item in store.list(retention_prefix(cluster, namespace)) if _is_old(item.key, now)]
        store.delete(old)
        swept.plans = len(old)
    finally:
        lease.release()
    return swept


def _is_old(key: str, now: datetime) -> bool:
    name = key.rpartition("/")[2].removesuffix(".json")
    try:
        made_at = datetime.strptime(name, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return False
    return made_at < now - PLANS_KEPT


# --- in words -----------------------------------------------------------------------------------------------


def in_words(plan: ExpiryPlan, most: int = 200) -> str:
    """A plan as Markdown: what it comes to, and one line for each point that goes, in the order in which it goes."""
    gone, size = plan.expire, sum(item.stored_bytes for item in plan.expire)
    lines = [f"**{plan.name}**: {len(gone)} of {len(plan.items)} restore points expire ({size / 1e6:,.1f} MB)"]
    if plan.approval:
        lines[0] += f". {plan.approval}"
    lines += [f"- `{item.id}` {item.reason}" for item in gone[:most]]
    if len(gone) > most:
        lines.append(f"- and {len(gone) - most} more")
    return "\n".join(lines)
