"""Incidents: one row per problem from first sight to end, and which channel knows of it.

A channel's entry goes `sending` -> `told` | `failed` while the incident is open, and `resolving` ->
`resolved` | `unresolved` after it. The transaction that sees or resolves an incident also claims the channels
to tell, so that of two processes with the same problem only one speaks. A claim that was never answered
(the process died) lapses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, cast, func, select, text
from sqlalchemy.dialects.postgresql import JSONPATH, insert
from sqlalchemy.orm import Session

from dbops.ledger.models import Incident
from dbops.ledger.record import redacted
from dbops.ledger.session import transaction
from dbops.redact import redact

SEVERITIES = ("summary", "warning", "critical")
"""From the mildest to the worst."""

CLAIM_LAPSES = timedelta(minutes=5)
"""Longer than any delivery may take."""


@dataclass(frozen=True)
class Sighting:
    """What became of a problem that was seen, and what its caller must now do."""

    id: int
    opened: bool
    opened_at: datetime
    times_seen: int
    tell: tuple[str, ...]
    """Channels that this caller, and nobody else, must tell."""


@dataclass(frozen=True)
class Resolution:
    """An incident that has ended, and the channels that this caller must tell so."""

    id: int
    key: str
    severity: str
    title: str
    opened_at: datetime
    resolved_at: datetime
    times_seen: int
    details: Mapping[str, Any]
    tell: tuple[str, ...]


def see_incident(
    engine: Engine,
    *,
    key: str,
    severity: str,
    title: str,
    channels: Sequence[str],
    details: Mapping[str, Any] | None = None,
    seen_in: str | None = None,
    at: datetime | None = None,
) -> Sighting:
    """Open the incident of `key`, or update the open one, and claim the channels that do not know of it yet.

    A channel knows once it was told at this severity or a worse one; one that failed is claimed again.

    :param seen_in: the run that saw it; the same run again is not counted again.
    """
    at = at or datetime.now(UTC)
    with transaction(engine) as session:
        incident, opened = _open_or_find(session, key, severity, redact(title), seen_in, at)
        if not opened and (seen_in is None or incident.last_seen_in != seen_in):
            incident.times_seen += 1
        incident.severity = max(incident.severity, severity, key=SEVERITIES.index)
        incident.title = redact(title)
        incident.last_seen_at = max(incident.last_seen_at, at)
        incident.last_seen_in = seen_in
        incident.details = redacted(details or {})
        tell = tuple(name for name in channels if _must_tell(incident.channels.get(name), severity))
        _claim(incident, tell, "sending", severity=severity)
        return Sighting(incident.id, opened, incident.opened_at, incident.times_seen, tell)


def resolve_incident(engine: Engine, key: str, *, at: datetime | None = None) -> Resolution | None:
    """End the open incident of `key` and claim the channels that know of it; None when nothing is left to do.

    Also takes up again what an earlier resolution could not deliver.
    """
    at = at or datetime.now(UTC)
    with transaction(engine) as session:
        newest = select(Incident).where(Incident.key == key).order_by(Incident.id.desc()).limit(1)
        incident = session.scalar(newest.with_for_update())
        if incident is None:
            return None
        ended = incident.resolved_at is None
        incident.resolved_at = incident.resolved_at or max(at, incident.opened_at)
        tell = tuple(name for name, entry in incident.channels.items() if _must_resolve(entry))
        _claim(incident, tell, "resolving")
        if not ended and not tell:
            return None
        return Resolution(
            id=incident.id,
            key=incident.key,
            severity=incident.severity,
            title=incident.title,
            opened_at=incident.opened_at,
            resolved_at=incident.resolved_at,
            times_seen=incident.times_seen,
            details=incident.details,
            tell=tell,
        )


def open_incidents(engine: Engine, prefix: str) -> set[str]:
    """Keys, beginning with `prefix`, of the incidents that `resolve_incident` has something to do for: open ones, and
    those whose end was not told everywhere.
    """
    untold = func.jsonb_path_exists(Incident.channels, cast('$.*.state ? (@ != "resolved")', JSONPATH))
    found = select(Incident.key).where(
        Incident.key.startswith(prefix, autoescape=True), Incident.resolved_at.is_(None) | untold
    )
    with transaction(engine) as session:
        return set(session.scalars(found))


def record_delivery(engine: Engine, id: int, channel: str, *, resolving: bool, error: str | None) -> bool:
    """Remember how a claimed channel took its message.

    :param error: None when it arrived, else why not (redacted here).
    :return: whether the incident has ended although this message only just opened it there.
    """
    with transaction(engine) as session:
        incident = session.get_one(Incident, id, with_for_update=True)
        entry = dict(incident.channels.get(channel, {}))
        arrived, failed = ("resolved", "unresolved") if resolving else ("told", "failed")
        entry |= {"state": failed if error else arrived, "at": _now()}
        entry.pop("error", None)
        if error:
            entry |= {"error": redact(error), "failures": entry.get("failures", 0) + 1}
        incident.channels = incident.channels | {channel: entry}
        return incident.resolved_at is not None and not resolving and error is None


def _open_or_find(
    session: Session, key: str, severity: str, title: str, seen_in: str | None, at: datetime
) -> tuple[Incident, bool]:
    values = {
        "key": key,
        "severity": severity,
        "title": title,
        "opened_at": at,
        "last_seen_at": at,
        "last_seen_in": seen_in,
    }
    statement = insert(Incident).values(**values)
    statement = statement.on_conflict_do_nothing(index_elements=[Incident.key], index_where=text("resolved_at IS NULL"))
    unresolved = select(Incident).where(Incident.key == key, Incident.resolved_at.is_(None)).with_for_update()
    while True:
        opened = session.scalar(statement.returning(Incident.id)) is not None
        incident = session.scalar(unresolved)
        if incident is not None:
            return incident, opened
        # Somebody resolved the open one between the two statements: open a new one.


def _claim(incident: Incident, channels: Sequence[str], state: str, **more: str) -> None:
    claimed = {name: incident.channels.get(name, {}) | {"state": state, "at": _now()} | more for name in channels}
    incident.channels = incident.channels | claimed


def _must_tell(entry: Mapping[str, Any] | None, severity: str) -> bool:
    if entry is None or entry["state"] == "failed":
        return True
    if SEVERITIES.index(severity) > SEVERITIES.index(entry["severity"]):
        return True
    return entry["state"] == "sending" and _lapsed(entry)


def _must_resolve(entry: Mapping[str, Any]) -> bool:
    # A failed delivery may have arrived all the same (a timeout), so its channel hears of the end too.
    return entry["state"] in {"told", "failed", "unresolved"} or (entry["state"] != "resolved" and _lapsed(entry))


def _lapsed(entry: Mapping[str, Any]) -> bool:
    return datetime.now(UTC) - datetime.fromisoformat(entry["at"]) > CLAIM_LAPSES


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
