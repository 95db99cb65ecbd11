"""The stand-in as a process of its own, for tests and for the lab."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from dbops_lab.aerospike.protocol import U32, op
from dbops_lab.aerospike.records import ROW

LOOPBACK = "127.0.0.1"
STOP_SECONDS = 10.0
CHUNK = 4 << 20

Row = tuple[bytes, int, int, bytes | None, bytes]  # digest, generation, void time, key particle, bins


class StandInError(Exception):
    pass


class StandIn:
    """One cluster of `nodes` nodes on free (or given) loopback ports.

    with StandIn(namespaces=["dmp"], nodes=2) as cluster:
        client = aerospike.client({"hosts": [("127.0.0.1", cluster.ports[0])]}).connect()
    """

    def __init__(
        self,
        *,
        name: str = "lab",
        namespaces: Sequence[str] = ("bidder", "dmp", "spend"),
        nodes: int = 1,
        ports: Sequence[int] | None = None,
        control_port: int = 0,
        users: Mapping[str, str] | None = None,
        tls: tuple[Path, Path] | None = None,
        tls_name: str = "",
        options: Sequence[str] = (),
    ) -> None:
        """`tls` is certificate and key, `users` name: password, `options` more of the command line."""
        wanted = list(ports or [0] * nodes)
        command = [sys.executable, "-m", "dbops_lab.aerospike", "--exit-with-parent", "--name", name]
        command += ["--namespaces", ",".join(namespaces), "--ports", ",".join(map(str, wanted))]
        command += ["--control-port", str(control_port)]
        environment = dict(os.environ)
        for user, password in (users or {}).items():
            command += ["--user", user]
            environment[f"LAB_PASSWORD_{user.upper()}"] = password
        if tls is not None:
            command += ["--tls-cert", str(tls[0]), "--tls-key", str(tls[1]), "--tls-name", tls_name]
        # Not a pipe: nobody reads it while the server runs.
        self._problems = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=self._problems, text=True, env=environment
        )
        self.ports: list[int] = []
        self.control = 0
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # ends with the process, if that fails
        found = re.fullmatch(r"ready ([\d,]+) control (\d+)\n", line)
        if found is None:
            self._process.kill()
            _, problems = self.wait()
            self.close()
            raise StandInError(f"the Aerospike stand-in did not start: {(line + problems).strip()[-800:]}")
        self.ports = [int(port) for port in found[1].split(",")]
        self.control = int(found[2])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.ports[0]}"

    def wait(self, seconds: float = STOP_SECONDS) -> tuple[int, str]:
        """Until it ends by itself: exit code and what it complained about."""
        code = self._process.wait(seconds)
        self._problems.seek(0)
        return code, self._problems.read()

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

    def state(self) -> dict[str, Any]:
        return call(self.control, "GET", "/state")

    def stop_node(self, node: int) -> None:
        """The node dies: its port refuses, its connections break. Returns when the others formed again."""
        call(self.control, "POST", f"/stop?node={node}")

    def start_node(self, node: int) -> None:
        call(self.control, "POST", f"/start?node={node}")

    def inject(self, **faults: Any) -> None:
        """See `dbops_lab.aerospike.control` for the names."""
        call(self.control, "POST", "/inject", json.dumps(faults).encode())

    def load(self, namespace: str, set_name: str, records: Iterable[Row], updated_at: datetime | None = None) -> int:
        return load(self.control, namespace, set_name, records, updated_at)


def call(port: int, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
    """One request to a control port."""
    with contextlib.closing(http.client.HTTPConnection(LOOPBACK, port, timeout=60)) as connection:
        connection.request(method, path, body)
        return _result(connection, path)


def _result(connection: http.client.HTTPConnection, path: str) -> dict[str, Any]:
    response = connection.getresponse()
    result: dict[str, Any] = json.loads(response.read())
    if response.status != http.client.OK:
        raise StandInError(f"{path}: {result.get('error', response.status)}")
    return result


def load(port: int, namespace: str, set_name: str, records: Iterable[Row], updated_at: datetime | None = None) -> int:
    """Put records in directly, as fast as they can be built; how many came in.

    :param records: digest (20 bytes), generation, void time (seconds since 2010, 0 = never), stored key as a
        particle type byte and its value (or None), and the bins as `bins` makes them.
    :param updated_at: aware; their last update (default: now).
    """
    where = {"namespace": namespace, "set": set_name}
    if updated_at is not None:
        where["updated_ms"] = str(round(updated_at.timestamp() * 1000))
    path = f"/load?{urlencode(where)}"
    loaded = 0
    with contextlib.closing(http.client.HTTPConnection(LOOPBACK, port, timeout=60)) as connection:
        is_waiting = False
        for piece in pieces(records):  # the next one is built while the last one is taken in
            if is_waiting:
                loaded += int(_result(connection, path)["loaded"])
            connection.request("POST", path, piece)
            is_waiting = True
        if is_waiting:
            loaded += int(_result(connection, path)["loaded"])
    return loaded


def pieces(records: Iterable[Row]) -> Iterator[bytes]:
    parts: list[bytes] = []
    size, size_of = 0, U32.unpack_from
    for digest, generation, void_time, key, content in records:
        at = count = 0
        end = len(content)
        while at < end:
            at += 4 + size_of(content, at)[0]
            count += 1
        stored_key = key or b""
        parts += (
            digest,
            ROW.pack(generation, void_time, len(stored_key), count, len(content)),
            stored_key,
            content,
        )
        size += 34 + len(stored_key) + len(content)
        if size >= CHUNK:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def bins(values: Mapping[str, tuple[int, bytes]]) -> bytes:
    """Bins by name, each a particle type and its bytes, as `load` takes them."""
    return b"".join(op(1, name.encode(), particle, value) for name, (particle, value) in values.items())
