"""The weekly report, and the trend in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbops.ledger import PastAction, PastCheck
from dbops.platform import Limit
from dbops.redshift.plan import Advice, MaintenancePlan, Step
from dbops.redshift.report import days_until, growth_in_words, trend, weekly_report
from dbops.redshift.rules import Form

AT = datetime(2026, 11, 22, 3, tzinfo=UTC)
LIMIT = Limit(unit="%", target=70, warn=75, critical=85)


def days(*values: float) -> list[tuple[datetime, float]]:
    return [(AT + timedelta(days=number), value) for number, value in enumerate(values)]


def check(number: int, value: float | None, **tables: float) -> PastCheck:
    at = AT + timedelta(days=number)
    return PastCheck("redshift_storage", "bedrock", f"r{number}", at, True, value, "MB", "", {"tables": tables})


def test_a_trend_is_a_line_through_all_points() -> None:
    found = trend(days(100, 110, 120, 130))
    assert found is not None
    assert (found.last, found.per_day, found.days) == (130, pytest.approx(10), 3)
    jump = trend(days(100, 100, 100, 160))
    assert jump is not None
    assert jump.per_day == pytest.approx(18)
    assert trend([]) is None
    single = trend(days(100))
    assert single is not None
    assert single.per_day is None


@pytest.mark.parametrize(("last", "per_day", "until"), [(60, 1, 15), (60, 0, None), (60, -1, None), (80, 1, 0)])
def test_days_until_a_limit(last: float, per_day: float, until: float | None) -> None:
    found = trend(days(last - per_day, last))
    assert found is not None
    assert days_until(found, 75) == (pytest.approx(until) if until is not None else None)


def test_growth_names_what_grows_and_when_the_disk_is_full() -> None:
    storage = [check(0, 1000, wins=600, clicks=400), check(10, 2000, wins=1500, clicks=400, new=100)]
    disk = [check(0, 50), check(10, 60)]
    assert growth_in_words(storage, disk, LIMIT) == [
        "storage: 2,000 MB, +100 MB a day over 10 days",
        "disk: 60.0 %, reaches 75 % in about 15 days",
        "grow most: wins +90 MB a day, new +10 MB a day",
    ]
    assert growth_in_words([], [], LIMIT)[0].startswith("storage: nothing measured yet")
    assert growth_in_words([check(0, 10)], [], LIMIT) == ["storage: 10 MB; the trend needs two days of measurements"]
    assert "does not go towards 75 %" in growth_in_words(storage, [check(0, 50), check(10, 50)], LIMIT)[1]


def step(table: str, form: Form | None) -> Step:
    return Step(
        form=form, schema_name="public", table=table, table_id=1, to_percent=99, boost=False, reason="r", benefit_mb=1
    )


def row(of: Step, outcome: str, message: str = "", **details: Any) -> PastAction:
    return PastAction(of.action, f"bedrock/{of.target}", "run", AT, AT, outcome, message, details)


def test_what_went_wrong_is_read_first_and_what_is_missing_is_counted() -> None:
    steps = [step("a", Form.FULL), step("a", None), step("b", Form.SORT_ONLY), step("c", None), step("d", None)]
    plan = MaintenancePlan(
        cluster="bedrock",
        run="run",
        made_at=AT,
        tables=9,
        steps=tuple(steps),
        advice=(Advice(table="public.huge", reason="80 % unsorted", statements="create table ..."),),
        blockers=("process 1 of ann",),
    )
    rows = [
        row(steps[0], "done", "unsorted 33 % -> 0 %"),
        row(steps[1], "failed", "disk full", needs_person=True),
        row(steps[2], "skipped", "no right", needs_person=True),
        row(steps[3], "running"),
    ]
    report = weekly_report(plan, rows, ["storage: 1 MB"])
    assert (report.done, report.skipped, report.failed, report.missing) == (1, 1, 1, 2)
    assert report.title == "Redshift bedrock: weekly maintenance: 1 done, 1 skipped, 1 failed, 2 not finished"
    assert report.lines == (
        "5 statements for 9 tables: 1 done, 1 skipped, 1 failed, 2 not finished",
        'failed: analyze "public"."a": disk full',
        'not finished: analyze "public"."c": its end is not known; a retry of `maintain` finds it out',
        'not begun: analyze "public"."d"',
        'skipped: vacuum sort only "public"."b" to 99 percent: no right',
        'done: vacuum full "public"."a" to 99 percent: unsorted 33 % -> 0 %',
        "public.huge wants a deep copy by hand: 80 % unsorted",
        "was open when the plan was made: process 1 of ann",
        "storage: 1 MB",
    )
    assert len(report.problems) == 2
