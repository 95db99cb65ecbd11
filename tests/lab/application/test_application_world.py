"""The application's world is the same for the same seed, belongs together, and holds what is hard to compare."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from dbops_lab.application.database import COLUMNS
from dbops_lab.application.events import TABLES, busyness
from dbops_lab.application.world import World
from dbops_lab.testing import LabApp

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SMALL = World(campaigns=30, line_items=90, creatives=120, days=2, requests_per_hour=100, now=NOW)


def named(world: World, table: str) -> Iterator[dict[str, Any]]:
    return (dict(zip(COLUMNS[table], row, strict=True)) for row in world.rows(table))


def test_the_same_seed_and_time_make_the_same_rows_and_others_do_not() -> None:
    def made(**changed: Any) -> list[Any]:
        world = World(campaigns=30, line_items=90, creatives=120, days=2, requests_per_hour=100, now=NOW, **changed)
        return [list(world.rows(table)) for table in COLUMNS]

    assert made() == made()
    assert all(one != other for one, other in zip(made(), made(seed=2), strict=True))


def test_every_row_refers_to_rows_that_exist() -> None:
    ids = {table: {row["id"] for row in named(SMALL, table)} for table in COLUMNS if "id" in COLUMNS[table]}
    assert {table: len(found) for table, found in ids.items() if table != "user_sessions"} == {
        "accounts": SMALL.accounts, "campaigns": 30, "line_items": 90, "creatives": 120,
    }  # fmt: skip
    assert {row["account_id"] for row in named(SMALL, "campaigns")} <= ids["accounts"]
    assert {row["campaign_id"] for row in named(SMALL, "line_items")} <= ids["campaigns"]
    assert {row["line_item_id"] for row in named(SMALL, "creatives")} <= ids["line_items"]
    owners = {row["id"]: row["campaign_id"] for row in named(SMALL, "line_items")}
    for row in named(SMALL, "spend_tracking"):
        assert owners[row["line_item_id"]] == row["campaign_id"]


def test_events_belong_to_the_campaigns_line_items_and_creatives_of_the_database() -> None:
    owners = {row["id"]: row["campaign_id"] for row in named(SMALL, "line_items")}
    pictures = {row["id"]: row["line_item_id"] for row in named(SMALL, "creatives")}
    for start in SMALL.hours()[-3:]:
        events = SMALL.hour(start)
        for table in ("bidstream_v2", "impressions", "wins", "clicks"):
            rows = events.rows(table)
            assert all(
                owners[item] == order for item, order in zip(rows["line_item_id"], rows["order_id"], strict=True)
            )
            assert all(
                pictures[one] == item for one, item in zip(rows["creative_id"], rows["line_item_id"], strict=True)
            )


def test_an_hour_is_whole_in_itself() -> None:
    start = NOW - timedelta(hours=30)
    events = SMALL.hour(start)
    first = int(start.timestamp()) * 1_000_000
    for table in TABLES:
        rows = events.rows(table)
        assert {len(column) for column in rows.values()} == {events.count(table)}
        assert first <= rows["timestamp"].min()
        assert rows["timestamp"].max() < first + 3_600_000_000
        key = next(iter(rows.values()))
        assert len(set(key)) == len(key)
    assert set(events.wins["impression_id"]) <= set(events.impressions["impression_id"])
    assert set(events.clicks["impression_id"]) <= set(events.impressions["impression_id"])
    assert set(events.impressions["request_id"]) <= set(events.bidstream_v2["request_id"])
    assert not set(events.wins["win_id"]) & set(SMALL.hour(start + timedelta(hours=1)).wins["win_id"])


def test_what_was_spent_is_the_sum_of_the_wins() -> None:
    spent = {(row["line_item_id"], row["day"]): row for row in named(SMALL, "spend_tracking")}
    total = sum(int(SMALL.hour(start).wins["win_price"].sum()) for start in SMALL.hours())
    assert len(SMALL.hours()) == 36
    assert abs(sum(row["spent"] for row in spent.values()) - Decimal(total) / 10_000) <= Decimal("0.005") * len(spent)
    assert sum(row["impressions"] for row in spent.values()) == sum(SMALL.hour(s).count("wins") for s in SMALL.hours())


def test_nights_and_weekends_are_quieter() -> None:
    wednesday = NOW.replace(hour=0)
    assert busyness(wednesday + timedelta(hours=15)) > 2 * busyness(wednesday + timedelta(hours=3))
    assert busyness(NOW + timedelta(days=3)) < busyness(NOW)
    assert sum(busyness(wednesday + timedelta(hours=n)) for n in range(168)) / 168 == pytest.approx(0.95, abs=0.03)


def test_a_world_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="full hour"):
        World(now=datetime(2026, 11, 25, 12, 30, tzinfo=UTC))
    with pytest.raises(ValueError, match="line items"):
        World(campaigns=10, line_items=5)


def test_the_database_holds_the_world_value_by_value(lab_app: LabApp) -> None:
    for table in ("accounts", "campaigns", "line_items", "creatives", "spend_tracking", "user_sessions"):
        columns = COLUMNS[table]
        with lab_app.database.session() as cursor:
            cursor.execute(f"select {', '.join(columns)} from {table}")
            found = {row[:2]: row for row in cursor.fetchall()}
        made = {row[:2]: row for row in lab_app.world.rows(table)}
        for row in found.values():
            assert tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) == made.pop(row[:2])
        assert not made


def test_seeding_again_replaces_everything_and_notes_nothing_for_the_syncer(lab_app: LabApp) -> None:
    with lab_app.database.session() as cursor:
        cursor.execute("update campaigns set name = 'changed'")
    assert lab_app.syncer.pending() == lab_app.world.campaigns
    lab_app.reset()
    assert lab_app.syncer.pending() == 0
    with lab_app.database.session() as cursor:
        cursor.execute("select count(*) from campaigns where name = 'changed'")
        assert cursor.fetchone() == (0,)
        cursor.execute("select max(version_id) from goose_db_version where is_applied")
        assert cursor.fetchone() == (20250609083000,)


def test_the_hard_cases_are_there() -> None:
    names = [row["name"] for row in named(World(now=NOW), "campaigns")]
    assert any("冬" in name for name in names)
    assert any('"' in name and "'" in name for name in names)
    assert any("\t" in name for name in names)
    assert {"retargeting", "Retargeting", "RETARGETING"} <= {name.split()[0] for name in names}
    items = list(named(World(now=NOW), "line_items"))
    assert {row["pacing"] for row in items} == {"even", "asap", "front_loaded"}
    assert any(row["win_rate_goal"] is None for row in items)
    assert any(row["updated_at"].microsecond % 1000 for row in items)
    assert any(row["status"] == "deleted" for row in items)
    assert any(row["ends_at"] and row["ends_at"] + timedelta(days=30) < NOW for row in items)
    assert any("\n" in (row["markup"] or "") for row in named(World(now=NOW), "creatives"))
