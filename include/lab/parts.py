"""How each part of the lab is started and when it is ready."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbops_lab import kubernetes, s3
from dbops_lab.connections import ACCESS_KEY, MAIL_LOGIN, SECRET_KEY
from dbops_lab.postgres import ADMIN, WAREHOUSE
from dbops_lab.redshift import process as redshift
from dbops_lab.supervisor import Part, free_port, listens


def s3_part(port: int) -> Part:
    command = [sys.executable, "-m", "dbops_lab.s3", "--port", str(port)]
    return Part("s3", command, lambda: s3.ready(port))


@dataclass(frozen=True)
class ReceiverPorts:
    http: int
    https: int
    smtp: int

    @classmethod
    def free(cls) -> ReceiverPorts:
        return cls(free_port(), free_port(), free_port())


def receivers_part(state: Path, ports: ReceiverPorts, *, slack_token: str, mail_password: str) -> Part:
    command = [sys.executable, "-m", "dbops_lab.receivers", "--state", str(state)]
    command += [
        "--http-port",
        str(ports.http),
        "--https-port",
        str(ports.https),
        "--smtp-port",
        str(ports.smtp),
    ]
    secret = {
        "LAB_SLACK_TOKEN": slack_token,
        "LAB_SMTP_LOGIN": MAIL_LOGIN,
        "LAB_SMTP_PASSWORD": mail_password,
    }
    return Part("receivers", command, lambda: listens(ports.http) and listens(ports.smtp), env=secret)


def redshift_part(port: int, control_port: int, postgres_port: int, admin_password: str, s3_port: int) -> Part:
    """Ready when it listens; PostgreSQL and its databases must be there before it starts."""
    command = redshift.command(
        port=port,
        control_port=control_port,
        postgres_port=postgres_port,
        database=WAREHOUSE,
        admin=ADMIN,
        s3_endpoint=f"http://127.0.0.1:{s3_port}",
    )
    secret = {
        redshift.ADMIN_VARIABLE: admin_password,
        redshift.S3_KEY: ACCESS_KEY,
        redshift.S3_SECRET: SECRET_KEY,
    }
    return Part("redshift", command, lambda: listens(port) and listens(control_port), env=secret)


def syncer_part(
    port: int,
    token: str,
    *,
    postgres_port: int,
    postgres_host: str = "127.0.0.1",
    login: str,
    password: str,
    database: str,
    clusters: Mapping[str, Sequence[int]],
    users: Mapping[str, str],
    aerospike_password: str,
    lag: float = 0.0,
) -> Part:
    """Ready when its control listens and the tables are there; PostgreSQL must run, the clusters may come later.

    :param users: of each cluster that asks for one.
    """
    command = [sys.executable, "-m", "dbops_lab.syncer", "--port", str(port), "--lag", str(lag)]
    command += [
        "--postgres-host",
        postgres_host,
        "--postgres-port",
        str(postgres_port),
        "--user",
        login,
        "--database",
        database,
    ]
    for name, ports in clusters.items():
        user = f"{users[name]}@" if name in users else ""
        command += ["--cluster", f"{user}{name}={','.join(map(str, ports))}"]
    secret = {
        "LAB_POSTGRES_PASSWORD": password,
        "LAB_AEROSPIKE_PASSWORD": aerospike_password,
        "LAB_SYNCER_TOKEN": token,
    }
    return Part("syncer", command, lambda: listens(port), env=secret)


def kubernetes_part(
    state: Path, port: int, token: str, *, nameserver: str, login: str, password: str, database: str
) -> Part:
    """Ready when it listens; its pods wait for the nameserver and the database."""
    command = [sys.executable, "-m", "dbops_lab.kubernetes", "--state", str(state), "--port", str(port)]
    command += ["--nameserver", nameserver, "--user", login, "--database", database]
    secret = {kubernetes.TOKEN: token, kubernetes.PASSWORD: password}
    return Part("kubernetes", command, lambda: listens(port), env=secret)


def aerospike_part(
    name: str,
    ports: Sequence[int],
    control_port: int,
    namespaces: Sequence[str],
    *,
    login: tuple[str, str] | None = None,
) -> Part:
    command = [sys.executable, "-m", "dbops_lab.aerospike", "--name", name]
    command += ["--ports", ",".join(map(str, ports)), "--control-port", str(control_port)]
    command += ["--namespaces", ",".join(namespaces)]
    secret = {}
    if login:
        command += ["--user", login[0]]
        secret[f"LAB_PASSWORD_{login[0].upper()}"] = login[1]
    return Part(f"aerospike-{name}", command, lambda: listens(control_port), env=secret)
