"""How checks have been: a figure for each day, the newest result, what fails now first."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from dbops.ledger import record_check
from dbops.ledger.trends import trends
from sqlalchemy import Engine

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def saw(ledger: Engine, at: datetime, *, ok: bool = True, value: float | None = 0, **more: Any) -> None:
    words = {"name": "sync_validation", "target": "eu/bidder.orders", "limit": 0, "unit": "rows", **more}
    record_check(ledger, run=at.isoformat(), at=at, ok=ok, value=value, message=f"{value} at {at:%d %H}", **words)


def test_a_day_has_its_results_its_failures_and_its_worst_value(ledger: Engine) -> None:
    saw(ledger, NOW - timedelta(days=2, hours=1), value=3, ok=False)
    saw(ledger, NOW - timedelta(days=2), value=9, ok=False)
    saw(ledger, NOW - timedelta(hours=1), value=1, ok=False)
    saw(ledger, NOW)
    (found,) = trends(ledger, ["sync_"], NOW - timedelta(days=5))
    assert [(one.day, one.seen, one.failed, found.worst(one)) for one in found.days] == [
        (date(2026, 11, 18), 2, 2, 9), (date(2026, 11, 20), 2, 1, 1),
    ]  # fmt: skip
    assert (found.ok, found.value, found.message, found.seen, found.failed) == (True, 0, "0 at 20 12", 4, 3)
    assert [day and day.day for day in found.each_day()] == [date(2026, 11, 18), None, date(2026, 11, 20)]


def test_where_too_little_is_bad_the_worst_value_is_the_lowest(ledger: Engine) -> None:
    for hours, value in enumerate((900, 40, 1000)):
        saw(
            ledger, NOW - timedelta(hours=hours), value=value, ok=value > 100, limit=100, name="etl_rows", target="wins"
        )
    (found,) = trends(ledger, ["etl_"], NOW)
    assert found.low_is_bad
    assert found.worst(found.days[0]) == 40


def test_what_fails_now_stands_first_and_only_wanted_checks_are_told(ledger: Engine) -> None:
    saw(ledger, NOW, target="a")
    saw(ledger, NOW - timedelta(hours=1), target="b", value=7)
    saw(ledger, NOW, target="b", ok=False, value=None)
    saw(ledger, NOW, target="c")
    saw(ledger, NOW, name="syncXother", target="z")
    saw(ledger, NOW - timedelta(days=9), target="long ago")
    found = trends(ledger, ["sync_", "consistency_"], NOW - timedelta(days=5))
    assert [(one.target, one.ok) for one in found] == [("b", False), ("a", True), ("c", True)]
    assert (found[0].value, found[0].worst(found[0].days[0])) == (None, 7)


def test_the_hours_of_a_check_are_one_trend_and_one_that_failed_stands_for_all(ledger: Engine) -> None:
    def hour(number: int, *, ok: bool, at: datetime) -> None:
        saw(ledger, at, ok=ok, value=number, name="etl_rows", target=f"wins/2026-11-20T{number:02}")

    hour(3, ok=False, at=NOW - timedelta(hours=3))
    hour(4, ok=True, at=NOW - timedelta(hours=2))
    saw(ledger, NOW, name="etl_rows", target="clicks/2026-11-20T03")
    one, other = trends(ledger, ["etl_"], NOW - timedelta(days=5))
    assert [(found.target, found.ok, found.seen, found.failed) for found in (one, other)] == [
        ("wins", False, 2, 1), ("clicks", True, 1, 0),
    ]  # fmt: skip
    assert one.message == "3 at 20 09"
    hour(3, ok=True, at=NOW)  # loaded again
    assert all(found.ok for found in trends(ledger, ["etl_"], NOW - timedelta(days=5)))
    hour(5, ok=False, at=NOW - timedelta(hours=30))  # too long ago to be how it is now
    assert all(found.ok for found in trends(ledger, ["etl_"], NOW - timedelta(days=5)))
