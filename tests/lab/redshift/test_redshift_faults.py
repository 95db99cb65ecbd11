"""What goes wrong to order: the connection ends before, during or after a statement; error 1023 and others."""

from __future__ import annotations

from typing import Any

import pytest
from dbops_lab.testing import LabRedshift
from redshift_client import error, lost, refusal, run, value
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
