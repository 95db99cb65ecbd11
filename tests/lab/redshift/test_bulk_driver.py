"""COPY and UNLOAD through the real driver: in the client's transaction, with Redshift's types, notices and counts."""

from __future__ import annotations

import io
import json
import secrets
import threading
import time
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
import pytest
from bulk_world import ROLE
from dbops_lab.postgres import ADMIN
from dbops_lab.testing import LabPostgres, LabRedshift, LabS3
from redshift_client import rows, run
from redshift_connector import ProgrammingError


class Place:
    """A prefix of its own."""

    def __init__(self, s3: LabS3) -> None:
        self.s3 = s3
        self.prefix = s3.new_prefix()
        self.url = f"s3://{s3.bucket}/{self.prefix}"

    def names(self) -> list[str]:
        listed = self.s3.client.list_objects_v2(Bucket=self.s3.bucket, Prefix=self.prefix).get("Contents", [])
        return [entry["Key"].removeprefix(self.prefix + "/") for entry in listed]

    def get(self, name: str) -> bytes:
        body: bytes = self.s3.client.get_object(Bucket=self.s3.bucket, Key=f"{self.prefix}/{name}")["Body"].read()
        return body

    def put(self, name: str, body: str) -> None:
        self.s3.client.put_object(Bucket=self.s3.bucket, Key=f"{self.prefix}/{name}", Body=body.encode())


@pytest.fixture
def place(lab_s3: LabS3) -> Place:
    return Place(lab_s3)


def failure(caught: pytest.ExceptionInfo[ProgrammingError]) -> dict[str, str]:
    """The error's fields."""
    found: dict[str, str] = caught.value.args[0]
    return found


KINDS = """(
    id bigint IDENTITY(1, 1), small smallint ENCODE az64, medium int, flag boolean, single real, twice double precision,
    price decimal(12, 2), day date, at timestamp, zoned timestamptz, name varchar(60) ENCODE lzo, code char(4),
    doc super, "timestamp" timestamp
) DISTKEY (id) SORTKEY (day)"""
FILL = """INSERT INTO kinds (small, medium, flag, single, twice, price, day, at, zoned, name, code, doc, "timestamp")
    SELECT n, -n, n % 2 = 0, n / 3.0, n / 7.0, n * 1.01, '2026-01-01'::date + n, dateadd(microsecond, n, '2026-01-01'),
        '2026-01-01 00:00:00+02', 'é "' || n || '" ,|\\n', 'c', json_parse('{"a": [1]}'), getdate()
    FROM (SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3) AS q"""


def test_an_archive_of_every_type_comes_back_as_it_was(redshift: Any, place: Place) -> None:
    run(
        redshift,
        f"CREATE TABLE kinds {KINDS}",
        FILL,
        "INSERT INTO kinds (medium) SELECT 99",
        f"UNLOAD ('SELECT * FROM kinds WHERE day IS NULL OR day >= ''2026-01-01''') TO '{place.url}/' {ROLE}"
        " FORMAT PARQUET MANIFEST VERBOSE",
        f"CREATE TABLE back {KINDS}",
        f"COPY back FROM '{place.url}/manifest' {ROLE} FORMAT AS PARQUET MANIFEST EXPLICIT_IDS SERIALIZETOJSON",
    )
    assert rows(redshift, "SELECT pg_last_unload_count(), pg_last_copy_count()") == [(4, 4)]
    assert rows(redshift, "SELECT * FROM back ORDER BY id") == rows(redshift, "SELECT * FROM kinds ORDER BY id")
    assert json.loads(place.get("manifest"))["meta"]["record_count"] == 4


def test_the_query_of_unload_is_redshifts_sql(redshift: Any, place: Place) -> None:
    query = (
        "SELECT NVL(NULL, datediff(day, ''2026-01-01'', ''2026-01-31'')) AS days, listagg(n, '','') AS ns"
        " FROM (SELECT 1 AS n) AS q"
    )
    run(redshift, f"UNLOAD ('{query}') TO '{place.url}/' {ROLE} PARQUET PARALLEL OFF")
    assert pq.ParquetFile(io.BytesIO(place.get("000.parquet"))).read().to_pylist() == [{"days": 30, "ns": "1"}]


