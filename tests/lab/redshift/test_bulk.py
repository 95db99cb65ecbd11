"""COPY and UNLOAD as a client sees them: part of its transaction, counted, remembered, and broken to order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dbops_lab.testing import LabRedshift
from redshift_client import error, lost, named, refusal, rows, run, table_info, value
from redshift_connector import ProgrammingError

ROLE = "iam_role default"


@pytest.fixture
def prefix(lab_redshift: LabRedshift) -> str:
    return lab_redshift.s3.new_prefix()


@pytest.fixture
def logs(redshift: Any) -> Any:
    run(redshift, 'CREATE TABLE logs (id bigint, day date, "timestamp" timestamp, price decimal(12, 4), n'
                  ' varchar(20)) SORTKEY (day)',
        "INSERT INTO logs SELECT 1, '2026-01-01'::date, '2026-01-01 10:00'::timestamp, 1.5, 'it''s' UNION ALL"
        " SELECT 2, '2026-01-02', '2026-01-02 11:00', 2.25, null")  # fmt: skip
    return redshift


def keys(lab: LabRedshift, prefix: str) -> list[str]:
    found = lab.s3.client.list_objects_v2(Bucket=lab.s3.bucket, Prefix=prefix).get("Contents", [])
    return [entry["Key"].removeprefix(prefix) for entry in found]


def unload(lab: LabRedshift, prefix: str, query: str = "SELECT * FROM logs", options: str = "") -> str:
    return f"UNLOAD ($${query}$$) TO 's3://{lab.s3.bucket}/{prefix}/' {ROLE} FORMAT PARQUET MANIFEST VERBOSE {options}"


def copy(lab: LabRedshift, prefix: str) -> str:
    return f"COPY logs FROM 's3://{lab.s3.bucket}/{prefix}/manifest' {ROLE} FORMAT PARQUET MANIFEST"


def test_out_and_in_again(lab_redshift: LabRedshift, logs: Any, prefix: str) -> None:
    query = "SELECT * FROM logs WHERE datediff(day, day, getdate()) > 1 AND n IS NULL OR n = 'it\\'s'"
    run(logs, unload(lab_redshift, prefix, query))
    assert value(logs, "SELECT pg_last_unload_count()") == 2
    manifest = json.load(
        lab_redshift.s3.client.get_object(Bucket=lab_redshift.s3.bucket, Key=f"{prefix}/manifest")["Body"]
    )
    assert manifest["meta"]["record_count"] == 2
    before = rows(logs, "SELECT * FROM logs ORDER BY id")
    run(logs, "DELETE FROM logs", copy(lab_redshift, prefix))
    assert rows(logs, "SELECT * FROM logs ORDER BY id") == before
    assert rows(logs, "SELECT pg_last_copy_count(), pg_last_copy_id() > 0") == [(2, True)]
    (history,) = named(
        logs,
        "SELECT status, unloaded_rows, unloaded_files_count, file_format FROM sys_unload_history WHERE"
        " query_id = pg_last_unload_id()",
    )
    assert history == {"status": "completed", "unloaded_rows": 2, "unloaded_files_count": 2, "file_format": "Parquet"}
    (history,) = named(
        logs,
        "SELECT status, loaded_rows, source_file_count, error_count FROM sys_load_history WHERE query_id ="
        " pg_last_copy_id()",
    )
    assert history == {"status": "completed", "loaded_rows": 2, "source_file_count": 2, "error_count": 0}
    assert value(logs, "SELECT sum(lines_scanned) FROM stl_load_commits WHERE query = pg_last_copy_id()") == 2
    assert value(logs, "SELECT sum(line_count) FROM stl_unload_log WHERE query = pg_last_unload_id()") == 2
    assert {notice[b"M"].split(b" ")[0] for notice in logs.notices if notice[b"S"] == b"INFO"} == {b"UNLOAD", b"Load"}


def test_a_rollback_undoes_a_copy_and_not_its_history(lab_redshift: LabRedshift, logs: Any, prefix: str) -> None:
    run(logs, unload(lab_redshift, prefix), "BEGIN", copy(lab_redshift, prefix))
    assert value(logs, "SELECT count(*) FROM logs") == 4
    assert rows(logs, "SELECT table_name, loaded_rows FROM sys_load_history WHERE query_id = pg_last_copy_id()") == [
        ("logs", 2)
    ]
    run(logs, "ROLLBACK")
    assert value(logs, "SELECT count(*) FROM logs") == 2
    assert table_info(logs, "logs")["tbl_rows"] == 2
    assert value(logs, "SELECT count(*) FROM sys_load_history WHERE query_id = pg_last_copy_id()") == 1


def test_a_failed_load_is_remembered_line_by_line(lab_redshift: LabRedshift, logs: Any, prefix: str) -> None:
    lab_redshift.s3.client.put_object(
        Bucket=lab_redshift.s3.bucket, Key=f"{prefix}/bad.csv", Body=b"3,2026-01-03\nx,2026-01-04\n4,gestern\n"
    )
    load = f"COPY logs (id, day) FROM 's3://{lab_redshift.s3.bucket}/{prefix}/bad.csv' {ROLE} CSV"
    assert "Load into table 'logs' failed" in refusal(logs, load)[1]
    assert value(logs, "SELECT count(*) FROM logs") == 2
    run(logs, "BEGIN")
    refusal(logs, load)
    assert refusal(logs, "SELECT 1")[0] == "25P02"
    run(logs, "ROLLBACK", f"{load} MAXERROR 5")
    assert value(logs, "SELECT count(*) FROM logs") == 3
    found = named(
        logs, "SELECT line_number, colname, err_code FROM stl_load_errors WHERE query = pg_last_copy_id() ORDER BY 1"
    )
    assert [(row["line_number"], row["colname"]) for row in found] == [(2, "id"), (3, "day")]
    assert named(logs, "SELECT status, error_count, loaded_rows FROM sys_load_history WHERE query_id ="
                       " pg_last_copy_id()") == [
        {"status": "completed", "error_count": 2, "loaded_rows": 1}]  # fmt: skip
    assert (
        value(logs, "SELECT count(*) FROM sys_load_history WHERE status = 'aborted' AND session_id = pg_backend_pid()")
        == 2
    )


def test_an_unload_that_fails_on_one_slice_leaves_files_and_no_manifest(
    lab_redshift: LabRedshift, logs: Any, prefix: str
) -> None:
    lab_redshift.standin.faults({"match": "^unload", "slice": 1})
    assert refusal(logs, unload(lab_redshift, prefix))[0] == "XX000"
    assert keys(lab_redshift, prefix) == ["/0000_part_00.parquet"]
    assert value(logs, "SELECT status FROM sys_unload_history ORDER BY query_id DESC LIMIT 1") == "aborted"
    assert "not empty" in refusal(logs, unload(lab_redshift, prefix))[1]
    run(logs, unload(lab_redshift, prefix, options="CLEANPATH"))
    assert "/manifest" in keys(lab_redshift, prefix)


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_connection_that_ends_around_a_statement(
    lab_redshift: LabRedshift, logs: Any, prefix: str, moment: str
) -> None:
    table = f"{logs.schema}.logs"
    for statement in (unload(lab_redshift, prefix, f"SELECT * FROM {table}"), f"DELETE FROM {table} WHERE id = 1"):
        lab_redshift.standin.faults({"match": "^(unload|delete)", "drop": moment})
        other = lab_redshift.connect()
        lost(other, statement)
    assert (
        keys(lab_redshift, prefix)
        == {
            "before": [],
            "during": ["/0000_part_00.parquet", "/0001_part_00.parquet"],
            "after": ["/0000_part_00.parquet", "/0001_part_00.parquet", "/manifest"],
        }[moment]
    )
    assert value(logs, "SELECT count(*) FROM logs") == (1 if moment == "after" else 2)


def test_a_connection_that_ends_at_commit(lab_redshift: LabRedshift, logs: Any) -> None:
    for moment, left in (("before", 2), ("after", 1)):
        lab_redshift.standin.faults({"match": "^commit", "drop": moment})
        other = lab_redshift.connect(autocommit=False)
        lost(other, f"DELETE FROM {logs.schema}.logs WHERE id = 1", "COMMIT")
        assert value(logs, "SELECT count(*) FROM logs") == left


def test_error_1023_to_order(lab_redshift: LabRedshift, logs: Any) -> None:
    lab_redshift.standin.faults({"match": "delete from logs", "error": "1023", "skip": 1, "times": 1})
    run(logs, "BEGIN", "DELETE FROM logs WHERE id = 7")
    found = error(lambda: run(logs, "DELETE FROM logs"))
    assert (found["C"], found["M"]) == ("XX000", "1023")
    assert found["D"].startswith("Serializable isolation violation on table - ")
    with pytest.raises(ProgrammingError, match="25P02"):
        run(logs, "SELECT 1")
    run(logs, "ROLLBACK", "DELETE FROM logs")
    assert value(logs, "SELECT count(*) FROM logs") == 0
    assert value(logs, "SELECT count(*) > 0 FROM stl_tr_conflict WHERE process_id = pg_backend_pid()")
    lab_redshift.standin.faults({
        "match": "select 1",
        "error": "57014",
        "message": "Query (1) cancelled by WLM abort action",
    })
    assert refusal(logs, "SELECT 1") == ("57014", "Query (1) cancelled by WLM abort action")
