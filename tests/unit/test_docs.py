"""What the documents say is so: schedules, links, commands, rights."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

import boto3
import pytest
import typer
from botocore.config import Config
from cipher_samples import KEY, PEM
from click import Command, Context
from dbops.backups.bucket import rules as lifecycle_rules
from dbops.backups.keys import load_keys
from dbops.backups.store import S3Store, StoreRefused
from dbops.cli import app
from dbops.connections import ConnectionInfo
from dbops.platform import BackupEncryption, Platform, load_platform
from dbops.platform.cron import starts
from moto.core import set_initial_no_auth_action_count
from moto.server import ThreadedMotoServer

PROJECT = Path(__file__).parents[2]
RUNBOOKS = sorted(str(path.relative_to(PROJECT)) for path in (PROJECT / "include/runbooks").glob("*.md"))
DOCUMENTS = ["README.md", "dags/README.md", "include/iam/README.md", *RUNBOOKS]
POLICY = PROJECT / "include/iam/backup-policy.json"
ENCRYPTION_POLICY = PROJECT / "include/iam/encryption-policy.json"
STORE = PROJECT / "plugins/dbops/backups/store.py"


@pytest.fixture(scope="module")
def production() -> Platform:
    return load_platform(PROJECT / "include/platform/production.yaml")


# --- schedules ----------------------------------------------------------------------------------------------


def rows() -> dict[str, list[str]]:
    """The schedule table: dag id, then its cells."""
    found = {}
    for line in (PROJECT / "dags/README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            found[cells[0].strip("`")] = cells[1:]
    return found


def dags() -> Iterator[tuple[re.Pattern[str], ast.Call, ast.Module]]:
    """Each DAG of dags/*.py: a pattern of its ids, the call that makes it, its module."""
    for path in sorted((PROJECT / "dags").glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "DAG":
                value = next(keyword.value for keyword in node.keywords if keyword.arg == "dag_id")
                parts = value.values if isinstance(value, ast.JoinedStr) else [value]
                texts = (re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in parts)
                yield re.compile("".join(texts)), node, tree


def times(cron: str) -> list[str]:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    end = day + timedelta(days=7)
    found = takewhile(lambda at: at < end, starts(cron, day - timedelta(seconds=1)))
    return list(dict.fromkeys(f"{at:%H:%M}" for at in found))


def test_the_schedule_table_has_every_dag_and_no_other() -> None:
    table, made = rows(), list(dags())
    assert table
    assert made
    for dag_id in table:
        assert any(pattern.fullmatch(dag_id) for pattern, _, _ in made), f"{dag_id} is no DAG"
    for pattern, _, _ in made:
        assert any(pattern.fullmatch(dag_id) for dag_id in table), f"{pattern.pattern} is not in the table"


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_backup_times_are_those_of_production(kind: str, production: Platform) -> None:
    told = re.findall(r"\d\d:\d\d", rows()[f"aerospike_backup_{kind}_<cluster>"][0])
    assert told
    for cluster in production.aerospike.clusters:
        schedule = next(item.schedule for item in cluster.backup_kinds if item.name == kind)
        assert times(schedule) == told, cluster.name


@pytest.mark.parametrize("kind", ["daily", "weekly", "monthly"])
def test_maintenance_times_are_those_of_production(kind: str, production: Platform) -> None:
    assert production.redshift is not None
    told = re.findall(r"\d\d:\d\d", rows()[f"redshift_maintenance_{kind}"][0])
    assert told == times(getattr(production.redshift.schedules, kind))


def test_other_times_and_severities_are_those_of_the_dag_files() -> None:
    for dag_id, cells in rows().items():
        _, call, tree = next(found for found in dags() if found[0].fullmatch(dag_id))
        crons = [
            node.args[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "CronTriggerTimetable"
            and isinstance(node.args[0], ast.Constant)
        ]
        if every := re.fullmatch(r"every (\d+) minutes", cells[0]):
            assert crons == [f"*/{every[1]} * * * *"], dag_id
        elif crons:
            assert [time for cron in crons for time in times(str(cron))] == re.findall(r"\d\d:\d\d", cells[0]), dag_id
        failure = next(item.value for item in call.keywords if item.arg == "on_failure_callback")
        assert isinstance(failure, ast.Call)
        assert isinstance(failure.args[0], ast.Attribute)
        assert failure.args[0].attr.lower() == cells[2], dag_id


# --- links and commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    document = PROJECT / name
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    dead = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not dead


def told_commands() -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name in DOCUMENTS:
        for line in (PROJECT / name).read_text().splitlines():
            first: tuple[str, ...] = ()
            for span in re.findall(r"`([^`]+)`", line):
                if span.startswith("dbops "):
                    first = words_of(span)
                    found.add(first)
                elif first and line.startswith("| `dbops") and re.fullmatch(r"[a-z]+", span):
                    found.add((*first[:-1], span))  # `dbops backup list`, `show`
    for line in (PROJECT / "docker-compose.yaml").read_text().splitlines():
        if line.strip().startswith("dbops "):
            found.add(words_of(line.strip()))
    return found


