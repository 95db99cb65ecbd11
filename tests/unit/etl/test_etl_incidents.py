"""One incident per problem: what follows from another is not told beside it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from dbops.etl.findings import Family, Outcome
from dbops.etl.incidents import Failing, alerts_of
from dbops.platform import load_platform
from dbops.platform.load import DIRECTORY

HOUR = datetime(2026, 11, 22, 13, tzinfo=UTC)
ETL = load_platform(DIRECTORY / "lab.yaml").etl
assert ETL is not None
FAMILIES = {
    "etl_run": Family.LATE, "etl_files": Family.LATE, "etl_load": Family.LOAD, "etl_loaded_twice": Family.LOAD,
    "etl_reconciliation": Family.LOAD, "etl_freshness": Family.LATE, "etl_schedule": Family.LATE,
    "etl_success": Family.FAILED,
}  # fmt: skip
NOW = ("etl_freshness", "etl_schedule", "etl_success")


def failing(check: str, pipeline: str = "wins", hour: datetime = HOUR, **details: Any) -> Failing:
    family = details.pop("family", FAMILIES.get(check, Family.DATA))
    outcome = details.pop("outcome", Outcome.ERROR)
    return Failing(check, pipeline, None if check in NOW else hour, outcome, family, f"{check} is bad", details)


def keys(*found: Failing) -> list[str]:
    assert ETL is not None
    return [alert.key for alert in alerts_of(found, ETL)]


def test_a_failed_run_is_told_and_nothing_that_follows_from_it() -> None:
    follows = [failing(name) for name in ("etl_files", "etl_load", "etl_rows", "etl_freshness")]
    follows += [failing(name, empty=True) for name in ("etl_keys", "etl_nulls", "etl_ranges", "etl_references")]
    assert keys(failing("etl_run", family=Family.FAILED, runs=[1]), *follows) == ["etl_failed/wins"]


def test_a_rule_that_starts_nothing_is_told_once_for_all_its_pipelines() -> None:
    found = [failing("etl_schedule", name, rule="events_hourly") for name in ("wins", "clicks")]
    found += [failing(check, name) for name in ("wins", "clicks") for check in ("etl_run", "etl_files", "etl_rows")]
    found += [failing("etl_freshness", "wins")]
    assert keys(*found) == ["etl_schedule/events_hourly"]


def test_rows_that_are_wrong_in_themselves_are_told_beside_lost_ones() -> None:
    assert keys(failing("etl_load"), failing("etl_rows"), failing("etl_ranges", outside=3)) == [
        "etl_data/wins", "etl_load_errors/wins",
    ]  # fmt: skip
    assert keys(failing("etl_loaded_twice"), failing("etl_reconciliation"), failing("etl_keys")) == [
        "etl_load_errors/wins"
    ]


def test_rows_without_impressions_are_told_unless_impressions_did_not_arrive() -> None:
    orphans = failing("etl_references", impression_id={"orphans": 5, "others": 10})
    assert keys(orphans) == ["etl_data/wins"]
    for hour in (HOUR, HOUR - timedelta(hours=1)):
        assert keys(orphans, failing("etl_reconciliation", "impressions", hour)) == ["etl_load_errors/impressions"]
    assert keys(orphans, failing("etl_load", "impressions", HOUR - timedelta(hours=2))) == [
        "etl_data/wins", "etl_load_errors/impressions",
    ]  # fmt: skip
    assert "etl_data/wins" in keys(orphans, failing("etl_ranges", "impressions"))


def test_one_alert_counts_its_hours_and_names_the_newest_first() -> None:
    assert ETL is not None
    hours = [HOUR - timedelta(hours=n) for n in range(20)]
    (alert,) = alerts_of([failing("etl_load", hour=hour) for hour in hours], ETL)
    assert (alert.value, alert.severity, alert.runbook) == ("20 hours", "warning", "etl_load_errors")
    assert alert.since == hours[-1] + timedelta(hours=1, minutes=25)
    lines = alert.what.splitlines()
    assert "2026-11-22 13:00 UTC" in lines[1]
    assert "and 12 more" in lines[-1]
    assert "20" not in alert.title


def test_success_is_a_problem_of_its_own_and_critical_beyond_its_limit() -> None:
    assert ETL is not None
    found = [failing("etl_success"), failing("etl_run", family=Family.FAILED)]
    assert {alert.key: str(alert.severity) for alert in alerts_of(found, ETL)} == {
        "etl_success/wins": "critical", "etl_failed/wins": "warning",
    }  # fmt: skip
    (mild,) = alerts_of([failing("etl_success", outcome=Outcome.WARN)], ETL)
    assert mild.severity == "warning"


def test_a_run_that_judged_hours_only_tells_nothing_about_now() -> None:
    assert ETL is not None
    found = [failing("etl_freshness", "clicks"), failing("etl_success"), failing("etl_keys")]
    assert [alert.key for alert in alerts_of(found, ETL, of_now=False)] == ["etl_data/wins"]
    assert keys(*found) == ["etl_data/wins", "etl_late/clicks", "etl_success/wins"]
