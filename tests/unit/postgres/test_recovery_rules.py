"""Recovery's rules: which moments, which names, which settings, which Terraform, which rights."""

from __future__ import annotations

import ast
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops.platform import PlatformFileError, load_platform
from dbops.postgres.recovery_apps import RolloutFailed, rollout_of
from dbops.postgres.recovery_dns import Record
from dbops.postgres.recovery_plan import InstanceSettings, RecoveryPlan, tags_of, target_name
from dbops.postgres.recovery_restore import differences, restore_words
from dbops.postgres.recovery_state import Step, phases
from dbops.postgres.recovery_terraform import identifier, terraform
from dbops.postgres.recovery_time import RecoveryRefused, Window, check_moment, parse_moment

PROJECT = Path(__file__).parents[3]
NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(days=7), NOW - timedelta(minutes=4))
SETTINGS = InstanceSettings(
    instance_class="db.r6g.large",
    engine_version="17.2",
    subnet_group="private",
    security_groups=("sg-1", "sg-2"),
    parameter_group="exchange-17",
    option_group="exchange-options",
    multi_az=True,
    deletion_protection=True,
    storage_type="gp3",
    storage_gb=200,
    iops=3000,
    encrypted=True,
    kms_key="arn:aws:kms:eu-west-1:123456789012:key/1",
    backup_retention_days=7,
    tags={"service": "exchange", "cost": 'a "quoted" ${thing}'},
)
PLAN = RecoveryPlan(
    platform="production",
    run="postgres_recovery/manual__1",
    reason="somebody's UPDATE\nwithout WHERE",
    source="exchange-v2",
    source_address="exchange-v2.abc.eu-west-1.rds.amazonaws.com",
    source_port=5432,
    target="exchange-v2-20261124t055959z-1a2b3",
    region="eu-west-1",
    moment=NOW,
    is_latest=False,
    settings=SETTINGS,
    zone="Z1",
    record=Record(name="exchange.db.example.com", value="exchange-v2.abc.eu-west-1.rds.amazonaws.com", ttl=5),
    asked_at=NOW,
    planned_at=NOW,
)


# --- moments ----------------------------------------------------------------------------------------------


def test_a_moment_is_taken_with_its_time_zone() -> None:
    assert parse_moment("2026-11-24T07:59:59+02:00") == datetime(2026, 11, 24, 5, 59, 59, tzinfo=UTC)
    assert parse_moment(" Latest ") is None


@pytest.mark.parametrize("text", ["2026-11-24T05:59:59", "2026-11-24", "2026-11-24T05:59:59.25Z", "now", "", None])
def test_what_is_no_moment_is_refused(text: str | None) -> None:
    with pytest.raises(RecoveryRefused, match="point in time"):
        parse_moment(text)


def test_the_window_holds_its_ends() -> None:
    for moment in (WINDOW.earliest, WINDOW.latest):
        assert check_moment(moment, WINDOW, "exchange", NOW) == moment
    assert check_moment(None, WINDOW, "exchange", NOW) == WINDOW.latest


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (NOW + timedelta(seconds=1), "in the future, by 1 s"),
        (NOW - timedelta(minutes=3), "up to 2026-11-25T11:56:00Z only"),
        (WINDOW.earliest - timedelta(hours=2), "too old by 2 h"),
    ],
)
def test_out_of_the_window_is_refused_with_what_is_possible(moment: datetime, words: str) -> None:
    with pytest.raises(RecoveryRefused, match=words):
        check_moment(moment, WINDOW, "exchange", NOW)


def test_a_window_that_ends_in_the_year_2040_is_not_believed() -> None:
    window = Window(WINDOW.earliest, datetime(2040, 1, 1, tzinfo=UTC))
    for moment in (None, datetime(2039, 1, 1, tzinfo=UTC)):
        with pytest.raises(RecoveryRefused, match="compare the clock"):
            check_moment(moment, window, "exchange", NOW)


# --- names ------------------------------------------------------------------------------------------------


def test_a_run_always_gets_the_same_name_and_another_run_another() -> None:
    name = target_name("exchange-v2", NOW, "run/1")
    assert name == target_name("exchange-v2", NOW.astimezone(), "run/1")
    assert name.startswith("exchange-v2-20261125t120000z-")
    others = {target_name("exchange-v2", NOW, "run/2"), target_name("exchange-v2", None, "run/1")}
    assert name not in others
    assert len(others) == 2


def test_an_instance_that_was_recovered_already_does_not_get_a_longer_name_each_time() -> None:
    once = target_name("a" * 40, NOW, "run/1")
    twice = target_name(once, NOW + timedelta(days=1), "run/2")
    assert len(once) == len(twice) <= 63
    assert "--" not in twice