def words_of(text: str) -> tuple[str, ...]:
    words = takewhile(lambda word: word not in {">", "&&", "|", ";"}, shlex.split(text)[1:])
    found: list[str] = []
    for word in words:
        if not word.startswith("-") and word != "...":
            if not hasattr(command_of(tuple(found)), "resolve_command"):
                break  # groups and the command; what follows is the command's own
            found.append(word)
    return tuple(found)


def test_commands_exist() -> None:
    told = told_commands()
    assert ("backup", "verify") in told, "the table's further commands are read too"
    missing = [" ".join(words) for words in sorted(told) if not exists(words)]
    assert not missing


def test_commands_take_the_options_that_are_told() -> None:
    told = [
        shlex.split(span)[1:]
        for name in DOCUMENTS
        for span in re.findall(r"`(dbops [^`]+)`", (PROJECT / name).read_text())
        if " --" in span or " -n" in span
    ]
    assert len(told) > 10
    for words in told:
        command = command_of(words_of(shlex.join(["dbops", *words])))
        options = {option for param in command.params for option in param.opts} if command else set()
        unknown = {word for word in words if word.startswith("-")} - options - {"--lab", "--help"}
        assert not unknown, (words, unknown)


def exists(words: tuple[str, ...]) -> bool:
    return command_of(words) is not None


def command_of(words: tuple[str, ...]) -> Command | None:
    command: Command = typer.main.get_command(app)
    for word in words:
        try:
            _, found, _ = command.resolve_command(Context(command), [word])  # type: ignore[attr-defined]
        except Exception:
            return None
        if found is None:
            return None
        command = found
    return command


def test_what_does_not_exist_is_noticed() -> None:
    assert not exists(("backup", "nonsense"))
    assert not exists(("nonsense",))


# --- rights on the bucket -----------------------------------------------------------------------------------

ACTIONS = {
    "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject s3:GetObjectRetention s3:GetObjectLegalHold",  # what it says of locks
    "put_object": "s3:PutObject",
    "copy_object": "s3:GetObject s3:PutObject",
    "restore_object": "s3:RestoreObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "delete_objects": "s3:DeleteObject",
    "get_object_lock_configuration": "s3:GetBucketObjectLockConfiguration",
    "get_bucket_lifecycle_configuration": "s3:GetLifecycleConfiguration",
    "put_bucket_lifecycle_configuration": "s3:PutLifecycleConfiguration",
}  # https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html


