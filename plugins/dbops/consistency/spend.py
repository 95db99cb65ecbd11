"""The spend of line items and days in PostgreSQL, in the set that follows it in each cluster, and in Redshift.

Both SQL databases add up a day by line item themselves; of Aerospike those records are asked for that PostgreSQL names.
A day at a time, so that memory is that of a day's line items. Where one system says something else than all others, it
is that one that is wrong; else the one that is not as PostgreSQL. What differs is looked at again after the
synchronisation lag. A record without a row is no matter here: sync validation finds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

from psycopg2 import sql

from dbops.aerospike.cluster import Access
from dbops.connections import ConnectionInfo
from dbops.consistency.days import DAY
from dbops.errors import ConfigurationError, RetryableError
from dbops.platform import Platform
from dbops.platform.consistency import SpendConsistency, Tolerance
from dbops.platform.sync import SyncColumn, SyncPair
from dbops.redshift.session import open_session
from dbops.sql import quoted, statement
from dbops.sync.postgres import Snapshot
from dbops.sync.repair import official_client

BATCH = 1000  # records that are asked for at once; a server refuses more than 5000
ZERO = Decimal(0)

Amounts = Mapping[str, Decimal | None]
"""By system; None: it is not asked, as nothing should be there."""


@dataclass(frozen=True)
class SpendDifference:
    """What the systems say of a line item's day, and which of them is wrong."""

    system: str
    line_item: str
    day: date
    amounts: Amounts

    @property
    def off(self) -> Decimal:
        """By how much, beside PostgreSQL; of PostgreSQL itself, beside Redshift."""
        own, names = self.amounts[self.system] or ZERO, list(self.amounts)
        other = self.amounts[names[0] if self.system != names[0] else names[-1]] or ZERO
        return own - other


@dataclass(frozen=True)
class SpendResult:
    """What was found of one system."""

    system: str
    days: tuple[date, ...]
    compared: int
    """Line items and days."""
    differ: int
    amount: Decimal
    """The sum of the differences, without sign."""
    wrong_days: tuple[date, ...]
    differences: tuple[SpendDifference, ...]
    """The largest, as many as are listed."""

    @property
    def ok(self) -> bool:
        return self.differ == 0 and self.compared > 0

    @property
    def message(self) -> str:
        """One line."""
        if not self.compared:
            return f"no spend from {self.days[0]} to {self.days[-1]} in any system: there is nothing to compare"
        seen = f"{self.compared:,} line items and days from {self.days[0]} to {self.days[-1]}"
        if self.ok:
            return f"{seen}: the same spend as elsewhere"
        return f"{seen}: {self.differ:,} differ, by {self.amount:,.2f} in all"


def systems(platform: Platform) -> list[str]:
    """What is compared: PostgreSQL, the set in each of its clusters, Redshift."""
    spend, pair = _parts(platform)
    sets = [f"{cluster}/{pair.namespace}.{pair.set}" for cluster in pair.clusters]
    return [f"postgres/{pair.table}", *sets, f"redshift/{spend.warehouse.table}"]


def wrong(amounts: Amounts, tolerance: Tolerance) -> list[str]:
    """Which systems say what is wrong. The first is PostgreSQL, the last Redshift.

    That is PostgreSQL when everybody else agrees on another amount, and the clusters are asked; else whoever does not
    agree with PostgreSQL.
    """
    names = list(amounts)
    postgres, redshift = names[0], names[-1]
    off = [name for name in names[1:] if not _same(amounts[name], amounts[postgres], tolerance)]
    asked = [name for name in names[1:-1] if amounts[name] is not None]
    if redshift in off and asked and all(_same(amounts[name], amounts[redshift], tolerance) for name in asked):
        return [postgres]
    return off


def _same(one: Decimal | None, other: Decimal | None, tolerance: Tolerance) -> bool:
    if one is None or other is None:
        return True
    larger = max(abs(one), abs(other))
    allowed = max(Decimal(str(tolerance.amount)), larger * Decimal(str(tolerance.percent)) / 100)
    return abs(one - other) <= allowed


