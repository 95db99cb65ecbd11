"""What the tests of Redshift's AWS APIs start with."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from dbops.connections import ConnectionInfo
from dbops.platform import Redshift
from dbops.redshift.session import Session, open_session
from dbops.redshift.snapshots import Snapshots, open_snapshots
from dbops_lab import connections
from dbops_lab.testing import LabRedshift, LabRedshiftApi
from warehouse_world import Warehouse, aws_info, lab_warehouse


@pytest.fixture(scope="session")
def secret_arn(_redshift_api: LabRedshiftApi) -> str:
    """A secret with the warehouse's login."""
    warehouse = _redshift_api.warehouse
    text = json.dumps({"username": warehouse.user, "password": warehouse.password})
    made = _redshift_api.client("secretsmanager").create_secret(Name="redshift/dbops", SecretString=text)
    return str(made["ARN"])


@pytest.fixture
def data_api_info(lab_redshift_api: LabRedshiftApi, secret_arn: str) -> ConnectionInfo:
    """A connection of type redshift that leads to the Data API."""
    extra = {
        "data_api": True,
        "cluster_identifier": lab_redshift_api.cluster,
        "secret_arn": secret_arn,
        "region_name": "eu-west-1",
        "endpoint_url": lab_redshift_api.s3.endpoint,
        "aws_access_key_id": connections.ACCESS_KEY,
        "aws_secret_access_key": connections.SECRET_KEY,
        "config_kwargs": {"proxies": {}, "retries": {"total_max_attempts": 2}},
    }
    return ConnectionInfo("dbops_redshift", "redshift", schema=lab_redshift_api.warehouse.database, extra=extra)


@pytest.fixture(params=["driver", "data api"])
def session(request: pytest.FixtureRequest, lab_redshift: LabRedshift, data_api_info: ConnectionInfo) -> Iterator[Any]:
    """A session of either kind, in an empty schema: what holds for one holds for the other."""
    made: Session = open_session(lab_redshift.info() if request.param == "driver" else data_api_info)
    schema = f"test_{secrets.token_hex(4)}"
    made.run(f"create schema {schema}")
    made.run(f"set search_path to {schema}, public")
    yield made
    made.close()
    with open_session(lab_redshift.info()) as other:
        other.run(f"drop schema {schema} cascade")


@pytest.fixture(params=["cluster", "serverless"])
def redshift(request: pytest.FixtureRequest) -> Redshift:
    """The platform's warehouse, of either kind."""
    return lab_warehouse(serverless=request.param == "serverless")


@pytest.fixture
def snapshots(redshift: Redshift, lab_redshift_api: LabRedshiftApi) -> Iterator[Snapshots]:
    """Its snapshots; manual ones are gone at the end."""
    made = open_snapshots(redshift, aws_info(lab_redshift_api))
    yield made
    lab_redshift_api.s3.faults()
    for item in made.list():
        if item.kind == "manual":
            made.delete(item.id)


@pytest.fixture
def warehouse(redshift: Redshift, lab_redshift: LabRedshift, lab_redshift_api: LabRedshiftApi) -> Iterator[Warehouse]:
    """A warehouse with days of rows, of either kind; what is restored from it is gone at the end."""
    made = Warehouse(lab_redshift, lab_redshift_api, redshift.serverless)
    yield made
    made.close()
