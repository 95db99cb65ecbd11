"""How each part of the lab is started and when it is ready."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbops_lab import s3
from dbops_lab.connections import MAIL_LOGIN
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