def test_what_redshift_refuses_in_a_query_unload_refuses(redshift: Any, place: Place) -> None:
    with pytest.raises(ProgrammingError):
        run(redshift, f"UNLOAD ('SELECT generate_subscripts(1)') TO '{place.url}/' {ROLE}")
    with pytest.raises(ProgrammingError) as caught:
        run(redshift, f"UNLOAD ('DELETE FROM pg_class') TO '{place.url}/' {ROLE}")
    assert failure(caught)["C"] in ("0A000", "42601")
    assert place.names() == []


def test_archiving_in_one_transaction_moves_each_row_once(
    redshift: Any, lab_redshift: LabRedshift, place: Place
) -> None:
    run(redshift, "CREATE TABLE events (id int, day date)")
    run(redshift, *(f"INSERT INTO events VALUES ({n}, '2026-01-0{n % 2 + 1}')" for n in range(6)))
    other = lab_redshift.connect(autocommit=False)
    with other.cursor() as cursor:
        cursor.execute(f"SET search_path TO {redshift.schema}")
        query = "SELECT * FROM events WHERE day = ''2026-01-01''"
        cursor.execute(f"UNLOAD ('{query}') TO '{place.url}/' {ROLE} FORMAT PARQUET MANIFEST")
        cursor.execute("SELECT pg_last_unload_count()")
        assert cursor.fetchone()[0] == 3
        cursor.execute("DELETE FROM events WHERE day = '2026-01-01'")
        assert cursor.rowcount == 3
        assert rows(redshift, "SELECT count(*) FROM events") == [(6,)]
    other.commit()
    other.close()
    assert rows(redshift, "SELECT count(*) FROM events") == [(3,)]


def test_a_rollback_undoes_a_copy_but_not_the_files_of_an_unload(redshift: Any, place: Place) -> None:
    place.put("in", "1\n2\n")
    run(redshift, "CREATE TABLE t (n int)", "BEGIN", f"COPY t FROM '{place.url}/in' {ROLE}")
    assert rows(redshift, "SELECT count(*) FROM t") == [(2,)]
    run(redshift, f"UNLOAD ('SELECT * FROM t') TO '{place.url}/out/' {ROLE} CSV PARALLEL OFF", "ROLLBACK")
    assert rows(redshift, "SELECT count(*) FROM t") == [(0,)]
    assert place.get("out/000") == b"1\n2\n"


@pytest.mark.parametrize(
    "statement",
    [
        "COPY t FROM '{url}/in' {role}",
        "COPY t FROM '{url}/nothing' {role}",
        "COPY t FROM '{url}/in' {role} COMPRESSED",
        "UNLOAD ('SELECT 1') TO '{url}/' {role}",
    ],
)
def test_a_statement_that_fails_aborts_the_clients_transaction(statement: str, redshift: Any, place: Place) -> None:
    place.put("in", "1\nx\n")
    run(redshift, "CREATE TABLE t (n int)", "BEGIN", "INSERT INTO t VALUES (7)")
    with pytest.raises(ProgrammingError):
        run(redshift, statement.format(url=place.url, role=ROLE))
    with pytest.raises(ProgrammingError) as caught:
        run(redshift, "SELECT 1")
    assert failure(caught)["C"] == "25P02"
    run(redshift, "ROLLBACK")
    assert rows(redshift, "SELECT count(*) FROM t") == [(0,)]


def test_errors_and_notices_have_redshifts_words(redshift: Any, place: Place) -> None:
    place.put("in", "1\nx\n2\n")
    run(redshift, "CREATE TABLE t (n int)", f"COPY t FROM '{place.url}/in' {ROLE} MAXERROR 5")
    said = [notice[b"M"].decode() if isinstance(notice, dict) else str(notice) for notice in redshift.notices]
    assert any("Load into table 't' completed, 2 record(s) loaded successfully." in text for text in said)
    assert any("Load into table 't' completed, 1 record(s) could not be loaded." in text for text in said)
    with pytest.raises(ProgrammingError) as caught:
        run(redshift, f"COPY t FROM '{place.url}/in' {ROLE}")
    found = failure(caught)
    assert (found["C"], found["M"]) == (
        "XX000",
        "Load into table 't' failed.  Check 'sys_load_error_detail' system table for details.",
    )
    assert "code:      1207" in found["D"]


