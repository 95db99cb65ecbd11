"""The rights that are asked for are those that the code needs: IAM actions call by call, and no more."""

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
from dbops.connections import ConnectionInfo
from dbops.platform import Redshift, load_platform
from dbops.redshift.api import ApiRefused, redshift_client, tags_of
from dbops.redshift.restore_cluster import advance, plan_restore
from dbops.redshift.snapshots import open_snapshots, wait_for_snapshot
from moto.core import set_initial_no_auth_action_count
from moto.server import ThreadedMotoServer

PROJECT = Path(__file__).parents[3]
CODE = PROJECT / "plugins/dbops/redshift"
POLICY = PROJECT / "include/iam/redshift-policy.json"
ARCHIVE_POLICY = PROJECT / "include/iam/redshift-archive-policy.json"

# https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
ACTIONS = {
    "describe_clusters": "redshift:DescribeClusters",
    "describe_cluster_snapshots": "redshift:DescribeClusterSnapshots",
    "create_cluster_snapshot": "redshift:CreateClusterSnapshot redshift:CreateTags",
    "delete_cluster_snapshot": "redshift:DeleteClusterSnapshot",
    "restore_from_cluster_snapshot": "redshift:RestoreFromClusterSnapshot iam:PassRole",
    "create_tags": "redshift:CreateTags",
    "get_workgroup": "redshift-serverless:GetWorkgroup",
    "get_namespace": "redshift-serverless:GetNamespace",
    "get_snapshot": "redshift-serverless:GetSnapshot",
    "list_snapshots": "redshift-serverless:ListSnapshots",
    "list_recovery_points": "redshift-serverless:ListRecoveryPoints",
    "list_tags_for_resource": "redshift-serverless:ListTagsForResource",
    "create_snapshot": "redshift-serverless:CreateSnapshot redshift-serverless:TagResource",
    "delete_snapshot": "redshift-serverless:DeleteSnapshot",
    "create_namespace": "redshift-serverless:CreateNamespace redshift-serverless:TagResource iam:PassRole",
    "create_workgroup": "redshift-serverless:CreateWorkgroup redshift-serverless:TagResource",
    "restore_from_snapshot": "redshift-serverless:RestoreFromSnapshot",
    "restore_from_recovery_point": "redshift-serverless:RestoreFromRecoveryPoint",
    "tag_resource": "redshift-serverless:TagResource",
    # A login with a secret, with a name, and without either; the same for `iam: true` of the driver.
    "execute_statement": "redshift-data:ExecuteStatement secretsmanager:GetSecretValue redshift:GetClusterCredentials "
    "redshift:GetClusterCredentialsWithIAM redshift-serverless:GetCredentials",
    "describe_statement": "redshift-data:DescribeStatement",
    "get_statement_result": "redshift-data:GetStatementResult",
    "cancel_statement": "redshift-data:CancelStatement",
    "get_metric_statistics": "cloudwatch:GetMetricStatistics",
}