# --- settings ---------------------------------------------------------------------------------------------


def test_all_that_rds_would_choose_itself_is_asked_for() -> None:
    words = restore_words(PLAN)
    assert words["DBSubnetGroupName"] == "private"
    assert words["VpcSecurityGroupIds"] == ["sg-1", "sg-2"]
    assert (words["DBParameterGroupName"], words["OptionGroupName"]) == ("exchange-17", "exchange-options")
    assert (words["MultiAZ"], words["DeletionProtection"]) == (True, True)
    assert words["RestoreTime"] == NOW
    assert "UseLatestRestorableTime" not in words
    assert "Iops" not in words  # the baseline of gp3 cannot be asked for


def test_tags_of_aws_and_more_than_fifty_are_left_out() -> None:
    many = SETTINGS.model_copy(update={"tags": {f"t{n}": "x" for n in range(60)}})
    found = tags_of(PLAN.model_copy(update={"settings": many}), {"dbops-run": "r"})
    assert len(found) == 50
    assert found["dbops-recovery"] == PLAN.target


def found(**words: Any) -> dict[str, Any]:
    return {
        "DBInstanceClass": "db.r6g.large",
        "Engine": "postgres",
        "DBSubnetGroup": {"DBSubnetGroupName": "private"},
        "VpcSecurityGroups": [{"VpcSecurityGroupId": "sg-2"}, {"VpcSecurityGroupId": "sg-1"}],
        "DBParameterGroups": [{"DBParameterGroupName": "exchange-17"}],
        "OptionGroupMemberships": [{"OptionGroupName": "exchange-options"}],
        "MultiAZ": True,
        "DeletionProtection": True,
        "StorageType": "gp3",
        "StorageEncrypted": True,
        "KmsKeyId": SETTINGS.kms_key,
        "BackupRetentionPeriod": 7,
        **words,
    }


def test_a_new_instance_with_a_default_group_is_found_before_anything_is_switched() -> None:
    assert differences(SETTINGS, found())[0] == ()
    problems, _ = differences(
        SETTINGS, found(VpcSecurityGroups=[{"VpcSecurityGroupId": "sg-default"}], DBParameterGroups=[])
    )
    assert problems == (
        "security groups is sg-default, the source has sg-1, sg-2",
        "parameter group is none, the source has exchange-17",
    )
    problems, notes = differences(SETTINGS, found(MultiAZ=False, PendingModifiedValues={"MultiAZ": True}))
    assert problems == ()
    assert notes == ("multi az is off, the source has on; RDS is about to change it",)


# --- Terraform --------------------------------------------------------------------------------------------


def test_the_terraform_imports_the_instance_and_leads_the_record_to_it() -> None:
    text = terraform(PLAN, {"dbops-run": PLAN.run})
    lines = [" ".join(line.split()) for line in text.splitlines()]
    name = "exchange_v2_20261124t055959z_1a2b3"
    for line in (
        f"to = aws_db_instance.{name}",
        f'id = "{PLAN.target}"',
        f'resource "aws_db_instance" "{name}" {{',
        'vpc_security_group_ids = ["sg-1", "sg-2"]',
        "multi_az = true",
        'id = "Z1_exchange.db.example.com_CNAME"',
        f"records = [aws_db_instance.{name}.address]",
        '"cost" = "a \\"quoted\\" $${thing}"',
    ):
        assert line in lines, line
    assert text.count("{") - text.count("${") == text.count("}") - text.count("thing}")
    assert "restore_to_point_in_time {" not in text
    assert "# Reason: somebody's UPDATE without WHERE" in text
    assert identifier("9-lives.db") == "_9_lives_db"


# --- rollouts ---------------------------------------------------------------------------------------------


def deployment(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "production", "name": "terminal", "generation": 3},
        "spec": {"replicas": 2},
        "status": {"observedGeneration": 3, **status},
    }


