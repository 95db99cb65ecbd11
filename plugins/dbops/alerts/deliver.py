"""Raising and resolving. The incident in the ledger decides who is told; a broken channel or ledger raises nothing.

When the ledger does not answer, the channels of the severity are told all the same: PagerDuty keeps repeats
together by its dedup key, and every text says that nobody remembers this alert.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Engine

from dbops.alerts.alert import Alert, Channel, Notice
from dbops.ledger import Sighting, record_delivery, resolve_incident, see_incident
from dbops.platform import Platform, Severity
from dbops.redact import redact

RUNBOOKS = "include/runbooks"
LEDGER_DOWN = (
    "The ledger was unreachable: nobody remembers this alert; it may come again, and does not end by itself "
    "(include/runbooks/ledger_unreachable.md)."
)

log = logging.getLogger(__name__)


@dataclass
class Delivery:
    """Who was told, and why the others were not."""

    told: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    opened: bool = False
    ledger_down: bool = False


def raise_alert(
    platform: Platform,
    ledger: Engine | None,
    alert: Alert,
    channels: Mapping[str, Channel],
    *,
    secrets: Iterable[str] = (),
) -> Delivery:
    """Open or update the incident of `alert.key`, and tell the channels of its severity that do not know yet.

    A problem that lasts is told once: again only to a channel that was not reached, or when its severity rises.

    :param ledger: None when there is no connection to it; the alert goes out all the same.
    :param channels: by the names of `platform.alerts.channels`.
    :param secrets: texts that must appear nowhere, besides those that `dbops.redact` finds by itself.
    """
    secrets = tuple(secrets)
    now = datetime.now(UTC)
    alert = alert.redacted(secrets)
    wanted = platform.alerts.channels(alert.severity)
    sighting = _see(ledger, alert, wanted, now, secrets)
    notice = Notice(
        state="problem",
        platform=platform.name,
        alert=alert,
        since=alert.since or (sighting.opened_at if sighting else now),
        runbook_url=_runbook(platform, alert),
        times_seen=sighting.times_seen if sighting else 1,
        remark="" if sighting else LEDGER_DOWN,
    )
    delivery = Delivery(opened=sighting is not None and sighting.opened, ledger_down=sighting is None)
    ended = False
    for name in sighting.tell if sighting else wanted:
        problem = _send(channels, name, notice, delivery, secrets)
        if ledger is not None and sighting is not None:
            ended |= _remember(ledger, sighting.id, name, problem, resolving=False, secrets=secrets)
    if ended:
        # It was resolved while we were telling: what we told must be taken back.
        resolve_alert(platform, ledger, alert.key, channels, secrets=secrets)
    return delivery


def resolve_alert(
    platform: Platform,
    ledger: Engine | None,
    key: str,
    channels: Mapping[str, Channel],
    *,
    run_url: str | None = None,
    secrets: Iterable[str] = (),
) -> Delivery:
    """End the incident of `key` and say so wherever it was told. Nothing happens when there is none.

    Without the ledger only PagerDuty is told (it ignores what it does not know), so that nobody stays paged;
    the incident is resolved for good by the next call that reaches the ledger.
    """
    secrets = tuple(secrets)
    now = datetime.now(UTC)
    try:
        if ledger is None:
            raise ConnectionError("no connection to it is configured")
        resolution = resolve_incident(ledger, key)
    except Exception as error:
        log.error("alert %s: the ledger did not take its end: %s", key, _reason(error, secrets))
        delivery = Delivery(ledger_down=True)
        alert = Alert(severity=Severity.CRITICAL, key=key, title=key, what="", run_url=run_url)
        notice = Notice("resolved", platform.name, alert, since=now, runbook_url=None, remark=LEDGER_DOWN)
        if platform.alerts.pagerduty is not None:
            _send(channels, "pagerduty", notice, delivery, secrets)
        return delivery
    delivery = Delivery()
    if resolution is None:
        return delivery
    alert = Alert(severity=Severity(resolution.severity), key=key, title=resolution.title, what="", run_url=run_url)
    notice = Notice(
        state="resolved",
        platform=platform.name,
        alert=alert,
        since=resolution.opened_at,
        runbook_url=None,
        until=resolution.resolved_at,
        times_seen=resolution.times_seen,
    )
    for name in resolution.tell:
        problem = _send(channels, name, notice, delivery, secrets)
        _remember(ledger, resolution.id, name, problem, resolving=True, secrets=secrets)
    return delivery


def _see(
    ledger: Engine | None, alert: Alert, wanted: tuple[str, ...], now: datetime, secrets: tuple[str, ...]
) -> Sighting | None:
    details = {
        "what": alert.what,
        "value": alert.value,
        "limit": alert.limit,
        "since": alert.since.isoformat() if alert.since else None,
        "run_url": alert.run_url,
        "runbook": alert.runbook,
    }
    try:
        if ledger is None:
            raise ConnectionError("no connection to it is configured")
        return see_incident(
            ledger,
            key=alert.key,
            severity=alert.severity,
            title=alert.title,
            channels=wanted,
            details={name: value for name, value in details.items() if value is not None},
            seen_in=alert.run_url,
            at=now,
        )
    except Exception as error:
        log.error("alert %s: the ledger did not take it: %s", alert.key, _reason(error, secrets))
        return None


def _send(
    channels: Mapping[str, Channel], name: str, notice: Notice, delivery: Delivery, secrets: tuple[str, ...]
) -> str | None:
    try:
        channels[name].send(notice)
    except Exception as error:
        reason = f"no channel {name}" if isinstance(error, KeyError) and name not in channels else ""
        delivery.failed[name] = reason = reason or _reason(error, secrets)
        log.error("alert %s (%s): %s was not told: %s", notice.alert.key, notice.state, name, reason)
        return reason
    delivery.told.append(name)
    log.info("alert %s (%s): %s was told", notice.alert.key, notice.state, name)
    return None


def _remember(
    ledger: Engine, id: int, channel: str, error: str | None, *, resolving: bool, secrets: tuple[str, ...]
) -> bool:
    try:
        return record_delivery(ledger, id, channel, resolving=resolving, error=error)
    except Exception as failure:
        reason = _reason(failure, secrets)
        log.error("incident %d: the ledger did not take what became of %s: %s", id, channel, reason)
        return False


def _reason(error: Exception, secrets: tuple[str, ...]) -> str:
    return redact(f"{type(error).__name__}: {error}", secrets)


def _runbook(platform: Platform, alert: Alert) -> str | None:
    if alert.runbook is None:
        return None
    return f"{platform.alerts.runbooks or RUNBOOKS}/{alert.runbook}.md"
