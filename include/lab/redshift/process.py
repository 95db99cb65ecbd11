"""The stand-in as a process of its own, for tests and for the lab."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dbops_lab.supervisor import direct

LOOPBACK = "127.0.0.1"
STOP_SECONDS = 10.0
ADMIN_VARIABLE, S3_KEY, S3_SECRET = "LAB_POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"


class StandInError(Exception):
    pass


def command(
    *, port: int, control_port: int, postgres_port: int, database: str, admin: str, s3_endpoint: str = "",
    is_serverless: bool = False, postgres_database: str = "",
) -> list[str]:  # fmt: skip
    words = [sys.executable, "-m", "dbops_lab.redshift", "--port", str(port), "--control-port", str(control_port)]
    words += ["--postgres-port", str(postgres_port), "--database", database, "--admin", admin]
    words += ["--s3-endpoint", s3_endpoint] if s3_endpoint else []
    words += ["--postgres-database", postgres_database] if postgres_database else []
    return [*words, "--serverless"] if is_serverless else words


class StandIn:
    """One Redshift database on free (or given) loopback ports, in front of a database of a running PostgreSQL.

    with StandIn(postgres_port=5432, database="warehouse", admin=("postgres", "secret")) as redshift:
        redshift_connector.connect(host="127.0.0.1", port=redshift.port, ssl=False, ...)
    """

    def __init__(
        self,
        *,
        postgres_port: int,
        database: str,
        admin: tuple[str, str],
        s3_endpoint: str = "",
        s3_keys: tuple[str, str] = ("lab", "lab"),
        port: int = 0,
        control_port: int = 0,
        is_serverless: bool = False,
        postgres_database: str = "",
    ) -> None:
        words = command(
            port=port, control_port=control_port, postgres_port=postgres_port, database=database, admin=admin[0],
            s3_endpoint=s3_endpoint, is_serverless=is_serverless, postgres_database=postgres_database,
        )  # fmt: skip
        environment = os.environ | {ADMIN_VARIABLE: admin[1], S3_KEY: s3_keys[0], S3_SECRET: s3_keys[1]}
        self._problems = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [*words, "--exit-with-parent"], stdout=subprocess.PIPE, stderr=self._problems, text=True, env=environment
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # ends with the process, if that fails
        found = re.fullmatch(r"ready (\d+) control (\d+)\n", line)
        if found is None:
            self._process.kill()
            self._process.wait()
            self._problems.seek(0)
            problems = self._problems.read()
            self.close()
            raise StandInError(f"the Redshift stand-in did not start: {(line + problems).strip()[-800:]}")
        self.port, self.control = int(found[1]), int(found[2])
        self.database = database

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._problems.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ control

    def faults(self, *orders: dict[str, Any]) -> None:
        """Let statements go wrong as ordered (see `dbops_lab.redshift.control`); without an order, end all faults."""
        call(self.control, "/faults", list(orders))

    def serverless(self, on: bool = True) -> None:
        """From now on the STL_, SVL_ and STV_ views are empty, as on Redshift Serverless."""
        call(self.control, "/serverless", {"on": on})

    def plant(self, kind: str, *records: dict[str, Any]) -> None:
        """Put records into the history, as if they had happened: see `journal.sql` for kinds and columns."""
        call(self.control, "/plant", {"kind": kind, "records": list(records)})


def call(port: int, path: str, body: Any) -> Any:
    """One request to a control port."""
    data = json.dumps(body, default=str).encode()
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}{path}", data=data, method="POST")
    try:
        with direct.open(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as problem:
        raise StandInError(f"{path}: {problem.read().decode()}") from None


__all__ = ["Path", "StandIn", "StandInError", "call", "command"]