class SpendCheck:
    """The comparison of a platform's spend.

    :param connection: an id of a connection to what it says; :param access: a cluster's name to its access.
    :param lag: before what differs is looked at again; default: that of the pair.
    """

    def __init__(
        self, platform: Platform, connection: Callable[[str], ConnectionInfo], access: Callable[[str], Access], *,
        lag: timedelta | None = None, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        assert platform.sync is not None
        assert platform.redshift is not None
        assert platform.consistency is not None
        self.spend, self.pair = _parts(platform)
        self.systems, self.listed = systems(platform), platform.consistency.listed
        self.lag = self.pair.lag if lag is None else lag
        self._postgres = connection(platform.sync.connection)
        self._max_replica_lag = platform.sync.max_replica_lag
        self._redshift = connection(platform.redshift.connection)
        self._access, self._sleep = access, sleep
        self._column = next(one for one in self.pair.columns if one.column == self.spend.amount)

    def run(self, days: Sequence[date]) -> list[SpendResult]:
        """What is wrong on these days, by system.

        :raises RetryableError, FinalError: a system could not be looked at.
        """
        with ExitStack() as stack:
            warehouse = open_session(self._redshift)
            stack.callback(warehouse.close)
            clients = {cluster: self._client(cluster, stack) for cluster in self.pair.clusters}
            compared, found = 0, dict[tuple[date, str], Amounts]()
            for day in days:
                count, differ = self._look(day, warehouse, clients)
                compared += count
                found |= differ
            if found:
                self._sleep(self.lag.total_seconds())
                again = dict[tuple[date, str], Amounts]()
                for day in sorted({day for day, _ in found}):
                    again |= self._look(day, warehouse, clients)[1]
                found = {key: again[key] for key in found if key in again}
        return self._results(days, compared, found)

    def _results(
        self, days: Sequence[date], compared: int, found: Mapping[tuple[date, str], Amounts]
    ) -> list[SpendResult]:
        made: dict[str, list[SpendDifference]] = {system: [] for system in self.systems}
        for (day, line_item), amounts in found.items():
            for system in wrong(amounts, self.spend.tolerance):
                made[system].append(SpendDifference(system, line_item, day, amounts))
        return [
            SpendResult(
                system, tuple(days), compared, len(mine), sum((abs(one.off) for one in mine), ZERO),
                tuple(sorted({one.day for one in mine})) if compared else tuple(days),
                tuple(sorted(mine, key=lambda one: (-abs(one.off), one.day, one.line_item))[: self.listed]),
            )
            for system, mine in made.items()
        ]  # fmt: skip

    def _look(
        self, day: date, warehouse: Any, clients: Mapping[str, Any]
    ) -> tuple[int, dict[tuple[date, str], Amounts]]:
        """How many line items a day has, and the amounts of those that are not the same everywhere."""
        rows = self._in_postgres(day)
        there = self._in_redshift(day, warehouse)
        sets = [self._in_cluster(cluster, client, rows) for cluster, client in clients.items()]
        ours: dict[str, Decimal] = {}
        for line_item, amount, _, _ in rows:
            ours[line_item] = ours.get(line_item, ZERO) + amount
        differ: dict[tuple[date, str], Amounts] = {}
        names = ours.keys() | there.keys()
        for line_item in names:
            values = [
                ours.get(line_item, ZERO), *(one.get(line_item) for one in sets), there.get(line_item, ZERO),
            ]  # fmt: skip
            amounts = dict(zip(self.systems, values, strict=True))
            if wrong(amounts, self.spend.tolerance):
                differ[day, line_item] = amounts
        return len(names), differ

    def _in_postgres(self, day: date) -> list[tuple[str, Decimal, str, bool]]:
        """Line item, amount, key of its record, and whether there should be one."""
        with Snapshot(self._postgres, self.pair, self._max_replica_lag) as snapshot:
            found = snapshot.ask(
                statement("postgres/spend_of_day"), [day], line_item=sql.Identifier(self.spend.line_item),
                amount=sql.Identifier(self.spend.amount), day=sql.Identifier(self.spend.day),
            )  # fmt: skip
        return [(line_item, amount or ZERO, key, is_there) for line_item, amount, key, is_there in found]

    def _in_redshift(self, day: date, warehouse: Any) -> dict[str, Decimal]:
        place = self.spend.warehouse
        text = statement("redshift/spend_of_day").format(
            table=quoted(*place.table.split(".")), time=quoted(place.time), line_item=quoted(place.line_item),
            amount=quoted(place.amount),
        )  # fmt: skip
        found = warehouse.rows(text, *midnights(day))
        return {str(line_item): Decimal(str(amount or 0)) for line_item, amount in found}

    def _in_cluster(
        self, cluster: str, client: Any, rows: Sequence[tuple[str, Decimal, str, bool]]
    ) -> dict[str, Decimal | None]:
        """By line item; None where no record should be."""
        from aerospike.exception import AerospikeError

        made: dict[str, Decimal | None] = {line_item: None for line_item, _, _, _ in rows}
        wanted, name = iter((line_item, key) for line_item, _, key, is_there in rows if is_there), self._column.bin
        what = f"read {cluster}/{self.pair.namespace}.{self.pair.set}"
        while part := list(islice(wanted, BATCH)):
            keys = [
                (self.pair.namespace, self.pair.set, int(key) if self.pair.key_type == "integer" else key)
                for _, key in part
            ]
            try:
                answers = client.batch_read(keys, bins=[name]).batch_records
            except AerospikeError as error:
                raise RetryableError(f"{what}: {error}") from None
            for (line_item, key), answer in zip(part, answers, strict=True):
                if answer.result not in (0, 2):  # 2: there is none
                    raise RetryableError(f"{what}: record {key}: result {answer.result}")
                bins = answer.record[2] if answer.result == 0 and answer.record else None
                made[line_item] = (made[line_item] or ZERO) + amount_of(self._column, (bins or {}).get(name))
        return made

    def _client(self, cluster: str, stack: ExitStack) -> Any:
        from aerospike.exception import AerospikeError

        try:
            client = official_client(self._access(cluster))
        except AerospikeError as error:
            raise RetryableError(f"connect to Aerospike cluster {cluster}: {error}") from None
        stack.callback(client.close)
        return client


def amount_of(column: SyncColumn, value: Any) -> Decimal:
    """What a bin says, in the unit of the column; no bin: nothing."""
    if value is None:
        return ZERO
    try:
        return Decimal(str(value)).scaleb(-column.scale)
    except ArithmeticError:
        raise ConfigurationError(f"bin {column.bin} holds {value!r}, which is no amount") from None


def midnights(day: date) -> tuple[datetime, datetime]:
    """Beginning and end of a day, as Redshift's timestamps without time zone have them."""
    first = datetime(day.year, day.month, day.day)  # noqa: DTZ001
    return first, first + DAY


def _parts(platform: Platform) -> tuple[SpendConsistency, SyncPair]:
    consistency = platform.consistency
    if consistency is None or consistency.spend is None or platform.sync is None:
        raise ConfigurationError(f"platform {platform.name} has no section `consistency` with `spend`")
    return consistency.spend, platform.sync.pair(consistency.spend.pair)
