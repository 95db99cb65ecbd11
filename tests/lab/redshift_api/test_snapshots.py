"""Snapshots of a cluster and of a serverless namespace, through boto3: taken once, found again, let go."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbops.platform import Redshift, Retention
from dbops.redshift.api import PLATFORM_TAG, ApiRefused, ApiUnreachable, NotThere, tags_of
from dbops.redshift.snapshots import (
    ForeignSnapshot,
    Snapshot,
    SnapshotPending,
    Snapshots,
    begin_snapshot,
    check_age,
    expire_snapshot,
    open_snapshots,
    plan_snapshot_expiry,
    snapshot_id,
    wait_for_snapshot,
)
from dbops_lab.testing import LabRedshiftApi

RUN = "redshift_maintenance_weekly/scheduled__2026-11-22T03:00:00+00:00"
TAGS = tags_of("lab", RUN, "before a VACUUM; of <everything>")
DAY = 86400.0


def source_of(redshift: Redshift, api: LabRedshiftApi) -> str:
    return api.namespace if redshift.serverless else api.cluster


def wait(snapshots: Snapshots, id: str, seconds: float = 20) -> Snapshot:
    return wait_for_snapshot(snapshots, id, TAGS, timedelta(seconds=seconds), poll=0.05)


def manual(snapshots: Snapshots) -> list[str]:
    return [item.id for item in snapshots.list() if item.kind == "manual"]


def test_a_snapshot_is_taken_waited_for_and_tagged(snapshots: Snapshots) -> None:
    id = snapshot_id(RUN, snapshots.source)
    begun = begin_snapshot(snapshots, id, TAGS)
    assert (begun.is_usable, begun.status) == (False, "creating")
    done = wait(snapshots, id)
    assert done.is_usable
    assert done.tags == TAGS
    assert abs(done.created_at - datetime.now(UTC)) < timedelta(seconds=30)
    assert check_age(snapshots.list(), timedelta(minutes=1), datetime.now(UTC)).newest == done


def test_every_try_of_a_run_gets_the_same_snapshot(snapshots: Snapshots) -> None:
    id = snapshot_id(RUN, snapshots.source)
    first = wait(snapshots, id)
    assert wait(snapshots, id) == first
    assert manual(snapshots) == [id]


def test_a_try_whose_answer_was_lost_is_adopted(
    snapshots: Snapshots, redshift: Redshift, lab_redshift_api: Any
) -> None:
    call = "RedshiftServerless.CreateSnapshot" if redshift.serverless else "Action=CreateClusterSnapshot"
    lab_redshift_api.s3.faults({"key": call, "status": 500, "after": True})
    id = snapshot_id(RUN, snapshots.source)
    assert wait(snapshots, id).is_usable
    assert manual(snapshots) == [id]


def test_a_snapshot_of_that_name_of_somebody_else_is_left_alone(
    snapshots: Snapshots, redshift: Redshift, lab_redshift_api: LabRedshiftApi
) -> None:
    id = snapshot_id(RUN, snapshots.source)
    lab_redshift_api.plant(
        id, source=source_of(redshift, lab_redshift_api), tags={PLATFORM_TAG: "lab", "dbops-run": "x"}
    )
    with pytest.raises(ForeignSnapshot, match="nothing was done"):
        begin_snapshot(snapshots, id, TAGS)
    assert manual(snapshots) == [id]


def test_a_failed_one_of_this_run_is_taken_again(
    snapshots: Snapshots, redshift: Redshift, lab_redshift_api: LabRedshiftApi
) -> None:
    id = snapshot_id(RUN, snapshots.source)
    source = source_of(redshift, lab_redshift_api)
    lab_redshift_api.plant(id, source=source, tags=TAGS, status="failed", age=3600)
    done = wait(snapshots, id)
    assert done.is_usable
    assert datetime.now(UTC) - done.created_at < timedelta(minutes=1)


def test_one_that_takes_longer_than_is_waited_for_goes_on(
    snapshots: Snapshots, lab_redshift_api: LabRedshiftApi
) -> None:
    lab_redshift_api.take(snapshot=0.8)
    id = snapshot_id(RUN, snapshots.source)
    with pytest.raises(SnapshotPending, match="goes on by itself"):
        wait(snapshots, id, seconds=0.2)
    assert wait(snapshots, id).is_usable


def test_old_ones_of_ours_go_and_others_stay(
    snapshots: Snapshots, redshift: Redshift, lab_redshift_api: LabRedshiftApi
) -> None:
    source = source_of(redshift, lab_redshift_api)
    for id, age, tags in [
        ("dbops-old", 20, TAGS),
        ("dbops-new", 3, TAGS),
        ("dbops-of-staging", 20, TAGS | {PLATFORM_TAG: "staging"}),
        ("before-upgrade", 20, {}),
        ("dbops-newest", 1, TAGS),
        ("dbops-older", 9, TAGS),
    ]:
        lab_redshift_api.plant(id, source=source, age=age * DAY, tags=tags)
    policy = Retention(full=timedelta(days=30), incremental=timedelta(days=7))
    plan = plan_snapshot_expiry(snapshots.list(), "lab", timedelta(days=7), policy, datetime.now(UTC))
    assert [item.point.id for item in plan.expire] == ["dbops-old"]
    for item in plan.expire:
        assert expire_snapshot(snapshots, item.point.id, item.point.snapshot_at, "lab") is None
        assert expire_snapshot(snapshots, item.point.id, item.point.snapshot_at, "lab") is None, "a second time"
    kept = ["before-upgrade", "dbops-new", "dbops-newest", "dbops-of-staging", "dbops-older"]
    assert sorted(manual(snapshots)) == kept


def test_what_changed_since_the_plan_stays(
    snapshots: Snapshots, redshift: Redshift, lab_redshift_api: LabRedshiftApi
) -> None:
    lab_redshift_api.plant("dbops-again", source=source_of(redshift, lab_redshift_api), age=DAY, tags=TAGS)
    (found,) = [item for item in snapshots.list() if item.id == "dbops-again"]
    for created, platform in ((found.created_at - timedelta(hours=1), "lab"), (found.created_at, "staging")):
        assert expire_snapshot(snapshots, "dbops-again", created, platform) == "it is not what the plan saw any more"
    assert manual(snapshots) == ["dbops-again"]


def test_automated_snapshots_and_recovery_points_count(
    snapshots: Snapshots, redshift: Redshift, lab_redshift_api: LabRedshiftApi
) -> None:
    source = source_of(redshift, lab_redshift_api)
    lab_redshift_api.plant(f"auto-{redshift.serverless}", source=source, kind="automated", age=60)
    newest = max((item for item in snapshots.list() if item.kind == "automated"), key=lambda item: item.created_at)
    assert newest.is_usable
    assert newest.is_recovery_point == redshift.serverless
    assert check_age(snapshots.list(), timedelta(hours=1), datetime.now(UTC)).ok


def test_more_snapshots_than_a_page_are_all_seen(lab_redshift_api: LabRedshiftApi) -> None:
    client = lab_redshift_api.client("redshift")
    words = {"NodeType": "ra3.large", "MasterUsername": "awsuser", "MasterUserPassword": "Secret123"}
    client.create_cluster(ClusterIdentifier="busy", NumberOfNodes=2, **words)
    for number in range(120):
        client.create_cluster_snapshot(SnapshotIdentifier=f"busy-{number}", ClusterIdentifier="busy")
    client.create_cluster(ClusterIdentifier="other", NumberOfNodes=2, **words)
    redshift = Redshift(name="busy", region="eu-west-1")
    found = open_snapshots(redshift, lab_redshift_api.connection).list()
    assert len(found) == 121, "and the automated one of the beginning"
    assert {item.source for item in found} == {"busy"}
    assert found == sorted(found, key=lambda item: item.created_at)
    for name in ("busy", "other"):
        client.delete_cluster(ClusterIdentifier=name, SkipFinalClusterSnapshot=True)


def test_a_warehouse_that_does_not_exist_has_no_snapshots_and_says_so(
    redshift: Redshift, lab_redshift_api: Any
) -> None:
    nowhere = open_snapshots(redshift.model_copy(update={"name": "nowhere"}), lab_redshift_api.connection)
    if redshift.serverless:
        with pytest.raises(NotThere, match="nowhere"):
            nowhere.list()
    else:
        assert nowhere.list() == []


def test_an_api_that_does_not_answer_is_an_error_to_try_again(
    snapshots: Snapshots, redshift: Redshift, lab_redshift_api: Any
) -> None:
    call = "RedshiftServerless" if redshift.serverless else "Action=Describe"
    lab_redshift_api.s3.faults({"key": call, "status": 503, "times": 9})
    started = time.monotonic()
    with pytest.raises(ApiUnreachable, match=r"(list the snapshots of|describe workgroup) "):
        snapshots.list()
    assert time.monotonic() - started < 10


def test_an_api_that_lets_us_not_in_names_the_rights(
    snapshots: Snapshots, redshift: Redshift, lab_redshift_api: Any
) -> None:
    call = "RedshiftServerless" if redshift.serverless else "Action=Describe"
    lab_redshift_api.s3.faults({"key": call, "status": 403, "times": 9})
    with pytest.raises(ApiRefused, match=r"include/iam/redshift-policy\.json"):
        snapshots.list()
