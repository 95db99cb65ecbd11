"""Redshift's SQL answers as the guide says, and what Redshift would not take is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from dbops_lab.redshift.errors import BackendError
from dbops_lab.redshift.statements import plan
from dbops_lab.testing import LabRedshift
from redshift_client import refusal, rows, run, value


def at(*parts: int) -> datetime:
    """A time as the driver gives it: UTC without saying so."""
    return datetime(*parts)  # type: ignore[arg-type] # noqa: DTZ001


# Results that the database developer guide prints are marked so.
ANSWERS: list[tuple[str, Any]] = [
    ("datediff(week, '2009-01-01', '2009-12-31')", 52),  # guide
    ("datediff(qtr, '1998-07-01', '2009-01-01')", 42),
    ("datediff(seconds, '2025-01-01 00:00:00.9'::timestamp, '2025-01-01 00:00:01'::timestamp)", 1),
    ("datediff(microsecond, '1970-01-01'::timestamp, '2026-01-01 23:59:59.999999'::timestamp)", 1767311999999999),
    ("datediff(us, '1970-01-01'::timestamp, '1901-02-03 00:00:00.000001'::timestamp)", -2174601599999999),
    ("datediff(us, '9999-12-31 23:59:59.999999'::timestamp, '0001-01-01'::timestamp)", -315537897599999999),
    ("datediff(month, '2025-01-31'::date, '2025-02-01'::date)", 1),
    ("datediff('hour', '2018-06-01 00:00:00'::timestamp, '2018-06-04 10:30:00'::timestamp)", 82),
    ("dateadd(month, 1, '2008-01-31'::date)", at(2008, 2, 29)),  # guide
    ("dateadd(quarter, -1, '2008-01-31'::date)", at(2007, 10, 31)),
    ("add_months('2008-04-30'::timestamp, 1)", at(2008, 5, 31)),  # guide: the last day stays the last day
    ("last_day('2008-02-03'::timestamp)", date(2008, 2, 29)),
    ("trunc('2008-02-03 10:00'::timestamp)", date(2008, 2, 3)),
    ("date_part(dow, '2008-02-03'::date)", 0),
    ("convert_timezone('EST', '2008-08-21 07:23:54'::timestamp)", at(2008, 8, 21, 2, 23, 54)),
    ("nvl(null, 2, 3)", 2),
    ("nvl2(null, 1, 2)", 2),
    ("decode(null, 1, 'one', null, 'none', 'other')", "none"),
    ("len('häuser')", 6),
    ("octet_length('häuser')", 7),
    ("charindex('b', 'abc')", 2),
    ("strtol('0xf', 16)", 15),  # guide
    ("strtol('abcd1234', 16)", 2882343476),  # guide
    ("strtol('-1234567', 8)", -342391),
    ("strtol(substring(md5('x'), 1, 15), 16)", 0x9DD4E461268C803),
    ("strtol(left(md5('x'), 15), 16)", 0x9DD4E461268C803),
    ("strtol(left(md5('x'), 1), 16)", 9),
    ("strtol(left('fff', 2), 16)", 255),
    ("strtol(left('f', 2), 16)", 15),
    ("fnv_hash(1)", -5968735742475085980),  # guide
    ("fnv_hash('Amazon Redshift')", 7783490368944507294),  # guide
    ("fnv_hash('Amazon Redshift', fnv_hash(1))", -2202602717770968555),  # guide
    ("fnv_hash('cd', fnv_hash('ab'))", -281581062704388899),  # guide
    ("sha2('x', 256)", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"),
    ("json_extract_path_text('{\"a\": {\"b\": \"c\"}}', 'a', 'b')", "c"),
    (r"'it\'s'", "it's"),
    ("'1.5'::numeric", Decimal(2)),  # NUMERIC is NUMERIC(18,0)
    ("cast('1.567' as decimal(5, 1))", Decimal("1.6")),
    (
        "(select listagg(distinct a, '|') within group (order by a) from (select 'b' as a union all select 'a') x)",
        "a|b",
    ),
    ("(select top 1 a from (select 1 as a union all select 2) x order by a desc)", 2),
    ("(select approximate count(distinct a) from (select 1 as a union all select 1) x)", 1),
    ("(select avg(a) from (select 1 as a union all select 2) x)", 1),  # the guide: integers have an integer average
    ("(select avg(distinct a) from (select 1.5::float as a union all select 2) x)", 1.75),
    ("(select median(a) from (select 1 as a union all select 3) x)", 2),
    ("(select count(*) from ((select 1 union select 2) minus select 2) x)", 1),
]


def test_functions_answer_as_redshift_does(lab_redshift: Any) -> None:
    connection = lab_redshift.connect()
    found = rows(connection, "SELECT " + ", ".join(f"{sql} AS c{i}" for i, (sql, _) in enumerate(ANSWERS)))[0]
    assert dict(zip([sql for sql, _ in ANSWERS], found, strict=True)) == dict(ANSWERS)
    now, moment = rows(connection, "SELECT getdate(), sysdate")[0]
    assert now.microsecond == 0
    assert abs((moment - now).total_seconds()) < 2
    connection.close()


REFUSED = {
    "explode": "42601",
    "select generate_series(1, 2)": "42883",
    "select string_agg(a, ',') from t": "42883",
    "select date(timestamp) from t": "42601",
    "select a from t where timestamp >= '2025-01-01'": "42601",
    "select tag from t": "42601",
    "select distinct on (a) a from t": "42601",
    "select * from (values (1)) v(a)": "42601",
    "select a ->> 'b' from t": "42601",
    "select a from t for update": "0A000",
    "select a is not distinct from b from t": "42601",
    "select count(*) filter (where a > 1) from t": "42601",
    "select array[1]": "42601",
    "select * from pg_stat_activity": "42P01",
    "select * from rs.change": "3F000",
    "select a into b from t": "0A000",
    "select datediff(fortnight, a, b) from t": "22023",
    "insert into t values (1) returning a": "42601",
    "insert into t values (1) on conflict do nothing": "42601",
    "create index i on t (a)": "0A000",
    "create materialized view v as select 1": "0A000",
    "create table t (a text[])": "42601",
    "create table t (a uuid)": "42704",
    "create table t (a int check (a > 1))": "42601",
    "create table t (a int) diststyle key": "42601",
    "create table t (a int) distkey (b)": "42703",
    "create table t (a int encode brotli)": "42601",
    "create table t (timestamp date)": "42601",
    "create table t (a varchar(70000))": "22023",
    "create table t (a int) inherits (b)": "42601",
    "alter table t alter column a type int": "0A000",
    "alter table t alter interleaved sortkey (a)": "42601",
    "set work_mem to '1GB'": "42704",
    "vacuum reindex t to 75 percent": "0A000",
    "vacuum recluster t to 75 percent": "0A000",
    "vacuum reindex t boost": "0A000",
    "vacuum to 75 percent": "42601",
    "vacuum full t to 200 percent": "22023",
    "vacuum analyze t": "42601",
    "savepoint a": "42601",
    "copy t from stdin": "42601",
    "listen x": "42601",
    "do $$ begin end $$": "42601",
    "grant all on function f() to x": "0A000",
    "create user u password 'weak'": "22023",
    "merge into a using b on a.x = b.x when matched then delete": "0A000",
}


@pytest.fixture(scope="module")
def one_connection(_redshift: LabRedshift) -> Iterator[Any]:
    connection = _redshift.connect()
    yield connection
    connection.close()


@pytest.mark.parametrize("sql", REFUSED)
def test_what_redshift_would_not_take_is_refused(one_connection: Any, sql: str) -> None:
    assert refusal(one_connection, sql)[0] == REFUSED[sql]
    assert value(one_connection, "SELECT 1") == 1


def test_names_fold_to_lower_case_even_when_quoted(redshift: Any) -> None:
    run(
        redshift,
        'CREATE TABLE "Mixed" ("Day" date, "timestamp" timestamp)',
        'INSERT INTO mixed ("DAY") VALUES (current_date)',
        f'INSERT INTO "{redshift.schema}"."mixed" ("DAY") SELECT current_date WHERE false',
    )
    assert value(redshift, 'SELECT count(*) FROM MIXED WHERE "dAy" = current_date') == 1
    with redshift.cursor() as cursor:
        cursor.execute('SELECT "Day" AS "Today" FROM mixed')
        assert cursor.description[0][0] == "today"


def test_keys_are_told_and_not_enforced(redshift: Any) -> None:
    run(redshift, "CREATE TABLE p (id int PRIMARY KEY, n varchar(5) UNIQUE)",
        "CREATE TABLE c (id int REFERENCES p (id), x int, PRIMARY KEY (id, x))",
        "INSERT INTO p VALUES (1, 'a'), (1, 'a')", "INSERT INTO c VALUES (7, 1)")  # fmt: skip
    found = rows(
        redshift,
        "SELECT u.table_name, u.column_name FROM information_schema.table_constraints t"
        " JOIN information_schema.key_column_usage u ON u.constraint_name = t.constraint_name"
        " AND u.table_name = t.table_name"
        " WHERE t.constraint_type = 'PRIMARY KEY' AND t.table_schema = %s ORDER BY 1, ordinal_position",
        redshift.schema,
    )  # fmt: skip
    assert found == [("c", "id"), ("c", "x"), ("p", "id")]
    code, message = refusal(redshift, "INSERT INTO p VALUES (null, 'a')")
    assert (code, "Cannot insert a NULL value into column id" in message) == ("XX000", True)


def test_varchar_counts_bytes(redshift: Any) -> None:
    run(redshift, "CREATE TABLE t (a varchar(5), b text)", "INSERT INTO t VALUES ('abcde', 'x'), ('äb', 'y')")
    assert refusal(redshift, "INSERT INTO t VALUES ('äöü', 'x')") == (
        "22001", "value too long for type character varying(5)")  # fmt: skip
    run(redshift, "ALTER TABLE t ALTER COLUMN a TYPE varchar(6)", "INSERT INTO t VALUES ('äöü', 'x')")
    assert refusal(redshift, "INSERT INTO t VALUES ('äöüx', 'x')")[0] == "22001"
    assert refusal(redshift, f"INSERT INTO t VALUES ('a', '{'x' * 257}')")[0] == "22001"


def test_columns_have_redshifts_types_keys_and_encodings(redshift: Any) -> None:
    run(redshift, """CREATE TABLE t (
            id bigint IDENTITY(1, 1), day date NOT NULL ENCODE az64, n varchar(max) ENCODE zstd, amount numeric,
            price decimal(12, 4) DEFAULT 0, is_won bool, extra super, "timestamp" timestamp DEFAULT sysdate
        ) DISTSTYLE KEY DISTKEY (id) COMPOUND SORTKEY (day, id)""")  # fmt: skip
    found = rows(redshift, "SELECT \"column\", type, rtrim(encoding), distkey, sortkey, \"notnull\" FROM pg_table_def"
                           " WHERE tablename = 't' AND schemaname = current_schema()")  # fmt: skip
    assert found == [
        ("id", "bigint", "none", True, 2, True),
        ("day", "date", "az64", False, 1, True),
        ("n", "character varying(65535)", "zstd", False, 0, False),
        ("amount", "numeric(18,0)", "az64", False, 0, False),
        ("price", "numeric(12,4)", "az64", False, 0, False),
        ("is_won", "boolean", "none", False, 0, False),
        ("extra", "super", "zstd", False, 0, False),
        ("timestamp", "timestamp without time zone", "az64", False, 0, False),
    ]
    assert refusal(redshift, "INSERT INTO t (id, day) VALUES (1, current_date)")[0] == "0A000"
    run(redshift, "INSERT INTO t (day) VALUES (current_date)", "CREATE TABLE u (LIKE t)")
    assert rows(redshift, "SELECT \"column\", sortkey FROM pg_table_def WHERE tablename = 'u' AND sortkey"
                          " <> 0 ORDER BY 2") == [
        ("day", 1), ("id", 2)]  # fmt: skip
    run(redshift, "ALTER TABLE t ALTER SORTKEY (id), ALTER DISTSTYLE EVEN", "ALTER TABLE t RENAME COLUMN id TO key")
    assert rows(redshift, 'SELECT diststyle, sortkey1 FROM svv_table_info WHERE schema = current_schema()'
                          ' AND "table" = \'t\'') == [
        ("EVEN", "key")]  # fmt: skip


def test_a_view_over_day_tables_reads_and_takes_nothing(redshift: Any) -> None:
    run(
        redshift,
        "CREATE TABLE d1 (a int)",
        "CREATE TABLE d2 (LIKE d1)",
        "INSERT INTO d1 VALUES (1)",
        "INSERT INTO d2 VALUES (2)",
        "CREATE VIEW days AS SELECT a FROM d1 UNION ALL SELECT a FROM d2",
        "CREATE VIEW one AS SELECT * FROM d1",
    )
    assert value(redshift, "SELECT sum(a) FROM days") == 3
    assert refusal(redshift, "INSERT INTO one VALUES (3)")[0] == "0A000"
    assert "other objects depend on it" in refusal(redshift, "DROP TABLE d2")[1]
    run(redshift, "CREATE OR REPLACE VIEW days AS SELECT a FROM d1", "DROP TABLE d2", "DROP TABLE IF EXISTS d2")
    assert value(redshift, "SELECT sum(a) FROM days") == 1
    assert refusal(redshift, "DROP TABLE d2") == ("42P01", 'Table "d2" does not exist')


def test_a_statement_is_planned_without_a_connection() -> None:
    made = plan("DELETE logs WHERE day < '2025-01-01'")
    assert (made.kind, made.sql, made.change.table if made.change else None) == (
        "DELETE", "DELETE FROM logs WHERE day < '2025-01-01'", '"logs"')  # fmt: skip
    assert plan("select 1 from a join b.c on a.x = c.x where a.day >= 1").facts.tables == ["a", "b.c"]
    with pytest.raises(BackendError, match='near "x"'):
        plan("insert x")
