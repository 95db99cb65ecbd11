"""Each fault of the lab's ETL is found, by the check that is about it, and a clean hour passes them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

import pytest
from dbops.errors import RetryableError
from dbops.etl.check import Look, check_hour
from dbops.etl.findings import OF_AN_HOUR, Finding, Outcome
from dbops.etl.incidents import Failing, alerts_of
from dbops.redshift.session import ConnectorSession
from dbops_lab.application.etl import pick_faults
from dbops_lab.testing import LabEtl, LabRedshift
from etl_world import PIPELINES, document, judged, look_with, platform_of, table_of

HOURS = iter(range(2, 150))


@pytest.fixture
def look(lab_etl: LabEtl, lab_redshift: LabRedshift, tmp_path: Path) -> Iterator[Look]:
    with look_with(platform_of(tmp_path, document(lab_etl)), lab_redshift) as made:
        yield made


@pytest.fixture
def hour(lab_etl: LabEtl) -> datetime:
    """An hour that no other test has run."""
    return lab_etl.world.now - timedelta(hours=next(HOURS))


def bad(found: dict[str, Finding]) -> dict[str, str]:
    return {name: str(one.outcome) for name, one in found.items() if not one.ok}


def test_a_clean_hour_passes_every_check(look: Look, lab_etl: LabEtl, hour: datetime) -> None:
    loads = lab_etl.run(hour)
    for pipeline in PIPELINES:
        found = judged(look, pipeline, hour)
        assert bad(found) == {}, found
        assert list(found) == [name for name in OF_AN_HOUR if name in found]
        load = loads[table_of(pipeline)]
        assert found["etl_reconciliation"].details == {
            "files": load.written,
            "loaded": load.loaded,
            "table": load.loaded,
        }
        assert found["etl_files"].value == load.written
        assert found["etl_keys"].value == 0


@pytest.mark.parametrize(
    ("pipeline", "fault", "expected"),
    [
        ("wins", "not_started", {"etl_run": "error"}),
        ("wins", "glue_failed", {"etl_run": "error"}),
        ("wins", "glue_timeout", {"etl_run": "error"}),
        ("wins", "glue_running", {"etl_run": "error"}),
        ("wins", "load_failed", {"etl_load": "error", "etl_reconciliation": "error"}),
        ("impressions", "load_failed", {"etl_load": "error", "etl_reconciliation": "error"}),
        ("bidstream", "load_lost", {"etl_load": "warn", "etl_reconciliation": "error"}),
        ("impressions", "partial", {"etl_reconciliation": "error"}),
        ("users", "twice", {"etl_loaded_twice": "error", "etl_reconciliation": "error", "etl_keys": "error"}),
        ("clicks", "not_loaded", {"etl_load": "error", "etl_reconciliation": "error"}),
        ("dmp_events", "empty", {"etl_files": "error"}),
        ("dmp_events", "repeated", {"etl_keys": "error"}),
        ("users", "nulls", {"etl_nulls": "error"}),
        ("wins", "out_of_range", {"etl_ranges": "error"}),
        ("wins", "orphans", {"etl_references": "error"}),
        ("clicks", "orphans", {"etl_references": "error"}),
    ],
)
def test_a_fault_is_found_by_its_check(
    look: Look, lab_etl: LabEtl, hour: datetime, pipeline: str, fault: str, expected: dict[str, str]
) -> None:
    load = lab_etl.run(hour, {table_of(pipeline): fault}, is_aggregated=False)[table_of(pipeline)]
    found = judged(look, pipeline, hour)
    shown = bad(found)
    if fault == "load_lost":  # hours differ in how many rows they have
        share = 100 * load.affected / load.written
        expected = expected | {"etl_load": "error" if share > 1 else "warn"}  # the default of `lost`
    assert expected.items() <= shown.items(), [one.message for one in found.values()]
    if load.loaded:
        assert shown == expected, [one.message for one in found.values()]
    assert Outcome.BLIND not in shown.values()


def test_an_hour_whose_rows_all_refer_to_null_is_found(
    look: Look, lab_etl: LabEtl, lab_redshift: LabRedshift, hour: datetime
) -> None:
    lab_etl.run(hour, is_aggregated=False)
    with lab_redshift.connect() as admin:
        admin.cursor().execute(
            f'update {lab_etl.schema}.wins set impression_id = null where "timestamp" >= %s and "timestamp" < %s',
            (f"{hour:%Y-%m-%d %H}:00", f"{hour + timedelta(hours=1):%Y-%m-%d %H}:00"),
        )
    found = judged(look, "wins", hour)["etl_references"]
    assert found.outcome == Outcome.ERROR
    assert "impression_id is NULL in all of" in found.message


def test_an_hour_that_was_deleted_and_loaded_again_passes_without_a_key_when_each_file_was_loaded(
    look: Look, lab_etl: LabEtl, hour: datetime
) -> None:
    pipeline = look.etl.pipeline("users").model_copy(update={"key": None})
    lab_etl.run(hour, tables=["users"], is_aggregated=False)
    with closing(lab_etl.connect()) as connection:
        with closing(connection.cursor()) as cursor:
            cursor.execute(
                'delete from users where "timestamp" >= %s and "timestamp" < %s',
                (f"{hour:%Y-%m-%d %H}:00", f"{hour + timedelta(hours=1):%Y-%m-%d %H}:00"),
            )
        lab_etl.copy(connection, "users", lab_etl.prefix("users", hour))
    found = {one.check: one for one in check_hour(look, pipeline, hour)}
    assert bad(found) == {}
    assert "the table has no row too many" in found["etl_loaded_twice"].message


def test_an_hour_with_far_fewer_rows_than_the_same_hour_of_past_weeks_is_found(
    look: Look, lab_etl: LabEtl, hour: datetime
) -> None:
    weeks = [hour - timedelta(weeks=n) for n in (1, 2, 4)]
    usual = [lab_etl.run(past, tables=["users"], is_aggregated=False)["users"].loaded for past in weeks]
    few = lab_etl.run(hour, {"users": "few"}, tables=["users"], is_aggregated=False)["users"].loaded
    found = judged(look, "users", hour)
    assert list(bad(found)) == ["etl_rows"], "the files hold what was loaded"
    rows = found["etl_rows"]
    assert (rows.value, rows.limit) == (few, median(usual))
    assert rows.details["past"] == usual, "a week without rows is none"
    assert f"less than the {median(usual):,.0f} of that hour in 3 past weeks" in rows.message


FAMILY_OF_FAULT = {
    "not_started": "etl_late", "glue_running": "etl_late", "empty": "etl_late",
    "glue_failed": "etl_failed", "glue_timeout": "etl_failed",
    "load_failed": "etl_load_errors", "load_lost": "etl_load_errors", "partial": "etl_load_errors",
    "twice": "etl_load_errors", "not_loaded": "etl_load_errors",
    "repeated": "etl_data", "nulls": "etl_data", "out_of_range": "etl_data", "orphans": "etl_data",
}  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
def test_random_faults_are_found_exactly_each_as_one_problem(
    look: Look, lab_etl: LabEtl, hour: datetime, seed: int
) -> None:
    """Hours with few rows, or with campaigns that nobody has, are left out: they need past weeks and PostgreSQL."""
    hours = [hour, lab_etl.world.now - timedelta(hours=next(HOURS))]
    planted = {
        at: {table: fault for table, fault in faults.items() if fault in FAMILY_OF_FAULT}
        for at, faults in pick_faults(seed, hours, share=0.5).items()
    }
    found = []
    for at in hours:
        lab_etl.run(at, planted[at], is_aggregated=False)
        for pipeline in PIPELINES:
            found += [one for one in judged(look, pipeline, at).values() if not one.ok]
    failing = [
        Failing(one.check, one.pipeline, one.hour, one.outcome, one.family, one.message, one.details) for one in found
    ]
    told = {alert.key for alert in alerts_of(failing, look.etl)}
    names = {table_of(name): name for name in PIPELINES}
    assert told == {
        f"{FAMILY_OF_FAULT[fault]}/{names[table]}" for faults in planted.values() for table, fault in faults.items()
    }


def test_a_connection_that_is_lost_makes_blind_what_had_to_be_read_and_spares_the_rest(
    look: Look, lab_etl: LabEtl, lab_redshift: LabRedshift, hour: datetime
) -> None:
    lab_etl.run(hour, tables=["users"])
    lab_redshift.standin.faults({"match": "sys_load_detail", "drop": "during", "times": 1})
    found = judged(look, "users", hour)
    assert found["etl_run"].ok
    assert found["etl_files"].ok
    for name in ("etl_load", "etl_reconciliation", "etl_rows", "etl_nulls"):
        assert found[name].outcome == Outcome.BLIND
        assert isinstance(found[name].error, RetryableError)


def test_secrets_in_what_glue_says_are_masked(look: Look, lab_etl: LabEtl, hour: datetime) -> None:
    said = "cannot connect: postgresql://etl:hunter2-long@db/x password=hunter2-long"
    run = lab_etl.glue_run("users", hour, "FAILED", error=said)
    assert run
    message = judged(look, "users", hour)["etl_run"].message
    assert "cannot connect" in message
    assert "hunter2" not in message


def test_a_login_that_sees_only_its_own_loads_is_no_proof_that_there_was_none(
    look: Look, lab_etl: LabEtl, lab_redshift: LabRedshift, hour: datetime
) -> None:
    lab_etl.run(hour, {"users": "not_loaded"}, tables=["users"])
    assert judged(look, "users", hour)["etl_load"].outcome == Outcome.ERROR
    with lab_redshift.connect() as admin:
        cursor = admin.cursor()
        cursor.execute(f"create user {lab_etl.name}_blind password 'Blind-and-1'")
        cursor.execute(f"grant usage on schema {lab_etl.schema} to {lab_etl.name}_blind")
        cursor.execute(f"grant select on all tables in schema {lab_etl.schema} to {lab_etl.name}_blind")
    info = replace(lab_redshift.info(), login=f"{lab_etl.name}_blind", password="Blind-and-1")
    with ConnectorSession(info) as session:
        look.session = session
        found = judged(look, "users", hour)
    assert found["etl_load"].outcome == Outcome.BLIND
    assert "SYSLOG ACCESS" in found["etl_load"].message
    assert found["etl_rows"].outcome == Outcome.ERROR, "it may read the table"
