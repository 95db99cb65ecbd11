"""Airflow's own Redshift hook and operators work on the stand-in as they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.redshift_sql import RedshiftSQLHook
from airflow.providers.amazon.aws.transfers.redshift_to_s3 import RedshiftToS3Operator
from airflow.providers.amazon.aws.transfers.s3_to_redshift import S3ToRedshiftOperator
from airflow.providers.common.sql.operators.sql import (
    SQLCheckOperator,
    SQLColumnCheckOperator,
    SQLExecuteQueryOperator,
    SQLTableCheckOperator,
)
from airflow.sdk.exceptions import AirflowException
from dbops_lab import connections
from dbops_lab.testing import LabRedshift
from redshift_client import rows, run, value

CONN = "dbops_redshift"


@pytest.fixture(autouse=True)
def environment(lab_redshift: LabRedshift, monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = lab_redshift.s3.connection
    made = {CONN: lab_redshift.connection, "dbops_s3": {"conn_type": "aws", "login": s3.login, "password": s3.password}}
    for name, text in connections.variables(made).items():
        monkeypatch.setenv(name, text)


@pytest.fixture
def clicks(redshift: Any) -> Any:
    table = f"{redshift.schema}.clicks"
    run(redshift, f"CREATE TABLE {table} (id int PRIMARY KEY, day date, n varchar(20)) SORTKEY (day)",
        f"INSERT INTO {table} SELECT 1, '2026-01-01'::date, 'a' UNION ALL SELECT 2, '2026-01-02', 'b'")  # fmt: skip
    redshift.table = table
    return redshift


def test_the_hook_reads_and_writes(clicks: Any) -> None:
    hook = RedshiftSQLHook(redshift_conn_id=CONN)
    assert hook.test_connection() == (True, "Connection successfully tested")
    hook.insert_rows(clicks.table, [(3, "2026-01-03", "c"), (4, None, None)], target_fields=["id", "day", "n"])
    assert hook.get_first(f"SELECT count(*), max(day)::varchar FROM {clicks.table} WHERE id > %s", parameters=(1,)) == [
        3, "2026-01-03"]  # fmt: skip
    assert hook.get_table_primary_key("clicks", clicks.schema) == ["id"]
    hook.run([f"VACUUM {clicks.table}", f"ANALYZE {clicks.table}"], autocommit=True)
    assert hook.get_records("SELECT pg_last_copy_count()") == ([0],)


def test_a_query_of_several_statements(clicks: Any) -> None:
    sql = f"DELETE FROM {clicks.table} WHERE id = 2; SELECT ';' AS x, count(*) FROM {clicks.table};"
    query = SQLExecuteQueryOperator(
        task_id="query", conn_id=CONN, sql=sql, split_statements=True, return_last=True, autocommit=True
    )
    assert list(query.execute({})) == [[";", 1]]


def test_checks_pass_and_fail(clicks: Any) -> None:
    SQLCheckOperator(task_id="check", conn_id=CONN, sql=f"SELECT count(*) FROM {clicks.table}").execute({})
    mapping = {
        "id": {"null_check": {"equal_to": 0}, "distinct_check": {"equal_to": 2}, "min": {"geq_to": 1}},
        "day": {"null_check": {"equal_to": 0}},
    }
    SQLColumnCheckOperator(task_id="columns", conn_id=CONN, table=clicks.table, column_mapping=mapping).execute({})
    checks = {"rows": {"check_statement": "count(*) = 2"}, "days": {"check_statement": "max(day) < getdate()"}}
    SQLTableCheckOperator(task_id="table", conn_id=CONN, table=clicks.table, checks=checks).execute({})
    run(clicks, f"INSERT INTO {clicks.table} VALUES (2, null, null)")
    with pytest.raises(AirflowException, match="null_check"):
        SQLColumnCheckOperator(task_id="columns", conn_id=CONN, table=clicks.table, column_mapping=mapping).execute({})


def test_unload_and_load(lab_redshift: LabRedshift, clicks: Any) -> None:
    prefix, bucket = lab_redshift.s3.new_prefix(), lab_redshift.s3.bucket
    RedshiftToS3Operator(
        task_id="unload", redshift_conn_id=CONN, aws_conn_id="dbops_s3", s3_bucket=bucket, s3_key=prefix,
        schema=clicks.schema, table="clicks", unload_options=["FORMAT PARQUET", "MANIFEST VERBOSE"], autocommit=True,
    ).execute({})  # fmt: skip
    key = f"{prefix}/clicks_manifest"
    manifest = json.load(lab_redshift.s3.client.get_object(Bucket=bucket, Key=key)["Body"])
    assert manifest["meta"]["record_count"] == 2

    def load(**options: Any) -> None:
        S3ToRedshiftOperator(
            task_id="load", redshift_conn_id=CONN, aws_conn_id="dbops_s3", s3_bucket=bucket, s3_key=key,
            schema=clicks.schema, table="clicks", copy_options=["FORMAT PARQUET", "MANIFEST"], **options,
        ).execute({})  # fmt: skip

    everything = f"SELECT id, n FROM {clicks.table} ORDER BY id"
    run(
        clicks,
        f"UPDATE {clicks.table} SET n = 'changed' WHERE id = 1",
        f"INSERT INTO {clicks.table} VALUES (3, null, 'c')",
    )
    load(method="UPSERT")
    assert rows(clicks, everything) == [(1, "a"), (2, "b"), (3, "c")]
    load(method="REPLACE")
    assert rows(clicks, everything) == [(1, "a"), (2, "b")]
    load(autocommit=True)
    assert value(clicks, f"SELECT count(*) FROM {clicks.table}") == 4  # the key is not enforced


def test_unload_of_a_query_with_quotes_as_csv(lab_redshift: LabRedshift, clicks: Any) -> None:
    prefix, bucket = lab_redshift.s3.new_prefix(), lab_redshift.s3.bucket
    RedshiftToS3Operator(
        task_id="unload", redshift_conn_id=CONN, aws_conn_id="dbops_s3", s3_bucket=bucket, s3_key=f"{prefix}/part_",
        select_query=f"SELECT id, n FROM {clicks.table} WHERE n = 'a'", unload_options=["CSV", "PARALLEL OFF"],
        include_header=True, autocommit=True,
    ).execute({})  # fmt: skip
    body = lab_redshift.s3.client.get_object(Bucket=bucket, Key=f"{prefix}/part_000")["Body"].read()
    assert body == b"id,n\n1,a\n"
