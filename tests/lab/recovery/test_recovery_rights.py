"""The rights that are asked for are enough, and no more: of the role in the database, and of the one in AWS."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from dbops import sql
from dbops.connections import ConnectionInfo
from dbops.platform.postgres_recovery import ComparedTable, Deployment
from dbops.postgres.rds import rds_client
from dbops.postgres.recovery_compare import compare, sessions_of
from dbops.postgres.recovery_plan import describe_settings
from dbops.postgres.session import RightsMissing, Session
from dbops_lab.testing import LabRds
from moto.core import set_initial_no_auth_action_count
from moto.server import ThreadedMotoServer

PROJECT = Path(__file__).resolve().parents[3]
POLICY = PROJECT / "include/iam/postgres-recovery-policy.json"


def test_the_role_of_the_grants_compares_tables_sees_sessions_and_changes_nothing(lab_rds: LabRds) -> None:
    schema, role, password = f"r_{secrets.token_hex(4)}", f"dbops_{secrets.token_hex(4)}", secrets.token_hex(12)
    lab_rds.rows(
        f"create schema {schema}; create table {schema}.a (id int primary key, x text); "
        f"insert into {schema}.a select n, 'x' from generate_series(1, 10) n"
    )
    with lab_rds.connect(role="postgres") as connection, connection.cursor() as cursor:
        cursor.execute(f"create role {role} login password '{password}'")
    connection.close()
    file = sql.DIRECTORY / "postgres" / "recovery_grants.sql"
    command = [str(lab_rds.server.binaries / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"reader={role}", "-v",
               f"schema={schema}", "-h", lab_rds.host(), "-p", str(lab_rds.port), "-U", "postgres", "-d", "exchange",
               "-f", str(file)]  # fmt: skip
    environment = os.environ | {"PGPASSWORD": lab_rds.server.passwords["postgres"]}
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)

    info = replace(lab_rds.info(), login=role, password=password)

    def open_session(database: str) -> Session:
        return Session(info, database=database)

    found = compare(open_session, open_session, ComparedTable(database="exchange", table=f"{schema}.a"))
    assert (found.rows, found.is_equal, found.problem) == (10, True, "")
    with lab_rds.connect() as other, other.cursor() as cursor:
        cursor.execute("set application_name = 'terminal/1'")
        with open_session("exchange") as session:
            assert sessions_of(session, [Deployment(name="terminal")]) == {"terminal": 1}
            for statement in (f"delete from {schema}.a", f"create table {schema}.b (x int)"):
                with pytest.raises(RightsMissing):
                    session.run(statement)
    other.close()


@pytest.fixture
def enforcing() -> Iterator[str]:
    """Address of a moto server of its own."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@set_initial_no_auth_action_count(4)
def test_instances_are_looked_at_and_restored_under_the_policy_and_none_is_changed(enforcing: str) -> None:
    """moto enforces IAM after the first four requests, which set it up; it knows no resources, and not Route 53's."""
    policy = json.loads(POLICY.read_text())
    for statement in policy["Statement"]:
        statement["Resource"] = "*"
        statement.pop("Condition", None)
    settings: dict[str, Any] = {"endpoint_url": enforcing, "region_name": "eu-west-1", "config": Config(proxies={})}
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    iam: Any = boto3.client("iam", **keys, **settings)
    rds: Any = boto3.client("rds", **keys, **settings)
    rds.create_db_instance(DBInstanceIdentifier="recovered-v2", DBInstanceClass="db.t4g.micro", Engine="postgres",
                           AllocatedStorage=20, MasterUsername="x", MasterUserPassword="Secret123")  # fmt: skip
    iam.create_user(UserName="dbops-recovery")
    iam.put_user_policy(UserName="dbops-recovery", PolicyName="recovery", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="dbops-recovery")["AccessKey"]
    extra = {"endpoint_url": enforcing, "config_kwargs": {"proxies": {}}}
    info = ConnectionInfo("aws", "aws", login=key["AccessKeyId"], password=key["SecretAccessKey"], extra=extra)

    client = rds_client(info, "eu-west-1")
    assert describe_settings(client, "recovered-v2")[0].instance_class == "db.t4g.micro"
    client.describe_db_instance_automated_backups(DBInstanceIdentifier="recovered-v2")
    client.restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier="recovered-v2", TargetDBInstanceIdentifier="recovered-v2-1",
        UseLatestRestorableTime=True, Tags=[{"Key": "dbops-run", "Value": "r"}],
    )  # fmt: skip
    for call, words in (
        (client.delete_db_instance, {"DBInstanceIdentifier": "recovered-v2", "SkipFinalSnapshot": True}),
        (client.modify_db_instance, {"DBInstanceIdentifier": "recovered-v2", "DeletionProtection": False}),
    ):
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            call(**words)
