"""Archival and maintenance over the Data API: what holds over the driver holds over HTTPS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from archive_world import DAY, NOW, World, world
from dbops.connections import ConnectionInfo
from dbops.platform import Redshift, Vacuum
from dbops.redshift.archive import UnloadFailed, archive_day
from dbops.redshift.archive_restore import attach_day, restore_day
from dbops.redshift.archive_upkeep import VacuumBusy, reclaim
from dbops.redshift.data_api import DataApiSession
from dbops.redshift.maintain import Deadlines, Maintainer
from dbops.redshift.plan import plan_maintenance
from dbops_lab.testing import LabRedshift, LabS3

LATER = NOW + timedelta(days=8)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def lab(lab_redshift: LabRedshift, lab_s3: LabS3) -> World:
    made = world(lab_redshift, lab_s3)
    made.create()
    return made


def archived(lab: World, info: ConnectionInfo, **more: Any) -> tuple[int, int]:
    more.setdefault("now", NOW)
    with DataApiSession(info) as session:
        done = archive_day(session, lab.place, lab.configured, DAY, holder="data-api", **more)
    return done.archived, done.deleted


def test_a_day_is_archived_comes_back_and_goes_again(lab: World, data_api_info: ConnectionInfo) -> None:
    lab.load(40)
    before = lab.sql(f"select * from {lab.table} order by id")
    assert archived(lab, data_api_info) == (40, 40)
    lab.check()
    with DataApiSession(data_api_info) as session:
        assert reclaim(session, lab.table).problem is None
        assert restore_day(session, lab.place, lab.table, DAY, holder="data-api") == {
            f"{lab.table}_restored_{DAY:%Y%m%d}": 40
        }
        assert attach_day(session, lab.place, lab.table, DAY, holder="data-api", now=NOW) == 40
    assert lab.sql(f"select * from {lab.table} order by id") == before
    assert archived(lab, data_api_info, now=LATER) == (0, 40)
    lab.check()


def test_conflicts_and_an_unload_that_fails_are_known_by_their_text(
    lab: World, data_api_info: ConnectionInfo, lab_redshift: LabRedshift
) -> None:
    lab.load(10)
    text = "S3ServiceException:Please reduce your request rate.,Status 503,Error SlowDown"
    lab_redshift.standin.faults({"match": "^unload", "error": "XX000", "message": text})
    with pytest.raises(UnloadFailed, match="SlowDown"):
        archived(lab, data_api_info)
    lab.check()
    lab_redshift.standin.faults({"match": "^delete", "error": "1023", "times": 2})
    assert archived(lab, data_api_info) == (10, 10)
    lab.check()
    lab_redshift.standin.faults({"match": "^vacuum", "error": "55000", "message": "VACUUM is running", "times": 9})
    with DataApiSession(data_api_info) as session, pytest.raises(VacuumBusy):
        reclaim(session, lab.table, patience=0.2, pause=0.05)
    lab_redshift.standin.faults()


def test_tables_are_maintained_and_a_vacuum_that_cannot_be_seen_is_waited_for(
    lab: World, data_api_info: ConnectionInfo, lab_redshift: LabRedshift
) -> None:
    lab.load(30, DAY + timedelta(days=1))
    lab.load(30)
    lab.run(f"delete from {lab.table} where id <= 20")
    now = datetime.now(UTC)
    redshift = Redshift(name="bedrock", connection="dbops_redshift", vacuum=Vacuum(sort_benefit=0))
    with DataApiSession(data_api_info) as session:
        plan = plan_maintenance(session, redshift, run="data-api", tables=(lab.table,))[0]
    lab_redshift.standin.faults({"match": "^vacuum", "error": "55000", "message": "VACUUM is running", "times": 2})
    maintainer = Maintainer(
        lambda: DataApiSession(data_api_info),
        Deadlines(now + 5 * MINUTE, now + 10 * MINUTE),
        old_transaction=10 * MINUTE,
        poll_seconds=0.1,
        settle_seconds=0.3,
    )
    results = maintainer.carry_out(plan)
    assert [result.outcome for result in results] == ["done", "done"], results
    assert results[0].after["deleted_rows"] == 0
    assert results[0].after["unsorted"] == 0
