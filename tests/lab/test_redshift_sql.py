"""Every statement of the maintenance runs, on a provisioned cluster and on serverless, and the guide's answer right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from dbops.redshift.session import ConnectorSession
from dbops.sql import DIRECTORY, statement
from dbops_lab.testing import LabPostgres, LabS3
from maintenance_world import OwnRedshift, own_redshift

FILES = sorted((DIRECTORY / "redshift").glob("*.sql"))
NAMES = """
advisor analyze_history cancel cold_rows cpu_use date_columns disk_use failed_queries guide_bid_performance
guide_campaign_debug guide_campaign_performance guide_segment_analysis interleaved_columns load_errors load_totals
my_rights others_seen one_table open_transactions query_alerts query_counts query_times queue_times queue_use
queue_use_provisioned recent_loads running_of_process running_vacuums serverless_use session_facts slow_queries
table_figures table_scans vacuum_history
""".split()  # noqa: SIM905 - of maintenance; those of archival and snapshots run in their own tests
SINCE = datetime(2026, 9, 1)  # noqa: DTZ001 - as system views have it
UNTIL = datetime(2026, 9, 3)  # noqa: DTZ001
VALUES: dict[str, tuple[Any, ...]] = {
    "analyze_history": (1, SINCE),
    "cancel": (0,),
    "guide_bid_performance": (SINCE, UNTIL),
    "guide_campaign_debug": (SINCE, UNTIL, "o1"),
    "guide_campaign_performance": (SINCE, UNTIL, "o1"),
    "one_table": (1,),
    "query_times": (1.0, SINCE),
    "queue_times": (1.0, SINCE),
    "running_of_process": (1,),
    "vacuum_history": (1, SINCE),
}
TABLES = (
    'create table impressions (order_id varchar(36), line_item_id varchar(36), "timestamp" timestamp,'
    ' event_type varchar(20), bid_price decimal(12,4)) sortkey ("timestamp")',
    'create table bidstream_v2 (line_item_id varchar(36), "timestamp" timestamp, bid_price decimal(12,4),'
    ' win_price decimal(12,4)) sortkey ("timestamp")',
    'create table dmp_events (segment_id int, user_id varchar(36), "timestamp" timestamp) sortkey ("timestamp")',
    "insert into impressions values ('o1', 'l1', '2026-09-01 23:59:59', 'impression', 1.5),"
    " ('o1', 'l1', '2026-09-01 10:00:00', 'click', 0.5), ('o1', 'l2', '2026-09-02 00:00:00', 'impression', 2),"
    " ('o1', 'l1', '2026-09-03 00:00:00', 'impression', 9), ('o2', 'l1', '2026-09-01 10:00:00', 'click', 9)",
    "insert into bidstream_v2 values ('l1', '2026-09-02 00:00:00', 2, 1), ('l1', '2026-09-01 00:00:00', 4, 0),"
    " ('l2', '2026-09-01 00:00:00', 1, null), ('l2', '2026-09-03 00:00:00', 1, 1)",
    "insert into dmp_events values (1, 'a', '2026-09-01 00:00:00'), (1, 'a', '2026-09-02 00:00:00'),"
    " (2, 'b', '2026-09-02 00:00:00'), (2, 'c', '2026-08-01 00:00:00')",
)


@pytest.fixture(scope="module")
def warehouse(lab_postgres: LabPostgres, lab_s3: LabS3) -> Iterator[OwnRedshift]:
    with own_redshift(lab_postgres, lab_s3) as made:
        with ConnectorSession(made.info()) as session:
            for text in TABLES:
                session.run(text)
        yield made


@pytest.fixture
def session(warehouse: OwnRedshift) -> Iterator[ConnectorSession]:
    with ConnectorSession(warehouse.info()) as made:
        yield made


def rows(session: ConnectorSession, name: str, *values: Any) -> list[list[Any]]:
    return [list(row) for row in session.rows(statement(f"redshift/{name}"), *(values or VALUES[name]))]


@pytest.mark.parametrize("serverless", [False, True], ids=["provisioned", "serverless"])
@pytest.mark.parametrize("name", NAMES)
def test_every_statement_runs(name: str, serverless: bool, warehouse: OwnRedshift, session: ConnectorSession) -> None:
    warehouse.standin.serverless(serverless)
    text = statement(f"redshift/{name}")
    if name == "cold_rows":
        text = text.format(table='"impressions"', column='"timestamp"')
    found = session.rows(text, *VALUES.get(name, (SINCE,) * text.count("%s")))
    if serverless and name in {"cpu_use", "queue_use_provisioned"}:
        assert found == []
    if not serverless and name in {"table_figures", "date_columns", "queue_use_provisioned", "slow_queries"}:
        assert found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_statement_says_what_it_is_for_and_which_rights_it_needs(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("-- ")
    assert re.search(r"^-- Rights: .+", text, re.MULTILINE)
    assert re.search(r"[Pp]rovisioned|[Ss]erverless", text)


def test_the_readme_names_every_query_of_the_guide_and_only_files_that_exist() -> None:
    told = re.findall(r"`(\w+)\.sql`", (DIRECTORY / "redshift/README.md").read_text())
    assert set(told) <= {path.stem for path in FILES}
    assert {name for name in NAMES if name.startswith("guide_")} <= set(told)


def test_campaign_performance_counts_whole_days_and_nothing_beyond_them(session: ConnectorSession) -> None:
    found = rows(session, "guide_campaign_performance")
    assert [(row[1], str(row[2])[:10], *map(float, row[3:])) for row in found] == [
        ("l2", "2026-09-02", 1, 0, 2),
        ("l1", "2026-09-01", 2, 1, 2),
    ]


def test_campaign_debugging_shows_the_newest_first(session: ConnectorSession) -> None:
    found = rows(session, "guide_campaign_debug")
    assert [row[0].hour for row in found] == [0, 23, 10]
    assert {row[1] for row in found} == {"o1"}


def test_bid_performance_counts_wins_and_prices(session: ConnectorSession) -> None:
    found = rows(session, "guide_bid_performance")
    assert [(row[0], int(row[1]), int(row[2]), float(row[3])) for row in found] == [("l1", 2, 1, 3), ("l2", 1, 0, 1)]


def test_segments_have_their_users_and_events(session: ConnectorSession) -> None:
    assert [list(map(int, row)) for row in rows(session, "guide_segment_analysis", SINCE)] == [[1, 1, 2], [2, 1, 1]]
