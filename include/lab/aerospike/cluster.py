"""Nodes of one cluster: which are up, which owns which partition, and when the cluster re-forms.

Records live in the process, not in a node: what a stopped node held is still there and its partitions pass to
the next node in the succession, as they do in a real cluster where a replica has them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from dataclasses import dataclass, field

from dbops_lab.aerospike.indexes import Indexes, Udfs
from dbops_lab.aerospike.protocol import PARTITIONS
from dbops_lab.aerospike.records import Clock, Namespace

MOST_REPLICAS = 2


@dataclass
class Node:
    """One member; `host` and `port` are where clients reach it."""

    name: str
    host: str
    port: int
    is_up: bool = True
    started_at: float = field(default_factory=time.monotonic)
    ready_at: float = 0.0  # partition-generation is -1 until then
    partition_generation: int = 0
    peers_generation: int = 0
    opened: int = 0  # connections
    closed: int = 0

    @property
    def is_ready(self) -> bool:
        return time.monotonic() >= self.ready_at


class Cluster:
    def __init__(
        self,
        name: str,
        namespaces: list[str],
        addresses: list[tuple[str, int]],
        *,
        default_ttl: int = 0,
        start_delay: float = 0.0,
        reform_seconds: float = 0.0,
        migrate_seconds: float = 0.0,
    ) -> None:
        self.name = name
        self.clock = Clock()
        self.namespaces = {item: Namespace(item, self.clock, default_ttl) for item in namespaces}
        self.indexes = Indexes()
        self.udfs = Udfs()
        mark = hashlib.sha256(name.encode()).hexdigest()[:8].upper()
        self.nodes = [
            Node(f"BB9{index:02X}{mark}02", host, port) for index, (host, port) in enumerate(addresses, start=1)
        ]
        self.start_delay = start_delay
        self.reform_seconds = reform_seconds
        self.migrate_seconds = migrate_seconds
        self.formed = 0
        self.formed_at = time.monotonic()
        self.key = ""
        self.members: list[Node] = []
        self.owners: list[list[Node]] = []  # per partition: its replicas, master first
        self._former: list[list[Node]] = []  # before the last time it formed
        self.unavailable: set[int] = set()  # partitions that the lab took away
        for node in self.nodes:
            node.ready_at = time.monotonic() + start_delay
        self.form()

    # ------------------------------------------------------------------ membership

    @property
    def replicas(self) -> int:
        return min(MOST_REPLICAS, max(1, len(self.members)))

    @property
    def is_migrating(self) -> bool:
        return self.formed > 1 and time.monotonic() < self.formed_at + self.migrate_seconds

    def form(self) -> None:
        """Take the nodes that are up as members and hand out the partitions anew."""
        self.members = [node for node in self.nodes if node.is_up]
        self.formed += 1
        self.formed_at = time.monotonic()
        seed = f"{self.name}/{self.formed}/{time.time_ns()}"
        self.key = hashlib.sha256(seed.encode()).hexdigest()[:12].upper().lstrip("0") or "1"
        self._former = self.owners
        self.owners = [self._succession(pid)[: self.replicas] for pid in range(PARTITIONS)]
        for node in self.members:
            if self.formed > 1:
                node.partition_generation += 1
                node.peers_generation += 1

    def _succession(self, pid: int) -> list[Node]:
        """Highest random weight: a node that leaves moves only its own partitions."""

        def weight(node: Node) -> bytes:
            return hashlib.blake2b(f"{node.name}/{pid}".encode(), digest_size=8).digest()

        return sorted(self.members, key=weight, reverse=True)

    async def stop(self, node: Node) -> None:
        """The node is gone; the others notice after `reform_seconds`."""
        node.is_up = False
        await self._form_later()

    async def start(self, node: Node) -> None:
        node.is_up = True
        node.started_at = time.monotonic()
        node.ready_at = time.monotonic() + self.start_delay
        await self._form_later()

    async def _form_later(self) -> None:
        await asyncio.sleep(self.reform_seconds)
        self.form()

    # ------------------------------------------------------------------ partitions

    def has_whole(self, node: Node, pid: int) -> bool:
        """Whether this node answers queries for the partition: it is a replica and has all of its records."""
        if pid in self.unavailable or node not in self.owners[pid]:
            return False
        return not self.is_migrating or not self._former or node in self._former[pid]

    def master(self, pid: int) -> Node | None:
        owners = self.owners[pid]
        return owners[0] if owners else None

    def is_reachable(self, pid: int) -> bool:
        """Whether a record of this partition can be worked on through any node (a request is passed on)."""
        master = self.master(pid)
        return master is not None and master.is_up and pid not in self.unavailable

    def replica_maps(self, node: Node, limit: int | None = None) -> str:
        """What `replicas` answers for one namespace: regime, number of maps, a bitmap for each."""
        maps = []
        for rank in range(min(self.replicas, limit or MOST_REPLICAS)):
            bits = bytearray(PARTITIONS // 8)
            for pid, owners in enumerate(self.owners):
                if rank < len(owners) and owners[rank] is node:
                    bits[pid >> 3] |= 0x80 >> (pid & 7)
            maps.append(base64.b64encode(bits).decode())
        return ",".join(["0", str(len(maps)), *maps])

    def peers(self, node: Node, tls_name: str = "") -> str:
        others = [other for other in self.members if other is not node]
        rows = ",".join(f"[{other.name},{tls_name},[{other.host}:{other.port}]]" for other in others)
        return f"{node.peers_generation},{node.port},[{rows}]"

    def moving(self, node: Node) -> int:
        """Partitions of a namespace that still migrate to or from this node."""
        if not self.is_migrating or not self._former:
            return 0
        return sum(
            (node in owners) != (node in former) for owners, former in zip(self.owners, self._former, strict=True)
        )
