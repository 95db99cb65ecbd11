"""The wire: the real driver and libpq, both protocols, transactions, cancelling, what is lost and what stays."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
import redshift_connector
from dbops_lab.testing import LabRedshift
from redshift_client import error, refusal, rows, run, value
from redshift_connector import InterfaceError, ProgrammingError


@pytest.fixture
def libpq(lab_redshift: LabRedshift) -> Iterator[Any]:
    """A client that speaks the simple protocol."""
    connection = psycopg2.connect(
        host=lab_redshift.host, port=lab_redshift.port, dbname=lab_redshift.database, user=lab_redshift.user,
        password=lab_redshift.password,
    )  # fmt: skip
    connection.autocommit = True
    yield connection
    connection.close()


def ask(connection: Any, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else cursor.statusmessage


def test_parameters_and_prepared_statements(redshift: Any) -> None:
    run(redshift, "CREATE TABLE t (id int, n varchar(20), day date, x super)")
    with redshift.cursor() as cursor:
        cursor.executemany("INSERT INTO t (id, n) VALUES (%s, %s)", [(i, f"it's {i}") for i in range(20)])
        for number in (3, 4, 5):
            cursor.execute("SELECT n FROM t WHERE id = %s", (number,))
            assert cursor.fetchone() == [f"it's {number}"]
        cursor.execute("INSERT INTO t SELECT id, n, current_date, json_parse('{\"a\": 1}') FROM t")
        assert cursor.rowcount == 20
        cursor.execute("SELECT x FROM t WHERE x IS NOT NULL LIMIT 1")
        assert cursor.description[0][1] == 4000  # SUPER
        cursor.execute("DELETE FROM t WHERE id < %s", (10,))
        assert cursor.rowcount == 20
        cursor.execute("ALTER TABLE t ADD COLUMN more int")
        cursor.execute("SELECT * FROM t LIMIT 1")
        assert len(cursor.fetchone()) == 5
        cursor.execute("/* a comment */ SELECT 1; -- and one more")
        assert cursor.fetchall() == ([1],)


def test_the_driver_may_send_one_statement_at_a_time(redshift: Any) -> None:
    code, message = refusal(redshift, "SELECT 1; SELECT 2")
    assert (code, message) == ("42601", "cannot insert multiple commands into a prepared statement")


def test_many_rows_come_whole(redshift: Any, libpq: Any) -> None:
    run(redshift, "CREATE TABLE n (i int)", "INSERT INTO n VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)")
    many = f"SELECT a.i + b.i * 10 + c.i * 100 + d.i * 1000 AS i FROM {', '.join('n ' + x for x in 'abcd')} ORDER BY 1"
    assert [row[0] for row in rows(redshift, many)] == list(range(10_000))
    ask(libpq, f"SET search_path TO {redshift.schema}")
    assert [row[0] for row in ask(libpq, many)] == list(range(10_000))


def test_a_string_of_statements_is_one_transaction(libpq: Any, redshift: Any) -> None:
    schema = redshift.schema
    table = f"{schema}.t"
    ask(
        libpq,
        f"CREATE TABLE {table} (a int) SORTKEY (a); INSERT INTO {table} VALUES (1); INSERT INTO {table} VALUES (2)",
    )
    with pytest.raises(psycopg2.Error, match="column"):
        ask(libpq, f"INSERT INTO {table} VALUES (3); DELETE FROM {table} WHERE b = 1; INSERT INTO {table} VALUES (4)")
    assert ask(libpq, f"SELECT ';' AS x, count(*) FROM {table}; -- the end") == [(";", 2)]
    ask(libpq, f"BEGIN; INSERT INTO {table} VALUES (3); COMMIT; INSERT INTO {table} VALUES (4); SELECT 1")
    ask(libpq, f"INSERT INTO {table} VALUES (5); BEGIN; INSERT INTO {table} VALUES (6)")
    ask(libpq, "ROLLBACK")
    assert ask(libpq, f"SELECT count(*) FROM {table}") == [(4,)]
    with pytest.raises(psycopg2.Error, match="multi-command string"):
        ask(libpq, f"SELECT 1; VACUUM {table}")
    assert ask(libpq, f"VACUUM {table}") == "VACUUM"


def test_errors_leave_the_transaction_as_the_real_one_does(redshift: Any) -> None:
    run(redshift, "CREATE TABLE t (a int)", "BEGIN", "INSERT INTO t VALUES (1)")
    assert refusal(redshift, "SELECT generate_series(1, 2)")[0] == "42883"  # refused by the stand-in
    assert refusal(redshift, "SELECT 1")[0] == "25P02"
    assert refusal(redshift, "VACUUM t")[0] == "25001"
    run(redshift, "ROLLBACK", "BEGIN", "INSERT INTO t VALUES (1)")
    assert refusal(redshift, "SELECT nothing FROM t")[0] == "42703"  # refused by PostgreSQL
    run(redshift, "ROLLBACK")
    assert value(redshift, "SELECT count(*) FROM t") == 0


def test_a_transaction_reads_its_snapshot(lab_redshift: LabRedshift, redshift: Any) -> None:
    run(redshift, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
    other = lab_redshift.connect()
    run(redshift, "BEGIN")
    assert value(redshift, "SELECT count(*) FROM t") == 1
    run(other, f"INSERT INTO {redshift.schema}.t VALUES (2)", f"DELETE FROM {redshift.schema}.t WHERE a = 1")
    assert value(redshift, "SELECT count(*) FROM t") == 1
    assert "conflict with concurrent transaction" in refusal(redshift, "DELETE FROM t")[1]
    run(redshift, "ROLLBACK")
    other.close()


def test_serializable_isolation_finds_the_cycle(lab_redshift: LabRedshift, redshift: Any) -> None:
    run(redshift, "CREATE TABLE a (x int)", "CREATE TABLE b (x int)",
        f"ALTER DATABASE {lab_redshift.database} ISOLATION LEVEL SERIALIZABLE")  # fmt: skip
    one, two = lab_redshift.connect(autocommit=False), lab_redshift.connect(autocommit=False)
    run(redshift, f"ALTER DATABASE {lab_redshift.database} ISOLATION LEVEL SNAPSHOT")
    for connection, source, target in ((one, "a", "b"), (two, "b", "a")):
        run(connection, f"INSERT INTO {redshift.schema}.{target} SELECT count(*) FROM {redshift.schema}.{source}")
    one.commit()
    with pytest.raises(ProgrammingError, match=r"1023.*Serializable isolation violation on table"):
        two.commit()
    one.close()
    two.close()


@pytest.mark.parametrize("sql", ["SELECT count(*) FROM t", "VACUUM t", "ANALYZE t"])
def test_a_statement_can_be_cancelled(lab_redshift: LabRedshift, redshift: Any, libpq: Any, sql: str) -> None:
    run(redshift, "CREATE TABLE t (a int) SORTKEY (a)", "INSERT INTO t VALUES (2)")
    ask(libpq, f"SET search_path TO {redshift.schema}")
    lab_redshift.standin.faults({"match": re.escape(sql), "delay": 30})
    canceller = threading.Timer(0.2, libpq.cancel)
    canceller.start()
    began = time.monotonic()
    with pytest.raises(psycopg2.errors.QueryCanceled, match=r"Query \(\d+\) cancelled on user's request"):
        ask(libpq, sql)
    assert time.monotonic() - began < 10
    assert ask(libpq, "SELECT 1") == [(1,)]


def test_another_session_can_cancel_and_end_one(lab_redshift: LabRedshift, redshift: Any, libpq: Any) -> None:
    lab_redshift.standin.faults({"match": "slow_one", "delay": 30, "times": 2})
    pid = ask(libpq, "SELECT pg_backend_pid()")[0][0]
    outcome: list[Exception] = []

    def wait() -> None:
        try:
            ask(libpq, "SELECT 1 AS slow_one")
        except psycopg2.Error as problem:
            outcome.append(problem)

    for how in (f"CANCEL {pid}", f"SELECT pg_terminate_backend({pid})"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not rows(redshift, "SELECT 1 FROM stv_recents WHERE status = 'Running' AND pid = %s", pid):
            time.sleep(0.01)
        run(redshift, how)
        waiting.join()
    assert [type(problem) for problem in outcome] == [psycopg2.errors.QueryCanceled, psycopg2.OperationalError]
    assert rows(redshift, "SELECT process FROM stv_sessions WHERE process = %s", pid) == []


def test_who_may_not_connect_is_told_so(lab_redshift: LabRedshift) -> None:
    with pytest.raises(InterfaceError, match="password authentication failed"):
        lab_redshift.connect(password="Guess123")
    with pytest.raises(ProgrammingError, match=r'3D000.*database "ledger" does not exist'):
        redshift_connector.connect(
            host=lab_redshift.host, port=lab_redshift.port, database="ledger", user="x", password="y", ssl=False
        )


def test_identity_of_the_server(redshift: Any) -> None:
    assert "Redshift 1.0" in value(redshift, "SELECT version()")
    assert value(redshift, "SHOW wlm_query_slot_count") == "1"
    run(redshift, "SET wlm_query_slot_count TO 3", "SET query_group TO 'night'", "SET timezone TO 'Europe/Dublin'")
    assert value(redshift, "SHOW wlm_query_slot_count") == "3"
    run(redshift, "RESET wlm_query_slot_count")
    assert value(redshift, "SHOW wlm_query_slot_count") == "1"
    assert error(lambda: rows(redshift, "SHOW work_mem"))["C"] == "42704"


def test_cursors(redshift: Any) -> None:
    run(redshift, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1), (2), (3)", "BEGIN",
        "DECLARE c CURSOR FOR SELECT a FROM t ORDER BY nvl(a, 0)")  # fmt: skip
    assert rows(redshift, "FETCH FORWARD 2 FROM c") == [(1,), (2,)]
    assert rows(redshift, "FETCH ALL FROM c") == [(3,)]
    run(redshift, "CLOSE c", "END")
