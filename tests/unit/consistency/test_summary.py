"""The mail about all checks of the data."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from dbops.consistency.report import summary_alert
from dbops.ledger.trends import Trend

NOW = datetime(2026, 11, 25, 6, tzinfo=UTC)
GOOD = Trend("sync_validation", "eu/bidder.orders", NOW - timedelta(hours=1), True, 0, 0, "rows", "the same", ())


def test_a_check_that_nobody_makes_any_more_is_not_well() -> None:
    bad = replace(GOOD, name="etl_rows", ok=False, message="3 rows")
    paused = replace(GOOD, target="apac/bidder.orders", at=NOW - timedelta(days=3))
    assert summary_alert("run", [GOOD], NOW).title == "Data quality: all 1 checks are well"
    assert summary_alert("run", [], NOW).title == "Data quality: nothing was checked"
    told = summary_alert("run", [bad, GOOD, paused], NOW)
    assert told.title == "Data quality: of 3 checks 1 fail, 1 were not looked at"
    assert "apac/bidder.orders: not looked at since 22 Nov 06:00 UTC; is its DAG paused" in told.what
    assert "etl_rows eu/bidder.orders, 25 Nov 05:00 UTC: 3 rows" in told.what
