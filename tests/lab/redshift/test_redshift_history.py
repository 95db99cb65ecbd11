"""What the system views remember: of failures and of what was rolled back too, without secrets, to each his own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from dbops_lab.testing import LabRedshift
from redshift_client import named, refusal, rows, run, value

MINE = "session_id = pg_backend_pid()"


def test_statements_that_ran_failed_or_were_rolled_back(redshift: Any) -> None:
    run(redshift, "CREATE TABLE t (a int)", "SET query_group TO 'marked'")
    run(redshift, "BEGIN", "INSERT INTO t VALUES (1)", "ROLLBACK")
    refusal(redshift, "SELECT nothing FROM t")
    refusal(redshift, "SELECT 1 / count(*) FROM t")
    run(redshift, "UPDATE t SET a = 2")
    found = named(
        redshift,
        "SELECT querytxt, aborted, xid FROM stl_query"
        " WHERE label = 'marked' AND pid = pg_backend_pid() ORDER BY query LIMIT 3",
    )
    assert [(row["querytxt"], row["aborted"]) for row in found] == [
        ("INSERT INTO t VALUES (1)", 0),
        ("SELECT 1 / count(*) FROM t", 1),
        ("UPDATE t SET a = 2", 0),
    ]
    utility = "SELECT rtrim(text) FROM stl_utilitytext WHERE xid = %s ORDER BY starttime"
    assert rows(redshift, utility, found[0]["xid"]) == [("BEGIN",), ("ROLLBACK",)]
    status = named(
        redshift,
        "SELECT query_type, status, error_message, returned_rows FROM sys_query_history"
        f" WHERE query_label = 'marked' AND {MINE} ORDER BY query_id LIMIT 7",
    )
    assert [tuple(row.values()) for row in status][2:] == [
        ("INSERT", "success", None, 1),
        ("UTILITY", "success", None, 0),
        ("SELECT", "failed", 'column "nothing" does not exist', 0),
        ("SELECT", "failed", "division by zero", 0),
        ("UPDATE", "success", None, 0),
    ]


def test_a_transaction_sees_what_is_remembered_after_its_snapshot(lab_redshift: LabRedshift, redshift: Any) -> None:
    run(redshift, "CREATE TABLE t (a int)", "BEGIN")
    assert value(redshift, "SELECT count(*) FROM t") == 0
    other = lab_redshift.connect()
    run(other, "SELECT 1 AS seen_later")
    other.close()
    run(redshift, "INSERT INTO t VALUES (1)")
    for text in ("SELECT 1 AS seen_later", "INSERT INTO t VALUES (1)"):
        assert value(redshift, "SELECT count(*) FROM stl_query WHERE querytxt = %s", text) > 0
    last = "SELECT querytxt FROM stl_query WHERE query = pg_last_query_id()"
    assert value(redshift, last).startswith("SELECT count(*) FROM stl_query")
    run(redshift, "ROLLBACK")


def test_users_see_their_own_statements_and_superusers_all(lab_redshift: LabRedshift, redshift: Any) -> None:
    run(redshift, "CREATE USER looker_readonly PASSWORD 'Looker123'")
    try:
        looker = lab_redshift.connect("looker_readonly", "Looker123")
        run(looker, "SELECT 'theirs' AS x")
        run(redshift, "SELECT 'mine' AS x")
        whose = (
            "SELECT DISTINCT u.usename FROM stl_query q JOIN pg_user u ON q.userid = u.usesysid"
            " WHERE rtrim(querytxt) IN ('SELECT ''theirs'' AS x', 'SELECT ''mine'' AS x')"
        )
        assert rows(looker, whose) == [("looker_readonly",)]
        assert len(rows(redshift, whose)) == 2
        problem = "permission denied for relation svv_table_info"
        assert refusal(looker, "SELECT * FROM svv_table_info") == ("42501", problem)
        run(redshift, "GRANT SELECT ON svv_table_info TO looker_readonly")
        rows(looker, "SELECT * FROM svv_table_info")
        looker.close()
    finally:
        run(redshift, "REVOKE ALL ON svv_table_info FROM looker_readonly", "DROP USER looker_readonly")


def test_secrets_are_not_remembered(redshift: Any) -> None:
    for secret in (
        "CREDENTIALS 'aws_access_key_id=AKIA;aws_secret_access_key=geheim'",
        "ACCESS_KEY_ID 'AKIA' SECRET_ACCESS_KEY 'geh''eim'",
    ):
        refusal(redshift, f"COPY nowhere FROM 's3://bedrock-backups/x' {secret} CSV")
    run(redshift, "CREATE USER short_lived PASSWORD 'Geheim123'", "DROP USER short_lived")
    texts = [text for (text,) in rows(redshift, f"SELECT query_text FROM sys_query_history WHERE {MINE}")]
    assert not [text for text in texts if "geh" in text.lower()]
    assert [text for text in texts if "PASSWORD '***'" in text]


def test_serverless_has_only_the_sys_views(lab_redshift: LabRedshift, redshift: Any) -> None:
    run(redshift, "CREATE TABLE t (a int) SORTKEY (a)", "INSERT INTO t VALUES (1)", "VACUUM t", "ANALYZE t")
    empty = ("stl_query", "stl_wlm_query", "stl_vacuum", "stl_analyze", "stl_scan", "stv_recents", "stv_slices",
             "stv_wlm_service_class_config", "svl_query_metrics_summary", "svv_vacuum_progress")  # fmt: skip
    kept = ("sys_query_history", "sys_vacuum_history", "sys_analyze_history", "svv_table_info", "svv_transactions")
    lab_redshift.standin.serverless()
    assert {view: value(redshift, f"SELECT count(*) FROM {view}") for view in empty} == dict.fromkeys(empty, 0)
    assert all(value(redshift, f"SELECT count(*) FROM {view}") > 0 for view in kept)
    assert value(redshift, "SELECT sum(charged_seconds) > 0 FROM sys_serverless_usage")
    lab_redshift.standin.serverless(False)
    assert value(redshift, "SELECT count(*) FROM stl_vacuum") > 0


def test_a_test_can_put_history_there(lab_redshift: LabRedshift, redshift: Any) -> None:
    began = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=3)
    slow = {"querytxt": "SELECT slow", "started": began, "ended": began + timedelta(seconds=90), "queued": 30}
    lab_redshift.standin.plant("query", slow | {"cpu": 12.5, "memory": 5 << 20, "label": "planted", "slots": 2})
    load = {"status": "aborted", "table_name": "planted", "started": began, "ended": began, "errors": 3}
    lab_redshift.standin.plant("load", load)
    (found,) = rows(
        redshift,
        "SELECT w.total_queue_time, w.total_exec_time, w.slot_count, w.est_peak_mem, m.query_cpu_time"
        " FROM stl_wlm_query w JOIN stl_query q USING (query) JOIN svl_query_metrics_summary m USING (query)"
        " WHERE q.label = 'planted'",
    )
    assert found == (30_000_000, 60_000_000, 2, 5 << 20, 13)
    errors = "SELECT error_count FROM sys_load_history WHERE status = 'aborted' AND table_name = 'planted'"
    assert value(redshift, errors) == 3


def test_principals_and_what_they_may(redshift: Any) -> None:
    schema = redshift.schema
    run(
        redshift,
        "CREATE TABLE t (a int)",
        "CREATE GROUP readers",
        "CREATE ROLE cleaners",
        "CREATE USER eva PASSWORD 'Eva12345' IN GROUP readers",
        f"GRANT USAGE ON SCHEMA {schema} TO GROUP readers",
        "GRANT SELECT ON t TO GROUP readers",
        "GRANT DELETE, DROP ON TABLE t TO ROLE cleaners",
        "GRANT ROLE cleaners TO eva",
        "GRANT INSERT ON t TO eva WITH GRANT OPTION",
        "GRANT TRUNCATE TABLE, VACUUM TO ROLE cleaners",
    )
    try:
        granted = rows(
            redshift,
            "SELECT identity_name, identity_type, privilege_type, admin_option FROM svv_relation_privileges"
            " WHERE namespace_name = %s AND relation_name = 't' ORDER BY 1, 3",
            schema,
        )
        assert granted == [
            ("cleaners", "role", "DELETE", False),
            ("cleaners", "role", "DROP", False),
            ("eva", "user", "INSERT", True),
            ("readers", "group", "SELECT", False),
        ]
        roles = "SELECT user_name, role_name FROM svv_user_grants WHERE user_name = 'eva'"
        assert rows(redshift, roles) == [("eva", "cleaners")]
        system = "SELECT system_privilege FROM svv_system_privileges WHERE identity_name = 'cleaners' ORDER BY 1"
        assert rows(redshift, system) == [("TRUNCATE TABLE",), ("VACUUM",)]
        assert rows(redshift, "SELECT usesuper, usecreatedb FROM pg_user WHERE usename = 'eva'") == [(False, False)]
        members = (
            "SELECT u.usename FROM pg_user u JOIN pg_group g ON u.usesysid = ANY (g.grolist) WHERE groname = 'readers'"
        )
        assert rows(redshift, members) == [("eva",)]
        assert refusal(redshift, "DROP USER eva")[0] == "55006"
    finally:
        run(redshift, "DROP TABLE t", f"REVOKE ALL ON SCHEMA {schema} FROM GROUP readers", "DROP USER eva")
        run(redshift, "DROP GROUP readers", "DROP ROLE cleaners")
