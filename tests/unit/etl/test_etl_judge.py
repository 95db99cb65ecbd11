"""What was read of an hour is judged as it is meant; runs and successes are counted by their hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from dbops.etl.check import Facts, Look, check_schedule, check_success, judge_hour, judge_success, newest_due
from dbops.etl.files import Files
from dbops.etl.findings import Family, Finding, Outcome
from dbops.etl.jobs import JobRun, JobsUnreachable, NotThere, Rule, floor_hour
from dbops.etl.warehouse import ColumnFigures, Load, LoadedTwice, LoadError, Loads, Orphans, Rows
from dbops.platform import load_platform
from dbops.platform.load import DIRECTORY

HOUR = datetime(2026, 11, 22, 13, tzinfo=UTC)
NOW = HOUR + timedelta(hours=1, minutes=30)
PLATFORM = load_platform(DIRECTORY / "lab.yaml")
assert PLATFORM.etl is not None
ETL = PLATFORM.etl
WINS = ETL.pipeline("wins")
LOOK = Look(cast(Any, None), PLATFORM, ETL, cast(Any, None), cast(Any, None), NOW)


def run(state: str = "SUCCEEDED", *, started: datetime = HOUR + timedelta(hours=1, minutes=5), minutes: float = 4,
        argument: str | None = HOUR.isoformat(), error: str | None = None) -> JobRun:  # fmt: skip
    ended = None if state == "RUNNING" else started + timedelta(minutes=minutes)
    return JobRun(f"jr_{state}", state, started, ended, int(minutes * 60), error, argument)


def load(status: str = "completed", rows: int = 100, lost: int = 0) -> Load:
    return Load(7, status, NOW, rows, lost)


def facts(**changed: Any) -> Facts:
    columns = (ColumnFigures("order_id", 0, 0, 0, None, None), ColumnFigures("win_price", 0, 0, 0, 0.1, 9.0))
    made: dict[str, Any] = {
        "runs": [run()], "files": Files(2, 1000, 100, "digest"), "loads": Loads((load(),)),
        "rows": Rows(100, 0, columns), "past": [100, 90, 110, 100],
        "orphans": (Orphans(WINS.references[0], 100, 0, 500),),
    }  # fmt: skip
    return Facts(**(made | changed))


def judged(**changed: Any) -> dict[str, Finding]:
    return {one.check: one for one in judge_hour(LOOK, WINS, HOUR, facts(**changed))}


def bad(**changed: Any) -> dict[str, str]:
    return {name: str(one.outcome) for name, one in judged(**changed).items() if not one.ok}


def rows(count: int = 100, **more: Any) -> Rows:
    return Rows(count, more.get("repeated", 0), more.get("columns", facts().rows.columns))


def test_a_good_hour_passes() -> None:
    assert bad() == {}


@pytest.mark.parametrize("state", ["FAILED", "ERROR", "TIMEOUT", "STOPPED", "EXPIRED"])
def test_a_run_that_ended_badly_is_an_error_unless_another_succeeded(state: str) -> None:
    found = judged(runs=[run(state, error="Access Denied")])["etl_run"]
    assert (found.outcome, found.family) == (Outcome.ERROR, Family.FAILED)
    assert state in found.message
    assert "Access Denied" in found.message
    assert judged(runs=[run(), run(state)])["etl_run"].ok
    assert judged(runs=[run(state), run()])["etl_run"].ok


@pytest.mark.parametrize(("minutes", "outcome"), [(20, Outcome.WARN), (31, Outcome.ERROR)])
def test_a_run_that_goes_on_is_late_and_too_long_beyond_its_limit(minutes: int, outcome: Outcome) -> None:
    found = judged(runs=[run("RUNNING", started=NOW - timedelta(minutes=minutes))])["etl_run"]
    assert (found.outcome, found.family) == (outcome, Family.LATE)


def test_no_run_is_late_and_a_slow_one_is_a_warning() -> None:
    assert bad(runs=[]) == {"etl_run": "error"}
    assert bad(runs=[run(minutes=45)]) == {"etl_run": "warn"}


def test_what_is_still_running_makes_the_rest_a_warning() -> None:
    empty = {"files": Files(0, 0, 0, ""), "loads": Loads(()), "rows": rows(0)}
    found = bad(runs=[run("RUNNING", started=NOW - timedelta(minutes=20))], **empty)
    assert (found["etl_run"], found["etl_files"]) == ("warn", "warn")


def test_loads_that_were_refused_or_lost_lines_are_judged_by_what_the_table_has() -> None:
    errors = (LoadError("win_price", "Invalid digit", 2, "s3://b/f", 9),)
    refused = Loads((load("aborted", 0),), errors=errors)
    assert bad(loads=refused, rows=rows(0))["etl_load"] == "error"
    assert (
        "win_price: Invalid digit (2 times, s3://b/f line 9)" in judged(loads=refused, rows=rows(0))["etl_load"].message
    )
    assert bad(loads=Loads((load(), load("aborted", 0)))) == {}
    assert bad(loads=Loads((load(rows=99, lost=1),)), rows=rows(99)) == {
        "etl_load": "warn", "etl_reconciliation": "error",
    }  # fmt: skip
    assert bad(loads=Loads((load(rows=90, lost=10),)), rows=rows(90))["etl_load"] == "error"
    assert bad(loads=Loads((load(rows=99, lost=1),))) == {}, "they were loaded since"


def test_files_that_were_loaded_twice_are_an_error_while_the_table_has_their_rows_twice() -> None:
    twice = Loads((load(), load(rows=50)), (LoadedTwice("s3://b/f", 2, 50),))
    assert bad(loads=twice, rows=rows(150))["etl_loaded_twice"] == "error"
    assert bad(loads=twice) == {}, "one of the two was deleted"


def test_a_file_that_was_loaded_twice_may_hide_one_that_never_was_when_no_key_tells() -> None:
    keyless, names = WINS.model_copy(update={"key": None}), ("s3://b/f", "s3://b/g")

    def found(urls: tuple[str, ...], loaded: tuple[str, ...]) -> Finding:
        loads = Loads((load(rows=50), load(rows=50)), (LoadedTwice("s3://b/f", 2, 50),), files=frozenset(loaded))
        made = facts(files=Files(2, 1000, 100, "digest", urls), loads=loads)
        return next(one for one in judge_hour(LOOK, keyless, HOUR, made) if one.check == "etl_loaded_twice")

    assert found(names, names).ok
    assert found(names, names[:1]).outcome == Outcome.WARN
    assert found(names, names[:1]).message.endswith("but 1 were never loaded: s3://b/g")
    assert found((), names).outcome == Outcome.WARN, "nobody knows their names"


def test_rows_are_held_against_the_same_hour_of_past_weeks() -> None:
    def few(count: int, past: list[int]) -> str:
        whole = {"files": Files(2, 1, count, ""), "loads": Loads((load(rows=count),)), "rows": rows(count)}
        return str(judged(past=past, **whole)["etl_rows"].outcome)

    assert few(61, [100, 100, 90, 1000]) == "pass"
    assert few(50, [100, 100, 90, 1000]) == "warn"
    assert few(15, [100, 100, 90, 1000]) == "error"
    assert few(300, [100, 100]) == "error"
    assert few(15, [100]) == "pass", "one week says nothing"
    assert few(0, []) == "error"


def test_what_could_not_be_read_makes_blind_what_needs_it_and_nothing_else() -> None:
    found = judged(files=JobsUnreachable("no answer"))
    blind = {name for name, one in found.items() if one.outcome == Outcome.BLIND}
    assert blind == {"etl_files", "etl_reconciliation"}
    assert all(not found[name].ok and "could not look: no answer" in found[name].message for name in blind)


def test_what_can_be_known_no_more_is_not_judged_and_not_taken_for_well() -> None:
    found = judged(runs=None, files=None, loads=None)
    assert list(found) == ["etl_rows", "etl_keys", "etl_nulls", "etl_ranges", "etl_references"]
    assert judged(files=None)["etl_reconciliation"].details == {"files": None, "loaded": 100, "table": 100}
    assert bad(files=None, rows=rows(99))["etl_reconciliation"] == "error"


def test_an_hour_without_files_is_held_against_its_loads_also_when_it_was_loaded_again() -> None:
    assert bad(files=None, loads=Loads((load(), load()))) == {}
    assert bad(files=None, loads=Loads((load(rows=60), load(rows=40)))) == {}
    assert bad(files=None, loads=Loads((load(rows=60),)))["etl_reconciliation"] == "error"


def test_values_are_judged_and_an_empty_table_passes_none_of_it() -> None:
    columns = (ColumnFigures("order_id", 2, 0, 0, None, None), ColumnFigures("win_price", 0, 3, 1, -2.0, 101.0))
    assert bad(rows=rows(columns=columns)) == {"etl_nulls": "warn", "etl_ranges": "error"}
    found = bad(rows=rows(0))
    assert {"etl_rows", "etl_keys", "etl_nulls", "etl_ranges", "etl_references"} <= set(found)


def test_references_that_are_all_null_are_an_error_also_when_the_rows_could_not_be_counted() -> None:
    empty = (Orphans(WINS.references[0], 0, 0, 500, 100),)
    found = judged(orphans=empty)["etl_references"]
    assert (found.outcome, found.message) == (Outcome.ERROR, "impression_id is NULL in all of 100 rows")
    assert not judged(orphans=empty, rows=JobsUnreachable("no answer"))["etl_references"].ok
    assert bad(orphans=(Orphans(WINS.references[0], 60, 0, 500, 40),)) == {}, "some refer to nothing"


def test_a_run_without_the_argument_is_for_the_hour_that_ended_before_it_started() -> None:
    assert run(argument=None).hour() == HOUR
    assert run(argument="no time").hour() == HOUR
    assert run(argument="2026-11-22T13:00:00").hour() == HOUR
    assert run(argument="2026-10-25T02:00:00+02:00").hour() == datetime(2026, 10, 25, 0, tzinfo=UTC)
    assert run(argument="2026-10-25T02:00:00+01:00").hour() == datetime(2026, 10, 25, 1, tzinfo=UTC)


def test_success_is_counted_by_hours_and_missing_ones_are_failures() -> None:
    limit = PLATFORM.limits["etl_failed"]
    first, last = HOUR - timedelta(hours=167), HOUR
    hours = [first + timedelta(hours=n) for n in range(168)]

    def of(skipped: int, failed: int = 0) -> Any:
        made = [run(argument=hour.isoformat()) for hour in hours[1 + skipped :]]
        made += [run("FAILED", argument=hour.isoformat()) for hour in hours[1 : 1 + failed]]
        return judge_success([run(argument=first.isoformat()), *made], first, last, limit)

    assert (of(0).outcome, of(0).value) == (Outcome.PASS, 0)
    assert of(1).outcome == Outcome.PASS, "99.4 %"
    assert of(2).outcome == Outcome.WARN, "98.8 %"
    assert of(2).details["failed"] == [f"{hour:%Y-%m-%dT%H}" for hour in hours[1:3]]
    assert of(20).outcome == Outcome.ERROR
    assert of(2, failed=2).outcome == Outcome.WARN
    assert judge_success([], first, last, limit).outcome == Outcome.ERROR
    assert judge_success(
        [run(), run("FAILED", argument=(HOUR - timedelta(hours=1)).isoformat())], first, last, limit
    ).outcome == (Outcome.PASS), "two hours say nothing"


def test_an_outage_at_the_beginning_of_the_window_counts_unless_the_pipeline_is_new() -> None:
    first, last = HOUR - timedelta(hours=167), HOUR
    runs = [run(argument=(HOUR - timedelta(hours=n)).isoformat()) for n in range(120)]
    limit = PLATFORM.limits["etl_failed"]
    assert judge_success(runs, first, last, limit).outcome == Outcome.PASS
    old = run(started=first - timedelta(days=3), argument=(first - timedelta(days=3)).isoformat())
    found = judge_success([*runs, old], first, last, limit)
    assert (found.outcome, found.details["hours"], found.details["succeeded"]) == (Outcome.ERROR, 168, 120)
    assert found.details["failed"][-1] == f"{HOUR - timedelta(hours=120):%Y-%m-%dT%H}"
    asked = []

    class Known:
        def runs(self, pipeline: Any, since: datetime) -> list[JobRun]:
            asked.append(since)
            return [one for one in [*runs, old] if one.started_at >= since]

    look = Look(cast(Any, None), PLATFORM, ETL, cast(Any, Known()), cast(Any, None), NOW)
    assert check_success(look, WINS).outcome == Outcome.ERROR
    assert len(asked) == 2
    runs += [run(argument=(HOUR - timedelta(hours=n)).isoformat()) for n in range(120, 170)]
    assert check_success(look, WINS).outcome == Outcome.PASS
    assert len(asked) == 3, "it is known of whether it is new"


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (NotThere("no such rule"), "EventBridge has no rule events_hourly"),
        (Rule("events_hourly", False, None, 1), "is disabled"),
        (Rule("events_hourly", True, None, 0), "has no target"),
    ],
)
def test_a_rule_that_starts_nothing_is_an_error(rule: Any, told: str) -> None:
    class Jobs:
        def rule(self, name: str) -> Rule:
            if isinstance(rule, Exception):
                raise rule
            return cast(Rule, rule)

    look = Look(cast(Any, None), PLATFORM, ETL, cast(Any, Jobs()), cast(Any, None), NOW)
    found = check_schedule(look, WINS)
    assert found.outcome == Outcome.ERROR
    assert told in found.message


@pytest.mark.parametrize(("minute", "hours"), [(0, 2), (24, 2), (25, 1), (59, 1)])
def test_the_newest_due_hour_has_been_over_for_long_enough(minute: int, hours: int) -> None:
    now = HOUR + timedelta(minutes=minute)
    assert newest_due(ETL, now) == HOUR - timedelta(hours=hours)
    assert floor_hour(now) == HOUR
