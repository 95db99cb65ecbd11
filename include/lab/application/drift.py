"""Drift that is planted on purpose, each piece known: what validation must find, and what it must not take for drift.

Only rows that traffic leaves alone (`world.is_quiet`) are touched, so that what was planted stays while traffic runs.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg2
from dbops_lab.application.database import Database
from dbops_lab.application.mapping import FORMS, PAIRS, SYNCED_AT, Bin, Pair
from dbops_lab.application.publish import Change, Cluster, change, publish
from dbops_lab.application.world import STATUSES, Row, ident, json_text
from psycopg2 import sql

if TYPE_CHECKING:
    from dbops_lab.application.etl import Etl

KINDS = ("missing", "extra", "resurrected", "duplicate", "different", "no_bin", "extra_bin", "unpublished")
HARMLESS = ("json_order", "decomposed", "default_bin", "synced_at", "rewritten", "ignored_column")
SYSTEMS = ("postgres", "aerospike", "warehouse")
SAMPLE = 2_000  # rows to pick from
_STATES = sorted(set(STATUSES) - {"deleted"})


@dataclass(frozen=True)
class Planted:
    """One piece of drift.

    :param kind: as in `KINDS`. Of the extra records, `resurrected` belongs to a row that is deleted softly and
        `duplicate` to one that has its record besides; of the different ones, `no_bin` lacks a bin, `extra_bin` has one
        where PostgreSQL has NULL, and `unpublished` is a change of PostgreSQL that was never carried.
    :param fields: by column: what PostgreSQL implies for the bin, and what the bin holds; None: no bin.
    """

    kind: str
    cluster: str
    table: str
    key: str
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def side(self) -> str:
        """How a validation calls it: missing, extra or different."""
        if self.kind in ("extra", "resurrected", "duplicate"):
            return "extra"
        return "missing" if self.kind == "missing" else "different"


def spoil(pair: Pair, bins: Mapping[str, Any], name: str | None = None) -> tuple[str, Any]:
    """Another value of the same form for one bin: the one named, or the first that is no identifier."""
    own = [one for one in pair.bins if one.name == name or (name is None and one.name in bins)]
    one = next((one for one in own if name or not one.name.endswith(("ID", "_id"))), None)
    if one is None:
        raise ValueError(f"{pair.set} has no bin {name}: {', '.join(one.name for one in pair.bins)}")
    return one.name, _other(one.form, bins[one.name]) if one.name in bins else SAMPLES[one.form]


def _other(form: str, value: Any) -> Any:
    """A value that differs as little as it can and still counts."""
    if form == "micros":
        return value + 10_000  # a cent
    if form == "decimal_text":
        return format(Decimal(value) + Decimal("0.001"), "f")
    if form == "day":
        return (date.fromisoformat(value) + timedelta(days=1)).isoformat()
    if form == "json_text":
        return json_text(_other("map", json.loads(value)))
    if form == "map":
        return {**value, "x": 1} if "x" not in value else {k: v for k, v in value.items() if k != "x"}
    if form == "list":
        return value[1:] if value else [1]
    if form == "text":
        return _STATES[_STATES.index(value) - 1] if value in _STATES else value[:-1] if value else " "
    if form == "bool":
        return not value
    return value + 0.01 if form == "double" else 1 - value if form == "integer_bool" else value + 1


def plant(
    database: Database, cluster: Cluster, seed: int, *, kinds: Sequence[str] = KINDS, tables: Iterable[str] = PAIRS,
    count: int | None = None, besides: Iterable[Planted] = (),
) -> list[Planted]:  # fmt: skip
    """Break a synchronised cluster in `count` places (None: one to twelve), each another row; what was done.

    :param besides: what was planted before: those rows are left alone.
    :raises NothingToBreak: there are too few rows.
    """
    with _Planter(database, cluster, seed, tables, besides) as planter:
        wanted = count if count is not None else planter.picks.randint(1, 12)
        return [planter.one(kinds) for _ in range(wanted)]


def plant_harmless(
    database: Database, cluster: Cluster, seed: int, *, kinds: Sequence[str] = HARMLESS, tables: Iterable[str] = PAIRS,
    count: int = 5, besides: Iterable[Planted] = (),
) -> list[tuple[str, str, str]]:  # fmt: skip
    """Change what is no drift, in `count` places; kind, table and key of each.

    The order of JSON keys, decomposed letters, a bin that holds its default, `synced_at`, the generation, a column that
    does not go to Aerospike.
    """
    with _Planter(database, cluster, seed, tables, besides) as planter:
        return [planter.harmless(kinds) for _ in range(count)]


@dataclass(frozen=True)
class SpendDrift:
    """One line item's day whose spend is wrong in one system: postgres, aerospike or warehouse.

    :param amount: by which it is too high there.
    """

    system: str
    line_item_id: str
    day: date
    amount: Decimal


def plant_spend(
    database: Database, cluster: Cluster, etl: Etl, seed: int, *, count: int = 3, least: Decimal = Decimal("1.00"),
    most: Decimal = Decimal("50.00"), systems: Sequence[str] = SYSTEMS,
) -> list[SpendDrift]:  # fmt: skip
    """Make the spend of some line items' days that are over differ in one of the three systems; what was done.

    All three must hold those days. What is within a check's tolerance is made by `least` and `most`.
    """
    picks = random.Random(seed)
    pair = PAIRS["spend_tracking"]
    done = []
    with _Planter(database, cluster, seed, [pair.table], ()) as planter:
        today = etl.world.now.date()
        for _ in range(count):
            row = planter.row(pair, lambda row: row[1] < today and row[5] > 0)
            system, amount = (
                picks.choice(list(systems)),
                Decimal(picks.randint(int(least * 100), int(most * 100))) / 100,
            )
            if system == "postgres":
                planter.update(pair, row, "spent", row[3] + amount)
            elif system == "aerospike":
                made = change(pair, pair.key(row), row, datetime.now(UTC))
                assert made.bins is not None
                spent = made.bins["spent"] + FORMS["micros"](amount)
                planter.put(pair, replace(made, bins={**made.bins, "spent": spent}))
            else:
                _raise_spend(etl, row, amount)
            done.append(SpendDrift(system, row[0], row[1], amount))
    return done


def _raise_spend(etl: Etl, row: Row, amount: Decimal) -> None:
    """One win of that line item and day costs more; the aggregates follow."""
    first = datetime(*row[1].timetuple()[:3], tzinfo=UTC)
    last = first + timedelta(days=1)
    with closing(etl.connect()) as connection:
        with closing(connection.cursor()) as cursor:
            cursor.execute(
                'select min(win_id) from wins where line_item_id = %s and "timestamp" >= %s and "timestamp" < %s',
                (row[0], first.replace(tzinfo=None), last.replace(tzinfo=None)),
            )
            (win,) = cursor.fetchone()
            cursor.execute("update wins set win_price = win_price + %s where win_id = %s", (amount, win))
        etl.aggregate(connection, first, last)


class NothingToBreak(Exception):
    """No row is left that suits a kind of drift."""


class _Planter:
    def __init__(
        self, database: Database, cluster: Cluster, seed: int, tables: Iterable[str], besides: Iterable[Planted]
    ) -> None:
        self.picks = random.Random(seed)
        self._seed, self._database, self._cluster, self._tables = seed, database, cluster, sorted(tables)
        self._used = {(one.table, one.key.lower()) for one in besides}
        self._now = datetime.now(UTC)

    def __enter__(self) -> _Planter:
        self._connection = self._database.connect("planter")
        self._client = self._cluster.connect()
        with self._connection, self._connection.cursor() as cursor:
            self._rows = {table: list(_quiet_rows(cursor, PAIRS[table], self.picks)) for table in self._tables}
        for rows in self._rows.values():
            self.picks.shuffle(rows)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._connection.close()

    def one(self, kinds: Sequence[str]) -> Planted:
        kind = self.picks.choice(list(kinds))
        make: Callable[[Pair], Planted] = getattr(self, f"_{kind}")
        tables = [table for table in self._tables if kind != "resurrected" or "status" in PAIRS[table].columns]
        for table in self.picks.sample(tables, len(tables)):
            with suppress(NothingToBreak):
                return make(PAIRS[table])
        left = [one for one in kinds if one != kind]
        if not left:
            raise NothingToBreak(f"{', '.join(tables)}: no row is left for {kind}; seed more")
        return self.one(left)

    def row(self, pair: Pair, suits: Callable[[Row], bool] = lambda row: True, *, is_there: bool = True) -> Row:
        """A row that nothing was done to, with a record or without."""
        for row in self._rows[pair.table]:
            key = pair.key(row)
            if (pair.table, key) not in self._used and pair.has_record(row, self._now) == is_there and suits(row):
                self._used.add((pair.table, key))
                return row
        raise NothingToBreak(pair.table)

    def put(self, pair: Pair, made: Change) -> None:
        publish(self._client, pair, [made])

    def _planted(self, kind: str, pair: Pair, key: str, /, **fields: tuple[Any, Any]) -> Planted:
        return Planted(kind, self._cluster.name, pair.table, key, fields)

    # ------------------------------------------------------------------ drift

    def _missing(self, pair: Pair) -> Planted:
        key = pair.key(self.row(pair))
        self.put(pair, Change(key, None))
        return self._planted("missing", pair, key)

    def _extra(self, pair: Pair) -> Planted:
        """The record of a row that never was."""
        row = list(self.row(pair))
        row[0] = ident(self._seed, f"{pair.table}/extra", self.picks.getrandbits(48))
        key = pair.key(tuple(row))
        self.put(pair, change(pair, key, tuple(row), self._now))
        return self._planted("extra", pair, key)

    def _resurrected(self, pair: Pair) -> Planted:
        at = pair.columns.index("status")
        row = self.row(pair, lambda row: row[at] == "deleted" and _is_alive(pair, row, self._now), is_there=False)
        key = pair.key(row)
        self.put(pair, change(pair, key, (*row[:at], "active", *row[at + 1 :]), self._now))
        return self._planted("resurrected", pair, key)

    def _duplicate(self, pair: Pair) -> Planted:
        row = self.row(pair, lambda row: pair.key(row).upper() != pair.key(row))
        made = change(pair, pair.key(row), row, self._now)
        self.put(pair, replace(made, key=made.key.upper()))
        return self._planted("duplicate", pair, made.key.upper())

    def _different(self, pair: Pair) -> Planted:
        row = self.row(pair)
        made = change(pair, pair.key(row), row, self._now)
        assert made.bins is not None
        own = [one for one in pair.bins if one.name in made.bins]
        spoiled = self.picks.sample(own, min(len(own), self.picks.choice((1, 1, 1, 2, 3))))
        new = {one.name: _other(one.form, made.bins[one.name]) for one in spoiled}
        self.put(pair, replace(made, bins={**made.bins, **new}))
        fields = {one.column: (made.bins[one.name], new[one.name]) for one in spoiled}
        return self._planted("different", pair, made.key, **fields)

    def _no_bin(self, pair: Pair) -> Planted:
        row = self.row(pair)
        made = change(pair, pair.key(row), row, self._now)
        assert made.bins is not None
        one = self.picks.choice([one for one in pair.bins if one.name in made.bins])
        self.put(pair, replace(made, bins={k: v for k, v in made.bins.items() if k != one.name}))
        return self._planted("no_bin", pair, made.key, **{one.column: (made.bins[one.name], None)})

    def _extra_bin(self, pair: Pair) -> Planted:
        row = self.row(pair, lambda row: any(_is_null(pair, row, one) for one in pair.bins))
        made = change(pair, pair.key(row), row, self._now)
        one = self.picks.choice([one for one in pair.bins if _is_null(pair, row, one)])
        value = SAMPLES[one.form]
        assert made.bins is not None
        self.put(pair, replace(made, bins={**made.bins, one.name: value}))
        return self._planted("extra_bin", pair, made.key, **{one.column: (None, value)})

    def _unpublished(self, pair: Pair) -> Planted:
        """A change of PostgreSQL that no trigger noticed."""
        row = self.row(pair)
        column = "impressions" if pair.table == "spend_tracking" else "name"
        value = row[pair.columns.index(column)]
        new = value + 7 if isinstance(value, int) else f"{value} (neu)"
        self.update(pair, row, column, new)
        old = next(pair.record(row)[one.name] for one in pair.bins if one.column == column)
        return self._planted("unpublished", pair, pair.key(row), **{column: (new, old)})

    def update(self, pair: Pair, row: Row, column: str, value: Any) -> None:
        """Change a column of a row without the syncer's knowledge."""
        keys = pair.columns[: 2 if pair.table == "spend_tracking" else 1]
        query = sql.SQL("update {} set {} = %s where ({}) = %s").format(
            sql.Identifier(pair.table), sql.Identifier(column), sql.SQL(", ").join(map(sql.Identifier, keys))
        )
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute("set local lab.unnoticed = 'on'")
            cursor.execute(query, [value, tuple(row[: len(keys)])])

    # ------------------------------------------------------------------ no drift

    def harmless(self, kinds: Sequence[str]) -> tuple[str, str, str]:
        while True:
            kind, pair = self.picks.choice(list(kinds)), PAIRS[self.picks.choice(self._tables)]
            row = self.row(pair)
            made = change(pair, pair.key(row), row, self._now)
            assert made.bins is not None
            if kind == "ignored_column":
                if pair.table != "campaigns":
                    continue
                self.update(pair, row, "notes", "nobody reads this")
            else:
                bins = _HARMLESS[kind](pair, dict(made.bins))
                if bins is None:
                    continue
                self.put(pair, replace(made, bins=bins))
            return kind, pair.table, made.key


