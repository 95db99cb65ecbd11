"""What a loss would cost now: the age of each namespace's newest restorable point, beside its RPO.

`dbops.platform.rpo` proves from the schedules what can be promised while every run succeeds. This looks at what is
there, so that what never ran, or ran and was never verified, is noticed too. Restorable is a point that was read back
whole together with all that it builds on: a backup that nobody has read is only a hope.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from dbops.alerts import Alert, Severity
from dbops.backups.catalog import newest_verified
from dbops.backups.store import Store
from dbops.errors import DbopsError, FinalError
from dbops.platform import Platform, duration_text

log = logging.getLogger(__name__)

CHECK = "aerospike_rpo"
"""Name of the check in the ledger."""
INCIDENTS = f"{CHECK}/"
"""What the key of every namespace's incident begins with."""
RUNBOOK = "backup_rpo_exceeded"
MOST_SKEW = timedelta(minutes=10)
MOST_NAMED = 3
_AT_ONCE = 16


class ClockOff(FinalError):
    """A restore point is of the future: this machine's clock and the cluster's differ too much to tell ages."""


class State(StrEnum):
    KEPT = "kept"
    EXCEEDED = "exceeded"
    NEVER = "never"
    """There is no restorable point."""
    UNKNOWN = "unknown"
    """It could not be looked at, which is no answer: not that all is well, nor that it is not."""


@dataclass(frozen=True)
class Measured:
    """What was found for one namespace."""

    cluster: str
    namespace: str
    rpo: timedelta
    at: datetime
    point: str | None = None
    """Id of the newest restorable point."""
    snapshot_at: datetime | None = None
    newer: Mapping[str, str] = field(default_factory=dict)
    """Ids of younger backups, the newest first, and why none of them counts."""
    error: DbopsError | None = None

    @property
    def target(self) -> str:
        return f"{self.cluster}/{self.namespace}"

    @property
    def key(self) -> str:
        """Of its incident."""
        return f"{INCIDENTS}{self.target}"

    @property
    def age(self) -> timedelta | None:
        return None if self.snapshot_at is None else max(timedelta(0), self.at - self.snapshot_at)

    @property
    def state(self) -> State:
        if self.error is not None:
            return State.UNKNOWN
        if self.age is None:
            return State.NEVER
        return State.EXCEEDED if self.age > self.rpo else State.KEPT

    @property
    def message(self) -> str:
        """One line."""
        if self.error is not None:
            return f"could not look: {self.error}"
        found = f"{self.point} is {age_text(self.age)} old" if self.age is not None else "there is no restorable point"
        return f"{found}; newer: {self._newer()}" if self.newer else found

    def _newer(self) -> str:
        named = ", ".join(f"{id} ({why})" for id, why in list(self.newer.items())[:MOST_NAMED])
        return named + (f" and {len(self.newer) - MOST_NAMED} more" if len(self.newer) > MOST_NAMED else "")


def measure(
    store: Store, platform: Platform, places: Iterable[tuple[str, str]], now: datetime | None = None
) -> list[Measured]:
    """Look at (cluster, namespace) pairs, many at once. Never raises for one of them: it is `UNKNOWN` then."""
    at = now or datetime.now(UTC)

    def look(place: tuple[str, str]) -> Measured:
        rpo = platform.aerospike.cluster(place[0]).objectives.rpo
        return measure_place(store, *place, rpo, at)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="rpo") as pool:
        return list(pool.map(look, places))


def measure_place(store: Store, cluster: str, namespace: str, rpo: timedelta, now: datetime) -> Measured:
    """Look at one namespace; what goes wrong is in `error`."""
    try:
        found = newest_verified(store, cluster, namespace)
        if found.point is not None and found.point.snapshot_at - now > MOST_SKEW:
            raise ClockOff(
                f"{store.url}: {found.point.id} of {cluster}/{namespace} is of the future, it is {now:%FT%TZ} here: "
                "set this machine's clock, or the cluster's"
            )
    except DbopsError as error:
        return Measured(cluster, namespace, rpo, now, error=error)
    except Exception as error:  # whatever it is must not hide the other places, nor pass for an answer
        log.exception("the restore points of %s/%s could not be looked at", cluster, namespace)
        return Measured(cluster, namespace, rpo, now, error=FinalError(f"{type(error).__name__}: {error}"))
    if found.point is None:
        return Measured(cluster, namespace, rpo, now, newer=found.newer)
    return Measured(cluster, namespace, rpo, now, found.point.id, found.point.snapshot_at, found.newer)


def alert_of(found: Measured, known_since: datetime | None) -> Alert | None:
    """The alert that a place deserves; None when its objective is kept, cannot be judged, or is not due yet.

    A namespace without any restorable point is measured from when it was first known of: the first backup of a new
    installation, or of a new namespace, has as long as every later one.

    :param known_since: when the ledger first knew of the namespace; only used when it has no restorable point.
    """
    since = known_since if found.state is State.NEVER else found.snapshot_at
    if found.state in {State.KEPT, State.UNKNOWN} or since is None or found.at - since <= found.rpo:
        return None
    if found.state is State.NEVER:
        what = f"{found.target} has no restorable point: were it lost now, all of it would be lost."
        value = f"none, known since {since:%Y-%m-%d %H:%M} UTC"
    else:
        what = (
            f"The newest restorable point of {found.target} is {found.point}: were the namespace lost now, what "
            f"changed after {since:%Y-%m-%d %H:%M} UTC would be lost."
        )
        value = age_text(found.at - since)
    if found.newer:
        what += f"\nNewer, but not restorable: {found._newer()}."
    return Alert(
        severity=Severity.CRITICAL,
        key=found.key,
        title=f"The RPO of {found.target} is exceeded",
        what=what,
        since=since + found.rpo,
        value=value,
        limit=duration_text(found.rpo),
        runbook=RUNBOOK,
    )


def age_text(age: timedelta) -> str:
    """In whole minutes, once there are any."""
    seconds = int(age.total_seconds())
    return duration_text(timedelta(seconds=seconds - seconds % 60 if seconds >= 60 else seconds))
