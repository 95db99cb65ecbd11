"""The nodes as asyncio servers: connections, frames, and who answers what."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Coroutine, Iterator
from typing import Any

from dbops_lab.aerospike import operations
from dbops_lab.aerospike.batches import Batch
from dbops_lab.aerospike.cluster import Cluster, Node
from dbops_lab.aerospike.expressions import Expression
from dbops_lab.aerospike.faults import Faults
from dbops_lab.aerospike.info import Info
from dbops_lab.aerospike.protocol import (
    BATCH,
    F_DIGEST,
    F_DIGESTS,
    F_FILTER,
    F_INDEX_RANGE,
    F_NAMESPACE,
    F_PARTITIONS,
    F_SET,
    F_TASK,
    F_UDF_OP,
    FRAME,
    INFO,
    KINDS,
    LARGEST_FRAME,
    MESSAGE,
    NO_NAMESPACE,
    PARAMETER,
    PARTITIONS,
    SECURITY,
    TIMEOUT,
    UNAVAILABLE,
    UNSUPPORTED,
    Refused,
    Request,
    answer,
    frame,
    frame_header,
    last,
    partition_of,
)
from dbops_lab.aerospike.queries import Query
from dbops_lab.aerospike.security import NOT_AUTHENTICATED, Security

SOCKET_BUFFER = 4 << 20
WRITE_AHEAD = 2 << 20  # answers that may wait for a slow reader
QUERY_FIELDS = frozenset((F_PARTITIONS, F_DIGESTS, F_TASK, F_INDEX_RANGE, F_UDF_OP))
TIDY_SECONDS = 0.5
MANY_CHANGES = 64  # in a partition, before they are merged into its run


class Server:
    """All nodes of the cluster, in one event loop."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        users: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        tls_name: str = "",
    ) -> None:
        self.cluster = cluster
        self.security = Security(users or {})
        self.faults = Faults()
        self.infos = {
            node.name: Info(cluster, node, is_tls=tls is not None, tls_name=tls_name) for node in cluster.nodes
        }
        self._tls = tls
        self._listeners: dict[str, asyncio.Server] = {}
        self._connections: dict[str, set[Connection]] = {node.name: set() for node in cluster.nodes}
        self._tidier: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen on every node's port; a port of 0 is replaced by the one chosen."""
        for node in self.cluster.nodes:
            await self._listen(node)
        self._tidier = asyncio.create_task(self._tidy())

    async def close(self) -> None:
        if self._tidier is not None:
            self._tidier.cancel()
        for node in self.cluster.nodes:
            self._silence(node)

    async def stop_node(self, node: Node) -> None:
        """As a host that dies: nobody listens, all connections break."""
        if node.is_up:
            self._silence(node)
            await self.cluster.stop(node)

    async def start_node(self, node: Node) -> None:
        if not node.is_up:
            await self._listen(node)
            await self.cluster.start(node)

    async def _listen(self, node: Node) -> None:
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: Connection(self, node, self._connections[node.name]),
            node.host,
            node.port,
            ssl=self._tls,
            backlog=256,
            reuse_address=True,
        )
        node.port = listener.sockets[0].getsockname()[1]
        self._listeners[node.name] = listener

    def _silence(self, node: Node) -> None:
        listener = self._listeners.pop(node.name, None)
        if listener is not None:
            listener.close()
        for connection in list(self._connections[node.name]):
            connection.abort()

    async def _tidy(self) -> None:
        """What a server does in the background: reap truncated and expired records, merge changes."""
        since_reap = 0.0
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            since_reap += TIDY_SECONDS
            for namespace in self.cluster.namespaces.values():
                reaps = 0 < namespace.nsup_period <= since_reap
                for pid in range(PARTITIONS):
                    partition = namespace.partitions[pid]
                    if partition.swept != namespace.truncations or reaps:
                        namespace.ready(pid)
                    elif len(partition.changes) >= MANY_CHANGES:
                        partition.pack()
                    if not pid % 32:
                        await asyncio.sleep(0)
                if reaps:
                    since_reap = 0.0


