"""The figures of svv_table_info move as they do on the real system."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from redshift_client import run, table_info
from redshift_connector import ProgrammingError

EVENTS = "CREATE TABLE events (id bigint, day date) DISTKEY (id) SORTKEY (day)"
FEW = "INSERT INTO events SELECT 1, '2026-01-01'::date UNION ALL SELECT 2, '2026-01-02'"


def test_a_load_into_an_empty_table_is_sorted_and_more_rows_are_not(redshift: Any) -> None:
    run(redshift, EVENTS)
    assert table_info(redshift, "events") == {}
    run(redshift, FEW)
    before = table_info(redshift, "events")
    assert (before["unsorted"], before["tbl_rows"], before["stats_off"]) == (0, 2, 100)
    run(redshift, FEW, "ANALYZE events", FEW)
    after = table_info(redshift, "events")
    assert (after["unsorted"], after["tbl_rows"]) == (Decimal("66.67"), 6)
    assert after["stats_off"] == Decimal("33.33")


def test_deleted_rows_are_counted_until_vacuum_delete(redshift: Any) -> None:
    run(redshift, EVENTS, FEW, FEW, "DELETE FROM events WHERE id = 1")
    before = table_info(redshift, "events")
    assert (before["tbl_rows"], before["estimated_visible_rows"]) == (4, 2)
    run(redshift, "VACUUM SORT ONLY events")
    assert table_info(redshift, "events")["tbl_rows"] == 4
    run(redshift, "VACUUM DELETE ONLY events TO 100 PERCENT")
    after = table_info(redshift, "events")
    assert (after["tbl_rows"], after["estimated_visible_rows"]) == (2, 2)


def test_vacuum_sorts_and_analyze_refreshes(redshift: Any) -> None:
    run(redshift, EVENTS, FEW, FEW, "UPDATE events SET id = 3 WHERE id = 2")
    before = table_info(redshift, "events")
    assert (before["tbl_rows"], before["unsorted"] > 50, before["stats_off"]) == (6, True, 100)
    run(redshift, "VACUUM FULL events TO 100 PERCENT", "ANALYZE events")
    after = table_info(redshift, "events")
    assert (after["tbl_rows"], after["unsorted"], after["stats_off"]) == (4, 0, 0)


def test_what_is_rolled_back_moves_nothing(redshift: Any) -> None:
    run(redshift, EVENTS, FEW)
    before = table_info(redshift, "events")
    run(redshift, "BEGIN", FEW, "DELETE FROM events", "ROLLBACK")
    assert table_info(redshift, "events") == before


def test_truncate_commits_and_leaves_nothing(redshift: Any) -> None:
    run(redshift, EVENTS, FEW, "BEGIN", "TRUNCATE events", "ROLLBACK")
    assert table_info(redshift, "events") == {}


def test_vacuum_in_a_transaction_is_refused(redshift: Any) -> None:
    run(redshift, EVENTS, "BEGIN")
    with pytest.raises(ProgrammingError, match=r"25001.*VACUUM cannot run inside a transaction block"):
        run(redshift, "VACUUM events")
    run(redshift, "ROLLBACK")