@pytest.mark.parametrize(
    ("status", "done", "words"),
    [
        ({"observedGeneration": 2}, False, "not seen yet"),
        ({"replicas": 3, "updatedReplicas": 1, "availableReplicas": 2}, False, "1 of 2 pods are new"),
        ({"replicas": 3, "updatedReplicas": 2, "availableReplicas": 2}, False, "1 old pods are still there"),
        ({"replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}, False, "1 of 2 new pods"),
        ({"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}, True, "2 new pods are available"),
    ],
)
def test_a_rollout_is_done_when_only_new_pods_are_there_and_available(
    status: dict[str, Any], done: bool, words: str
) -> None:
    found = rollout_of(deployment(**status))
    assert (found.name, found.done) == ("production/terminal", done)
    assert words in found.message


def test_a_rollout_past_its_deadline_has_failed() -> None:
    condition = {"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "it has timed out"}
    with pytest.raises(RolloutFailed, match="production/terminal does not roll out: it has timed out"):
        rollout_of(deployment(conditions=[condition]))
    stale = deployment(conditions=[condition])
    stale["metadata"]["generation"] = 4  # of the change before
    assert not rollout_of(stale).done


# --- time to recovery -------------------------------------------------------------------------------------


def test_the_phases_make_up_the_time_to_recovery() -> None:
    ends = {"plan": 5, "restore": 65, "terraform": 66, "validate": 75, "approve": 300, "switch": 301, "dns": 310}
    steps = {
        name: Step(name=name, started_at=NOW, finished_at=NOW + timedelta(seconds=end), outcome="done")
        for name, end in ends.items()
    }
    took = phases(NOW, steps)
    assert {name: one.total_seconds() for name, one in took.items()} == {
        "plan": 5, "restore": 60, "validate": 10, "approve": 225, "dns": 10,
    }  # fmt: skip
    assert sum(took.values(), timedelta(0)) == timedelta(seconds=310)


# --- configuration and rights -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"validations": []}, "at least 1"),
        ({"validations": [{"name": "a", "database": "exchange", "query": "delete from x", "at_least": 1}]}, "no query"),
        ({"validations": [{"name": "a", "database": "exchange", "query": "select 1"}]}, "says not what it must be"),
        ({"record": {"name": "exchange"}}, "record.name"),
        ({"tables": [{"database": "exchange", "table": "public.a"}] * 2}, "more than once"),
    ],
)
def test_a_section_that_is_wrong_is_refused_with_its_path(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    platform = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
    platform["postgres"]["recovery"] |= change
    (tmp_path / "platform.yaml").write_text(yaml.safe_dump(platform))
    with pytest.raises(PlatformFileError, match=words) as caught:
        load_platform(tmp_path / "platform.yaml")
    assert "postgres.recovery" in str(caught.value)


ACTIONS = {
    "describe_db_instances": "rds:DescribeDBInstances",
    "describe_db_instance_automated_backups": "rds:DescribeDBInstanceAutomatedBackups",
    "restore_db_instance_to_point_in_time": "rds:RestoreDBInstanceToPointInTime rds:AddTagsToResource",
    "list_hosted_zones": "route53:ListHostedZones",
    "list_resource_record_sets": "route53:ListResourceRecordSets",
    "change_resource_record_sets": "route53:ChangeResourceRecordSets",
    "get_change": "route53:GetChange",
}


def called() -> set[str]:
    """Operations that recovery's modules call on a client, and those that a paginator pages through."""
    made: set[str] = set()
    for path in sorted((PROJECT / "plugins/dbops/postgres").glob("recovery*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "client":
                argument = node.args[0] if node.args else None
                paged = node.func.attr == "get_paginator" and isinstance(argument, ast.Constant)
                made.add(str(argument.value) if paged and isinstance(argument, ast.Constant) else node.func.attr)
    return made


def test_the_policy_allows_what_the_code_calls_and_nothing_else() -> None:
    policy = json.loads((PROJECT / "include/iam/postgres-recovery-policy.json").read_text())
    granted = [action for statement in policy["Statement"] for action in statement["Action"]]
    assert called() == set(ACTIONS)
    assert sorted(granted) == sorted({action for call in ACTIONS.values() for action in call.split()})
    switch = next(item for item in policy["Statement"] if item["Sid"] == "SwitchThisRecordOnly")
    conditions = switch["Condition"]["ForAllValues:StringEquals"]
    recovery = load_platform(PROJECT / "include/platform/production.yaml").postgres.recovery
    assert conditions["route53:ChangeResourceRecordSetsNormalizedRecordNames"] == [recovery.record.name]
    assert conditions["route53:ChangeResourceRecordSetsActions"] == ["CREATE", "DELETE"]


def test_the_role_in_kubernetes_is_for_the_deployments_of_production_only() -> None:
    kubernetes = load_platform(PROJECT / "include/platform/production.yaml").postgres.recovery.kubernetes
    documents = list(yaml.safe_load_all((PROJECT / "include/iam/postgres-recovery-rbac.yaml").read_text()))
    assert {document["metadata"]["namespace"] for document in documents} == {kubernetes.namespace}
    (role,) = [document for document in documents if document["kind"] == "Role"]
    assert role["rules"] == [
        {
            "apiGroups": ["apps"],
            "resources": ["deployments"],
            "resourceNames": [one.name for one in kubernetes.deployments],
            "verbs": ["get", "patch"],
        }
    ]
