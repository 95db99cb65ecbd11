"""Restores to a new cluster, or to a new workgroup of Serverless: real data at a second address, whatever is killed."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbops import ledger
from dbops.ledger import record_check
from dbops.redshift.figures import count_days
from dbops.redshift.restore_cluster import (
    FIGURES,
    RestoreFailed,
    RestorePlan,
    RestoreRefused,
    WorkgroupSettings,
    connection_to,
    known_settings,
    left_behind,
    read_settings,
)
from dbops.redshift.session import open_session
from dbops_lab.testing import LabPostgres
from warehouse_world import DAY, Warehouse


def begin(warehouse: Warehouse, plan: RestorePlan) -> None:
    """Until the cluster, or namespace and workgroup, is there; its data may still be on its way."""
    for _ in range(2 if warehouse.serverless else 1):
        warehouse.advance(plan)


def test_the_new_cluster_holds_the_data_of_the_snapshots_moment(warehouse: Warehouse) -> None:
    before = warehouse.count(warehouse.info)
    snapshot = warehouse.snapshot()
    warehouse.run(f"delete from {warehouse.schema}.wins where id < 5", warehouse.rows_of(0, 3))
    plan = warehouse.plan(snapshot)
    progress = warehouse.restore(plan)
    there = connection_to(warehouse.info, plan, progress)
    assert (there.port, there.login) != (warehouse.info.port, None)
    assert warehouse.count(there) == before
    assert warehouse.count(warehouse.info) != before, "the source goes on"
    report = warehouse.report(plan, progress)
    assert report.ok, report.problems
    assert report.compared_days == 7
    assert len(report.notes) == 7, "the source has lost rows of each day since"
    assert {step.name for step in report.steps} == {"decide", "restore", "check"}
    assert report.seconds == pytest.approx(sum(step.seconds for step in report.steps), abs=0.01)
    assert report.in_time


def test_the_newest_usable_snapshot_is_taken_and_the_name_is_that_of_the_run(warehouse: Warehouse) -> None:
    warehouse.snapshot()
    newest = warehouse.snapshot()
    plan = warehouse.plan(run="redshift_restore/manual__1")
    assert plan.snapshot == newest
    assert plan.target.startswith("dbops-bedrock-restored-")
    assert warehouse.plan(run="redshift_restore/manual__1").target == plan.target
    assert warehouse.plan(run="redshift_restore/manual__2").target != plan.target
    assert newest in plan.describe()
    assert "Nothing is deleted" in plan.describe()


def test_every_try_goes_on_with_what_the_run_has_made(warehouse: Warehouse) -> None:
    plan = warehouse.plan(warehouse.snapshot())
    statuses = [warehouse.advance(plan).status for _ in range(3)]
    assert "creating" in statuses
    again = warehouse.plan(plan.snapshot, run=plan.run, target=plan.target)  # the planning task, cleared
    assert warehouse.restore(again).done
    assert warehouse.restore(plan).done, "and once it is there"


def test_a_try_whose_answer_was_lost_is_adopted(warehouse: Warehouse) -> None:
    plan = warehouse.plan(warehouse.snapshot())
    for call in ["CreateNamespace", "CreateWorkgroup", "RestoreFromSnapshot"] if warehouse.serverless else [
        "RestoreFromClusterSnapshot"
    ]:  # fmt: skip
        name = f"RedshiftServerless.{call}" if warehouse.serverless else f"Action={call}"
        warehouse.api.s3.faults({"key": name, "status": 500, "after": True})
        with contextlib.suppress(Exception):
            warehouse.advance(plan)
    progress = warehouse.restore(plan)
    assert warehouse.count(connection_to(warehouse.info, plan, progress)) == warehouse.count(warehouse.info)


@pytest.mark.parametrize("redshift", ["cluster"], indirect=True)  # what Serverless makes is tagged with it
def test_one_that_was_killed_before_its_tags_is_adopted(warehouse: Warehouse) -> None:
    plan = warehouse.plan(warehouse.snapshot())
    warehouse.client.restore_from_cluster_snapshot(SnapshotIdentifier=plan.snapshot, ClusterIdentifier=plan.target)
    assert warehouse.restore(plan).done
    (found,) = warehouse.client.describe_clusters(ClusterIdentifier=plan.target)["Clusters"]
    assert {tag["Key"]: tag["Value"] for tag in found["Tags"]}["dbops-restore"] == plan.mark


def test_a_cluster_that_somebody_else_made_is_refused_and_left_alone(warehouse: Warehouse) -> None:
    snapshot = warehouse.snapshot()
    theirs = warehouse.plan(snapshot, run="redshift_restore/theirs", target="shared-name")
    begin(warehouse, theirs)
    with pytest.raises(RestoreRefused, match="exists already"):
        warehouse.plan(snapshot, run="redshift_restore/mine", target="shared-name")
    mine = theirs.model_copy(update={"run": "redshift_restore/mine"})
    with pytest.raises(RestoreFailed, match="is left alone"):
        warehouse.advance(mine)
    with pytest.raises(RestoreRefused, match="exists already"):
        warehouse.plan(warehouse.snapshot(), run="redshift_restore/theirs", target="shared-name")


def test_the_name_of_the_warehouse_is_refused(warehouse: Warehouse) -> None:
    snapshot = warehouse.snapshot()
    for name in {"bedrock", warehouse.snapshots.source}:
        with pytest.raises(RestoreRefused, match="is the name of the platform's warehouse"):
            warehouse.plan(snapshot, target=name)


def test_what_is_no_name_is_refused(warehouse: Warehouse) -> None:
    snapshot = warehouse.snapshot()
    for name in ("Bedrock", "9lives", "a--b", "a-", "a_b", "x" * 65, "ü"):
        with pytest.raises(RestoreRefused, match="is no name for a new cluster"):
            warehouse.plan(snapshot, target=name)


def test_a_snapshot_that_is_not_there_or_not_usable_is_refused_in_words(warehouse: Warehouse) -> None:
    with pytest.raises(RestoreRefused, match="has no snapshot nonsense; the newest are"):
        warehouse.plan("nonsense")
    source = warehouse.snapshots.source
    warehouse.api.plant("dbops-broken", source=source, status="failed")
    with pytest.raises(RestoreRefused, match="is failed, so it cannot be restored"):
        warehouse.plan("dbops-broken")
    with pytest.raises(RestoreRefused, match="needs a reason"):
        warehouse.plan(reason="  ")


def test_the_new_one_is_set_up_as_the_source(warehouse: Warehouse) -> None:
    ec2 = warehouse.api.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName=warehouse.schema, Description="x", VpcId=vpc)["GroupId"]
    role = "arn:aws:iam::123456789012:role/redshift-load"
    if warehouse.serverless:
        settings: Any = WorkgroupSettings(
            namespace=warehouse.api.namespace, database=warehouse.lab.database, iam_roles=(role,), base_capacity=64,
            subnets=(subnet,), security_groups=(group,), parameters={"max_query_execution_time": "3600"},
            enhanced_vpc_routing=True,
        )  # fmt: skip
        plan = warehouse.plan(warehouse.snapshot()).model_copy(update={"settings": settings})
        begin(warehouse, plan)
        found = read_settings(warehouse.client, warehouse.redshift.model_copy(update={"name": plan.target}))
        assert found == settings.model_copy(update={"namespace": plan.target})
        return
    redshift = warehouse.api.client("redshift")
    redshift.create_cluster_subnet_group(ClusterSubnetGroupName=warehouse.schema, Description="x", SubnetIds=[subnet])
    parameters = f"p-{warehouse.schema}".replace("_", "-")
    redshift.create_cluster_parameter_group(
        ParameterGroupName=parameters, ParameterGroupFamily="redshift-1.0", Description="x"
    )
    redshift.modify_cluster(
        ClusterIdentifier="bedrock", VpcSecurityGroupIds=[group], ClusterParameterGroupName=parameters
    )
    settings = read_settings(warehouse.client, warehouse.redshift)
    assert settings.security_groups == (group,)
    settings = settings.model_copy(update={"subnet_group": warehouse.schema, "iam_roles": (role,), "port": 5440})
    plan = warehouse.plan(warehouse.snapshot()).model_copy(update={"settings": settings})
    begin(warehouse, plan)
    found = read_settings(warehouse.client, warehouse.redshift.model_copy(update={"name": plan.target}))
    differ = {"port", "parameter_group"}  # the lab's address is its own; of the group moto keeps the letters
    assert found.model_dump(exclude=differ) == settings.model_dump(exclude=differ)


def test_the_node_type_of_the_platform_file_wins(warehouse: Warehouse) -> None:
    snapshots = warehouse.redshift.snapshots.model_copy(update={"restore_node_type": "ra3.4xlarge"})
    changed = warehouse.redshift.model_copy(update={"snapshots": snapshots})
    plan = warehouse.plan(warehouse.snapshot(), redshift=changed)
    if warehouse.serverless:
        assert "ra3" not in plan.describe(), "Serverless has no nodes"
        return
    begin(warehouse, plan)
    (found,) = warehouse.client.describe_clusters(ClusterIdentifier=plan.target)["Clusters"]
    assert (found["NodeType"], found["NumberOfNodes"]) == ("ra3.4xlarge", 2)


def test_a_restore_that_takes_too_long_says_what_exists_and_how_to_remove_it(warehouse: Warehouse) -> None:
    warehouse.api.take(restore=30)
    plan = warehouse.plan(warehouse.snapshot())
    assert left_behind(warehouse.client, plan) == "Nothing was made"
    assert not warehouse.advance(plan).done
    earlier = plan.model_copy(update={"planned_at": plan.planned_at - timedelta(seconds=2)})
    with pytest.raises(RestoreFailed, match=r"is still \w+ after 1 s, the longest that a restore may take") as late:
        warehouse.advance(earlier, timedelta(seconds=1))
    command = "aws redshift-serverless delete-namespace" if warehouse.serverless else "aws redshift delete-cluster"
    assert f"{command} --" in str(late.value)
    assert plan.target in str(late.value)


def test_a_refusal_of_aws_is_told_with_what_exists(warehouse: Warehouse) -> None:
    call = "RedshiftServerless.CreateWorkgroup" if warehouse.serverless else "Action=RestoreFromClusterSnapshot"
    warehouse.api.s3.faults({"key": call, "status": 403, "times": 9})
    plan = warehouse.plan(warehouse.snapshot())
    if warehouse.serverless:
        warehouse.advance(plan)  # the namespace comes first
    with pytest.raises(RestoreFailed) as refused:
        warehouse.advance(plan)
    text = str(refused.value)
    assert "include/iam/redshift-policy.json" in text
    assert ("delete-namespace" in text) if warehouse.serverless else text.endswith("Nothing was made")


# --- checks -----------------------------------------------------------------------------------------------


def test_days_that_are_missing_in_the_snapshot_fail_the_check_and_are_named(warehouse: Warehouse) -> None:
    warehouse.run(f"delete from {warehouse.schema}.wins where \"timestamp\" < '{warehouse.today - 3 * DAY:%F}'")
    plan = warehouse.plan(warehouse.snapshot())
    warehouse.run(warehouse.rows_of(5, 40))
    report = warehouse.report(plan, warehouse.restore(plan))
    assert not report.ok
    assert report.problems == (f"{warehouse.schema}.wins: {(warehouse.today - 5 * DAY).date()} has 0 rows of 40",)


def test_a_table_that_is_not_in_the_snapshot_is_missing(warehouse: Warehouse) -> None:
    warehouse.run(f"alter table {warehouse.schema}.wins rename to kept")
    plan = warehouse.plan(warehouse.snapshot())
    warehouse.run(f"alter table {warehouse.schema}.kept rename to wins")
    report = warehouse.report(plan, warehouse.restore(plan))
    assert report.problems[0] == f"{warehouse.schema}.wins or its column timestamp is missing"
    assert any("only in the restored warehouse" in note and "kept" in note for note in report.notes)


def test_without_its_source_it_is_compared_with_what_the_ledger_has(
    warehouse: Warehouse, lab_postgres: LabPostgres
) -> None:
    engine = ledger.connect(lab_postgres.new_database())
    ledger.migrate(engine)
    plan = warehouse.plan(warehouse.snapshot())
    progress = warehouse.restore(plan)
    today = warehouse.today.date()
    with open_session(warehouse.info) as session:
        figures = count_days(session, warehouse.redshift.archive.tables, today - 7 * DAY, today)
    warehouse.info = replace(warehouse.info, port=9)  # where nobody listens: the source is gone
    report = warehouse.report(plan, progress, engine)
    assert report.problems[0].startswith("there is nothing to compare with; rows of the last days: ")
    details = figures.model_dump(mode="json")
    at = datetime.now(UTC)
    record_check(engine, name=FIGURES, target="bedrock", run="r", at=at, ok=True, message="", details=details)
    report = warehouse.report(plan, progress, engine)
    assert (report.problems, report.compared_days) == ((), 7)
    assert report.compared_with == f"bedrock, as the ledger had it {at:%FT%TZ}"


def test_a_source_that_is_gone_is_restored_with_the_settings_of_the_ledger(
    warehouse: Warehouse, lab_postgres: LabPostgres
) -> None:
    engine = ledger.connect(lab_postgres.new_database())
    ledger.migrate(engine)
    assert known_settings(engine, warehouse.redshift) is None
    settings = read_settings(warehouse.client, warehouse.redshift)
    snapshot = warehouse.snapshot()
    gone = warehouse.redshift.model_copy(update={"name": "vanished"})
    with pytest.raises(RestoreRefused, match="the ledger does not know how it was set up"):
        warehouse.plan(snapshot, redshift=gone)
    plan = warehouse.plan(snapshot, redshift=gone, known=(settings, "2026-11-24T05:30:00Z"))
    assert plan.settings == settings
    assert "as the ledger knew them 2026-11-24T05:30:00Z" in plan.describe()
    progress = warehouse.restore(plan)
    assert warehouse.count(connection_to(warehouse.info, plan, progress)) == warehouse.count(warehouse.info)
