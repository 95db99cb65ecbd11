"""The monthly review: advice with its statement, unused tables, cold data."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbops.ledger import PastCheck
from dbops.platform import Archive, Review
from dbops.redshift.review import Usage, cold_candidates, table_advice, unused_tables, usage_of
from dbops.redshift.views import TableFigures

NOW = datetime(2026, 12, 1, 4, tzinfo=UTC)
DAY = timedelta(days=1)
REVIEW = Review()
ARCHIVE = Archive.model_validate({
    "tables": [
        {"table": "public.wins", "column": "timestamp", "keep": "90d"},
        {"table": "events.clicks_{day}", "column": "at", "keep": "90d", "days": "tables"},
    ]
})
SEEN = Usage({}, {}, REVIEW.unused_after)
TABLE = TableFigures(
    schema="public", table="t", id=1, size_mb=5000, rows=10, visible_rows=10, unsorted=0.0, stats_off=0.0,
    diststyle="KEY(id)", sort_key="day", is_interleaved=False, sort_benefit=0.0, skew_rows=1.0, skew_sort_key=1.0,
    sort_key_encoding="az64", created_at=NOW - 90 * DAY,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "alerts", "usage", "statement"),
    [
        ({}, [], SEEN, None),
        ({"skew_rows": 4.5}, [], SEEN, 'alter table "public"."t" alter diststyle even;'),
        ({"skew_rows": 4.5, "diststyle": "AUTO(KEY(id))"}, [], SEEN, None),
        ({"skew_rows": 4.5, "size_mb": 100}, [], SEEN, None),
        ({}, [("Distributed a large number of rows", 7)], SEEN, 'alter table "public"."t" alter diststyle auto;'),
        ({"diststyle": "AUTO(EVEN)"}, [("Broadcasted a large number of rows", 7)], SEEN, None),
        ({}, [("Missing query planner statistics", 7)], SEEN, 'analyze "public"."t";'),
        ({"sort_key": None}, [], SEEN, 'alter table "public"."t" alter sortkey auto;'),
        ({"sort_key": None, "is_auto_sorted": True}, [], SEEN, None),
        ({"skew_sort_key": 9.0}, [], SEEN, 'alter table "public"."t" alter column "day" encode raw;'),
        ({"skew_sort_key": 9.0, "sort_key_encoding": "none"}, [], SEEN, None),
        ({}, [], Usage({"public.t": 50}, {}, 30 * DAY), 'alter table "public"."t" alter sortkey auto;'),
        ({}, [], Usage({"public.t": 50}, {"public.t": 1}, 30 * DAY), None),
        ({}, [], Usage({"public.t": 5}, {}, 30 * DAY), None),
        ({"table": "wins"}, [], SEEN, 'alter table "public"."wins" alter compound sortkey ("timestamp");'),
        ({"table": "wins", "sort_key": "timestamp"}, [], SEEN, None),
        (
            {"schema": "events", "table": "clicks_20261101"},
            [],
            SEEN,
            'alter table "events"."clicks_20261101" alter compound sortkey ("at");',
        ),
    ],
)
def test_advice_has_the_exact_statement(
    change: dict[str, Any], alerts: list[tuple[str, int]], usage: Usage, statement: str | None
) -> None:
    found = table_advice([replace(TABLE, **change)], {1: alerts}, usage, ARCHIVE, REVIEW)
    assert [advice.statement for advice in found] == ([statement] if statement else [])
    assert all(advice.reason for advice in found)


def used(day: int, *tables: str, hours: int = 24) -> PastCheck:
    until = NOW - day * DAY
    details = {
        "since": (until - timedelta(hours=hours)).isoformat(),
        "until": until.isoformat(),
        "tables": {name: {"queries": 2, "in_range": 1} for name in tables},
    }
    return PastCheck("redshift_table_use", "bedrock", str(day), until, True, 1.0, None, "", details)


def test_days_that_were_looked_at_twice_count_once_and_a_day_without_a_look_does_not() -> None:
    lost = replace(used(2), details={})
    found = usage_of([used(3, "a"), lost, used(1, "a"), used(0, "a", "b", hours=48)], NOW - 30 * DAY)
    assert found.queries == {"a": 6, "b": 2}
    assert found.in_range == {"a": 3, "b": 1}
    assert found.covered == 3 * DAY


def test_a_table_is_unused_only_when_nobody_read_it_on_days_that_were_seen() -> None:
    tables = [
        replace(TABLE, table="read"),
        replace(TABLE, table="small", size_mb=1),
        replace(TABLE, table="large", size_mb=9999),
        replace(TABLE, table="young", created_at=NOW - 3 * DAY),
        replace(TABLE, table="of unknown age", created_at=None),
    ]
    usage = Usage({"public.read": 1}, {}, 30 * DAY)
    found, why_not = unused_tables(tables, usage, REVIEW, NOW)
    assert [str(one) for one in found] == ["public.large, 9,999 MB", "public.small, 1 MB"]
    assert why_not is None
    found, why_not = unused_tables(tables, replace(usage, covered=7 * DAY), REVIEW, NOW)
    assert found == []
    assert why_not is not None
    assert "known of 7 d in the last 30 d" in why_not


def test_cold_data_is_looked_for_where_no_archive_goes_and_the_sort_key_finds_it() -> None:
    tables = [
        replace(TABLE, id=1, table="covered_not"),
        replace(TABLE, id=2, table="wins"),
        replace(TABLE, id=3, schema="events", table="clicks_20261101"),
        replace(TABLE, id=4, table="by_number", sort_key="id"),
        replace(TABLE, id=5, table="small", size_mb=1),
        replace(TABLE, id=6, table="keyless", sort_key=None),
    ]
    dates = {table.id: ["day", "timestamp"] for table in tables}
    assert [table.table for table in cold_candidates(tables, dates, ARCHIVE, REVIEW)] == ["covered_not"]
