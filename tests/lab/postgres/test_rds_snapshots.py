"""Snapshots of an RDS instance, through boto3: taken once, found again, copied, let go; how far it could go back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbops.aws import PLATFORM_TAG, RUN_TAG, ApiRefused, ApiUnreachable, NotThere, tags_of
from dbops.platform import Postgres, PostgresRds, Retention
from dbops.postgres.rds import (
    ForeignSnapshot,
    InstanceSnapshots,
    Snapshot,
    begin_copy,
    begin_snapshot,
    check_automated,
    check_recovery,
    describe,
    expire_snapshot,
    open_copies,
    open_snapshots,
    plan_snapshot_expiry,
    snapshot_id,
    wait_for_snapshot,
)
from dbops_lab.testing import LabRds

RUN = "postgres_backup/scheduled__2026-11-22T00:30:00+00:00"
TAGS = tags_of("lab", RUN, "daily; of <everything>")
DAY = timedelta(days=1)
OTHER = "eu-central-1"


@pytest.fixture
def postgres(lab_rds: LabRds) -> Postgres:
    return Postgres(
        name=lab_rds.name,
        databases=("exchange",),
        aws_connection="dbops_s3",
        region=lab_rds.region,
        rds=PostgresRds(copy_region=OTHER),
    )


@pytest.fixture
def snapshots(postgres: Postgres, lab_rds: LabRds) -> InstanceSnapshots:
    return open_snapshots(postgres, lab_rds.s3.connection)


@pytest.fixture
def copies(postgres: Postgres, lab_rds: LabRds) -> InstanceSnapshots:
    return open_copies(postgres, lab_rds.s3.connection, OTHER)


def wait(snapshots: InstanceSnapshots, id: str) -> Snapshot:
    return wait_for_snapshot(snapshots, id, TAGS, timedelta(seconds=30), poll=0.05)


def ours(snapshots: InstanceSnapshots) -> list[str]:
    return [item.id for item in snapshots.list() if item.kind == "manual"]


def test_every_try_of_a_run_gets_the_same_snapshot(snapshots: InstanceSnapshots) -> None:
    id = snapshot_id(RUN, snapshots.source)
    begun = begin_snapshot(snapshots, id, TAGS)
    assert (begun.status, begun.is_usable) == ("creating", False)
    done = wait(snapshots, id)
    assert (done.tags, done.source) == (TAGS, snapshots.source)
    assert abs(done.created_at - datetime.now(UTC)) < timedelta(seconds=30)
    assert begin_snapshot(snapshots, id, TAGS) == done
    assert ours(snapshots) == [id]


def test_a_snapshot_whose_answer_was_lost_is_adopted(snapshots: InstanceSnapshots, lab_rds: LabRds) -> None:
    id = snapshot_id(RUN, snapshots.source)
    lab_rds.s3.faults({"key": "Action=CreateDBSnapshot", "status": 500, "after": True})
    assert wait(snapshots, id).is_usable
    assert ours(snapshots) == [id]


def test_a_snapshot_of_somebody_else_under_that_name_is_refused(snapshots: InstanceSnapshots, lab_rds: LabRds) -> None:
    id = snapshot_id(RUN, snapshots.source)
    lab_rds.plant(id, tags={PLATFORM_TAG: "lab", RUN_TAG: "another"})
    with pytest.raises(ForeignSnapshot, match="nothing was done"):
        begin_snapshot(snapshots, id, TAGS)


def test_the_quota_is_told_in_words_and_nothing_is_left(snapshots: InstanceSnapshots, lab_rds: LabRds) -> None:
    lab_rds.order(snapshots=0)
    with pytest.raises(ApiRefused, match="SnapshotQuotaExceeded"):
        begin_snapshot(snapshots, snapshot_id(RUN, snapshots.source), TAGS)
    assert ours(snapshots) == []


def test_a_copy_goes_to_the_other_region_once_and_is_as_old_as_its_source(
    snapshots: InstanceSnapshots, copies: InstanceSnapshots, lab_rds: LabRds
) -> None:
    source = wait(snapshots, snapshot_id(RUN, snapshots.source))
    begin_copy(copies, source, lab_rds.region, TAGS)
    lab_rds.wait_snapshot(source.id, OTHER)
    copy = begin_copy(copies, source, lab_rds.region, TAGS)
    assert copy.is_usable
    assert (copy.id, copy.tags, copy.source) == (source.id, TAGS, source.source)
    assert abs(copy.created_at - source.created_at) < timedelta(seconds=2)
    assert [item.id for item in copies.list()] == [source.id]
    with pytest.raises(ForeignSnapshot, match="nothing was done"):
        begin_copy(copies, source, lab_rds.region, TAGS | {RUN_TAG: "another run"})


def test_only_old_ones_of_ours_may_go_and_never_the_newest_good_ones(
    snapshots: InstanceSnapshots, lab_rds: LabRds
) -> None:
    mine = {PLATFORM_TAG: "lab", RUN_TAG: "x"}
    for age in (1, 3, 20, 30):
        lab_rds.plant(f"dbops-{age}", age=age * 86400.0, tags=mine)
    lab_rds.plant("by-hand", age=40 * 86400.0)
    lab_rds.plant("dbops-broken", age=25 * 86400.0, tags=mine, status="failed")
    policy = Retention(full=30 * DAY, incremental=30 * DAY, max_share=1)
    plan = plan_snapshot_expiry(snapshots.list(), "lab", 7 * DAY, policy, datetime.now(UTC))
    gone = {item.point.id: item.point for item in plan.expire}
    assert {"dbops-30", "dbops-broken"} <= set(gone)
    assert not {"by-hand", "dbops-1", "dbops-3"} & set(gone)
    point = gone["dbops-30"]
    assert expire_snapshot(snapshots, point.id, point.snapshot_at, "lab") is None
    assert expire_snapshot(snapshots, point.id, point.snapshot_at, "lab") is None, "gone already"
    assert "not what the plan saw" in str(expire_snapshot(snapshots, "by-hand", datetime.now(UTC), "lab"))
    assert "dbops-30" not in ours(snapshots)


def test_recovery_is_judged_by_the_latest_restorable_time(
    snapshots: InstanceSnapshots, lab_rds: LabRds, postgres: Postgres
) -> None:
    assert postgres.rds is not None
    lab_rds.settle()
    instance = describe(snapshots.client, lab_rds.name)
    now = datetime.now(UTC)
    window, kept = instance.backup_window, instance.backup_retention
    wanted = PostgresRds(backup_window=window or None, backup_retention=kept)
    found = check_recovery(instance, wanted, timedelta(minutes=5), now)
    assert (found.ok, found.settings) == (True, ())
    late = check_recovery(instance, wanted, timedelta(minutes=5), now + timedelta(minutes=7))
    assert not late.ok
    assert "5 min are allowed" in late.message
    other = check_recovery(instance, PostgresRds(backup_window="11:11-12:11", backup_retention=40 * DAY), DAY, now)
    assert [text.partition(" is ")[0].partition(" are ")[0] for text in other.settings] == [
        "automated backups",
        "the backup window",
    ]


def test_the_age_of_automated_snapshots_is_not_that_of_manual_ones(
    snapshots: InstanceSnapshots, lab_rds: LabRds
) -> None:
    lab_rds.plant("dbops-now", age=1.0, tags={PLATFORM_TAG: "lab"})
    automated = [item for item in snapshots.list() if item.kind == "automated"]
    newest = max((item.created_at for item in automated), default=None)
    later = (newest or datetime.now(UTC)) + timedelta(hours=30)
    assert not check_automated(snapshots.list(), timedelta(hours=26), later).ok


@pytest.mark.parametrize("call", ["DescribeDBSnapshots", "CreateDBSnapshot"])
def test_an_api_that_refuses_or_is_busy_is_told_in_words(
    snapshots: InstanceSnapshots, lab_rds: LabRds, call: str
) -> None:
    def work() -> Any:
        return begin_snapshot(snapshots, snapshot_id(RUN, snapshots.source), TAGS)

    lab_rds.s3.faults({"key": f"Action={call}", "status": 403, "times": 9})
    with pytest.raises(ApiRefused, match=r"include/iam/rds-policy\.json"):
        work()
    lab_rds.s3.faults({"key": f"Action={call}", "status": 400, "code": "InvalidDBInstanceState", "times": 9})
    with pytest.raises(ApiUnreachable, match="snapshot"):
        work()


def test_an_instance_that_does_not_exist_is_named(snapshots: InstanceSnapshots) -> None:
    with pytest.raises(NotThere, match="nowhere"):
        describe(snapshots.client, "nowhere")