class Connection(asyncio.Protocol):
    """One client. Requests are answered in order; while an answer streams, later requests wait."""

    transport: asyncio.Transport

    def __init__(self, server: Server, node: Node, siblings: set[Connection]) -> None:
        self._server = server
        self._node = node
        self._siblings = siblings
        self._buffer = bytearray()
        self._is_busy = False
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._task: asyncio.Task[None] | None = None
        self._is_authenticated = not server.security.is_on

    # ------------------------------------------------------------------ transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_AHEAD)
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        self._siblings.add(self)
        self._node.opened += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._siblings.discard(self)
        self._node.closed += 1
        self._can_write.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()
        self._serve()

    def abort(self) -> None:
        """Break the connection with a reset."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._serve()
        if self._is_busy and len(self._buffer) > WRITE_AHEAD:
            self.transport.pause_reading()

    # ------------------------------------------------------------------ frames

    def _serve(self) -> None:
        replies: list[bytes] = []
        while not self._is_busy and self._can_write.is_set() and not self.transport.is_closing():
            found = self._next_frame()
            if found is None:
                break
            self._handle(*found, replies)
        if replies:
            self.transport.write(b"".join(replies))

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 8:
            return None
        head = FRAME.unpack_from(buffer)[0]
        kind, size = head >> 48 & 0xFF, head & 0xFFFFFFFFFFFF
        if head >> 56 != 2 or kind not in KINDS or size > LARGEST_FRAME:
            buffer.clear()
            self.transport.close()
            return None
        if len(buffer) < 8 + size:
            return None
        body = bytes(memoryview(buffer)[8 : 8 + size])
        del buffer[: 8 + size]
        return kind, body

    def _handle(self, kind: int, body: bytes, replies: list[bytes]) -> None:
        if kind == INFO:
            replies.append(frame(INFO, self._answer_info(body).encode("latin-1")))
        elif kind == SECURITY:
            reply, is_welcome = self._server.security.answer(body)
            self._is_authenticated |= is_welcome
            replies.append(reply)
        elif kind != MESSAGE:
            replies.append(frame(MESSAGE, answer(UNSUPPORTED)))  # compressed, or of another cluster
        elif self._server.faults.delay:
            self._later(self._delayed(body), replies)
        else:
            self._handle_message(body, replies)

    def _answer_info(self, body: bytes) -> str:
        if not self._is_authenticated:
            return f"ERROR:{NOT_AUTHENTICATED}:not authenticated\n"
        return self._server.infos[self._node.name].answer(body.decode("latin-1"))

    def _handle_message(self, body: bytes, replies: list[bytes]) -> None:
        try:
            request = Request(body)
        except Refused as problem:
            is_batch = len(body) > 1 and bool(body[1] & BATCH)
            replies.append(frame(MESSAGE, last(problem.code) if is_batch else answer(problem.code)))
            return
        if request.info1 & BATCH:
            self._handle_batch(request, replies)
        elif not self._is_authenticated:
            replies.append(frame(MESSAGE, answer(NOT_AUTHENTICATED)))
        elif request.fields.keys() & QUERY_FIELDS:
            self._handle_query(request, replies)
        else:
            replies.append(frame(MESSAGE, self._answer_record(request)))

    # ------------------------------------------------------------------ commands

    def _answer_record(self, request: Request) -> bytes:
        fields = request.fields
        name = fields.get(F_NAMESPACE)
        namespace = self._server.cluster.namespaces.get(name.decode("latin-1")) if name else None
        if namespace is None:
            return answer(NO_NAMESPACE)
        command = operations.Command()
        command.origin = "client"
        command.namespace = namespace
        command.fields = fields
        command.set_name = fields.get(F_SET, b"")
        command.digest = fields.get(F_DIGEST, b"")
        command.info1, command.info2, command.info3 = request.info1, request.info2, request.info3
        command.generation, command.ttl, command.row = request.generation & 0xFFFF, request.ttl, 0
        command.data = request.data
        command.n_ops, command.ops_at, command.ops_end = request.n_ops, request.ops_at, request.ops_end
        try:
            command.filter = Expression(fields[F_FILTER]) if F_FILTER in fields else None
            self._reach(command)
        except Refused as problem:
            return answer(problem.code)
        return operations.run(command)

    def _reach(self, command: operations.Command) -> None:
        """A node passes requests for other nodes' partitions on; one that is dead cannot be passed to."""
        cluster = self._server.cluster
        if len(command.digest) != 20:
            raise Refused(PARAMETER)
        pid = partition_of(command.digest)
        if not self._node.is_ready or pid in cluster.unavailable:
            raise Refused(UNAVAILABLE)
        if len(cluster.nodes) == 1:
            return
        master = cluster.master(pid)
        if master is None or not master.is_up:
            raise Refused(TIMEOUT)
        if master is not self._node:
            command.namespace.count("client_proxy_complete")

    def _handle_batch(self, request: Request, replies: list[bytes]) -> None:
        if not self._is_authenticated:
            replies.append(frame(MESSAGE, last(NOT_AUTHENTICATED)))
            return
        self._server.infos[self._node.name].batches += 1
        try:
            batch = Batch(request, self._server.cluster.namespaces, self._reach)
        except Refused as problem:
            replies.append(frame(MESSAGE, last(problem.code)))
            return
        frames = batch.frames()
        for piece in frames:
            replies.append(piece)
            if sum(map(len, replies)) > WRITE_AHEAD:
                self._later(self._send_all(frames), replies)
                return

    async def _send_all(self, frames: Iterator[bytes]) -> None:
        for piece in frames:
            self.transport.write(piece)
            await self._can_write.wait()

    def _handle_query(self, request: Request, replies: list[bytes]) -> None:
        refusal = self._server.faults.take_refusal()
        try:
            if refusal:
                raise Refused(refusal)
            if not self._node.is_ready:
                raise Refused(UNAVAILABLE)
            cluster = self._server.cluster
            query = Query(request, cluster.namespaces, cluster.indexes)
        except Refused as problem:
            replies.append(frame(MESSAGE, answer(problem.code)))  # one message without LAST
            return
        self._later(self._stream(query), replies)

    async def _stream(self, query: Query) -> None:
        cluster, node = self._server.cluster, self._node
        room, records = self._server.faults.take_drop()
        async for chunk in query.chunks(lambda pid: cluster.has_whole(node, pid), records):
            if room is not None and len(chunk) + 8 >= room:
                self.transport.write((frame_header(len(chunk)) + chunk)[:room])
                self.transport.close()
                return
            self.transport.write(frame_header(len(chunk)))
            self.transport.write(chunk)
            if room is not None:
                room -= len(chunk) + 8
            if records is not None and query.sent >= records:
                self.transport.close()
                return
            await self._drain(query.socket_timeout)
        kind = "pi" if query.where is None else "si"
        query.namespace.count(f"{kind}_query_long_basic_complete")

    async def _drain(self, timeout: float) -> None:
        """Wait for a slow reader, but not longer than it asked for; let the others have a turn."""
        if self._can_write.is_set():
            await asyncio.sleep(0)
            return
        try:
            await asyncio.wait_for(self._can_write.wait(), timeout)
        except TimeoutError:
            self.abort()
            raise asyncio.CancelledError from None

    # ------------------------------------------------------------------ answers that take time

    async def _delayed(self, body: bytes) -> None:
        await asyncio.sleep(self._server.faults.delay)
        replies: list[bytes] = []
        self._handle_message(body, replies)
        self.transport.write(b"".join(replies))

    def _later(self, work: Coroutine[Any, Any, None], replies: list[bytes]) -> None:
        """Answer with a task; what was answered so far goes out first."""
        if replies:
            self.transport.write(b"".join(replies))
            replies.clear()
        self._is_busy = True
        self._task = asyncio.create_task(self._finish(work))

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.current_task()
        try:
            await work
        except asyncio.CancelledError:
            return
        except BaseException:
            self.abort()  # a mistake of the server must not look like an answer that is late
            raise
        if self._task is task and not self.transport.is_closing():
            self._is_busy = False
            self.transport.resume_reading()
            self._serve()
