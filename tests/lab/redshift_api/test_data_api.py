"""Sessions over the driver and over the Data API: the same answers, the same errors, the same transactions."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError
from dbops.redshift.data_api import DataApiSession
from dbops.redshift.session import (
    ConnectorSession,
    RedshiftUnreachable,
    SerializationConflict,
    StatementCancelled,
    StatementRefused,
    open_session,
)
from dbops_lab.testing import LabRedshift, LabRedshiftApi

AT = datetime(2026, 11, 24, 6, 30, 0, 125000, tzinfo=UTC).replace(tzinfo=None)  # as a column of type timestamp has it


def in_transaction(session: Any, *statements: str, pause: float = 0.0) -> None:
    with session.transaction():
        for statement in statements:
            session.run(statement)
            time.sleep(pause)


def test_the_connection_chooses_the_kind_of_session(lab_redshift: LabRedshift, data_api_info: ConnectionInfo) -> None:
    with open_session(lab_redshift.info()) as driver, open_session(data_api_info) as api:
        assert (type(driver), type(api)) == (ConnectorSession, DataApiSession)


def test_values_have_the_same_types_over_both(session: Any) -> None:
    session.run(
        "create table kinds (a bigint, b numeric(12, 2), c varchar(20), d date, e timestamp, f timestamptz, g boolean, "
        "h float8, i bigint)"
    )
    session.run(
        "insert into kinds values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        -9007199254740993, Decimal("-12.50"), "it's 50%", AT.date(), AT, AT.replace(tzinfo=UTC), True, 0.25, None,
    )  # fmt: skip
    (row,) = session.rows("select * from kinds")
    expected = [
        -9007199254740993,
        Decimal("-12.50"),
        "it's 50%",
        AT.date(),
        AT,
        AT.replace(tzinfo=UTC),
        True,
        0.25,
        None,
    ]
    assert list(row) == expected
    assert [type(value) for value in row] == [type(value) for value in expected]


def test_values_are_bound_and_not_read_as_sql(session: Any) -> None:
    session.run("create table texts (t varchar(100))")
    for text in ("'; drop table texts; --", "%s", ":p1", "", "ü", 'a "b"'):
        assert session.run("insert into texts values (%s)", text) == 1
    found = sorted(text for (text,) in session.rows("select t from texts where t <> %s", "none"))
    assert found == sorted(["'; drop table texts; --", "%s", ":p1", "", "ü", 'a "b"'])
    assert session.rows("select t from texts where t = %s and 'x%%' <> %s", "%s", "y") == [["%s"]]
    assert list(session.rows("select 'a%', 10 % 3, '%s'")[0]) == ["a%", 1, "%s"]


def test_the_number_of_changed_rows_is_told(session: Any) -> None:
    session.run("create table counted (n int)")
    assert session.run("insert into counted select 1 union all select 2 union all select 3") == 3
    assert session.run("delete from counted where n > %s", 1) == 2


def test_more_rows_than_a_page_come_whole_and_in_order(session: Any) -> None:
    session.run("create table many (n int)")
    session.run("insert into many select row_number() over () from svv_columns limit 250")
    found = [n for (n,) in session.rows("select n from many order by n")]
    assert found == list(range(1, 251))


def test_a_transaction_is_committed_whole_or_not_at_all(session: Any) -> None:
    session.run("create table money (n int)")
    with session.transaction():
        session.run("insert into money values (1)")
        assert session.rows("select count(*) from money") in ([[1]], ([1],))
    for second in ("insert into nowhere values (3)", "selekt"):
        with pytest.raises(StatementRefused):
            in_transaction(session, "insert into money values (2)", second)
    assert [n for (n,) in session.rows("select n from money")] == [1]


def test_settings_of_a_session_last_from_statement_to_statement(session: Any) -> None:
    assert [list(row) for row in session.rows("show query_group")] == [["dbops"]], "statements of ours are known by it"
    session.run("set query_group to 'another'")
    assert [list(row) for row in session.rows("show query_group")] == [["another"]]


@pytest.mark.parametrize(
    ("sql", "code"),
    [("select * from nowhere", "42P01"), ("select nothing from svv_tables", "42703"), ("selekt 1", "42601")],
)
def test_refusals_have_the_same_code(session: Any, sql: str, code: str) -> None:
    with pytest.raises(StatementRefused, match="connection dbops_redshift") as refused:
        session.rows(sql)
    assert refused.value.code == code


def test_a_table_named_like_the_conflict_is_no_conflict(session: Any) -> None:
    with pytest.raises(StatementRefused) as refused:
        session.rows("select * from public.events_1023")
    assert refused.value.code == "42P01"


def test_a_vacuum_runs_outside_of_a_transaction_only(session: Any) -> None:
    session.run("create table dusty (n int)")
    session.run("vacuum dusty")
    with pytest.raises(StatementRefused) as refused:
        in_transaction(session, "vacuum dusty")
    assert refused.value.code == "25001"


def test_a_conflict_of_transactions_is_told_apart(session: Any, lab_redshift: LabRedshift) -> None:
    session.run("create table contested (n int)")
    lab_redshift.standin.faults({"match": "delete from contested", "error": "1023"})
    with pytest.raises(SerializationConflict):
        session.run("delete from contested")
    assert session.run("delete from contested") == 0


def test_a_statement_that_runs_into_its_time_limit_is_told_apart(session: Any, lab_redshift: LabRedshift) -> None:
    lab_redshift.standin.faults({"match": "select 4711", "delay": 20})
    session.run("set statement_timeout to 300")
    started = time.monotonic()
    with pytest.raises(StatementCancelled):
        session.rows("select 4711")
    assert time.monotonic() - started < 10
    session.run("set statement_timeout to 0")


def test_the_connection_that_is_lost_is_told_apart(session: Any, lab_redshift: LabRedshift) -> None:
    lab_redshift.standin.faults({"match": "select 4712", "drop": "before"})
    with pytest.raises(RedshiftUnreachable):
        session.rows("select 4712")
    session.close()


# --- the Data API alone -----------------------------------------------------------------------------------


def test_a_request_whose_answer_is_lost_is_not_carried_out_twice(
    data_api_info: ConnectionInfo, lab_redshift_api: LabRedshiftApi, lab_redshift: LabRedshift
) -> None:
    with open_session(data_api_info) as session:
        session.run("create table if not exists public.once (n int)")
        session.run("truncate public.once")
        lab_redshift_api.s3.faults({"key": "RedshiftData.ExecuteStatement", "status": 500, "after": True})
        session.run("insert into public.once values (1)")
        assert [n for (n,) in session.rows("select n from public.once")] == [1]
        session.run("drop table public.once")


def test_a_statement_that_nobody_waits_for_any_more_is_cancelled(
    data_api_info: ConnectionInfo, lab_redshift: LabRedshift
) -> None:
    lab_redshift.standin.faults({"match": "select 4713", "delay": 30})
    with open_session(data_api_info) as session:
        session.run("set query_group to 'kept'")
        started = time.monotonic()
        previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        try:
            with pytest.raises(KeyboardInterrupt):
                session.rows("select 4713")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        for _ in range(100):  # the session takes the next one once the cancelled has ended
            with contextlib.suppress(RedshiftUnreachable):
                assert list(session.rows("show query_group")[0]) == ["kept"]
                break
            time.sleep(0.1)
        else:
            raise AssertionError("the statement was not cancelled")
        assert time.monotonic() - started < 10


def test_an_open_transaction_ends_with_its_session_and_the_error_says_so(data_api_info: ConnectionInfo) -> None:
    info = ConnectionInfo(
        data_api_info.conn_id,
        "redshift",
        schema=data_api_info.schema,
        extra={**data_api_info.extra, "session_seconds": 1},
    )
    with open_session(info) as session:
        session.run("create table if not exists public.brief (n int)")
        session.run("delete from public.brief")
        with pytest.raises(RedshiftUnreachable, match="not committed is undone"):
            in_transaction(
                session, "insert into public.brief values (1)", "insert into public.brief values (2)", pause=1.3
            )
        assert list(session.rows("select count(*) from public.brief")[0]) == [0]
        session.run("drop table public.brief")


def test_a_serverless_workgroup_is_reached_by_its_name(
    data_api_info: ConnectionInfo, lab_redshift_api: LabRedshiftApi
) -> None:
    extra = {name: value for name, value in data_api_info.extra.items() if name != "cluster_identifier"}
    extra["workgroup_name"] = lab_redshift_api.workgroup
    with open_session(
        ConnectionInfo("dbops_redshift", "redshift", schema=data_api_info.schema, extra=extra)
    ) as session:
        assert list(session.rows("select 1")[0]) == [1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cluster_identifier": None}, "needs one of cluster_identifier and workgroup_name"),
        ({"workgroup_name": "bedrock"}, "needs one of cluster_identifier and workgroup_name"),
        ({"cluster_identifier": "elsewhere"}, "elsewhere"),
        ({"secret_arn": "redshift/nothing"}, "secret"),
        ({"ssl": True}, "ssl is not understood"),
    ],
)
def test_a_wrong_extra_is_refused_in_words(data_api_info: ConnectionInfo, change: dict[str, Any], said: str) -> None:
    info = ConnectionInfo(
        "dbops_redshift", "redshift", schema=data_api_info.schema, extra={**data_api_info.extra, **change}
    )
    with pytest.raises(Exception, match=said) as refused, open_session(info) as session:
        session.rows("select 1")
    assert "FinalError" in [kind.__name__ for kind in type(refused.value).__mro__]


def test_nothing_secret_is_in_the_repr(data_api_info: ConnectionInfo) -> None:
    assert "lab-secret" not in repr(open_session(data_api_info)) + repr(data_api_info)


def test_two_threads_have_a_session_each(data_api_info: ConnectionInfo) -> None:
    found: list[Any] = []

    def ask(number: int) -> None:
        with open_session(data_api_info) as session:
            session.run(f"set query_group to 'g{number}'")
            found.append(next(iter(session.rows("show query_group")[0])))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["g0", "g1", "g2"]


def test_a_value_that_has_no_literal_is_refused(data_api_info: ConnectionInfo) -> None:
    with open_session(data_api_info) as session:
        for sql, values in (("select %s", [b"x"]), ("select %s", [1, 2]), ("select %s, %s", [1])):
            with pytest.raises(ConfigurationError):
                session.rows(sql, *values)
        assert [type(value) for value in session.rows("select %s", date(2026, 1, 1))[0]] == [date]