def test_a_slice_can_be_ordered_to_fail(redshift: Any, lab_redshift: LabRedshift, place: Place) -> None:
    lab_redshift.standin.faults({"match": "^unload", "slice": 0})
    unload = f"UNLOAD ('SELECT 1 AS n UNION ALL SELECT 2') TO '{place.url}/' {ROLE} FORMAT PARQUET MANIFEST"
    with pytest.raises(ProgrammingError, match="fail slice 0"):
        run(redshift, unload)
    assert place.names() == ["0001_part_00.parquet"]
    assert rows(redshift, "SELECT pg_last_unload_count()") == [(0,)]
    run(redshift, unload.replace(place.url, place.url + "/again"))
    assert rows(redshift, "SELECT pg_last_unload_count()") == [(2,)]


def test_varchar_is_measured_in_bytes_by_copy_and_insert_alike(redshift: Any, place: Place) -> None:
    place.put("in", "éé\nééé\n")
    run(redshift, "CREATE TABLE t (v varchar(4))", f"COPY t FROM '{place.url}/in' {ROLE} MAXERROR 2")
    assert rows(redshift, "SELECT v FROM t") == [("éé",)]
    with pytest.raises(ProgrammingError, match="value too long for type character varying"):
        run(redshift, "INSERT INTO t VALUES ('ééé')")


def test_temporary_tables_and_decimals_are_loaded(redshift: Any, place: Place) -> None:
    place.put("in", "1.239\n")
    run(redshift, "CREATE TEMP TABLE staged (d decimal(8, 2))", f"COPY staged FROM '{place.url}/in' {ROLE}")
    run(redshift, "CREATE TABLE #sharp (d decimal(8, 2))", f"COPY #sharp FROM '{place.url}/in' {ROLE} ROUNDEC")
    assert rows(redshift, "SELECT d FROM staged UNION ALL SELECT d FROM #sharp ORDER BY 1") == [
        (Decimal("1.23"),),
        (Decimal("1.24"),),
    ]


def test_a_user_without_rights_neither_loads_nor_unloads(
    redshift: Any, lab_redshift: LabRedshift, lab_postgres: LabPostgres, place: Place
) -> None:
    place.put("in", "1\n")
    run(redshift, "CREATE TABLE t (n int)")
    user, password = f"nobody_{secrets.token_hex(4)}", secrets.token_hex(8)
    server = lab_postgres.server.connect(ADMIN, lab_redshift.database)
    server.autocommit = True
    server.cursor().execute(f"create role {user} login password '{password}'")
    server.cursor().execute(f"grant usage on schema {redshift.schema} to {user}")
    other = lab_redshift.connect(user, password)
    try:
        for statement in (
            f"COPY {redshift.schema}.t FROM '{place.url}/in' {ROLE}",
            f"UNLOAD ('SELECT * FROM {redshift.schema}.t') TO '{place.url}/out/' {ROLE}",
        ):
            with pytest.raises(ProgrammingError) as caught:
                run(other, statement)
            assert failure(caught)["C"] == "42501"
    finally:
        other.close()
        server.cursor().execute(f"drop owned by {user}; drop role {user}")
        server.close()
    assert place.names() == ["in"]


def test_the_errors_of_a_load_are_remembered_though_it_was_rolled_back(redshift: Any, place: Place) -> None:
    place.put("in", "1|a\nx|b\n2|toolong\n")
    run(redshift, "CREATE TABLE t (n int, v varchar(3))", "BEGIN")
    with pytest.raises(ProgrammingError):
        run(redshift, f"COPY t FROM '{place.url}/in' {ROLE} MAXERROR 2")
    run(redshift, "ROLLBACK")
    ours = f"'{place.url}/%'"
    assert rows(
        redshift,
        "SELECT trim(filename), line_number, trim(colname), trim(type), trim(col_length), trim(raw_line),"
        " trim(raw_field_value), err_code, trim(err_reason)"
        f" FROM stl_load_errors WHERE filename LIKE {ours} ORDER BY 2",
    ) == [
        (f"{place.url}/in", 2, "n", "int4", "", "x|b", "x", 1207, "Invalid digit, Value 'x', Pos 0, Type: Integer"),
        (f"{place.url}/in", 3, "v", "varchar", "3", "2|toolong", "toolong", 1204, "String length exceeds DDL length"),
    ]
    assert rows(
        redshift,
        "SELECT line_number, trim(column_name), error_code, trim(error_message) FROM sys_load_error_detail"
        f" WHERE file_name LIKE {ours} ORDER BY 1",
    ) == [
        (2, "n", 1207, "Invalid digit, Value 'x', Pos 0, Type: Integer"),
        (3, "v", 1204, "String length exceeds DDL length"),
    ]
    history = f"SELECT status, loaded_rows, error_count FROM sys_load_history WHERE data_source LIKE {ours}"
    assert rows(redshift, history) == [("aborted", 0, 2)]


