"""Which hours a run judges, and what becomes of those that it judges no more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from dbops.etl.findings import FRESHNESS, RANGES, ROWS, Family, Finding, Outcome
from dbops.etl.incidents import MOST_HOURS, accept, alerts_of, failing_now, hours_to_judge, record
from dbops.ledger import connect, migrate
from dbops.platform import load_platform
from dbops.platform.load import DIRECTORY
from dbops_lab.testing import LabPostgres
from sqlalchemy import Engine

H = timedelta(hours=1)
HOUR = datetime(2026, 11, 22, 13, tzinfo=UTC)
NOW = HOUR + H * 1.5
ETL = load_platform(DIRECTORY / "lab.yaml").etl
assert ETL is not None
WEEK = int(ETL.recheck / H)


@pytest.fixture
def ledger(lab_postgres: LabPostgres) -> Engine:
    made = connect(lab_postgres.new_database())
    migrate(made)
    return made


def saw(ledger: Engine, hour: datetime | None, at: datetime, outcome: Outcome = Outcome.PASS) -> None:
    checks = (ROWS, RANGES) if hour else (FRESHNESS,)
    found = [Finding(name, "wins", outcome, f"{name} is {outcome}", Family.DATA, hour) for name in checks]
    record(ledger, at.isoformat(), at, found)


def chosen(ledger: Engine, hour: datetime = HOUR, now: datetime = NOW) -> list[int]:
    """Hours back from the hour."""
    assert ETL is not None
    return [int((HOUR - one) / H) for one in hours_to_judge(ledger, ETL, "wins", hour, now)]


def test_a_pipeline_that_was_never_judged_begins_with_the_hour(ledger: Engine) -> None:
    assert chosen(ledger) == [0]


def test_a_look_at_the_newest_hour_does_not_hide_the_gap_before_it(ledger: Engine) -> None:
    saw(ledger, HOUR - H * 6, NOW - H * 6)
    saw(ledger, HOUR - H * 2, NOW - H)
    saw(ledger, HOUR, NOW)
    assert chosen(ledger) == [5, 4, 3, 1, 0]


def test_after_a_long_pause_each_run_judges_the_hour_and_the_oldest_until_none_is_left(ledger: Engine) -> None:
    saw(ledger, HOUR - H * 100, NOW - H * 100)
    judged: list[int] = []
    for n in range(4):
        now = NOW + timedelta(minutes=n)
        found = chosen(ledger, now=now)
        assert len(found) <= MOST_HOURS
        assert found == sorted(found, reverse=True)
        assert found[-1] == 0
        judged += found[:-1]
        for back in found:
            saw(ledger, HOUR - H * back, now)
    assert judged == list(range(99, 0, -1))


def test_hours_that_stay_wrong_take_turns_and_keep_no_new_one_from_being_judged(ledger: Engine) -> None:
    for back in range(80, 2, -1):
        saw(ledger, HOUR - H * back, NOW - H, Outcome.ERROR)
    first = chosen(ledger)
    assert first == [*range(80, 80 - (MOST_HOURS - 3), -1), 2, 1, 0]
    for back in first:
        saw(ledger, HOUR - H * back, NOW, Outcome.ERROR if back > 2 else Outcome.PASS)
    assert chosen(ledger)[-34:] == [*range(35, 2, -1), 0]


def test_an_hour_longer_ago_than_is_looked_at_again_stays_wrong_until_it_is_well_or_accepted(ledger: Engine) -> None:
    assert ETL is not None
    old, left = HOUR - H * (WEEK + 60), HOUR - H * (WEEK + 50)
    for hour in (old, left):
        saw(ledger, hour, hour + H, Outcome.ERROR)
    saw(ledger, None, old, Outcome.ERROR)
    saw(ledger, HOUR - H, NOW - H)
    assert chosen(ledger)[0] <= WEEK + 1
    (alert,) = alerts_of(failing_now(ledger, ETL, NOW), ETL, since=NOW - ETL.recheck)
    assert alert.key == "etl_data/wins"
    assert f"2 hours of them, from {old:%Y-%m-%d %H}:00 UTC on, not looked at any more" in alert.what
    saw(ledger, old, NOW)
    assert {one.hour for one in failing_now(ledger, ETL, NOW)} == {left}
    accept(ledger, "wins", left, "as it is", "somebody")
    assert failing_now(ledger, ETL, NOW) == []