def _is_alive(pair: Pair, row: Row, now: datetime) -> bool:
    end = pair.expiry(row)
    return end is None or end > now


def _is_null(pair: Pair, row: Row, one: Bin) -> bool:
    return row[pair.columns.index(one.column)] is None


SAMPLES: Mapping[str, Any] = {
    "text": "", "integer": 0, "double": 0.0, "micros": 0, "decimal_text": "0.000", "bool": False, "integer_bool": 0,
    "epoch_us": 0, "epoch_ms": 0, "epoch_s": 0, "map": {}, "list": [], "json_text": "{}", "day": "1970-01-01",
}  # fmt: skip
"""What is easily taken for NULL."""


def _reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reordered(value[key]) for key in reversed(list(value))}
    return [_reordered(item) for item in value] if isinstance(value, list) else value


def _json_order(pair: Pair, bins: dict[str, Any]) -> dict[str, Any] | None:
    found = {
        one.name: json.dumps(_reordered(json.loads(bins[one.name])), indent=1)
        for one in pair.bins
        if one.form == "json_text" and one.name in bins
    }
    found |= {name: _reordered(value) for name, value in bins.items() if isinstance(value, dict) and len(value) > 1}
    return {**bins, **found} if found else None


def _decomposed(pair: Pair, bins: dict[str, Any]) -> dict[str, Any] | None:
    found = {
        one.name: unicodedata.normalize("NFD", bins[one.name])
        for one in pair.bins
        if one.form == "text" and one.name in bins and not unicodedata.is_normalized("NFD", bins[one.name])
    }
    return {**bins, **found} if found else None


