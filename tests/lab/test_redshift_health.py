"""The daily and the monthly look at a warehouse: values against limits, from what the cluster and CloudWatch say."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config
from dbops.connections import ConnectionInfo
from dbops.errors import FinalError
from dbops.platform import Archive, Platform, Review, Severity, load_platform
from dbops.platform.load import DIRECTORY
from dbops.redshift import health, review
from dbops.redshift.cloudwatch import CloudWatch
from dbops.redshift.health import Check, Look, check_health, look_back
from dbops.redshift.session import ConnectorSession, Session
from dbops.redshift.views import NoInsight, table_figures
from dbops_lab import connections
from dbops_lab.testing import LabPostgres, LabS3
from maintenance_world import OwnRedshift, own_redshift

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def _own(lab_postgres: LabPostgres, lab_s3: LabS3) -> Iterator[OwnRedshift]:
    with own_redshift(lab_postgres, lab_s3) as made:
        yield made


@pytest.fixture
def warehouse(_own: OwnRedshift) -> Iterator[OwnRedshift]:
    """A warehouse without history, with one table."""
    with ConnectorSession(_own.info()) as session:
        session.run("drop schema if exists shop cascade")
        session.run("create schema shop")
        session.run("create table shop.sales (id int, day date) diststyle even sortkey (day)")
        session.run("insert into shop.sales select 1, '2026-01-01'::date union all select 2, '2026-11-01'")
    _own.forget()
    yield _own
    _own.standin.faults()
    _own.standin.serverless(False)


@pytest.fixture
def session(warehouse: OwnRedshift) -> Iterator[Session]:
    with ConnectorSession(warehouse.info()) as made:
        yield made


@pytest.fixture(scope="module")
def platform() -> Platform:
    return load_platform(DIRECTORY / "lab.yaml")


def look(session: Session, platform: Platform, cloudwatch: CloudWatch | None = None, **changes: Any) -> Look:
    assert platform.redshift is not None
    now = datetime.now(UTC)
    redshift = platform.redshift.model_copy(update=changes)
    return Look(session, platform, redshift, now - 24 * HOUR, now, cloudwatch)


def took(seconds: float, *, queued: float = 0.0, ago: timedelta = HOUR, **more: Any) -> dict[str, Any]:
    """A SELECT of the past, for the history."""
    started = datetime.now(UTC).replace(tzinfo=None) - ago
    return {"started": started, "ended": started + timedelta(seconds=seconds), "queued": queued, **more}


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


# --- the daily look -----------------------------------------------------------------------------------------


def test_a_quiet_warehouse_is_well_and_everything_was_looked_at(session: Session, platform: Platform) -> None:
    checks = by_name(check_health(look(session, platform)))
    assert set(checks) == {
        "redshift_queries", "redshift_queues", "redshift_failed_queries", "redshift_cpu", "redshift_disk",
        "redshift_loads", "redshift_transactions", "redshift_storage", "redshift_table_use",
    }  # fmt: skip
    assert [check.message for check in checks.values() if not check.ok] == []
    assert "not by CloudWatch: no connection to AWS" in checks["redshift_disk"].message
    assert checks["redshift_storage"].details["tables"] == {"shop.sales": 1}


@pytest.mark.parametrize(
    ("seconds", "severity", "limit"), [(20, None, 30), (70, Severity.WARNING, 60), (400, Severity.CRITICAL, 300)]
)
def test_the_95th_percentile_of_queries_is_held_against_the_limits(
    seconds: float, severity: Severity | None, limit: float,
    warehouse: OwnRedshift, session: Session, platform: Platform,
) -> None:  # fmt: skip
    warehouse.plant("query", *[took(1)] * 20, *[took(seconds)] * 8, took(9999, ago=25 * HOUR))
    check = health.check_queries(look(session, platform))
    assert (check.severity, check.limit, check.unit, check.ok) == (severity, limit, "s", severity is None)
    assert check.value == pytest.approx(seconds, abs=1)


def test_one_query_above_the_critical_limit_is_a_warning_and_is_named(
    warehouse: OwnRedshift, session: Session, platform: Platform
) -> None:
    warehouse.plant("query", *[took(1)] * 100, took(500, querytxt="select   the slow\none"))
    check = health.check_queries(look(session, platform))
    assert (check.severity, check.limit) == (Severity.WARNING, 300)
    assert "1 took more than 300 s" in check.message
    assert (check.details["slowest"][0]["seconds"], check.details["slowest"][0]["user"]) == (500, warehouse.user)


def test_waiting_in_queues_is_told_by_queue(warehouse: OwnRedshift, session: Session, platform: Platform) -> None:
    warehouse.plant("query", *[took(100, queued=90, service_class=100)] * 4)
    found = look(session, platform)
    check = health.check_queues(found)
    assert check.severity == Severity.WARNING
    assert check.value == pytest.approx(90, abs=1)
    (queue,) = [one for one in check.details["queues"] if one["longest_wait_s"]]
    assert (queue["statements"] >= 4, queue["longest_wait_s"], queue["waited_s"]) == (True, 90, 360)
    warehouse.standin.serverless()
    assert [one["longest_wait_s"] for one in health.check_queues(found).details["queues"]] == [90]


def test_failed_statements_are_a_problem_by_share_and_number(
    warehouse: OwnRedshift, session: Session, platform: Platform
) -> None:
    warehouse.plant("query", *[took(1, error="permission denied for relation sales")] * 4)
    assert health.check_failed(look(session, platform)).ok, "four are too few to tell"
    warehouse.plant("query", took(1, error="relation does not exist"))
    check = health.check_failed(look(session, platform))
    assert check.severity == Severity.WARNING
    assert [one["times"] for one in check.details["errors"]] == [4, 1]
    warehouse.plant("query", *[took(1)] * 200)
    assert health.check_failed(look(session, platform)).ok, "5 of more than 200 are less than 5 %"


def test_loads_that_failed_or_left_lines_out_are_told_with_their_reason(
    warehouse: OwnRedshift, session: Session, platform: Platform
) -> None:
    at = datetime.now(UTC).replace(tzinfo=None) - HOUR
    common = {"database": warehouse.database, "started": at, "ended": at, "table_name": "sales"}
    well = {"query_id": 9001, "status": "completed", "loaded_rows": 100, "errors": 0}
    warehouse.plant("load", common | well)
    assert health.check_loads(look(session, platform)).ok
    warehouse.plant("load", common | well | {"query_id": 9002, "errors": 2})
    warehouse.plant("load", common | well | {"query_id": 9003, "status": "aborted", "loaded_rows": 0})
    error = {
        "query_id": 9002,
        "at": at,
        "table_name": "sales",
        "colname": "day",
        "filename": "s3://b/f",
        "line_number": 7,
    }
    warehouse.plant("load_error", *[error | {"err_code": 1206, "err_reason": "Invalid timestamp format or value"}] * 2)
    check = health.check_loads(look(session, platform))
    assert check.severity == Severity.WARNING
    assert check.message.startswith(
        "3 loads with 200 rows: 1 aborted, 1 left 2 lines out; sales.day: Invalid timestamp"
    )
    assert (check.details["errors"][0]["times"], check.details["errors"][0]["line"]) == (2, 7)


def test_a_transaction_that_stays_open_is_named(warehouse: OwnRedshift, session: Session, platform: Platform) -> None:
    assert platform.redshift is not None
    strict = platform.redshift.health.model_copy(update={"old_transaction": timedelta(0)})
    with ConnectorSession(warehouse.info()) as other:
        other.run("begin")
        other.rows("select count(*) from shop.sales")
        pid = other.rows("select pg_backend_pid()")[0][0]
        assert health.check_transactions(look(session, platform)).ok, "it is open for less than an hour"
        check = health.check_transactions(look(session, platform, health=strict))
    assert check.severity == Severity.WARNING
    assert f"process {pid} of {warehouse.user}" in check.message


def test_a_check_that_cannot_look_is_an_error_and_the_others_are_done(
    warehouse: OwnRedshift, session: Session, platform: Platform
) -> None:
    warehouse.standin.faults({
        "match": "from stv_node_storage_capacity",
        "error": "42501",
        "message": "permission denied",
    })
    checks = check_health(look(session, platform))
    (blind,) = [check for check in checks if not check.ok]
    assert (blind.name, type(blind.error), blind.value) == ("redshift_disk", NoInsight, None)
    assert blind.message.startswith("could not look: ")
    assert "the login may not read stv_node_storage_capacity" in blind.message
    assert len(checks) == 9


def test_a_login_that_sees_only_itself_has_not_looked(warehouse: OwnRedshift, platform: Platform) -> None:
    name, password = f"u_{secrets.token_hex(4)}", f"Pw1{secrets.token_hex(8)}"
    with ConnectorSession(warehouse.info()) as admin:
        admin.run(f"create user {name} password '{password}'")
        made = connections.redshift(warehouse.port, name, password, warehouse.database)
        with ConnectorSession(connections.info("dbops_redshift", made)) as session:
            checks = by_name(check_health(look(session, platform)))
        assert {name for name, check in checks.items() if check.error} == {
            "redshift_queries", "redshift_queues", "redshift_failed_queries", "redshift_loads", "redshift_storage",
            "redshift_table_use", "redshift_disk",
        }  # fmt: skip
        assert "grant the login role sys:monitor" in checks["redshift_queries"].message


def test_serverless_has_neither_cpu_nor_disk_to_fill(
    warehouse: OwnRedshift, session: Session, platform: Platform
) -> None:
    warehouse.standin.serverless()
    checks = by_name(check_health(look(session, platform, serverless=True)))
    assert [check.message for check in checks.values() if not check.ok] == []
    assert checks["redshift_cpu"].message.startswith("serverless, without such a limit")


@pytest.mark.parametrize(("hours", "since"), [(None, 24), (3, 24), (24, 24), (40, 40), (400, 168)])
def test_a_run_that_was_missed_leaves_no_hole(hours: int | None, since: int) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    assert look_back(now, None if hours is None else now - hours * HOUR) == now - since * HOUR


# --- CPU and disk -------------------------------------------------------------------------------------------


def metrics(lab_s3: LabS3, cluster: str, metric: str, *points: tuple[timedelta, float]) -> None:
    client: Any = boto3.client(
        "cloudwatch", endpoint_url=lab_s3.endpoint, aws_access_key_id=connections.ACCESS_KEY,
        aws_secret_access_key=connections.SECRET_KEY, region_name=lab_s3.region, config=Config(proxies={}),
    )  # fmt: skip
    client.put_metric_data(
        Namespace="AWS/Redshift",
        MetricData=[
            {"MetricName": metric, "Dimensions": [{"Name": "ClusterIdentifier", "Value": cluster}], "Value": value,
             "Timestamp": datetime.now(UTC) - ago, "Unit": "Percent"}
            for ago, value in points
        ],
    )  # fmt: skip


def test_cpu_and_disk_are_those_of_cloudwatch(session: Session, platform: Platform, lab_s3: LabS3) -> None:
    cluster = f"c{secrets.token_hex(4)}"
    metrics(lab_s3, cluster, "CPUUtilization", (5 * HOUR, 90), (5 * HOUR, 92), (2 * HOUR, 10))
    metrics(lab_s3, cluster, "PercentageDiskSpaceUsed", (5 * HOUR, 86))
    found = look(session, platform, CloudWatch(lab_s3.connection, lab_s3.region, cluster))
    cpu, disk = health.check_cpu(found), health.check_disk(found)
    assert (cpu.value, cpu.severity, cpu.limit) == (91, Severity.WARNING, 85)
    assert cpu.message.endswith("by CloudWatch")
    assert (disk.value, disk.severity) == (86, Severity.CRITICAL)


def test_without_cloudwatch_the_system_views_are_asked_and_it_is_told(
    warehouse: OwnRedshift, session: Session, platform: Platform, lab_s3: LabS3
) -> None:
    at = (datetime.now(UTC) - HOUR).replace(minute=30, second=0, tzinfo=None)
    slices = session.rows("select count(*) from stv_slices")[0][0]
    busy = {"started": at, "ended": at + timedelta(seconds=10), "cpu": 0.9 * 3600 * slices, "service_class": 100}
    warehouse.plant("query", busy)
    warehouse.admin("update rs.node_storage set megabytes = 1")
    found = look(session, platform, CloudWatch(lab_s3.connection, lab_s3.region, "unknown"))
    cpu, disk = health.check_cpu(found), health.check_disk(found)
    assert (cpu.severity, cpu.value) == (Severity.WARNING, pytest.approx(90, abs=1))
    assert "not by CloudWatch: CloudWatch has no CPUUtilization of bedrock" in cpu.message
    assert disk.severity == Severity.CRITICAL
    warehouse.admin("update rs.node_storage set megabytes = 1000000")
    nowhere = ConnectionInfo("dbops_s3", "aws", login="a", password="b", extra={
        "endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"total_max_attempts": 1}, "proxies": {}},
    })  # fmt: skip
    found = look(session, platform, CloudWatch(nowhere, lab_s3.region, "c"))
    assert "not by CloudWatch: metric PercentageDiskSpaceUsed of Redshift cluster c" in health.check_disk(found).message


def test_neither_cloudwatch_nor_views_is_no_value(warehouse: OwnRedshift, session: Session, platform: Platform) -> None:
    warehouse.standin.serverless()  # whose STV_ views are empty, while the platform file says it is a cluster
    with pytest.raises(FinalError, match="STV_NODE_STORAGE_CAPACITY shows no node"):
        health.check_disk(look(session, platform))


# --- use of tables, and the monthly review ------------------------------------------------------------------


def test_use_of_tables_leaves_out_what_this_package_and_analyze_read(
    warehouse: OwnRedshift, session: Session, platform: Platform
) -> None:
    session.rows("select count(*) from shop.sales where day > '2026-02-01'")  # query group dbops
    session.run("analyze shop.sales")
    assert health.record_use(look(session, platform)).details["tables"] == {}
    session.run("set query_group to 'looker'")
    session.rows("select count(*) from shop.sales where day > '2026-02-01'")
    session.rows("select max(id) from shop.sales")
    session.run("set query_group to 'dbops'")
    check = health.record_use(look(session, platform))
    assert check.details["tables"] == {"shop.sales": {"queries": 2, "in_range": 1}}
    assert check.value == 1


def test_every_statement_of_the_advice_runs(warehouse: OwnRedshift, session: Session) -> None:
    session.run("create table shop.skewed (k int, v int) diststyle key distkey (k) sortkey (v)")
    session.run("insert into shop.skewed select 1, id from shop.sales union all select 1, 3 union all select 1, 4")
    session.run("create table shop.keyless (k int encode az64, day date) diststyle even sortkey (k)")
    session.run("alter table shop.keyless alter sortkey none")
    session.run("insert into shop.keyless select id, day from shop.sales")
    session.run('create table shop.wins (id int, day date, "timestamp" timestamp) diststyle even sortkey (id)')
    session.run("insert into shop.wins select id, day, day from shop.sales")
    tables = [table for table in table_figures(session) if table.schema == "shop"]
    archive = Archive.model_validate({"tables": [{"table": "shop.wins", "column": "timestamp", "keep": "30d"}]})
    usage = review.Usage({"shop.sales": 50}, {}, timedelta(days=30))
    alerts = {next(table.id for table in tables if table.table == "keyless"): [("Missing query planner statistics", 3)]}
    found = review.table_advice(tables, alerts, usage, archive, Review(min_size_mb=1))
    assert {advice.statement for advice in found} == {
        'alter table "shop"."skewed" alter diststyle even;',
        'alter table "shop"."keyless" alter sortkey auto;',
        'analyze "shop"."keyless";',
        'alter table "shop"."wins" alter compound sortkey ("timestamp");',
        'alter table "shop"."sales" alter sortkey auto;',
    }
    for advice in found:
        session.run(advice.statement.removesuffix(";"))
    after = {table.table: table for table in table_figures(session) if table.schema == "shop"}
    assert (after["skewed"].diststyle, after["wins"].sort_key) == ("EVEN", "timestamp")


def test_cold_rows_are_counted_by_the_sort_key(warehouse: OwnRedshift, session: Session) -> None:
    tables = [table for table in table_figures(session) if table.schema == "shop"]
    candidates = review.cold_candidates(tables, review.read_date_columns(session), Archive(), Review(min_size_mb=1))
    (cold,) = review.look_for_cold(session, candidates, datetime(2026, 6, 1, tzinfo=UTC))
    assert str(cold) == "shop.sales: 1 rows by day, the oldest of 2026-01-01"
    assert review.look_for_cold(session, candidates, datetime(2025, 6, 1, tzinfo=UTC)) == []
