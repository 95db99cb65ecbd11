"""The application's database in a lab: an RDS instance, the name that its clients know, the clients, its secrets."""

from __future__ import annotations

import json
import secrets
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbops_lab import connections
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
CONNECTIONS = ("dbops_app", "dbops_postgres", "dbops_postgres_maintenance")
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


def hosted_zone(route53: Any, zone: str) -> str:
    """Its id; it is made if there is none of that name."""
    for found in route53.list_hosted_zones()["HostedZones"]:
        if found["Name"] == f"{zone}.":
            return str(found["Id"]).rpartition("/")[2]
    made = route53.create_hosted_zone(
        Name=zone, CallerReference=secrets.token_hex(8), HostedZoneConfig={"PrivateZone": True}
    )
    return str(made["HostedZone"]["Id"]).rpartition("/")[2]


def point(route53: Any, zone_id: str, cname: str, target: str, ttl: int) -> None:
    """Let a name be another name for the target, whatever it was."""
    record = {"Name": cname, "Type": "CNAME", "TTL": ttl, "ResourceRecords": [{"Value": target}]}
    batch = {"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]}
    route53.change_resource_record_sets(HostedZoneId=zone_id, ChangeBatch=batch)


def announce(port: int) -> None:
    """Make the zone with the instance's name, unless it is there: a recovery may have changed what it says."""
    route53, rds = client(port, "route53"), client(port, "rds")
    zone = hosted_zone(route53, ZONE)
    known = route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    if CNAME not in {record["Name"].rstrip(".") for record in known}:
        found = rds.describe_db_instances(DBInstanceIdentifier=INSTANCE)["DBInstances"][0]
        point(route53, zone, CNAME, found["Endpoint"]["Address"], TTL)


def keep_secrets(port: int, made: Mapping[str, connections.Connection]) -> None:
    """Put connections where Airflow's backend for Secrets Manager looks for them."""
    manager = client(port, "secretsmanager")
    names = (item["Name"] for item in manager.list_secrets()["SecretList"])
    known = set(names)
    for conn_id in CONNECTIONS:
        name, text = f"{PREFIX}/{conn_id}", json.dumps(made[conn_id])
        if name in known:
            manager.put_secret_value(SecretId=name, SecretString=text)
        else:
            manager.create_secret(Name=name, SecretString=text)


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
