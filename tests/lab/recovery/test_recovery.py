"""Recovery to a moment, against instances that are real: the data, the record, the deployments, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dbops.aws import as_dict
from dbops.postgres import recovery
from dbops.postgres.recovery import Findings
from dbops_lab.supervisor import Supervisor
from dbops_lab.testing import LabKubernetes, LabRds
from recovery_world import API, SYNCER, RecoveryWorld


def test_a_recovery_brings_back_exactly_the_rows_as_of_the_chosen_second_and_everybody_follows(
    world: RecoveryWorld,
) -> None:
    before = world.checksums()
    good = world.damage()
    assert world.checksums() != before

    plan = world.begin(good)
    world.restored(plan)
    assert world.checksums(plan.target) == before
    url = recovery.emit_terraform(world.open(), plan)
    findings = recovery.check(world.open(), plan)
    assert [one.ok for one in findings.validations] == [True]
    accounts, log = findings.tables
    assert (accounts.rows, accounts.damaged_rows) == (2000, 2000)
    assert (accounts.changed, accounts.missing, accounts.extra, accounts.is_part) == (2000, 0, 0, False)
    assert accounts.examples[0].startswith("region, id = eu,")
    assert log.is_equal
    assert findings.sessions == {API: 2, SYNCER: 2}
    world.approve(plan)
    for _, work in recovery.STEPS:
        world.wait(work, plan)

    assert world.rds.target() == world.rds.describe(plan.target)["Endpoint"]["Address"]
    assert world.kubernetes.sessions(plan.target) == {API: 2, SYNCER: 2}
    assert world.kubernetes.sessions() == {}
    report = recovery.report(world.open(), plan)
    assert list(report.phases) == ["plan", "restore", "validate", "approve", "dns", "restart", "sessions"]
    assert sum(report.phases.values()) == pytest.approx(report.seconds, abs=0.1)
    assert report.in_time
    assert report.switched_from == world.rds.describe()["Endpoint"]["Address"]
    assert report.terraform == url
    assert f'id = "{plan.target}"' in world.store.get(url.removeprefix(f"{world.store.url}/")).decode().replace(
        "  ", " "
    )
    assert (
        "accounts"
        in Findings.model_validate_json(world.store.get(f"recoveries/postgres/{plan.target}/findings.json")).describe()
    )
    steps = recovery.Recovery(world.store, plan.target, None).steps()
    assert {step.outcome for step in steps.values()} == {"done"}
    assert steps["switch"].before["value"] == report.switched_from
    assert steps["switch"].after["value"] == report.address


def test_the_new_instance_is_set_up_as_the_source_and_not_as_rds_would(world: RecoveryWorld) -> None:
    source = world.rds.describe()
    plan = world.begin("latest")
    world.restored(plan)
    made = world.rds.describe(plan.target)
    for name in ("DBInstanceClass", "MultiAZ", "DeletionProtection", "BackupRetentionPeriod", "PubliclyAccessible"):
        assert made[name] == source[name], name
    assert made["DBSubnetGroup"]["DBSubnetGroupName"] == source["DBSubnetGroup"]["DBSubnetGroupName"]
    assert made["VpcSecurityGroups"] == source["VpcSecurityGroups"]
    assert (
        made["DBParameterGroups"][0]["DBParameterGroupName"] == source["DBParameterGroups"][0]["DBParameterGroupName"]
    )
    assert made["OptionGroupMemberships"] == source["OptionGroupMemberships"]
    tags = as_dict(made["TagList"])
    assert tags.items() >= as_dict(source["TagList"]).items()
    assert (tags["dbops-recovery"], tags["dbops-recovered-from"]) == (plan.target, world.rds.name)
    assert recovery.Recovery(world.store, plan.target, None).steps()["restore"].after["problems"] == []


def test_a_table_without_a_key_and_rows_that_came_or_went_are_told_apart(world: RecoveryWorld) -> None:
    good = world.damage()
    world.rds.rows(
        f"delete from {world.table} where id <= 3;"
        f"insert into {world.table} values (9001, 'us', 1, 'new', now());"
        f"insert into {world.log} values ('new')"
    )
    plan = world.begin(good)
    world.restored(plan)
    findings = recovery.check(world.open(), plan)
    accounts, log = findings.tables
    assert (accounts.changed, accounts.missing, accounts.extra) == (1997, 3, 1)
    assert (log.changed, log.missing, log.extra) == (0, 0, 1)
    assert log.examples == ()
    assert "1 only in the damaged one (lost by the switch)" in findings.describe()


def test_an_instance_of_postgresql_14_is_brought_back_to_the_second_too(
    lab_rds_of: Callable[[int], LabRds], lab_supervisor: Supervisor, tmp_path: Path
) -> None:
    rds = lab_rds_of(14)
    rds.clean()
    kubernetes = LabKubernetes(rds, lab_supervisor.state)
    try:
        world = RecoveryWorld(rds, kubernetes, tmp_path)
        before = world.checksums()
        plan = world.begin(world.damage())
        world.restored(plan)
        assert world.checksums(plan.target) == before
        findings = recovery.check(world.open(), plan)
        assert [one.changed for one in findings.tables] == [2000, 0]
        assert findings.sessions == {API: 2, SYNCER: 2}
    finally:
        kubernetes.api.close()
        rds.clean()
