"""The rights that the ETL checks ask for are those that their calls need, and no more."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from dbops.backups.store import S3Store
from dbops.connections import ConnectionInfo
from dbops.etl.files import look_at
from dbops.etl.jobs import Jobs, JobsRefused
from dbops.platform import load_platform
from dbops.platform.load import DIRECTORY
from moto.core import set_initial_no_auth_action_count
from moto.server import ThreadedMotoServer

PROJECT = Path(__file__).parents[3]
POLICY = PROJECT / "include/iam/etl-policy.json"
ACTIONS = {
    "get_job_runs": "glue:GetJobRuns",
    "describe_rule": "events:DescribeRule",
    "list_targets_by_rule": "events:ListTargetsByRule",
}
OF_FILES = {"s3:ListBucket", "s3:GetObject"}  # Store.list, Store.read


def granted() -> dict[str, Any]:
    return {
        action: statement["Resource"]
        for statement in json.loads(POLICY.read_text())["Statement"]
        for action in statement["Action"]
    }


def test_the_policy_allows_what_the_code_calls_and_nothing_else() -> None:
    called, of_store = set(), set()
    for path in (PROJECT / "plugins/dbops/etl").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of = node.func.value
                if isinstance(of, ast.Name) and of.id == "client":
                    called.add(node.func.attr)
                if isinstance(of, ast.Name) and of.id == "store":
                    of_store.add(node.func.attr)
    assert called == set(ACTIONS), "name the action of the new call here and in the policy"
    assert of_store == {"list", "read", "get"}
    assert set(granted()) == set(ACTIONS.values()) | OF_FILES


def test_the_policy_names_what_production_names() -> None:
    etl = load_platform(DIRECTORY / "production.yaml").etl
    assert etl is not None
    (bucket,) = {one.bucket for one in etl.pipelines}
    assert granted()["s3:GetObject"] == f"arn:aws:s3:::{bucket}/*"
    assert granted()["s3:ListBucket"] == f"arn:aws:s3:::{bucket}"
    jobs, rules = ([getattr(one, name) for one in etl.pipelines] for name in ("job", "rule"))
    for action, names in (("glue:GetJobRuns", jobs), ("events:DescribeRule", rules)):
        head = granted()[action].rpartition("/")[2].removesuffix("*")
        assert all(name is not None and name.startswith(head) for name in names)
        assert f":{etl.region}:" in granted()[action]


@pytest.fixture
def enforcing() -> Iterator[str]:
    """Address of a moto server of its own."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@set_initial_no_auth_action_count(8)
def test_runs_rules_and_files_are_read_under_the_policy(enforcing: str) -> None:
    """moto enforces IAM after the first eight requests, which set it up, and knows no resources of Glue."""
    policy = json.loads(POLICY.read_text())
    for statement in policy["Statement"][:2]:
        statement["Resource"] = "*"
    settings: dict[str, Any] = {
        "endpoint_url": enforcing, "region_name": "eu-west-1", "config": Config(proxies={}),
        "aws_access_key_id": "a", "aws_secret_access_key": "b",
    }  # fmt: skip
    s3, glue, events, iam = (boto3.client(name, **settings) for name in ("s3", "glue", "events", "iam"))  # type: ignore[call-overload]
    s3.create_bucket(Bucket="bedrock-events", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="bedrock-events", Key="p/a.json", Body=b"{}\n")
    glue.create_job(Name="events_wins", Role="r", Command={"Name": "glueetl", "ScriptLocation": "s3://x"})
    glue.start_job_run(JobName="events_wins")
    events.put_rule(Name="events_hourly", ScheduleExpression="cron(5 * * * ? *)")
    iam.create_user(UserName="dbops-etl")
    iam.put_user_policy(UserName="dbops-etl", PolicyName="etl", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="dbops-etl")["AccessKey"]
    extra = {"endpoint_url": enforcing, "config_kwargs": {"proxies": {}}}
    info = ConnectionInfo("aws", "aws", login=key["AccessKeyId"], password=key["SecretAccessKey"], extra=extra)
    etl = load_platform(DIRECTORY / "production.yaml").etl
    assert etl is not None
    jobs = Jobs(info, "eu-west-1")
    assert len(jobs.runs(etl.pipeline("wins"), datetime.now(UTC) - timedelta(days=1))) == 1
    assert jobs.rule("events_hourly").is_enabled
    assert look_at(S3Store("bedrock-events", "", info, "eu-west-1"), "p/", "json").rows == 1
    mine: Any = boto3.client(
        "glue", **settings | {"aws_access_key_id": info.login, "aws_secret_access_key": info.password}
    )
    with pytest.raises(mine.exceptions.ClientError, match="AccessDenied"):
        mine.start_job_run(JobName="events_wins")
    nobody = ConnectionInfo("aws", "aws", login=info.login, password="wrong", extra=extra)
    with pytest.raises(JobsRefused, match=r"include/iam/etl-policy\.json"):
        Jobs(nobody, "eu-west-1").rule("events_hourly")
