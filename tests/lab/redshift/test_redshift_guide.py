"""The operations guide's Redshift queries, corrected where the real system would refuse them, run here.

What is wrong in the guide: `timestamp` is a reserved word and must be quoted; DATE("timestamp") hides the sort key, a
range does not; stl_wlm_query has no num_query_tasks, query_working_mem and query_cpu_time; stl_load_commits has no
rows_loaded; VACUUM REINDEX is for interleaved sort keys only; vacuum_sort_benefit alone does not show deleted rows.
"""

from __future__ import annotations

from typing import Any

import pytest
from redshift_client import named, refusal, run

TABLES = (
    """CREATE TABLE impressions (
        "timestamp" timestamp NOT NULL, order_id varchar(36) NOT NULL, line_item_id varchar(36) NOT NULL,
        event_type varchar(16), bid_price decimal(12, 6)
    ) DISTKEY (line_item_id) COMPOUND SORTKEY ("timestamp", order_id)""",
    """CREATE TABLE bidstream_v2 (
        "timestamp" timestamp NOT NULL, line_item_id varchar(36), bid_price decimal(12, 6), win_price decimal(12, 6)
    ) DISTSTYLE EVEN SORTKEY ("timestamp")""",
    """CREATE TABLE dmp_events ("timestamp" timestamp NOT NULL, user_id varchar(64), segment_id int)
        DISTKEY (user_id) INTERLEAVED SORTKEY ("timestamp", segment_id)""",
    """INSERT INTO impressions VALUES
        (sysdate, 'ecc1e1ef-6cdc-4638-aa76-c39c7abe231b', 'l1', 'impression', 0.5),
        (sysdate, 'ecc1e1ef-6cdc-4638-aa76-c39c7abe231b', 'l1', 'click', 0.25)""",
    """INSERT INTO bidstream_v2 VALUES
        (sysdate - interval '1 day', 'l1', 0.5, 0.4), (dateadd(day, -1, sysdate), 'l1', 0.5, null)""",
    "INSERT INTO dmp_events VALUES (sysdate, 'u1', 7), (sysdate, 'u1', 7), (sysdate, 'u2', 7)",
)
QUERIES = {
    "campaign performance": (
        """SELECT order_id, line_item_id, DATE("timestamp") AS date, COUNT(*) AS impressions,
            SUM(CASE WHEN event_type = 'click' THEN 1 ELSE 0 END) AS clicks, SUM(bid_price) AS total_spend
        FROM impressions
        WHERE "timestamp" >= '2025-09-01' AND order_id = 'ecc1e1ef-6cdc-4638-aa76-c39c7abe231b'
        GROUP BY order_id, line_item_id, DATE("timestamp") ORDER BY date DESC""",
        {"impressions": 2, "clicks": 1, "total_spend": 0.75},
    ),
    "one campaign": (
        """SELECT * FROM impressions WHERE "timestamp" > '2025-09-10'
            AND order_id = 'ecc1e1ef-6cdc-4638-aa76-c39c7abe231b' LIMIT 100""",
        {"line_item_id": "l1"},
    ),
    "bids and wins": (
        """SELECT line_item_id, COUNT(*) AS bid_requests, COUNT(CASE WHEN win_price > 0 THEN 1 END) AS wins,
            AVG(bid_price) AS avg_bid, AVG(win_price) AS avg_win_price
        FROM bidstream_v2 WHERE "timestamp" >= CURRENT_DATE - 1 AND "timestamp" < CURRENT_DATE
        GROUP BY line_item_id ORDER BY bid_requests DESC""",
        {"bid_requests": 2, "wins": 1},
    ),
    "segments": (
        """SELECT segment_id, COUNT(DISTINCT user_id) AS unique_users, COUNT(*) AS total_events
        FROM dmp_events WHERE "timestamp" >= CURRENT_DATE - 7 GROUP BY segment_id ORDER BY unique_users DESC""",
        {"segment_id": 7, "unique_users": 2, "total_events": 3},
    ),
    "query performance": (
        """SELECT query, starttime, endtime, DATEDIFF(seconds, starttime, endtime) AS duration, aborted
        FROM stl_query WHERE starttime >= CURRENT_DATE - 1 ORDER BY duration DESC LIMIT 10""",
        {},
    ),
    "table statistics": (
        """SELECT "table", size, tbl_rows, skew_sortkey1, skew_rows FROM svv_table_info
        WHERE schema = current_schema() ORDER BY size DESC""",
        {"size": 1},
    ),
    "cluster utilisation": (
        """SELECT service_class, SUM(slot_count) AS slots, SUM(total_queue_time) AS queued, SUM(total_exec_time) AS ran,
            MAX(est_peak_mem) AS memory
        FROM stl_wlm_query WHERE service_class > 5 GROUP BY service_class ORDER BY ran DESC""",
        {"service_class": 100},
    ),
    "queues": (
        """SELECT c.service_class, rtrim(c.name) AS name, c.num_query_tasks, c.query_working_mem,
            s.num_executing_queries
        FROM stv_wlm_service_class_config c JOIN stv_wlm_service_class_state s USING (service_class)
        WHERE c.service_class > 5 ORDER BY 1 DESC""",
        {"service_class": 100, "num_query_tasks": -1},
    ),
    "tables that need maintenance": (
        """SELECT "table", unsorted, vacuum_sort_benefit, stats_off, tbl_rows - estimated_visible_rows AS deleted
        FROM svv_table_info WHERE schema = current_schema() AND (unsorted > 5 OR stats_off > 10)
        ORDER BY vacuum_sort_benefit DESC""",
        {"unsorted": 100, "stats_off": 100, "deleted": 0},
    ),
    "recent loads": (
        """SELECT table_name, start_time AS load_time, loaded_rows, error_count, status
        FROM sys_load_history WHERE start_time >= CURRENT_DATE - 1 ORDER BY start_time DESC""",
        {},
    ),
}  # fmt: skip


@pytest.fixture
def warehouse(redshift: Any) -> Any:
    run(redshift, *TABLES)
    return redshift


def test_the_guides_queries_answer(warehouse: Any) -> None:
    for name, (sql, expected) in QUERIES.items():
        found = named(warehouse, sql)
        assert found or not expected, name
        if expected:
            assert {column: found[0][column] for column in expected} == expected, name


def test_the_guides_maintenance_runs(warehouse: Any) -> None:
    run(warehouse, "VACUUM REINDEX dmp_events", "VACUUM FULL impressions TO 99 PERCENT BOOST", "ANALYZE impressions")


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT COUNT(*) FROM impressions WHERE DATE(timestamp) >= '2025-09-01'", "42601"),
        ("SELECT service_class, num_query_tasks, query_working_mem, query_cpu_time FROM stl_wlm_query", "42703"),
        ("SELECT filename, rows_loaded, errors FROM stl_load_commits", "42703"),
        ("SELECT job_name FROM glue_job_runs", "42P01"),
        ("VACUUM REINDEX impressions", "0A000"),
    ],
)
def test_what_the_guide_has_wrong_is_wrong_here_too(warehouse: Any, sql: str, code: str) -> None:
    assert refusal(warehouse, sql)[0] == code
