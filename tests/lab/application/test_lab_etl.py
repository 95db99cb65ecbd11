"""The lab's ETL loads what its world holds, and each fault leaves exactly what it says."""

from __future__ import annotations

import io
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from dbops_lab.application.etl import FAULTS, Load, faults_of, pick_faults
from dbops_lab.application.events import TABLES
from dbops_lab.testing import LabEtl, LabS3

HOURS = iter(range(2, 500))


@pytest.fixture
def hour(lab_etl: LabEtl) -> datetime:
    """An hour that no other test has run."""
    return lab_etl.world.now - timedelta(hours=next(HOURS))


def rows(etl: LabEtl, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(etl.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(query, values or None)
        return [tuple(row) for row in cursor.fetchall()]


def held(etl: LabEtl, table: str, hour: datetime) -> list[tuple[Any, ...]]:
    start = hour.replace(tzinfo=None)
    query = f'select * from {table} where "timestamp" >= %s and "timestamp" < %s'
    return rows(etl, query, start, start + timedelta(hours=1))


def run_of(etl: LabEtl, load: Load) -> dict[str, Any]:
    return next(run for run in etl.runs(load.table) if run["Id"] == load.run)


def test_an_hour_is_written_loaded_and_aggregated(lab_etl: LabEtl, hour: datetime) -> None:
    loads = lab_etl.run(hour)
    for table, load in loads.items():
        assert load.expected == load.written == load.loaded == len(held(lab_etl, table, hour)) > 0
        found = lab_etl.s3.list_objects_v2(Bucket=lab_etl.bucket, Prefix=lab_etl.prefix(table, hour))["Contents"]
        assert {(one["Key"], one["Size"]) for one in found} == {(file.key, file.size) for file in load.files}
        assert run_of(lab_etl, load)["JobRunState"] == "SUCCEEDED"
        assert run_of(lab_etl, load)["Arguments"]["--hour"] == hour.isoformat()
    made = lab_etl.world.hour(hour).wins
    found = {row[0]: row for row in held(lab_etl, "wins", hour)}
    for at, key in enumerate(made["win_id"]):
        _, moment, impression, _, order, *_, price = found[key]
        assert int((moment - datetime(1970, 1, 1)) / timedelta(microseconds=1)) == made["timestamp"][at]  # noqa: DTZ001
        assert (impression, order) == (made["impression_id"][at], made["order_id"][at])
        assert price * 10_000 == int(made["win_price"][at])
    of_hour = rows(lab_etl, "select sum(spend), sum(wins) from hourly_line_item_stats where hour = %s",
                   hour.replace(tzinfo=None))  # fmt: skip
    assert [(price * 10_000, wins) for price, wins in of_hour] == [(int(made["win_price"].sum()), loads["wins"].loaded)]


def test_the_aggregates_of_a_day_are_the_sum_of_its_events(lab_etl: LabEtl) -> None:
    for back in (700, 701):
        lab_etl.run(lab_etl.world.now - timedelta(hours=back), tables=["bidstream_v2", "impressions", "wins"])
    day = (lab_etl.world.now - timedelta(hours=700)).date()
    spent = rows(lab_etl, 'select sum(win_price) from wins where "timestamp" >= %s and "timestamp" < %s',
                 str(day), str(day + timedelta(days=1)))  # fmt: skip
    assert rows(lab_etl, 'select sum(spend) from daily_campaign_stats where "date" = %s', str(day)) == spent


def test_the_tables_have_the_keys_that_the_guide_means(lab_etl: LabEtl) -> None:
    lab_etl.run(lab_etl.world.now - timedelta(hours=900))
    found = rows(lab_etl, 'select "table", diststyle, sortkey1 from svv_table_info where schema = %s', lab_etl.schema)
    by_name = {name: (style, sortkey) for name, style, sortkey in found}
    assert by_name["wins"] == ("KEY(line_item_id)", "timestamp")
    assert by_name["users"] == ("KEY(user_id)", "timestamp")
    assert by_name["daily_campaign_stats"] == ("KEY(order_id)", "date")
    assert by_name["audience_insights"] == ("ALL", "date")


@pytest.mark.parametrize("fault", ["not_started", "glue_failed", "glue_timeout", "glue_running"])
def test_a_run_that_does_not_end_well_leaves_neither_files_nor_rows(
    lab_etl: LabEtl, hour: datetime, fault: str
) -> None:
    load = lab_etl.run(hour, {"wins": fault}, tables=["wins"])["wins"]
    assert (load.files, load.loaded, held(lab_etl, "wins", hour)) == ((), 0, [])
    assert "Contents" not in lab_etl.s3.list_objects_v2(Bucket=lab_etl.bucket, Prefix=lab_etl.prefix("wins", hour))
    if fault == "not_started":
        assert load.run is None
        return
    run = run_of(lab_etl, load)
    assert run["JobRunState"] == {"glue_failed": "FAILED", "glue_timeout": "TIMEOUT", "glue_running": "RUNNING"}[fault]
    assert ("ErrorMessage" in run) == (fault == "glue_failed")
    assert ("CompletedOn" in run) == (fault != "glue_running")
    assert run["StartedOn"] == hour + timedelta(hours=1, minutes=5)
    assert run["ExecutionTime"] >= 3000 or fault == "glue_failed"


def test_a_refused_line_loads_nothing_and_is_named(lab_etl: LabEtl, hour: datetime) -> None:
    loads = lab_etl.run(hour, dict.fromkeys(["wins", "clicks", "impressions"], "load_failed"), is_aggregated=False)
    for table in ("wins", "clicks", "impressions"):
        assert held(lab_etl, table, hour) == []
        assert loads[table].loaded == 0
        assert loads[table].written == loads[table].expected
        assert loads[table].error
    source = f"s3://{lab_etl.bucket}/{lab_etl.prefix('wins', hour)}"
    assert rows(lab_etl, "select status from sys_load_history where data_source = %s", source) == [("aborted",)]
    named = rows(lab_etl, "select trim(column_name) from sys_load_error_detail where file_name like %s", source + "%")
    assert named == [("timestamp",)]
    assert loads["users"].loaded == loads["users"].expected


def test_allowed_errors_lose_as_many_rows_as_said(lab_etl: LabEtl, hour: datetime) -> None:
    for table in ("wins", "bidstream_v2"):
        load = lab_etl.run(hour, {table: "load_lost"}, tables=[table], is_aggregated=False)[table]
        assert len(held(lab_etl, table, hour)) == load.loaded == load.written - load.affected < load.written
        source = f"s3://{lab_etl.bucket}/{lab_etl.prefix(table, hour)}"
        found = rows(lab_etl, "select status, error_count from sys_load_history where data_source = %s", source)
        assert found == [("completed", load.affected)]


@pytest.mark.parametrize("fault", ["partial", "twice", "not_loaded", "empty", "few", "repeated"])
def test_rows_in_files_and_table_are_as_many_as_said(lab_etl: LabEtl, hour: datetime, fault: str) -> None:
    load = lab_etl.run(hour, {"impressions": fault}, tables=["impressions"], is_aggregated=False)["impressions"]
    found = held(lab_etl, "impressions", hour)
    assert len(found) == load.loaded
    bodies = [lab_etl.s3.get_object(Bucket=lab_etl.bucket, Key=file.key)["Body"].read() for file in load.files]
    assert [pq.read_table(io.BytesIO(body)).num_rows for body in bodies] == [file.rows for file in load.files]
    first, second = load.files
    assert load.loaded == {
        "partial": second.rows, "twice": load.written + first.rows, "not_loaded": 0, "empty": 0,
        "few": load.expected // 5, "repeated": load.expected + load.affected,
    }[fault]  # fmt: skip
    assert len({row[0] for row in found}) == min(load.loaded, load.expected)


@pytest.mark.parametrize(
    ("fault", "query"),
    [
        ("nulls", "order_id is null"),
        ("out_of_range", "win_price < 0"),
        ("orphans", "impression_id not in (select impression_id from impressions)"),
        ("unknown_campaign", "order_id not in (select order_id from impressions)"),
    ],
)
def test_a_fault_of_the_data_touches_the_rows_that_it_names(
    lab_etl: LabEtl, hour: datetime, fault: str, query: str
) -> None:
    load = lab_etl.run(hour, {"wins": fault}, is_aggregated=False)["wins"]
    start = hour.replace(tzinfo=None)
    where = f'{query} and "timestamp" >= %s and "timestamp" < %s'
    found = rows(lab_etl, f"select win_id from wins where {where}", start, start + timedelta(hours=1))
    assert {key for (key,) in found} == set(load.keys)
    assert len(found) == load.affected > 0


def test_faults_are_the_same_for_the_same_seed_and_fit_their_pipeline(lab_etl: LabEtl) -> None:
    hours = [lab_etl.world.now - timedelta(hours=n) for n in range(50)]
    picked = pick_faults(3, hours)
    assert picked == pick_faults(3, hours) != pick_faults(4, hours)
    assert {fault for by_table in picked.values() for fault in by_table.values()} == FAULTS.keys()
    assert all(fault in faults_of(table) for by_table in picked.values() for table, fault in by_table.items())
    with pytest.raises(ValueError, match="no fault of users"):
        lab_etl.run(hours[0], {"users": "orphans"}, tables=["users"])


def test_an_hour_can_be_forgotten(lab_etl: LabEtl, hour: datetime) -> None:
    load = lab_etl.run(hour, tables=["users"])["users"]
    lab_etl.forget(hour, ["users"])
    assert held(lab_etl, "users", hour) == []
    assert load.run not in {run["Id"] for run in lab_etl.runs("users")}
    with pytest.raises(ClientError, match="404"):
        lab_etl.s3.head_object(Bucket=lab_etl.bucket, Key=load.files[0].key)


def test_a_seeded_past_has_rows_runs_and_loads_of_every_hour(lab_etl: LabEtl) -> None:
    lab_etl.schema = "etl_past"
    lab_etl.create()
    done = lab_etl.seed(2, hourly=1)
    first = (lab_etl.world.now - timedelta(hours=25)).date()
    hours = [start for start in lab_etl.world.hours() if start.date() >= first]
    for table in ("wins", "users"):
        expected = {start: lab_etl.world.hour(start).count(table) for start in hours}
        assert done[table] == sum(expected.values()) == rows(lab_etl, f"select count(*) from {table}")[0][0]
        prefix = f"s3://{lab_etl.bucket}/{lab_etl.name}/{table}/%"
        loads = rows(
            lab_etl,
            "select data_source, loaded_rows, query_id, start_time from sys_load_history where data_source like %s "
            "and status = 'completed' and table_name = %s",
            prefix,
            table,
        )
        loaded = {source: count for source, count, _, _ in loads}
        for start in hours:
            assert loaded[f"s3://{lab_etl.bucket}/{lab_etl.prefix(table, start)}"] == expected[start]
        old = min(loads, key=lambda load: load[3])
        files = rows(lab_etl, "select trim(file_name), lines_scanned from sys_load_detail where query_id = %s", old[2])
        assert sum(lines for _, lines in files) == old[1]
        assert len(files) == 2
    run_hours = {run["Arguments"]["--hour"] for run in lab_etl.runs("wins")}
    assert {start.isoformat() for start in hours} <= run_hours
    assert [run["StartedOn"] for run in lab_etl.runs("wins")] == sorted(
        (run["StartedOn"] for run in lab_etl.runs("wins")), reverse=True
    )


def test_the_rule_of_the_schedule_can_be_disabled_and_removed(lab_etl: LabEtl) -> None:
    assert lab_etl.events.describe_rule(Name=lab_etl.rule)["State"] == "ENABLED"
    targets = lab_etl.events.list_targets_by_rule(Rule=lab_etl.rule)["Targets"]
    assert {target["Id"] for target in targets} == set(TABLES)
    lab_etl.schedule(is_enabled=False)
    assert lab_etl.events.describe_rule(Name=lab_etl.rule)["State"] == "DISABLED"
    lab_etl.unschedule()
    with pytest.raises(ClientError, match="ResourceNotFound"):
        lab_etl.events.describe_rule(Name=lab_etl.rule)
    lab_etl.schedule()


def test_glue_and_eventbridge_can_be_throttled(lab_etl: LabEtl, lab_s3: LabS3) -> None:
    client = lab_etl.glue
    throttled = {"key": "#AWSGlue.GetJobRuns", "status": 400, "code": "ThrottlingException", "times": 20}
    lab_s3.faults(throttled)
    try:
        with pytest.raises(ClientError, match="ThrottlingException"):
            client.get_job_runs(JobName=lab_etl.job("wins"))
        client.get_job(JobName=lab_etl.job("wins"))
        lab_etl.events.describe_rule(Name=lab_etl.rule)
    finally:
        lab_s3.faults()
    client.get_job_runs(JobName=lab_etl.job("wins"))


def test_an_order_for_glue_that_makes_no_sense_is_refused(lab_etl: LabEtl) -> None:
    for order in (
        {"job": "no such"},
        {"job": lab_etl.job("wins"), "state": "SLEEPING"},
        {"job": lab_etl.job("wins"), "run": "jr_0"},
    ):
        with pytest.raises(OSError, match="400"):
            lab_etl.tell_glue([order])
