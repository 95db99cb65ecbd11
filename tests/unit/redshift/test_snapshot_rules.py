"""Which snapshot counts, which may go, what a restored warehouse is held against: rules without a server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import pytest
from dbops.platform import ArchiveTable, Retention
from dbops.redshift.api import PLATFORM_TAG, name_of, tag_value
from dbops.redshift.figures import Figures, compare
from dbops.redshift.snapshots import Snapshot, check_age, plan_snapshot_expiry, snapshot_id

NOW = datetime(2026, 11, 24, 6, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OURS = {PLATFORM_TAG: "production"}
POLICY = Retention(full=30 * DAY, incremental=7 * DAY)


def snapshot(
    id: str, age: timedelta, *, kind: str = "manual", status: str = "available", tags: Mapping[str, str] = OURS
):
    return Snapshot(id, kind, status, NOW - age, "bedrock", tags=tags if kind == "manual" else {})  # type: ignore[arg-type]


# --- age --------------------------------------------------------------------------------------------------


def test_a_young_snapshot_of_either_kind_passes() -> None:
    for kind in ("automated", "manual"):
        found = check_age([snapshot("a", 3 * DAY), snapshot("b", 2 * HOUR, kind=kind)], DAY, NOW)
        assert (found.ok, found.age, found.newest.id if found.newest else None) == (True, 2 * HOUR, "b")


def test_no_snapshot_at_all_never_passes() -> None:
    found = check_age([], DAY, NOW)
    assert (found.ok, found.age, found.message) == (False, None, "there is no usable snapshot")


def test_exactly_as_old_as_allowed_is_too_old_and_the_message_has_both_numbers() -> None:
    found = check_age([snapshot("a", DAY, kind="automated")], DAY, NOW)
    assert not found.ok
    assert found.message == "newest usable snapshot a (automated) is 1 d old, 1 d are allowed"


@pytest.mark.parametrize("status", ["creating", "failed", "deleted", "something new", ""])
def test_a_snapshot_that_is_not_available_proves_nothing_and_is_named(status: str) -> None:
    found = check_age([snapshot("old", 2 * DAY), snapshot("young", HOUR, status=status)], DAY, NOW)
    assert not found.ok
    assert f"young of 2026-11-24T05:00:00Z is {status or 'without a status'}" in found.message
    assert not check_age([snapshot("young", HOUR, status=status)], DAY, NOW).ok


def test_a_newer_failure_is_named_although_the_check_passes() -> None:
    found = check_age([snapshot("good", 2 * HOUR), snapshot("bad", HOUR, status="failed")], DAY, NOW)
    assert found.ok
    assert found.message.endswith("newer, but not usable: bad of 2026-11-24T05:00:00Z is failed")


def test_a_snapshot_of_the_future_proves_nothing() -> None:
    found = check_age([snapshot("a", -HOUR)], DAY, NOW)
    assert not found.ok
    assert "is in the future" in found.message
    assert check_age([snapshot("a", -timedelta(minutes=1))], DAY, NOW).age == timedelta(0)


# --- expiry -----------------------------------------------------------------------------------------------


def expired(*snapshots: Snapshot, keep: timedelta = 7 * DAY) -> list[str]:
    return [item.point.id for item in plan_snapshot_expiry(snapshots, "production", keep, POLICY, NOW).expire]


DAILY = [snapshot(f"auto{days}", days * DAY, kind="automated") for days in range(1, 13)]


def test_ours_go_after_their_time_and_nothing_else_does() -> None:
    ours = [snapshot("m20", 20 * DAY), snapshot("m8", 8 * DAY + HOUR), snapshot("m6", 6 * DAY)]
    theirs = [
        snapshot("staging", 50 * DAY, tags={PLATFORM_TAG: "staging"}),
        snapshot("by-hand", 99 * DAY, tags={}),
        snapshot("before-upgrade", 400 * DAY, tags={"owner": "ann"}),
    ]
    assert expired(*DAILY, *ours, *theirs) == ["m8", "m20"]


def test_the_newest_good_ones_stay_however_old_they_are() -> None:
    assert expired(snapshot("m100", 100 * DAY), snapshot("m200", 200 * DAY)) == []
    assert expired(snapshot("m100", 100 * DAY), snapshot("m200", 200 * DAY), snapshot("m300", 300 * DAY)) == ["m300"]


def test_failed_ones_neither_count_for_the_floor_nor_stay_for_ever() -> None:
    found = expired(snapshot("m100", 100 * DAY), snapshot("f1", 50 * DAY, status="failed"), *DAILY)
    assert set(found) == {"m100", "f1"}
    assert expired(snapshot("m100", 100 * DAY), snapshot("f1", 50 * DAY, status="failed")) == []


def test_one_that_is_being_taken_stays() -> None:
    assert expired(snapshot("m10", 10 * DAY, status="creating"), *DAILY) == []


def test_many_at_once_wait_for_a_person() -> None:
    many = [snapshot(f"m{days}", days * DAY) for days in range(10, 30)]
    plan = plan_snapshot_expiry([*DAILY[:4], *many], "production", 7 * DAY, POLICY, NOW)
    assert plan.approval is not None
    assert "needs a person's approval" in plan.approval
    assert plan_snapshot_expiry([*DAILY, many[0]], "production", 7 * DAY, POLICY, NOW).approval is None


def test_every_snapshot_has_a_reason() -> None:
    plan = plan_snapshot_expiry([*DAILY, snapshot("by-hand", 99 * DAY, tags={})], "production", 7 * DAY, POLICY, NOW)
    reasons = {item.point.id: item.reason for item in plan.decisions}
    assert reasons["auto12"] == "is an automated one: AWS lets it go"
    assert reasons["by-hand"] == "has no tag dbops-platform=production: dbops did not take it"


# --- names and tags ---------------------------------------------------------------------------------------


def test_a_run_always_gets_the_same_name_and_another_run_another() -> None:
    run = "redshift_maintenance_weekly/scheduled__2026-11-22T03:00:00+00:00"
    assert snapshot_id(run, "bedrock") == snapshot_id(run, "bedrock")
    assert (
        len({snapshot_id(run, "bedrock"), snapshot_id(run + "x", "bedrock"), snapshot_id(run, "bedrock", "again")}) == 3
    )
    assert snapshot_id(run, "bedrock").startswith("dbops-bedrock-redshift-maintenance-weekly-")


@pytest.mark.parametrize("part", ["Bedrock_EU", "a--b", "ü", "", "x" * 300, "-", "9"])
def test_a_name_is_one_for_every_kind_of_identifier(part: str) -> None:
    found = name_of("a run", part)
    assert re.fullmatch(r"[a-z](-?[a-z0-9])*", found), found
    assert len(found) <= 63


def test_a_tag_holds_only_what_aws_takes() -> None:
    assert tag_value("drop <index>; VACUUM \n(weekly) ümlaut 2026-11-22T03:00:00+00:00").isascii()
    assert re.fullmatch(r"[\w .:/=+@-]*", tag_value("a;b\tc(d)" * 100))
    assert len(tag_value("x" * 1000)) == 256


# --- comparison -------------------------------------------------------------------------------------------

WINS = ArchiveTable(table="public.wins", column="timestamp", keep=90 * DAY)
TODAY = date(2026, 11, 24)


def figures(counts: dict[int, int] | None, tables: tuple[str, ...] = ("public.wins",)) -> Figures:
    """Rows of public.wins so many days before today; None: there is no such table."""
    days = {} if counts is None else {"public.wins": {TODAY - age * DAY: rows for age, rows in counts.items()}}
    return Figures(first=TODAY - 7 * DAY, until=TODAY, days=days, tables=tables)


def compared(restored: Figures, reference: Figures | None, tolerance: float = 1) -> tuple[list[str], list[str]]:
    found = compare(restored, reference, [WINS], TODAY, tolerance)
    return list(found.problems), list(found.notes)


def test_equal_days_are_no_problem() -> None:
    assert compared(figures({1: 100, 2: 50}), figures({1: 100, 2: 50})) == ([], [])


def test_a_missing_day_or_too_few_rows_is_a_problem_that_names_the_day() -> None:
    problems, _ = compared(figures({1: 100, 3: 98}), figures({1: 100, 2: 50, 3: 100}))
    assert problems == [
        "public.wins: 2026-11-21 has 98 rows of 100",
        "public.wins: 2026-11-22 has 0 rows of 50",
    ]


def test_rows_that_came_late_at_the_source_are_a_note_within_the_tolerance() -> None:
    assert compared(figures({1: 99}), figures({1: 100})) == (
        [],
        ["public.wins: 2026-11-23 has 99 rows, the source 100"],
    )
    assert compared(figures({1: 90}), figures({1: 100}), tolerance=10)[0] == []


def test_days_that_the_source_has_archived_since_are_no_problem() -> None:
    assert compared(figures({1: 100, 7: 30}), figures({1: 100})) == ([], [])


def test_days_from_the_snapshot_on_are_not_compared() -> None:
    reference = Figures(first=TODAY, until=TODAY + DAY, days={"public.wins": {TODAY: 5}}, tables=("public.wins",))
    problems, _ = compared(figures({1: 100}), reference)
    assert problems == ["no day of any archived table could be compared; look by hand"]


def test_a_missing_table_is_a_problem_and_other_tables_are_notes() -> None:
    problems, notes = compared(figures(None, ("public.old",)), figures({1: 100}, ("public.wins", "public.new")))
    assert problems == ["public.wins or its column timestamp is missing"]
    assert notes == [
        "not in the restored warehouse (made after the snapshot?): public.new, public.wins",
        "only in the restored warehouse (dropped since?): public.old",
    ]


def test_nothing_to_compare_with_is_never_a_pass() -> None:
    problems, _ = compared(figures({1: 100}), None)
    assert problems == [
        "there is nothing to compare with; rows of the last days: public.wins 100; look by hand",
    ]
    assert compared(figures({}), figures({}))[0] == ["no day of any archived table could be compared; look by hand"]
