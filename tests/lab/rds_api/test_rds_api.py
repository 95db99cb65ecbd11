"""RDS of the lab: an instance, its snapshots and what is restored from it are real, and what RDS refuses is refused."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from dbops_lab.testing import LabRds


@pytest.fixture(params=[14, 17])
def rds(request: pytest.FixtureRequest, lab_rds_of: Callable[[int], LabRds]) -> Iterator[LabRds]:
    """An instance of either version."""
    made = lab_rds_of(request.param)
    made.clean()
    yield made
    made.clean()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> str:
    return f"t_{secrets.token_hex(4)}"


def fill(rds: LabRds, table: str, rows: int = 1000) -> None:
    rds.rows(f"create table {table} as select n, n * 2 as twice from generate_series(1, {rows}) n")


def checksum(rds: LabRds, table: str, instance: str | None = None) -> Any:
    query = f"select count(*), md5(string_agg(t::text, ',' order by n)) from {table} t"
    return rds.rows(query, instance)[0]


def now(rds: LabRds) -> datetime:
    moment: datetime = rds.rows("select clock_timestamp()")[0][0]
    return moment


def restore(rds: LabRds, target: str, at: datetime | None = None, **words: Any) -> dict[str, Any]:
    when: dict[str, Any] = {"RestoreTime": at} if at else {"UseLatestRestorableTime": True}
    made: dict[str, Any] = rds.client("rds").restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier=rds.name, TargetDBInstanceIdentifier=target, **when, **words
    )["DBInstance"]
    return made


def code(work: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        work()
    return str(caught.value.response["Error"]["Code"])


# ------------------------------------------------------------------------------------------------- point in time


def test_a_restore_has_exactly_the_rows_of_its_moment(rds: LabRds, table: str) -> None:
    fill(rds, table)
    before, moment = checksum(rds, table), now(rds)
    time.sleep(0.05)
    rds.rows(f"update {table} set twice = 0")
    rds.rows(f"insert into {table} values (0, 0)")
    damaged = checksum(rds, table)
    rds.past(moment)
    made = restore(rds, "restored", moment)
    assert made["DBInstanceStatus"] == "creating"
    assert "Endpoint" not in made
    found = rds.wait("restored")
    assert found["Endpoint"]["Port"] == rds.port
    assert checksum(rds, table, "restored") == before
    assert checksum(rds, table) == damaged
    rds.rows(f"insert into {table} values (7000, 1)", "restored")
    assert checksum(rds, table) == damaged


def test_the_latest_moment_moves_and_holds_what_was_committed_before_it(rds: LabRds, table: str) -> None:
    first = rds.describe()["LatestRestorableTime"]
    fill(rds, table)
    rds.past(now(rds))
    latest = rds.describe()["LatestRestorableTime"]
    assert first < latest <= datetime.now(UTC)
    restore(rds, "restored")
    rds.wait("restored")
    assert checksum(rds, table, "restored") == checksum(rds, table)
