"""Who belongs to a cluster, who owns which partition, and whether it can be used now."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from dbops.aerospike.wire import EPOCH, PARTITIONS, Connection, ConnectionLost, Refused, ServerBusy, Tls
from dbops.connections import ConnectionInfo
from dbops.errors import FinalError, RetryableError

CONNECT_SECONDS = 5.0
READ_SECONDS = 120.0  # a filtered query over a big slice is silent until it finds something
DEFAULT_PORT = 3000


class ClusterUnreachable(RetryableError):
    """No seed answered."""


class ClusterNotReady(RetryableError):
    """Nodes answer, but the cluster is still forming, or some partition has no owner."""


class UnknownNamespace(FinalError):
    """The cluster has no such namespace."""


@dataclass(frozen=True)
class Access:
    """Where a cluster is and how to log in. `seeds` are (host, port); one that answers is enough."""

    cluster: str
    seeds: tuple[tuple[str, int], ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    alternate_addresses: bool = False

    @classmethod
    def of(cls, cluster: str, seeds: Iterable[str], connection: ConnectionInfo | None) -> Access:
        """Combine what the platform file names with what the connection holds; the connection's host wins.

        :param seeds: `host:port` texts of the platform file, possibly none.
        :raises FinalError: neither names a host.
        """
        extra: Mapping[str, Any] = connection.extra if connection else {}
        found = [_host_port(seed) for seed in seeds]
        if connection and connection.host:
            found = [_host_port(host, connection.port) for host in connection.host.split(",")]
        if not found:
            raise FinalError(
                f"cluster {cluster}: no address; give it `seeds` in the platform file or a host in its connection"
            )
        tls = None
        if _truth(extra.get("tls")):
            tls = Tls(
                extra.get("tls_name"),
                extra.get("tls_ca_file"),
                extra.get("tls_cert_file"),
                extra.get("tls_key_file"),
            )
        return cls(
            cluster,
            tuple(found),
            (connection.login or None) if connection else None,
            connection.password if connection else None,
            tls,
            _truth(extra.get("use_services_alternate")),
        )


@dataclass(frozen=True)
class Node:
    """One node; any of its addresses leads to it."""

    name: str
    addresses: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class NamespaceState:
    """What the nodes say of one namespace, added up over the cluster."""

    master_objects: int
    data_bytes: int
    replication_factor: int
    migrating: int
    node_times: tuple[int, ...]  # Unix seconds by each node's own clock
    capacity_bytes: int = 0  # for data, 0 = the server does not say
    stops_writes: bool = False  # some node takes no more writes
    takes_ttl: bool = True  # every node removes what expires, or takes it all the same


class Cluster:
    """A view of one cluster that is asked again when something moved. Not for sharing between threads."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.nodes: dict[str, Node] = {}
        self._tokens: dict[str, bytes] = {}
        self._control: dict[str, Connection] = {}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for connection in self._control.values():
            connection.close()
        self._control.clear()

    # ------------------------------------------------------------------ nodes

    def refresh(self) -> None:
        """Ask a node that answers who its peers are.

        :raises ClusterUnreachable: nobody answers; names every address and why.
        :raises Refused: the login is wrong.
        """
        known = [address for node in self.nodes.values() for address in node.addresses]
        failures = []
        for address in dict.fromkeys([*known, *self.access.seeds]):
            try:
                with self._open(address) as connection:
                    self.nodes = self._discover(address, connection)
            except ConnectionLost as problem:
                failures.append(str(problem))
                continue
            for name in set(self._control) - set(self.nodes):
                self._control.pop(name).close()
            return
        raise ClusterUnreachable(
            f"cluster {self.access.cluster}: none of {len(failures)} addresses answers: {'; '.join(failures)}"
        )

    def _discover(self, address: tuple[str, int], connection: Connection) -> dict[str, Node]:
        kind = "tls" if self.access.tls else "clear"
        command = f"peers-{kind}-{'alt' if self.access.alternate_addresses else 'std'}"
        answer = connection.info("node", command)
        name, peers = answer.get("node", ""), answer.get(command, "")
        if not name or name.startswith("ERROR") or peers.startswith("ERROR"):
            raise ConnectionLost(f"ask {connection.where} for its peers: answered {answer}")
        nodes = {name: Node(name, (address,))}
        for peer, addresses in _peers(peers):
            nodes[peer] = Node(peer, addresses)
        return nodes

    def connect(self, node: str) -> Connection:
        """A new connection to a node, logged in.

        :raises ConnectionLost: it does not answer on any of its addresses.
        """
        if node not in self.nodes:
            raise ConnectionLost(f"node {node} of cluster {self.access.cluster} has left it")
        lost: ConnectionLost | None = None
        for address in self.nodes[node].addresses:
            try:
                return self._open(address)
            except ConnectionLost as problem:
                lost = problem
        raise lost or ConnectionLost(f"node {node} of cluster {self.access.cluster} has no address")

    def _open(self, address: tuple[str, int]) -> Connection:
        connection = Connection(*address, timeout=CONNECT_SECONDS, tls=self.access.tls)
        connection.sock.settimeout(READ_SECONDS)
        if self.access.user is None:
            return connection
        try:
            if token := self._tokens.get(connection.where):
                try:
                    connection.authenticate(self.access.user, token)
                    return connection
                except (Refused, ServerBusy):
                    del self._tokens[connection.where]  # the token has expired
            token = connection.login(self.access.user, self.access.password or "")
            if token:
                self._tokens[connection.where] = token
        except BaseException:
            connection.close()
            raise
        return connection

    def ask(self, node: str, *commands: str) -> dict[str, str]:
        """Info answers of one node on a connection that is kept.

        :raises ConnectionLost: the node does not answer.
        """
        for fresh in (False, True):
            connection = self._control.get(node)
            if connection is None:
                connection = self._control[node] = self.connect(node)
                fresh = True
            try:
                return connection.info(*commands)
            except ConnectionLost:
                self._control.pop(node).close()
                if fresh:
                    raise
        raise AssertionError("unreachable")

    def ask_all(self, *commands: str) -> dict[str, dict[str, str]]:
        """Info answers of every node, by node name."""
        return {node: self.ask(node, *commands) for node in self.nodes}

    # -------------------------------------------------------------- partitions

    def owners(self, namespace: str) -> list[str]:
        """The node that masters each partition: 4096 node names.

        :raises UnknownNamespace: no node has the namespace.
        :raises ClusterNotReady: some partition has no master now.
        """
        self.refresh()
        owner: list[str] = [""] * PARTITIONS
        regimes = [-1] * PARTITIONS
        known = False
        for node in self.nodes:
            try:
                answer = self.ask(node, "partition-generation", "replicas:max=1")
            except ConnectionLost:
                continue  # it left between two questions: what it owned shows as missing below, or has a new master
            if answer.get("partition-generation", "-1") == "-1":
                continue
            for entry in answer.get("replicas:max=1", "").split(";"):
                name, _, rest = entry.partition(":")
                if name != namespace:
                    continue
                known = True
                regime, _, bitmap = rest.split(",")[:3]
                for partition in _bits(base64.b64decode(bitmap)):
                    if int(regime) > regimes[partition]:
                        owner[partition], regimes[partition] = node, int(regime)
        if not known:
            self._require_namespace(namespace)
        if missing := owner.count(""):
            raise ClusterNotReady(
                f"cluster {self.access.cluster}: {missing} of {PARTITIONS} partitions of {namespace} have no master "
                "now; a node is missing or the cluster is still forming"
            )
        return owner

    def _require_namespace(self, namespace: str) -> None:
        names: set[str] = set()
        for answer in self.ask_all("namespaces").values():
            names.update(filter(None, answer.get("namespaces", "").split(";")))
        if namespace not in names:
            raise UnknownNamespace(
                f"cluster {self.access.cluster} has no namespace {namespace}; "
                f"it has {', '.join(sorted(names)) or 'none'}"
            )

    def wait_ready(
        self, namespace: str, seconds: float, on_wait: Callable[[str], None] = lambda reason: None
    ) -> list[str]:
        """Wait until every partition has a master (a node listens about 2 s before it is usable); its owners.

        :raises ClusterNotReady, ClusterUnreachable: not within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.owners(namespace)
            except (ClusterUnreachable, ClusterNotReady, ConnectionLost) as problem:
                if time.monotonic() >= deadline:
                    raise
                on_wait(str(problem))
                time.sleep(0.5)

    # ------------------------------------------------------------------- state

    def key(self, namespace: str | None = None) -> str:
        """The cluster key: the same on every node of a stable cluster, another after each re-forming.

        :raises ClusterNotReady: the nodes do not agree.
        """
        command = "cluster-stable:ignore-migrations=true"
        if namespace:
            command += f";namespace={namespace}"
        answers = {node: answer.get(command, "") for node, answer in self.ask_all(command).items()}
        keys = set(answers.values())
        if len(keys) != 1 or any(not key or key.startswith("ERROR") for key in keys):
            raise ClusterNotReady(f"cluster {self.access.cluster} is not stable: its nodes answer {answers}")
        return keys.pop()

    def build(self) -> str:
        """The server build; the lowest when nodes differ in a rolling upgrade."""
        builds = {answer.get("build", "0") for answer in self.ask_all("build").values()}
        return min(builds, key=lambda build: [int(part) for part in re.findall(r"\d+", build)])

    def name(self) -> str:
        """The cluster's configured name, empty when it has none."""
        value = self.ask(next(iter(self.nodes)), "cluster-name").get("cluster-name", "")
        return "" if value in ("null", "not-set") or value.startswith("ERROR") else value

    def clock_skew(self) -> timedelta:
        """The largest difference between the nodes' clocks that any node sees."""
        answers = self.ask_all("statistics").values()
        values = [re.search(r"(?:^|;)cluster_clock_skew_ms=(\d+)", answer["statistics"]) for answer in answers]
        return timedelta(milliseconds=max((int(found[1]) for found in values if found), default=0))

    def namespace_state(self, namespace: str) -> NamespaceState:
        """Sizes, migrations and clocks of a namespace over all nodes."""
        totals = {
            "master_objects": 0,
            "data_used_bytes": 0,
            "migrate_partitions_remaining": 0,
            "data_total_bytes": 0,
        }
        factor, times, stops_writes, takes_ttl = 1, [], False, True
        for answer in self.ask_all(f"namespace/{namespace}").values():
            values = dict(pair.split("=", 1) for pair in answer[f"namespace/{namespace}"].split(";") if "=" in pair)
            if values.get("type") == "unknown":
                self._require_namespace(namespace)
            for key in totals:
                totals[key] += int(values.get(key, 0))
            factor = int(values.get("effective_replication_factor", factor))
            stops_writes |= any(values.get(key) == "true" for key in ("stop_writes", "clock_skew_stop_writes"))
            takes_ttl &= values.get("nsup-period") != "0" or values.get("allow-ttl-without-nsup") == "true"
            if "current_time" in values:
                times.append(int(values["current_time"]) + EPOCH)
        return NamespaceState(
            totals["master_objects"],
            totals["data_used_bytes"],
            factor,
            totals["migrate_partitions_remaining"],
            tuple(times),
            totals["data_total_bytes"],
            stops_writes,
            takes_ttl,
        )


