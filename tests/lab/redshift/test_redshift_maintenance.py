"""VACUUM and ANALYZE: which form does what, what is skipped, and what the history says of it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from dbops_lab.testing import LabRedshift
from redshift_client import lost, named, refusal, rows, run, table_info, value

ROWS = "INSERT INTO {0} SELECT 1, '2026-01-01'::date UNION ALL SELECT 2, '2026-01-02' UNION ALL SELECT 3, '2026-01-03'"


def fill(connection: Any, table: str = "t", keys: str = "SORTKEY (day)", times: int = 2) -> None:
    """A table whose second half is unsorted."""
    run(connection, f"CREATE TABLE {table} (id int, day date) {keys}", *[ROWS.format(table)] * times)


def history(connection: Any, table: str = "t") -> list[str]:
    return [
        row["status"]
        for row in named(
            connection,
            "SELECT v.status FROM stl_vacuum v JOIN svv_table_info t USING (table_id)"
            ' WHERE t.schema = %s AND t."table" = %s ORDER BY v.eventtime', connection.schema, table,
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "unsorted", "total", "status"),
    [
        ("", 0, 4, ["Started", "Finished"]),
        ("FULL", 0, 4, ["Started", "Finished"]),
        ("SORT ONLY", 0, 6, ["Started Sort Only", "Finished"]),
        ("DELETE ONLY", 50, 4, ["Started Delete Only", "Finished"]),
        ("RECLUSTER", 0, 6, ["Started Sort Only", "Finished"]),
    ],
)
def test_each_form_does_its_part(redshift: Any, form: str, unsorted: int, total: int, status: list[str]) -> None:
    fill(redshift)
    run(redshift, "DELETE FROM t WHERE id = 1", f"VACUUM {form} t")
    found = table_info(redshift, "t")
    assert (found["unsorted"], found["tbl_rows"]) == (unsorted, total)
    assert history(redshift) == status


def test_a_threshold_decides_whether_it_is_worth_it(redshift: Any) -> None:
    fill(redshift, times=1)
    for _ in range(5):
        run(redshift, "INSERT INTO t SELECT * FROM t")
    run(redshift, "VACUUM t TO 100 PERCENT", "INSERT INTO t VALUES (1, '2026-01-01')", "DELETE FROM t WHERE id = 7")
    run(redshift, "VACUUM t", "VACUUM SORT ONLY t", "VACUUM SORT ONLY t TO 100 PERCENT", "VACUUM SORT ONLY t",
        "VACUUM DELETE ONLY t", "VACUUM t BOOST")  # fmt: skip
    assert history(redshift)[2:] == [
        "Skipped(sorted>=95%)", "Skipped (sort only, sorted>=95", "Started Sort Only", "Finished",
        "Skipped (sort only)", "Skipped (delete only)", "Skipped",
    ]  # fmt: skip


def test_interleaved_keys_are_reindexed_and_not_reclustered(redshift: Any) -> None:
    fill(redshift, keys="INTERLEAVED SORTKEY (day, id)")
    assert table_info(redshift, "t")["sortkey1"] == "INTERLEAVED(day)"
    fill(redshift, "c")
    fill(redshift, "everywhere", keys="DISTSTYLE ALL SORTKEY (day)")
    skew = (
        "SELECT interleaved_skew, last_reindex FROM svv_interleaved_columns WHERE tbl = 't'::regclass::int ORDER BY col"
    )
    assert rows(redshift, skew) == [(3, None)] * 2
    for table in ("t", "everywhere"):
        assert refusal(redshift, f"VACUUM RECLUSTER {table}")[0] == "0A000"
    assert refusal(redshift, "VACUUM REINDEX c")[0] == "0A000"
    run(redshift, "VACUUM REINDEX t")
    assert [(skew, done is not None) for skew, done in rows(redshift, skew)] == [(1, True)] * 2
    assert history(redshift) == ["Started Reindex", "Finished"]


def test_a_table_without_sort_key_has_nothing_to_sort(redshift: Any) -> None:
    fill(redshift, keys="SORTKEY AUTO")
    found = table_info(redshift, "t")
    assert (found["sortkey1"], found["unsorted"], found["vacuum_sort_benefit"]) == ("AUTO(SORTKEY)", None, None)
    run(redshift, "VACUUM t", "DELETE FROM t", "VACUUM t", "VACUUM t")
    assert history(redshift) == []  # no row of svv_table_info any more
    assert rows(redshift, "SELECT rtrim(status) FROM stl_vacuum WHERE table_id = 't'::regclass::int ORDER"
                          " BY eventtime") == [
        ("Skipped",), ("Started Delete Only (Sorted >=",), ("Finished",), ("Skipped (0 rows)",)]  # fmt: skip


def test_deleted_rows_stay_while_an_older_transaction_is_open(lab_redshift: LabRedshift, redshift: Any) -> None:
    fill(redshift)
    reader = lab_redshift.connect(autocommit=False)
    assert value(reader, f"SELECT count(*) FROM {redshift.schema}.t") == 6
    run(redshift, "DELETE FROM t", "VACUUM DELETE ONLY t")
    assert table_info(redshift, "t")["tbl_rows"] == 6
    open_ones = named(redshift, "SELECT txn_owner, relation FROM svv_transactions WHERE pid <> pg_backend_pid()"
                                " AND lockable_object_type = 'relation'")  # fmt: skip
    assert {"txn_owner": lab_redshift.user, "relation": table_id(redshift)} in open_ones
    (done,) = named(redshift, "SELECT reclaimable_rows, reclaimed_rows, status FROM sys_vacuum_history"
                              " WHERE table_id = %s",
                    table_id(redshift))  # fmt: skip
    assert done == {"reclaimable_rows": 6, "reclaimed_rows": 0, "status": "Complete"}
    reader.rollback()
    reader.close()
    run(redshift, "VACUUM DELETE ONLY t")
    assert table_info(redshift, "t") == {}


def table_id(connection: Any, table: str = "t") -> int:
    return int(value(connection, f"SELECT '{connection.schema}.{table}'::regclass::oid::int"))


def test_without_the_right_it_succeeds_and_does_nothing(lab_redshift: LabRedshift, redshift: Any) -> None:
    fill(redshift)
    run(redshift, "CREATE USER sweeper PASSWORD 'Sweeper123'", f"GRANT USAGE ON SCHEMA {redshift.schema} TO sweeper")
    try:
        sweeper = lab_redshift.connect("sweeper", "Sweeper123")
        run(sweeper, f"VACUUM {redshift.schema}.t", f"ANALYZE {redshift.schema}.t")
        assert "only table or database owner can vacuum it" in str(sweeper.notices)
        assert table_info(redshift, "t")["unsorted"] == 50
        assert history(redshift) == ["Skipped"]
        assert rows(redshift, "SELECT 1 FROM stl_analyze WHERE table_id = %s", table_id(redshift)) == []
        run(redshift, "CREATE ROLE keepers", "GRANT VACUUM, ANALYZE TO ROLE keepers", "GRANT ROLE keepers TO sweeper")
        run(sweeper, f"VACUUM {redshift.schema}.t", f"ANALYZE {redshift.schema}.t")
        found = table_info(redshift, "t")
        assert (found["unsorted"], found["stats_off"]) == (0, 0)
        sweeper.close()
    finally:
        run(
            redshift,
            f"REVOKE ALL ON SCHEMA {redshift.schema} FROM sweeper",
            "DROP USER sweeper",
            "DROP ROLE IF EXISTS keepers",
        )


def test_one_vacuum_at_a_time_and_its_progress(lab_redshift: LabRedshift, redshift: Any) -> None:
    fill(redshift)
    lab_redshift.standin.faults({"match": "vacuum", "delay": 1.5})
    other = lab_redshift.connect()
    running = threading.Thread(target=run, args=(other, f"VACUUM {redshift.schema}.t"))
    running.start()
    while not rows(redshift, "SELECT 1 FROM svv_vacuum_progress WHERE status = 'Vacuum t sort'"):
        time.sleep(0.02)
    assert refusal(redshift, "VACUUM t") == ("55000", "VACUUM is running")
    running.join()
    assert rows(redshift, "SELECT table_name, status FROM svv_vacuum_progress") == [("t", "Complete")]
    other.close()


def test_a_connection_lost_in_mid_vacuum_leaves_a_beginning_without_an_end(
    lab_redshift: LabRedshift, redshift: Any
) -> None:
    fill(redshift)
    lab_redshift.standin.faults({"match": "vacuum", "drop": "during"})
    other = lab_redshift.connect()
    lost(other, f"VACUUM {redshift.schema}.t")
    assert history(redshift) == ["Started"]
    assert value(redshift, "SELECT status FROM sys_vacuum_history WHERE table_id = %s", table_id(redshift)) == "Failed"
    run(redshift, "VACUUM t")
    assert history(redshift) == ["Started", "Started", "Finished"]


def test_analyze_takes_any_name(redshift: Any) -> None:
    run(redshift, 'CREATE TABLE "a ""b" ("c ""d" int)', 'INSERT INTO "a ""b" VALUES (1)', 'ANALYZE "a ""b" ("c ""d")')
    assert table_info(redshift, 'a "b')["stats_off"] == 0
    run(redshift, 'INSERT INTO "a ""b" VALUES (2)', "ANALYZE", 'VACUUM "a ""b"')
    assert table_info(redshift, 'a "b')["stats_off"] == 0


def test_analyze_skips_what_has_hardly_changed(redshift: Any) -> None:
    fill(redshift, times=1)
    for _ in range(3):
        run(redshift, "INSERT INTO t SELECT * FROM t")
    run(redshift, "ANALYZE t", "ANALYZE t", "INSERT INTO t VALUES (9, '2026-01-01')", "ANALYZE VERBOSE t",
        "SET analyze_threshold_percent TO 0", "ANALYZE t PREDICATE COLUMNS", "SET analyze_threshold_percent TO 10",
        "INSERT INTO t SELECT * FROM t", "ANALYZE t (id, day)")  # fmt: skip
    found = named(redshift, "SELECT status, rows, modified_rows FROM stl_analyze WHERE table_id = %s ORDER"
                            " BY starttime",
                  table_id(redshift))  # fmt: skip
    assert [(row["status"], row["rows"], row["modified_rows"]) for row in found] == [
        ("Full", 24, 24),
        ("Skipped", 24, 0),
        ("Skipped", 25, 1),
        ("PredicateColumn", 25, 1),
        ("Full", 50, 25),
    ]
    assert [row[0].rstrip() for row in rows(redshift, "ANALYZE COMPRESSION t")] == ["t", "t"]


def test_vacuum_of_everything_takes_table_by_table(redshift: Any) -> None:
    fill(redshift)
    fill(redshift, "u")
    run(redshift, "VACUUM", "ANALYZE")
    assert [table_info(redshift, table)["unsorted"] for table in ("t", "u")] == [0, 0]


def test_append_moves_rows_and_cannot_be_undone(redshift: Any) -> None:
    fill(redshift, times=1)
    run(
        redshift,
        "CREATE TABLE side (LIKE t)",
        "INSERT INTO side SELECT * FROM t",
        "CREATE TABLE other (id int)",
        "BEGIN",
    )
    assert refusal(redshift, "ALTER TABLE t APPEND FROM side")[0] == "25001"
    run(redshift, "ROLLBACK")
    assert refusal(redshift, "ALTER TABLE t APPEND FROM other")[0] == "42703"
    run(redshift, "ALTER TABLE t APPEND FROM side")
    assert (value(redshift, "SELECT count(*) FROM t"), value(redshift, "SELECT count(*) FROM side")) == (6, 0)
    assert (table_info(redshift, "t")["tbl_rows"], table_info(redshift, "side")) == (6, {})


def test_scans_and_alerts_follow_what_is_read(redshift: Any) -> None:
    fill(redshift)
    run(redshift, "SELECT count(*) FROM t WHERE day >= '2026-01-02'", "SELECT count(*) FROM t WHERE id = 3")
    number = table_id(redshift)
    assert rows(redshift, "SELECT is_rrscan, rows_pre_filter FROM stl_scan WHERE tbl = %s ORDER BY"
                          " starttime", number) == [
        ("t", 6), ("f", 6)]  # fmt: skip
    assert table_info(redshift, "t")["vacuum_sort_benefit"] == 25
    run(redshift, "ANALYZE t", "DELETE FROM t WHERE id = 1", "SELECT count(*) FROM t")
    found = named(redshift, "SELECT l.event, l.solution FROM stl_alert_event_log l JOIN stl_scan s USING"
                            " (query) WHERE s.tbl = %s"
                            " ORDER BY l.event_time", number)  # fmt: skip
    assert {row["event"].split(":")[0] for row in found} == {
        "Missing query planner statistics", "Scanned a large number of deleted rows"}  # fmt: skip
    assert "VACUUM command to reclaim deleted space" in found[-1]["solution"]
