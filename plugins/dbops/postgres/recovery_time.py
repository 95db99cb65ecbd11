"""The moment to which an instance is brought back: what was written, and whether it can be reached."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dbops.errors import ConfigurationError
from dbops.platform import duration_text
from dbops.postgres.rds import calls

LATEST = "latest"
CLOCK_SKEW = timedelta(minutes=10)
"""Of AWS and this machine: a window that ends later is not believed."""


class RecoveryRefused(ConfigurationError):
    """What was asked for is not done."""


@dataclass(frozen=True)
class Window:
    """From when to when RDS can bring an instance back; aware UTC."""

    earliest: datetime
    latest: datetime

    def describe(self) -> str:
        return f"{self.earliest:%FT%TZ} to {self.latest:%FT%TZ}"


def parse_moment(text: str | None) -> datetime | None:
    """Aware UTC; None: the latest moment that there is.

    :raises RecoveryRefused: it is no time, one without a time zone, or has fractions of a second.
    """
    wanted = (text or "").strip()
    if wanted.lower() == LATEST:
        return None
    example = "2026-11-24T05:59:59Z"
    if not wanted:
        raise RecoveryRefused(f"no point in time was given: write {example}, or {LATEST}")
    try:
        found = datetime.fromisoformat(wanted)
    except ValueError:
        raise RecoveryRefused(f"point in time {wanted!r} is none: write it as {example}, or {LATEST}") from None
    if found.tzinfo is None:
        raise RecoveryRefused(
            f"point in time {wanted!r} has no time zone, so it could be any of 24 hours: add Z or an offset, +02:00"
        )
    if found.microsecond:
        raise RecoveryRefused(f"point in time {wanted!r} has fractions of a second; RDS knows whole seconds only")
    return found.astimezone(UTC)


def read_window(client: Any, instance: str) -> Window:
    """What RDS says that it can do now.

    :raises RecoveryRefused: it keeps no automated backups of the instance.
    """
    with calls(f"describe instance {instance}"):
        found = client.describe_db_instances(DBInstanceIdentifier=instance)["DBInstances"][0]
    with calls(f"describe the automated backups of {instance}"):
        backups = client.describe_db_instance_automated_backups(DBInstanceIdentifier=instance)[
            "DBInstanceAutomatedBackups"
        ]
    windows = [item["RestoreWindow"] for item in backups if item.get("RestoreWindow")]
    earliest = [window["EarliestTime"] for window in windows if window.get("EarliestTime")]
    latest = [window["LatestTime"] for window in windows if window.get("LatestTime")]
    latest += [found["LatestRestorableTime"]] if found.get("LatestRestorableTime") else []
    if not earliest or not latest:
        raise RecoveryRefused(
            f"{instance} can be brought back to no moment: RDS has no automated backups of it (retention "
            f"{found.get('BackupRetentionPeriod', 0)} days). Restore a manual snapshot by hand, if there is one"
        )
    return Window(min(earliest).astimezone(UTC), max(latest).astimezone(UTC))


def check_moment(moment: datetime | None, window: Window, source: str, now: datetime) -> datetime:
    """The moment that is restored: the one that was asked for, when it can be reached.

    :param moment: None: the latest.
    :param now: aware UTC.
    :raises RecoveryRefused: it lies in the future, or out of the window.
    """
    if window.latest > now + CLOCK_SKEW:
        raise RecoveryRefused(
            f"RDS says {source} can be brought back to {window.latest:%FT%TZ}, which lies in the future: compare the "
            f"clock of this machine ({now:%FT%TZ})"
        )
    if moment is None:
        return window.latest
    if moment > now:
        raise RecoveryRefused(
            f"bring {source} back to {moment:%FT%TZ}: that lies in the future, by {duration_text(moment - now)}"
        )
    if moment > window.latest:
        raise RecoveryRefused(
            f"bring {source} back to {moment:%FT%TZ}: RDS has its log up to {window.latest:%FT%TZ} only, it follows "
            "about every 5 minutes. Wait, then ask again"
        )
    if moment < window.earliest:
        raise RecoveryRefused(
            f"bring {source} back to {moment:%FT%TZ}: that is too old by {duration_text(window.earliest - moment)}, "
            f"RDS can reach {window.describe()}. Older data: a manual snapshot, or an export"
        )
    return moment
