"""The lab's parts as Airflow connections, in the JSON form of `AIRFLOW_CONN_<ID>`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dbops.connections import ConnectionInfo, from_env
from dbops_lab.receivers import LOOPBACK, SLACK_PATH
from dbops_lab.s3 import REGION

ACCESS_KEY, SECRET_KEY = "lab", "lab-secret-of-nothing"  # moto takes any; a real service takes neither
MAIL_LOGIN = "dbops"
MAIL_FROM = "dbops@lab.localhost"

Connection = dict[str, Any]


def aerospike(ports: Sequence[int], login: str | None = None, password: str | None = None) -> Connection:
    connection: Connection = {"conn_type": "aerospike", "host": LOOPBACK, "port": ports[0]}
    return connection | {"login": login, "password": password} if login else connection


def s3(port: int) -> Connection:
    extra = {"endpoint_url": f"http://{LOOPBACK}:{port}", "region_name": REGION}
    return {"conn_type": "aws", "login": ACCESS_KEY, "password": SECRET_KEY, "extra": extra}


def postgres(port: int, login: str, password: str, database: str | None = None, *, host: str = LOOPBACK) -> Connection:
    return {"conn_type": "postgres", "host": host, "port": port, "login": login, "password": password,
            "schema": database or login}  # fmt: skip


def redshift(port: int, login: str, password: str, database: str) -> Connection:
    return {"conn_type": "redshift", "host": LOOPBACK, "port": port, "login": login, "password": password,
            "schema": database, "extra": {"ssl": False}}  # fmt: skip


def syncer(port: int, token: str) -> Connection:
    return {"conn_type": "http", "host": f"http://{LOOPBACK}:{port}", "password": token}


def nameserver(port: int) -> Connection:
    return {"conn_type": "generic", "host": LOOPBACK, "port": port}


def kubernetes(port: int, token: str, ca_file: Path) -> Connection:
    return {"conn_type": "http", "host": f"https://{LOOPBACK}:{port}", "password": token,
            "extra": {"ca_file": str(ca_file)}}  # fmt: skip


def slack(http_port: int, token: str) -> Connection:
    return {
        "conn_type": "slackwebhook",
        "host": f"http://{LOOPBACK}:{http_port}{SLACK_PATH.rstrip('/')}",
        "password": token,
    }


def pagerduty(https_port: int, routing_key: str, ca_file: Path) -> Connection:
    return {
        "conn_type": "pagerduty_events",
        "host": f"https://{LOOPBACK}:{https_port}",
        "password": routing_key,
        "extra": {"ca_file": str(ca_file)},
    }


def smtp(smtp_port: int, password: str) -> Connection:
    extra = {
        "disable_ssl": True,
        "disable_tls": True,
        "from_email": MAIL_FROM,
        "timeout": 10,
        "retry_limit": 1,
    }
    return {
        "conn_type": "smtp",
        "host": LOOPBACK,
        "port": smtp_port,
        "login": MAIL_LOGIN,
        "password": password,
        "extra": extra,
    }


def variables(connections: Mapping[str, Connection]) -> dict[str, str]:
    """The environment variables that hold these connections."""
    return {f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(connection) for conn_id, connection in connections.items()}


def info(conn_id: str, connection: Connection) -> ConnectionInfo:
    """The connection as the logic of `dbops` takes it."""
    return from_env(conn_id, variables({conn_id: connection}))