def test_loads_and_unloads_are_remembered_by_file(redshift: Any, place: Place) -> None:
    run(
        redshift,
        "CREATE TABLE t (n int)",
        "INSERT INTO t SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3",
        f"UNLOAD ('SELECT * FROM t') TO '{place.url}/out/' {ROLE} GZIP MANIFEST",
        f"COPY t FROM '{place.url}/out/manifest' {ROLE} GZIP MANIFEST",
    )
    files = [f"{place.url}/out/000{number}_part_00.gz" for number in (0, 1)]
    sizes = [len(place.get(file.removeprefix(place.url + "/"))) for file in files]
    assert rows(
        redshift,
        "SELECT trim(path), line_count, transfer_size, trim(file_format) FROM stl_unload_log"
        " WHERE query = pg_last_unload_id() ORDER BY 1",
    ) == [(files[0], 1, sizes[0], "Text"), (files[1], 2, sizes[1], "Text")]
    assert rows(
        redshift,
        "SELECT status, unloaded_rows, unloaded_files_count, unloaded_files_size, trim(unloaded_location)"
        " FROM sys_unload_history WHERE query_id = pg_last_unload_id()",
    ) == [("completed", 3, 2, sum(sizes), f"{place.url}/out/")]
    assert rows(
        redshift,
        "SELECT trim(filename), lines_scanned FROM stl_load_commits WHERE query = pg_last_copy_id() ORDER BY 1",
    ) == [(files[0], 1), (files[1], 2)]
    assert rows(
        redshift,
        "SELECT trim(file_name), bytes_scanned, lines_scanned FROM sys_load_detail"
        " WHERE query_id = pg_last_copy_id() ORDER BY 1",
    ) == [(files[0], sizes[0], 1), (files[1], sizes[1], 2)]


def test_no_secret_reaches_the_history_of_statements(redshift: Any, place: Place) -> None:
    place.put("in", "1\n")
    secret = "aws_access_key_id=AKIDEXAMPLE;aws_secret_access_key=verysecret"
    run(
        redshift,
        "CREATE TABLE t (n int)",
        f"COPY t FROM '{place.url}/in' WITH CREDENTIALS AS '{secret}'",
        f"UNLOAD ('SELECT * FROM t') TO '{place.url}/out' ACCESS_KEY_ID 'AKIDEXAMPLE' SECRET_ACCESS_KEY 'verysecret'",
    )
    known = rows(redshift, "SELECT query_text FROM sys_query_history") + rows(
        redshift, "SELECT querytxt FROM stl_query"
    )
    assert any(place.url in text for (text,) in known)
    assert not any("verysecret" in text or "AKIDEXAMPLE" in text for (text,) in known)


def test_a_cancelled_unload_ends_at_once_and_leaves_no_manifest(
    redshift: Any, lab_redshift: LabRedshift, place: Place
) -> None:
    ten = " UNION ALL ".join(f"SELECT {n} AS n" for n in range(10))
    run(redshift, "CREATE TABLE digits (n int)", f"INSERT INTO digits {ten}")
    tables = ", ".join(f"digits {name}" for name in "abcdefg")
    many = f"SELECT a.n, md5((a.n + b.n + c.n)::varchar) AS m FROM {tables}"
    (pid,) = rows(redshift, "SELECT pg_backend_pid()")[0]
    other = lab_redshift.connect()
    timer = threading.Timer(0.5, lambda: run(other, f"SELECT pg_cancel_backend({pid})"))
    timer.start()
    began = time.monotonic()
    with pytest.raises(ProgrammingError) as caught:
        run(redshift, f"UNLOAD ('{many}') TO '{place.url}/' {ROLE} FORMAT PARQUET MANIFEST")
    timer.join()
    other.close()
    assert time.monotonic() - began < 5
    assert failure(caught)["C"] == "57014"
    assert "manifest" not in place.names()
    assert rows(redshift, "SELECT count(*) FROM digits") == [(10,)]
