"""Campaign ids in Redshift's events that no campaign has. Redshift counts a day's events by campaign; PostgreSQL says
which of these ids it does not know; NULL is never one that it knows. Memory is that of a day's campaigns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from psycopg2 import sql

from dbops.connections import ConnectionInfo
from dbops.consistency.spend import midnights
from dbops.errors import ConfigurationError
from dbops.platform import Platform
from dbops.platform.consistency import CampaignConsistency, EventTable
from dbops.redshift.session import Session, open_session
from dbops.sql import quoted, statement
from dbops.sync.postgres import Snapshot


@dataclass(frozen=True)
class UnknownCampaign:
    campaign: str
    day: date
    events: int


@dataclass(frozen=True)
class CampaignResult:
    """What was found of one table of events."""

    system: str
    days: tuple[date, ...]
    events: int
    unknown: int
    """Events of campaigns that do not exist."""
    campaigns: int
    """How many such ids, NULL among them."""
    wrong_days: tuple[date, ...]
    found: tuple[UnknownCampaign, ...]
    """Those with the most events, as many as are listed."""

    @property
    def ok(self) -> bool:
        return self.unknown == 0 and self.events > 0

    @property
    def message(self) -> str:
        """One line."""
        if not self.events:
            return f"no event from {self.days[0]} to {self.days[-1]}: there is nothing to look at"
        seen = f"{self.events:,} events from {self.days[0]} to {self.days[-1]}"
        if self.ok:
            return f"{seen}: all of campaigns that exist"
        return f"{seen}: {self.unknown:,} of {self.campaigns:,} campaigns that do not exist"


def event_systems(platform: Platform) -> list[str]:
    """What is looked at, one for each table of events."""
    return [_name(one) for one in _part(platform).events]


def check_campaigns(
    platform: Platform, connection: Callable[[str], ConnectionInfo], days: Sequence[date]
) -> list[CampaignResult]:
    """Which campaigns do not exist that events of these days name, by table.

    :param connection: an id of a connection to what it says.
    :raises RetryableError, FinalError: a system could not be looked at.
    """
    part, sync, consistency = _part(platform), platform.sync, platform.consistency
    assert sync is not None
    assert consistency is not None
    assert platform.redshift is not None
    pair = sync.pair(part.pair)
    counted: dict[EventTable, dict[date, dict[str | None, int]]] = {}
    warehouse = open_session(connection(platform.redshift.connection))
    try:
        for one in part.events:
            counted[one] = {day: _of_day(warehouse, one, day) for day in days}
    finally:
        warehouse.close()
    # Asked last: a campaign that was made meanwhile is known.
    ids = sorted({name for table in counted.values() for found in table.values() for name in found if name is not None})
    with Snapshot(connection(sync.connection), pair, sync.max_replica_lag) as snapshot:
        rows = snapshot.ask(statement("postgres/unknown_campaigns"), [ids], id=sql.Identifier(pair.key_columns[0]))
    unknown = {None, *(name for (name,) in rows)}
    made = []
    for one, table in counted.items():
        found = [
            UnknownCampaign("NULL" if name is None else name, day, count)
            for day, names in table.items()
            for name, count in names.items()
            if name in unknown
        ]
        made.append(
            CampaignResult(
                _name(one), tuple(days), sum(sum(names.values()) for names in table.values()),
                sum(item.events for item in found), len({item.campaign for item in found}),
                tuple(sorted({item.day for item in found})) if any(table.values()) else tuple(days),
                tuple(sorted(found, key=lambda item: (-item.events, item.day, item.campaign))[: consistency.listed]),
            )
        )  # fmt: skip
    return made


def _of_day(warehouse: Session, table: EventTable, day: date) -> dict[str | None, int]:
    text = statement("redshift/campaigns_of_day").format(
        table=quoted(*table.table.split(".")), time=quoted(table.time), campaign=quoted(table.campaign)
    )
    rows = warehouse.rows(text, *midnights(day))
    return {None if name is None else str(name): int(count) for name, count in rows}


def _name(table: EventTable) -> str:
    return f"redshift/{table.table}"


def _part(platform: Platform) -> CampaignConsistency:
    consistency = platform.consistency
    if consistency is None or consistency.campaigns is None or platform.sync is None:
        raise ConfigurationError(f"platform {platform.name} has no section `consistency` with `campaigns`")
    return consistency.campaigns