def calls() -> set[str]:
    """Names of the operations: `client.<name>(...)`, and those that a paginator pages through."""
    found: set[str] = set()
    for path in sorted(CODE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            of = node.func.value
            if (isinstance(of, ast.Name) and of.id == "client") or (
                isinstance(of, ast.Attribute) and of.attr == "_client"
            ):
                argument = node.args[0] if node.args else None
                paged = node.func.attr == "get_paginator" and isinstance(argument, ast.Constant)
                found.add(str(argument.value) if paged and isinstance(argument, ast.Constant) else node.func.attr)
    return found


def granted(path: Path) -> dict[str, Any]:
    """Action -> resource; an action that two statements grant would hide one."""
    found: dict[str, Any] = {}
    for statement in json.loads(path.read_text())["Statement"]:
        assert statement["Effect"] == "Allow"
        for action in statement["Action"]:
            assert action not in found, action
            found[action] = statement["Resource"]
    return found


def test_the_policy_allows_what_the_code_calls_and_nothing_else() -> None:
    called = calls()
    assert called - set(ACTIONS) == set(), "name the action of the new call here and in the policy"
    needed = {action for call in called for action in ACTIONS[call].split()}
    network = {action for action in granted(POLICY) if action.startswith("ec2:Describe")}
    assert set(granted(POLICY)) == needed | network


def test_only_snapshots_of_ours_can_be_deleted() -> None:
    redshift = load_platform(PROJECT / "include/platform/production.yaml").redshift
    assert redshift is not None
    deletable = [item for item in granted(POLICY)["redshift:DeleteClusterSnapshot"] if ":snapshot:" in item]
    assert deletable == [f"arn:aws:redshift:{redshift.region}:123456789012:snapshot:{redshift.name}/dbops-*"]


def test_the_clusters_role_reaches_the_archive_only(production: Any) -> None:
    bucket = production.redshift.archive.bucket or production.storage.bucket
    prefix = production.redshift.archive.prefix
    found = granted(ARCHIVE_POLICY)
    assert {action: found[action] for action in ("s3:GetObject", "s3:PutObject")} == dict.fromkeys(
        ("s3:GetObject", "s3:PutObject"), f"arn:aws:s3:::{bucket}/{prefix}/*"
    )
    assert set(found) == {"s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:GetBucketLocation"}


@pytest.fixture(scope="module")
def production() -> Any:
    return load_platform(PROJECT / "include/platform/production.yaml")


@pytest.fixture
def enforcing() -> Iterator[str]:
    """Address of a moto server of its own."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@set_initial_no_auth_action_count(4)
def test_snapshots_and_restores_of_a_cluster_work_under_the_policy(enforcing: str) -> None:
    """moto enforces IAM after the first four requests, which set it up, and knows no resource but `*` for Redshift."""
    policy = json.loads(POLICY.read_text())
    for statement in policy["Statement"]:
        statement["Resource"] = "*"
        statement.pop("Condition", None)
    settings: dict[str, Any] = {"endpoint_url": enforcing, "region_name": "eu-west-1", "config": Config(proxies={})}
    admin: Any = boto3.client("redshift", aws_access_key_id="a", aws_secret_access_key="b", **settings)
    iam: Any = boto3.client("iam", aws_access_key_id="a", aws_secret_access_key="b", **settings)
    admin.create_cluster(
        ClusterIdentifier="bedrock", NodeType="ra3.large", NumberOfNodes=2, MasterUsername="awsuser",
        MasterUserPassword="Secret123",
    )  # fmt: skip
    iam.create_user(UserName="dbops-warehouse")
    iam.put_user_policy(UserName="dbops-warehouse", PolicyName="redshift", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="dbops-warehouse")["AccessKey"]
    extra = {"endpoint_url": enforcing, "config_kwargs": {"proxies": {}}}
    info = ConnectionInfo("aws", "aws", login=key["AccessKeyId"], password=key["SecretAccessKey"], extra=extra)
    redshift = Redshift(name="bedrock", region="eu-west-1")
    snapshots, client = open_snapshots(redshift, info), redshift_client(info, "eu-west-1", serverless=False)

    tags = tags_of("production", "a/run", "a test")
    taken = wait_for_snapshot(snapshots, "dbops-1", tags, timedelta(seconds=5), poll=0.1)
    assert taken in snapshots.list()
    plan = plan_restore(
        client, snapshots, redshift, platform="production", run="a/run", reason="a test", asked_at=taken.created_at,
        snapshot=taken.id,
    )  # fmt: skip
    for _ in range(3):
        progress = advance(client, plan, timedelta(minutes=1), plan.planned_at)
    assert progress.done
    snapshots.delete("dbops-1")
    assert snapshots.get("dbops-1") is None

    for call, words in (
        ("delete_cluster", {"ClusterIdentifier": plan.target, "SkipFinalClusterSnapshot": True}),
        ("modify_cluster", {"ClusterIdentifier": "bedrock", "NumberOfNodes": 3}),
        ("delete_tags", {"ResourceName": taken.arn, "TagKeys": ["x"]}),
    ):
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            getattr(client, call)(**words)
    nobody = ConnectionInfo("aws", "aws", login=key["AccessKeyId"], password="wrong", extra=extra)
    with pytest.raises(ApiRefused, match=r"include/iam/redshift-policy\.json"):
        open_snapshots(redshift, nobody).list()
