"""The application's database in a lab: an RDS instance, the name that its clients know, the clients, its secrets."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbops_lab import connections, rds_api
from dbops_lab.s3 import REGION

INSTANCE = "exchange"
PART = f"rds-{INSTANCE}"
ADDRESS = "127.0.0.2"
"""Of the instance's server. Restored ones have others, and the same port."""
ZONE = "lab.bedrock.internal"
CNAME = f"{INSTANCE}.db.{ZONE}"
TTL = 5
NAMESPACE = "production"
DEPLOYMENTS = {"exchange-api": 2, "exchange-worker": 1}
"""Programs that use the database, and how many pods each has."""
CONNECTIONS = (
    "dbops_app", "dbops_postgres", "dbops_postgres_maintenance", "dbops_postgres_export", "dbops_postgres_scratch",
)  # fmt: skip
"""Whose logins lie in Secrets Manager, where Airflow finds them first."""
PREFIX = "airflow/connections"


def client(port: int, service: str, region: str = REGION) -> Any:
    """boto3's, for the AWS on that port."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=connections.ACCESS_KEY,
        aws_secret_access_key=connections.SECRET_KEY,
        region_name=region,
        config=Config(proxies={}, retries={"max_attempts": 1}),
    )


def introduce(port: int, made: Mapping[str, connections.Connection]) -> None:
    """Give the instance its name, and put its logins where Airflow's backend for Secrets Manager looks for them."""
    rds_api.name(port, INSTANCE, ZONE, CNAME, ttl=TTL)
    rds_api.keep_secrets(port, {f"{PREFIX}/{conn_id}": json.dumps(made[conn_id]) for conn_id in CONNECTIONS})


def deploy(port: int, ca_file: Path, database_port: int) -> None:
    """Make the deployments; their pods look for the database by its name. Those that are there stay as they are."""
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(ca_file)))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)
    for name, replicas in DEPLOYMENTS.items():
        asked = {"namespace": NAMESPACE, "name": name, "replicas": replicas, "host": CNAME, "port": database_port}
        request = urllib.request.Request(
            f"https://127.0.0.1:{port}/lab/deployments",
            data=json.dumps({**asked, "deadline": 15, "if_missing": True}).encode(),
            method="POST",
        )
        opener.open(request, timeout=10).close()
