"""A pod: a program that holds a session with a database, which it finds by name when it starts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dns.exception
import psycopg2

BEAT = 0.2
Resolve = Callable[[str], str]
Connect = Callable[[str, int, str], psycopg2.extensions.connection]
"""To an address and port, as an application of that name."""


class Pod:
    """Works from its making on until it is closed."""

    def __init__(
        self, deployment: str, name: str, hash: str, template: dict[str, Any], resolve: Resolve, connect: Connect,
        *, crashes: bool,
    ) -> None:  # fmt: skip
        self.deployment, self.name, self.hash, self.template = deployment, name, hash, template
        self.created = datetime.now(UTC)
        self.crashes, self.restarts = crashes, 0
        self.is_ready = False
        self._resolve, self._connect = resolve, connect
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(10)

    def _run(self) -> None:
        env = {item["name"]: item.get("value", "") for item in self.template["spec"]["containers"][0].get("env", ())}
        address = ""
        while not self._over.is_set():
            if self.crashes:
                self.restarts += 1
            else:
                try:
                    address = address or self._resolve(env["DATABASE_HOST"])
                    self._work(address, int(env["DATABASE_PORT"]))
                except (psycopg2.Error, dns.exception.DNSException):
                    pass  # it tries again, as programs do, at the address that it knows
            self.is_ready = False
            self._over.wait(BEAT)

    def _work(self, address: str, port: int) -> None:
        with contextlib.closing(self._connect(address, port, f"{self.deployment}/{self.name}")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                while not self._over.is_set():
                    cursor.execute("select 1")
                    self.is_ready = True
                    self._over.wait(BEAT)

    def document(self, namespace: str) -> dict[str, Any]:
        """As the API shows it."""
        container = self.template["spec"]["containers"][0]
        waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
        state = waiting if self.crashes else {"running": {"startedAt": stamp(self.created)}}
        is_ready = "True" if self.is_ready else "False"
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": namespace,
                "creationTimestamp": stamp(self.created),
                "labels": {**self.template["metadata"]["labels"], "pod-template-hash": self.hash},
                "annotations": self.template["metadata"].get("annotations", {}),
            },
            "spec": self.template["spec"],
            "status": {
                "phase": "Running",
                "startTime": stamp(self.created),
                "conditions": [{"type": "Ready", "status": is_ready}],
                "containerStatuses": [
                    {
                        "name": container["name"],
                        "image": container["image"],
                        "imageID": "",
                        "ready": self.is_ready,
                        "restartCount": self.restarts,
                        "state": state,
                    }
                ],
            },
        }


def stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