def _default_bin(pair: Pair, bins: dict[str, Any]) -> dict[str, Any] | None:
    found = {one.name: one.default for one in pair.bins if one.default is not None and one.name not in bins}
    return {**bins, **found} if found else None


_HARMLESS: Mapping[str, Callable[[Pair, dict[str, Any]], dict[str, Any] | None]] = {
    "json_order": _json_order,
    "decomposed": _decomposed,
    "default_bin": _default_bin,
    "synced_at": lambda pair, bins: {**bins, SYNCED_AT: bins[SYNCED_AT] - 86_400_000},
    "rewritten": lambda pair, bins: bins,
}


def _quiet_rows(cursor: psycopg2.extensions.cursor, pair: Pair, picks: random.Random) -> Iterator[Row]:
    """Rows that traffic leaves alone, from a place in the table on that the seed chooses."""
    first = sql.Identifier(pair.columns[0])
    order = sql.SQL(", ").join(
        map(sql.Identifier, pair.columns[:2] if pair.table == "spend_tracking" else pair.columns[:1])
    )
    query = sql.SQL(
        "select {columns} from {table} where right({first}::text, 1) in ('c', 'd', 'e', 'f') and {first} {side} %s "
        "order by {order} limit %s"
    )
    start = f"{picks.getrandbits(128):032x}"
    left = SAMPLE
    for side in (">=", "<"):
        cursor.execute(
            query.format(
                columns=sql.SQL(", ").join(map(sql.Identifier, pair.columns)), table=sql.Identifier(pair.table),
                first=first, side=sql.SQL(side), order=order,
            ),
            [start, left],
        )  # fmt: skip
        left -= cursor.rowcount
        yield from cursor