def calls_of_the_store() -> set[str]:
    """Names of the S3 operations in store.py: `<...>.client.<name>(...)`, and those that `_pages` pages through."""
    found = set()
    for node in ast.walk(ast.parse(STORE.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if isinstance(node.func.value, ast.Attribute) and node.func.value.attr == "client":
            found.add(node.func.attr)
        if node.func.attr == "_pages":
            assert isinstance(node.args[0], ast.Constant)
            found.add(str(node.args[0].value))
    return found - {"get_paginator"}


def test_the_policy_allows_what_the_store_calls_and_nothing_else(production: Platform) -> None:
    calls = calls_of_the_store()
    assert calls - set(ACTIONS) == set(), "name the action of the new call here and in the policy"
    statements = json.loads(POLICY.read_text())["Statement"]
    granted: dict[str, str] = {}
    for statement in statements:
        assert statement["Effect"] == "Allow"
        granted.update(dict.fromkeys(statement["Action"], statement["Resource"]))
    assert set(granted) == {action for call in calls for action in ACTIONS[call].split()}
    storage = production.storage
    bucket = f"arn:aws:s3:::{storage.bucket}"
    objects = f"{bucket}/{storage.prefix + '/' if storage.prefix else ''}*"
    for action, resource in granted.items():
        of_bucket = action.startswith("s3:List") or action.endswith("Configuration")
        assert resource == (bucket if of_bucket else objects), action


def test_the_policy_of_encryption_allows_what_the_keys_need_and_nothing_else(production: Platform) -> None:
    kms, secret = json.loads(ENCRYPTION_POLICY.read_text())["Statement"]
    assert (kms["Effect"], secret["Effect"]) == ("Allow", "Allow")
    assert set(kms["Action"]) == {"kms:GenerateDataKey", "kms:Decrypt"}
    services = kms["Condition"]["StringEquals"]["kms:ViaService"]
    assert services == [f"{name}.{production.storage.region}.amazonaws.com" for name in ("s3", "secretsmanager")]
    assert kms["Resource"].startswith(f"arn:aws:kms:{production.storage.region}:")
    assert secret["Action"] == ["secretsmanager:GetSecretValue"]
    assert secret["Resource"].endswith(":secret:dbops/backup-key-*")


@set_initial_no_auth_action_count(4)
def test_the_backup_key_is_read_under_the_policy(enforcing_s3: str) -> None:
    """moto knows no secret as a resource, only the action: so the policy is given for all of them here."""
    policy = json.loads(ENCRYPTION_POLICY.read_text())
    policy["Statement"][1]["Resource"] = "*"
    settings: dict[str, Any] = {"endpoint_url": enforcing_s3, "region_name": "eu-west-1", "config": Config(proxies={})}
    iam: Any = boto3.client("iam", aws_access_key_id="a", aws_secret_access_key="b", **settings)
    manager: Any = boto3.client("secretsmanager", aws_access_key_id="a", aws_secret_access_key="b", **settings)
    manager.create_secret(Name="dbops/backup-key", SecretString=PEM.decode())
    iam.create_user(UserName="dbops-keys")
    iam.put_user_policy(UserName="dbops-keys", PolicyName="keys", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="dbops-keys")["AccessKey"]
    login = {"login": key["AccessKeyId"], "password": key["SecretAccessKey"]}
    made = {
        "dbops_s3": ConnectionInfo("dbops_s3", "aws", **login, extra={"endpoint_url": enforcing_s3}),
        "dbops_backup_key": ConnectionInfo("dbops_backup_key", extra={"secret_id": "dbops/backup-key"}),
    }
    storage = load_platform(PROJECT / "include/platform/production.yaml").storage
    storage = storage.model_copy(update={"encryption": BackupEncryption(mode="aes256")})
    assert load_keys(storage, made.__getitem__).current == KEY
    mine: Any = boto3.client(
        "secretsmanager", aws_access_key_id=login["login"], aws_secret_access_key=login["password"], **settings
    )
    with pytest.raises(mine.exceptions.ClientError, match="AccessDenied"):
        mine.delete_secret(SecretId="dbops/backup-key")


@pytest.fixture
def enforcing_s3() -> Iterator[str]:
    """Address of a moto server of its own."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@set_initial_no_auth_action_count(6)
def test_the_store_works_under_the_policy(enforcing_s3: str, production: Platform) -> None:
    """moto enforces IAM after the first six requests, which set it up."""
    bucket = production.storage.bucket
    settings: dict[str, Any] = {"endpoint_url": enforcing_s3, "region_name": "eu-west-1", "config": Config(proxies={})}
    iam: Any = boto3.client("iam", aws_access_key_id="a", aws_secret_access_key="b", **settings)
    s3: Any = boto3.client("s3", aws_access_key_id="a", aws_secret_access_key="b", **settings)
    for name in (bucket, "another-bucket"):
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="another-bucket", Key="theirs", Body=b"secret")
    iam.create_user(UserName="dbops")
    iam.put_user_policy(UserName="dbops", PolicyName="backup", PolicyDocument=POLICY.read_text())
    key = iam.create_access_key(UserName="dbops")["AccessKey"]
    connection = ConnectionInfo(
        "dbops_s3",
        "aws",
        login=key["AccessKeyId"],
        password=key["SecretAccessKey"],
        extra={"endpoint_url": enforcing_s3, "config_kwargs": {"proxies": {}}},
    )
    store = S3Store(bucket, "", connection, "eu-west-1")

    store.check()
    store.put("a/manifest.json", b"{}", if_absent=True)
    with store.open_writer("a/large") as writer:
        for _ in range(3):
            writer.write(b"x" * (6 << 20))
    assert len(store.get("a/large")) == 18 << 20
    assert store.head("a/large") is not None
    assert store.head("a/absent") is None
    assert [item.key for item in store.list("a/")] == ["a/large", "a/manifest.json"]
    assert list(store.list_prefixes("")) == ["a/"]
    aborted = store.open_writer("a/aborted")
    aborted.write(b"x" * (20 << 20))
    aborted.abort()
    assert store.abort_uploads("a/") == 0
    assert not store.has_locks()
    assert store.protection("a/large").locked_until is None
    store.set_lifecycle({"Rules": lifecycle_rules("")})
    assert len(store.lifecycle()["Rules"]) == 3
    # One by one: for DeleteObjects moto asks for the right on the bucket, where AWS asks for it on each object.
    for name in ("a/large", "a/manifest.json"):
        store.client.delete_object(Bucket=bucket, Key=name)
    assert list(store.list("")) == []

    with pytest.raises(StoreRefused):
        S3Store("another-bucket", "", connection, "eu-west-1").get("theirs")
    with pytest.raises(StoreRefused):
        S3Store("another-bucket", "", connection, "eu-west-1").check()
    with pytest.raises(store.client.exceptions.ClientError, match="AccessDenied"):
        store.client.delete_bucket(Bucket=bucket)
