"""Which hours a run of the schedule judges, by what the ledger knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dbops import ledger
from dbops.etl.findings import RUN, Family, Finding, Outcome
from dbops.etl.incidents import MOST_HOURS, hours_to_judge, record
from dbops.platform import load_platform
from dbops.platform.etl import HOUR, Etl
from dbops_lab.testing import LabPostgres
from sqlalchemy import Engine

NOW = datetime(2026, 11, 25, 12, 40, tzinfo=UTC)
DUE = datetime(2026, 11, 25, 11, tzinfo=UTC)


@pytest.fixture(scope="module")
def etl() -> Etl:
    found = load_platform(Path(__file__).parents[3] / "include/platform/production.yaml").etl
    assert found is not None
    return found


@pytest.fixture
def engine(lab_postgres: LabPostgres) -> Engine:
    made = ledger.connect(lab_postgres.new_database())
    ledger.migrate(made)
    return made


def judge(engine: Engine, *back: int, outcome: Outcome = Outcome.PASS) -> None:
    """Results of hours, by how long before `DUE` they are."""
    found = [Finding(RUN, "wins", outcome, "said", Family.LATE, DUE - HOUR * hours) for hours in back]
    record(engine, f"run/{back[0]}", NOW, found)


def due(engine: Engine, etl: Etl) -> list[int]:
    return [int((DUE - one) / HOUR) for one in hours_to_judge(engine, etl, "wins", DUE, NOW)]


def test_a_new_pipeline_has_no_past(engine: Engine, etl: Etl) -> None:
    assert due(engine, etl) == [0]


def test_a_gap_is_judged_also_when_a_later_hour_was_looked_at_by_hand(engine: Engine, etl: Etl) -> None:
    judge(engine, 6, 5, 2, 1)
    assert due(engine, etl) == [4, 3, 0]


def test_after_a_long_gap_the_oldest_hours_come_first_and_the_next_run_goes_on(engine: Engine, etl: Etl) -> None:
    judge(engine, 61)
    first = due(engine, etl)
    assert first == [*range(60, 60 - MOST_HOURS + 1, -1), 0]
    judge(engine, *first)
    assert due(engine, etl) == [*range(first[-2] - 1, 0, -1), 0]


def test_what_is_not_well_is_looked_at_again_as_long_as_recheck(engine: Engine, etl: Etl) -> None:
    days = int(etl.recheck / timedelta(days=1))
    judge(engine, *range(24 * days + 30, 0, -1))
    judge(engine, 24 * days + 20, 7, outcome=Outcome.ERROR)
    assert due(engine, etl) == [7, 0]


def test_after_a_pause_longer_than_recheck_all_of_it_is_judged(engine: Engine, etl: Etl) -> None:
    hours = int(etl.recheck / HOUR)
    judge(engine, hours + 48)
    assert due(engine, etl)[0] in (hours - 1, hours - 2)
