"""The rights on RDS that are asked for are those that the code needs: action by action, and no more."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from dbops.aws import ApiRefused, tags_of
from dbops.connections import ConnectionInfo
from dbops.platform import Postgres, load_platform
from dbops.postgres.rds import begin_copy, describe, open_copies, open_snapshots, wait_for_snapshot
from moto.core import set_initial_no_auth_action_count
from moto.server import ThreadedMotoServer

PROJECT = Path(__file__).parents[3]
MODULE = PROJECT / "plugins/dbops/postgres/rds.py"
POLICY = PROJECT / "include/iam/rds-policy.json"

# https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonrds.html
ACTIONS = {
    "describe_db_instances": "rds:DescribeDBInstances",
    "describe_db_snapshots": "rds:DescribeDBSnapshots",
    "create_db_snapshot": "rds:CreateDBSnapshot rds:AddTagsToResource",
    "copy_db_snapshot": "rds:CopyDBSnapshot rds:AddTagsToResource",
    "delete_db_snapshot": "rds:DeleteDBSnapshot",
}


def calls() -> set[str]:
    """Names of the operations: `client.<name>(...)`, and those that a paginator pages through."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULE.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value
            if (isinstance(of, ast.Name) and of.id == "client") or (
                isinstance(of, ast.Attribute) and of.attr == "client"
            ):
                paged = node.func.attr == "get_paginator" and isinstance(node.args[0], ast.Constant)
                found.add(str(node.args[0].value) if paged else node.func.attr)  # type: ignore[attr-defined]
    return found


def granted() -> dict[str, Any]:
    """Action -> resource."""
    statements = json.loads(POLICY.read_text())["Statement"]
    assert {statement["Effect"] for statement in statements} == {"Allow"}
    return {action: statement["Resource"] for statement in statements for action in statement["Action"]}


def test_the_policy_allows_every_call_of_the_code() -> None:
    called = calls()
    assert called == set(ACTIONS), "name the action of the new call here and in the policy"
    assert {action for call in called for action in ACTIONS[call].split()} <= set(granted())


def test_only_snapshots_of_ours_can_be_made_and_deleted() -> None:
    postgres = load_platform(PROJECT / "include/platform/production.yaml").postgres
    assert postgres is not None
    assert postgres.rds is not None
    ours = [
        f"arn:aws:rds:{region}:123456789012:snapshot:dbops-*" for region in (postgres.region, postgres.rds.copy_region)
    ]
    assert granted()["rds:DeleteDBSnapshot"] == ours
    assert granted()["rds:CreateDBSnapshot"] == [
        f"arn:aws:rds:{postgres.region}:123456789012:db:{postgres.name}", *ours
    ]  # fmt: skip


@pytest.fixture
def enforcing() -> Iterator[str]:
    """Address of a moto server of its own."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@set_initial_no_auth_action_count(4)
def test_snapshots_and_copies_work_under_the_policy_and_nothing_else_does(enforcing: str) -> None:
    """moto enforces IAM after the first four requests, which set it up, and knows no resource but `*` for RDS."""
    policy = json.loads(POLICY.read_text())
    for statement in policy["Statement"]:
        statement["Resource"] = "*"
    settings: dict[str, Any] = {"endpoint_url": enforcing, "region_name": "eu-west-1", "config": Config(proxies={})}
    admin: Any = boto3.client("rds", aws_access_key_id="a", aws_secret_access_key="b", **settings)
    iam: Any = boto3.client("iam", aws_access_key_id="a", aws_secret_access_key="b", **settings)
    admin.create_db_instance(
        DBInstanceIdentifier="exchange-v2", DBInstanceClass="db.t3.medium", Engine="postgres", AllocatedStorage=20,
        MasterUsername="postgres", MasterUserPassword="Secret123",
    )  # fmt: skip
    iam.create_user(UserName="dbops-rds")
    iam.put_user_policy(UserName="dbops-rds", PolicyName="rds", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="dbops-rds")["AccessKey"]
    extra = {"endpoint_url": enforcing, "config_kwargs": {"proxies": {}}}
    info = ConnectionInfo("aws", "aws", login=key["AccessKeyId"], password=key["SecretAccessKey"], extra=extra)
    postgres = Postgres(name="exchange-v2", databases=("exchange",), region="eu-west-1")
    snapshots, copies = open_snapshots(postgres, info), open_copies(postgres, info, "eu-central-1")

    assert describe(snapshots.client, "exchange-v2").storage_gb == 20
    tags = tags_of("production", "a/run", "a test")
    taken = wait_for_snapshot(snapshots, "dbops-1", tags, timedelta(seconds=5), poll=0.1)
    assert taken in snapshots.list()
    assert begin_copy(copies, taken, "eu-west-1", tags).id == "dbops-1"
    for place in (snapshots, copies):
        place.delete("dbops-1")
        assert place.get("dbops-1") is None
    for call, words in (
        ("delete_db_instance", {"DBInstanceIdentifier": "exchange-v2", "SkipFinalSnapshot": True}),
        ("modify_db_instance", {"DBInstanceIdentifier": "exchange-v2", "BackupRetentionPeriod": 0}),
    ):
        with pytest.raises(snapshots.client.exceptions.ClientError, match="AccessDenied"):
            getattr(snapshots.client, call)(**words)
    nobody = ConnectionInfo("aws", "aws", login=key["AccessKeyId"], password="wrong", extra=extra)
    with pytest.raises(ApiRefused, match=r"include/iam/rds-policy\.json"):
        open_snapshots(postgres, nobody).list()
