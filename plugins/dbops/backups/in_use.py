"""Restore points that somebody reads or has pinned: what retention must leave alone.

Both are small objects in the bucket, and both sides look twice: whoever wants a point writes first and then looks
whether the point is still there; retention takes the point's manifest away first and then looks whether somebody wants
it (`dbops.backups.expire`). So at least one of the two sees the other.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from dbops.backups.catalog import find
from dbops.backups.manifest import BackupId, Utc, backup_prefix
from dbops.backups.store import NotFound, Store

log = logging.getLogger(__name__)

EVERY = "*"
"""Key of `in_use` for a document that cannot be read: it may name any point."""
_READERS = 16


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class InUse(_Document):
    """A restore reads these points until then."""

    points: list[BackupId]
    until: Utc
    holder: str


class Pin(_Document):
    """Somebody wants a restore point to stay."""

    by: str
    at: Utc
    reason: str

    def __str__(self) -> str:
        return f"by {self.by} since {self.at:%FT%TZ}: {self.reason}"


# --- in use -------------------------------------------------------------------------------------------------


def restoring_prefix(cluster: str, namespace: str) -> str:
    return f"{backup_prefix(cluster, namespace)}_restoring/"


def mark_in_use(
    store: Store, cluster: str, namespace: str, points: Iterable[str], holder: str, until: datetime
) -> None:
    """Keep retention away from restore points while they are read. The same holder again replaces its mark.

    :param points: ids of all that are read: the whole chain.
    :param holder: the same text in every task and retry of one restore; people read it too.
    :param until: when the mark ends by itself, should nobody release it; mark again to prolong.
    :raises NotFound: one of them is not there, or has just been expired; then nothing is marked.
    """
    ids = list(points)
    document = InUse(points=ids, until=until, holder=holder)
    store.put(_restoring_key(cluster, namespace, holder), document.model_dump_json().encode())
    try:
        for id in ids:
            find(store, cluster, namespace, id)
    except NotFound:
        release_in_use(store, cluster, namespace, holder)
        raise


def release_in_use(store: Store, cluster: str, namespace: str, holder: str) -> None:
    """The restore of `holder` is over; does nothing when it had no mark."""
    store.delete([_restoring_key(cluster, namespace, holder)])


def in_use(store: Store, cluster: str, namespace: str, now: datetime) -> dict[str, str]:
    """Restore point id -> why it must stay, in words, for all that is being restored now.

    The key `EVERY` stands for a mark that cannot be read: then no point may go.
    """
    found: dict[str, str] = {}
    for item in store.list(restoring_prefix(cluster, namespace)):
        try:
            mark = InUse.model_validate_json(store.get(item.key))
        except NotFound:
            continue
        except ValidationError:
            found[EVERY] = (
                f"{store.url}/{item.key} cannot be read, so any restore point may be in use; delete it when no restore "
                "of this namespace runs"
            )
            continue
        if mark.until > now:
            found |= dict.fromkeys(mark.points, f"is being restored by {mark.holder}, until {mark.until:%FT%TZ}")
    return found


def holds(store: Store, cluster: str, namespace: str, holder: str, now: datetime) -> bool:
    """Whether `holder` marks restore points of the namespace; a mark that cannot be read counts as one."""
    try:
        return InUse.model_validate_json(store.get(_restoring_key(cluster, namespace, holder))).until > now
    except NotFound:
        return False
    except ValidationError:
        return True


def forget_ended(store: Store, cluster: str, namespace: str, before: datetime) -> int:
    """Delete the marks that ended before a moment; how many. Their restores never released them."""
    ended = []
    for item in store.list(restoring_prefix(cluster, namespace)):
        try:
            if InUse.model_validate_json(store.get(item.key)).until < before:
                ended.append(item.key)
        except (NotFound, ValidationError):
            continue
    store.delete(ended)
    return len(ended)


def _restoring_key(cluster: str, namespace: str, holder: str) -> str:
    return f"{restoring_prefix(cluster, namespace)}{hashlib.sha256(holder.encode()).hexdigest()[:16]}.json"


# --- pins ---------------------------------------------------------------------------------------------------


def pin_key(cluster: str, namespace: str, id: str) -> str:
    return f"{backup_prefix(cluster, namespace, id)}pin.json"


def pin(store: Store, cluster: str, namespace: str, id: str, *, by: str, reason: str) -> Pin:
    """Keep a restore point, and all that it builds on, until it is unpinned. A new pin replaces an older one.

    :raises NotFound: there is no such point, or it has just been expired.
    """
    find(store, cluster, namespace, id)
    found = Pin(by=by, at=datetime.now(UTC), reason=reason)
    key = pin_key(cluster, namespace, id)
    store.put(key, found.model_dump_json().encode())
    try:
        find(store, cluster, namespace, id)
    except NotFound:
        store.delete([key])
        raise
    return found


def unpin(store: Store, cluster: str, namespace: str, id: str) -> bool:
    """Let a restore point expire as others do; False when it was not pinned.

    :raises NotFound: there is no such point.
    """
    find(store, cluster, namespace, id)
    key = pin_key(cluster, namespace, id)
    if store.head(key) is None:
        return False
    store.delete([key])
    return True


def pins(store: Store, cluster: str, namespace: str, ids: Iterable[str]) -> dict[str, str]:
    """Id -> who pinned it, since when and why, of those that are pinned."""
    wanted = list(ids)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="pins") as pool:
        found = pool.map(lambda id: _pinned(store, pin_key(cluster, namespace, id)), wanted)
        return {id: text for id, text in zip(wanted, found, strict=True) if text is not None}


def _pinned(store: Store, key: str) -> str | None:
    try:
        return str(Pin.model_validate_json(store.get(key)))
    except NotFound:
        return None
    except ValidationError:
        log.warning("%s/%s is no pin that can be read; it counts as one", store.url, key)
        return "by a pin.json that cannot be read"
