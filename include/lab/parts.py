"""How each part of the lab is started and when it is ready."""

from __future__ import annotations

import sys
from pathlib import Path

from dbops_lab import s3
from dbops_lab.connections import MAIL_LOGIN
from dbops_lab.supervisor import Part, listens


def s3_part(port: int) -> Part:
    command = [sys.executable, "-m", "dbops_lab.s3", "--port", str(port)]
    return Part("s3", command, lambda: s3.ready(port))


def receivers_part(
    state: Path, http_port: int, smtp_port: int, *, slack_token: str, mail_password: str
) -> Part:
    command = [sys.executable, "-m", "dbops_lab.receivers", "--state", str(state),
               "--http-port", str(http_port), "--smtp-port", str(smtp_port)]  # fmt: skip
    secret = {
        "LAB_SLACK_TOKEN": slack_token,
        "LAB_SMTP_LOGIN": MAIL_LOGIN,
        "LAB_SMTP_PASSWORD": mail_password,
    }
    return Part("receivers", command, lambda: listens(http_port) and listens(smtp_port), env=secret)
