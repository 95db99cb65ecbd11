"""The control port: JSON over loopback HTTP, for tests and for `dbops lab`.

GET  /state                          nodes, ports, cluster key, objects per set
POST /stop?node=1   /start?node=1    a node (counted from 0) dies or comes back
POST /load?namespace=dmp&set=x       records in the compact form that `process.pieces` makes; `updated_ms`
                                     (since 1970) sets their last update
POST /inject                         faults; a JSON object with any of
    delay          seconds before every answer to a data request (0 ends it)
    drop_query     {"bytes": n} or {"records": n}, and "times": t: the connections of the next t queries
                   are cut there
    refuse_query   {"code": c, "times": t}: the next t queries are refused with this result code
    clock_offset   seconds by which last-update and void times are off
    start_delay    seconds that a started node is not ready (partition-generation -1)
    reform_seconds, migrate_seconds   how long until a changed cluster forms again, and then migrates
    nsup_period    seconds between two looks for expired records; 0 = never, and a TTL is refused
    room_bytes     what every namespace says it has room for
    stop_writes    true: writes are refused for want of room (deletes are not), and the namespaces say so
    unavailable    list of partitions that no node has until an empty list is sent
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dbops_lab.aerospike.protocol import EPOCH
from dbops_lab.aerospike.records import ROW_STEP, split_rows
from dbops_lab.aerospike.server import Server

LONGEST_BODY = 64 << 20


class BadRequest(Exception):
    pass


class Control:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._listener: asyncio.Server | None = None
        self.port = 0

    async def open(self, host: str, port: int) -> None:
        self._listener = await asyncio.start_server(self._serve, host, port)
        self.port = self._listener.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line = (await reader.readline()).decode("latin-1").split()
        if len(line) != 3:
            return False
        headers: dict[str, str] = {}
        while (header := (await reader.readline()).decode("latin-1").strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        size = int(headers.get("content-length", "0"))
        if size > LONGEST_BODY:
            return False
        body = await reader.readexactly(size)
        try:
            status, result = "200 OK", await self._answer(line[0], line[1], body)
        except (BadRequest, KeyError, TypeError, ValueError, IndexError) as problem:
            status, result = "400 Bad Request", {"error": f"{type(problem).__name__}: {problem}"}
        text = json.dumps(result).encode()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        await writer.drain()
        return True

    async def _answer(self, method: str, target: str, body: bytes) -> dict[str, Any]:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        action = (method, parts.path)
        if action == ("GET", "/state"):
            return self._state()
        if action in {("POST", "/stop"), ("POST", "/start")}:
            node = self._server.cluster.nodes[int(query["node"])]
            await (self._server.stop_node if parts.path == "/stop" else self._server.start_node)(node)
            return self._state()
        if action == ("POST", "/load"):
            return {"loaded": await self._load(query, body)}
        if action == ("POST", "/inject"):
            self._inject(json.loads(body))
            return self._state()
        raise BadRequest(f"{method} {parts.path} is not known here")

    async def _load(self, query: Mapping[str, str], body: bytes) -> int:
        cluster = self._server.cluster
        namespace = cluster.namespaces[query["namespace"]]
        updated = int(query["updated_ms"]) - EPOCH * 1000 if "updated_ms" in query else None
        loaded = 0
        for piece in split_rows(body, ROW_STEP):
            loaded += namespace.load(query.get("set", "").encode(), piece, updated)
            await asyncio.sleep(0)
        return loaded

    def _inject(self, wanted: Mapping[str, Any]) -> None:
        faults, cluster = self._server.faults, self._server.cluster
        for name, value in wanted.items():
            if name == "delay":
                faults.delay = float(value)
            elif name == "drop_query":
                faults.drop_bytes, faults.drop_records = value.get("bytes"), value.get("records")
                faults.drops = int(value.get("times", 1))
            elif name == "refuse_query":
                faults.refuse_code, faults.refusals = int(value["code"]), int(value.get("times", 1))
            elif name == "clock_offset":
                cluster.clock.offset_ms = round(float(value) * 1000)
            elif name in {"start_delay", "reform_seconds", "migrate_seconds"}:
                setattr(cluster, name, float(value))
            elif name in {"nsup_period", "room_bytes", "stop_writes"}:
                for namespace in cluster.namespaces.values():
                    setattr(namespace, name, type(getattr(namespace, name))(value))
            elif name == "unavailable":
                cluster.unavailable = {int(pid) for pid in value}
            else:
                raise BadRequest(f"no fault is called {name}")

    def _state(self) -> dict[str, Any]:
        cluster = self._server.cluster
        return {
            "name": cluster.name,
            "cluster_key": cluster.key,
            "nodes": [{"name": node.name, "port": node.port, "is_up": node.is_up} for node in cluster.nodes],
            "objects": {
                namespace.name: {
                    info.name.decode("utf-8", "replace"): info.objects
                    for info in (namespace.no_set, *namespace.sets.values())
                    if info.objects
                }
                for namespace in cluster.namespaces.values()
            },
        }