def _truth(value: object) -> bool:
    return str(value).lower() in ("true", "1", "yes") if value is not None else False


def _host_port(text: str, port: int | None = None) -> tuple[str, int]:
    host, colon, number = text.strip().rpartition(":")
    if colon and number.isdigit() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(number)
    return text.strip().strip("[]"), port or DEFAULT_PORT


def _peers(text: str) -> list[tuple[str, tuple[tuple[str, int], ...]]]:
    """`generation,default port,[[node,tls name,[address,...]],...]`."""
    _, port, rest = text.split(",", 2)
    default = int(port) if port else DEFAULT_PORT
    return [
        (node, tuple(_host_port(address, default) for address in addresses.split(",") if address))
        for node, addresses in re.findall(r"\[([0-9A-Fa-f]+),[^,\[\]]*,\[((?:[^\[\]]|\[[^\]]*\])*)\]\]", rest)
    ]


def _bits(bitmap: bytes) -> list[int]:
    if len(bitmap) != PARTITIONS // 8:
        raise ConnectionLost(f"a replica map has {len(bitmap)} bytes, not {PARTITIONS // 8}")
    number = int.from_bytes(bitmap, "big")
    if number == (1 << PARTITIONS) - 1:
        return list(range(PARTITIONS))
    return [partition for partition in range(PARTITIONS) if number >> (PARTITIONS - 1 - partition) & 1]
