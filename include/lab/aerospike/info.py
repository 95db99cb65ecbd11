"""Info commands: text in, text out. `answers/` holds what a real 8.1.2 reports, with quiet values."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from dbops_lab.aerospike.cluster import Cluster, Node
from dbops_lab.aerospike.indexes import COLLECTIONS, VALUE_TYPES, Index, context_is_sound
from dbops_lab.aerospike.protocol import (
    CLUSTER_CHANGED,
    ENTERPRISE_ONLY,
    EPOCH,
    INDEX_EXISTS,
    INDEX_NOT_FOUND,
    NO_NAMESPACE,
    PARAMETER,
    PARTITIONS,
)
from dbops_lab.aerospike.records import Namespace, SetInfo

BUILD, EDITION = "8.1.2.0", "Aerospike Community Edition"
FEATURES = (
    "batch-any;batch-index;blob-bits;cdt-index;cdt-list;cdt-map;cluster-stable;float;geo;sindex-exists;peers;"
    "pipelining;pquery;pscans;query-show;relaxed-sc;replicas;replicas-all;replicas-master;replicas-max;"
    "truncate-namespace;udf"
)
ENTERPRISE = ("roster", "racks", "rack-ids")
MAX_UDF = 1 << 20
INDEX_BYTES, SINDEX_BYTES = 64, 16_777_216  # per record, per index

# Histograms of a namespace and the counters that tell whether they were used
HISTOGRAMS: dict[str, tuple[str, ...]] = {
    "read": ("client_read_success", "client_read_not_found"),
    "write": ("client_write_success", "client_delete_success"),
    "udf": (),
    "batch-sub-read": ("batch_sub_read_success",),
    "batch-sub-write": ("batch_sub_write_success",),
    "batch-sub-udf": (),
    "pi-query": ("pi_query_long_basic_complete",),
    "si-query": ("si_query_long_basic_complete",),
}
USED = ",".join(["0.00"] * 17)


class InfoError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.answer = f"ERROR:{code}:{text}"


def _template(name: str) -> dict[str, str]:
    lines = (Path(__file__).parent / "answers" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def _joined(values: Mapping[str, object]) -> str:
    return ";".join(f"{name}={_shown(value)}" for name, value in values.items())


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


Parameters = dict[str, str]
Command = Callable[["Info", list[str], Parameters], str]


class Info:
    """The info commands of one node."""

    def __init__(self, cluster: Cluster, node: Node, *, is_tls: bool = False, tls_name: str = "") -> None:
        self.cluster = cluster
        self.node = node
        self.is_tls = is_tls
        self.tls_name = tls_name
        self.answered = 0
        self.batches = 0

    def answer(self, text: str) -> str:
        """To a whole request: every name that ends with a newline is repeated, a tab, its value."""
        names = text.split("\n")[:-1] if text else ["build", "node", "namespaces", "statistics"]
        self.answered += 1
        return "".join(f"{name}\t{self.value(name)}\n" for name in names)

    def value(self, text: str) -> str:
        head, _, tail = text.partition(":")
        name, *arguments = head.rstrip(";").split("/")
        parameters = dict(item.partition("=")[::2] for item in tail.split(";") if item)
        command = COMMANDS.get(name)
        try:
            if name in ENTERPRISE:
                raise InfoError(ENTERPRISE_ONLY, "enterprise only")
            if command is None:
                raise InfoError(PARAMETER, "unrecognized command")
            return command(self, arguments, parameters)
        except InfoError as problem:
            return problem.answer

    # ------------------------------------------------------------------ the node and the cluster

    @property
    def partition_generation(self) -> int:
        return self.node.partition_generation if self.node.is_ready else -1

    def _service(self, _: list[str], __: Parameters) -> str:
        return f"{self.node.host}:{self.node.port}"

    def _peers(self, is_tls: bool) -> str:
        if is_tls != self.is_tls:
            return f"{self.node.peers_generation},,[]"
        return self.cluster.peers(self.node, self.tls_name)

    def _replicas(self, _: list[str], parameters: Parameters) -> str:
        limit = _whole(parameters.get("max", "0"), "bad max")
        maps = self.cluster.replica_maps(self.node, limit or None)
        return ";".join(f"{name}:{maps}" for name in self.cluster.namespaces)

    def _cluster_stable(self, _: list[str], parameters: Parameters) -> str:
        size = parameters.get("size")
        if size is not None and _whole(size, "bad size") != len(self.cluster.members):
            raise InfoError(CLUSTER_CHANGED, "cluster not specified size")
        ignores = parameters.get("ignore-migrations", "false")
        if ignores not in {"true", "false"}:
            raise InfoError(PARAMETER, "bad ignore migrations")
        if "namespace" in parameters:
            self._namespace_named(parameters)
        if not self.node.is_ready or (ignores == "false" and self.cluster.moving(self.node)):
            raise InfoError(CLUSTER_CHANGED, "unstable cluster")
        return self.cluster.key

    def _statistics(self, _: list[str], __: Parameters) -> str:
        cluster, node = self.cluster, self.node
        values: dict[str, object] = dict(_template("statistics.txt"))
        principal = max(member.name for member in cluster.members)
        values |= {
            "cluster_size": len(cluster.members),
            "cluster_key": cluster.key,
            "cluster_generation": cluster.formed,
            "cluster_principal": principal,
            "paxos_principal": principal,
            "uptime": int(time.monotonic() - node.started_at),
            "time_since_rebalance": int(time.monotonic() - cluster.formed_at),
            "objects": sum(item.objects for item in cluster.namespaces.values()),
            "client_connections": node.opened - node.closed,
            "client_connections_opened": node.opened,
            "client_connections_closed": node.closed,
            "info_complete": self.answered,
            "batch_index_initiate": self.batches,
            "batch_index_complete": self.batches,
            "migrate_partitions_remaining": 2 * cluster.moving(node) * len(cluster.namespaces),
        }
        return _joined(values)

    def _latencies(self, arguments: list[str], parameters: Parameters) -> str:
        if "hist" not in parameters:
            rows = [self._histogram("batch-index", self.batches)]
            for namespace in self.cluster.namespaces.values():
                rows += [self._namespace_histogram(namespace, kind) for kind in HISTOGRAMS]
            return ";".join(rows)
        wanted = parameters["hist"]
        if wanted == "batch-index":
            return self._histogram(wanted, self.batches)
        name, _, kind = wanted.removeprefix("{").partition("}-")
        if not wanted.startswith("{") or name not in self.cluster.namespaces or kind not in HISTOGRAMS:
            raise InfoError(PARAMETER, "bad hist name")
        return self._namespace_histogram(self.cluster.namespaces[name], kind)

    def _namespace_histogram(self, namespace: Namespace, kind: str) -> str:
        uses = sum(namespace.counters.get(counter, 0) for counter in HISTOGRAMS[kind])
        return self._histogram(f"{{{namespace.name}}}-{kind}", uses)

    def _histogram(self, name: str, uses: int) -> str:
        rate = uses / max(1.0, time.monotonic() - self.node.started_at)
        return f"{name}:" + (f"msec,{rate:.1f},{USED}" if uses else "")

    # ------------------------------------------------------------------ namespaces and sets

    def _namespace_named(self, parameters: Parameters, *others: str) -> Namespace:
        name = next((parameters[key] for key in ("namespace", "ns", *others) if key in parameters), None)
        if name is None:
            raise InfoError(PARAMETER, "missing 'namespace'")
        if name not in self.cluster.namespaces:
            raise InfoError(NO_NAMESPACE, f"unknown namespace '{name}'")
        return self.cluster.namespaces[name]

    def _namespace(self, arguments: list[str], _: Parameters) -> str:
        namespace = self.cluster.namespaces.get(arguments[0] if arguments else "")
        if namespace is None:
            return "type=unknown"
        cluster, node = self.cluster, self.node
        values: dict[str, object] = dict(_template("namespace.txt")) | self._config(namespace)
        values |= {name: count for name, count in namespace.counters.items() if name in values}
        masters, proles = self._share(namespace)
        moving = cluster.moving(node)
        used = namespace.data_bytes * (masters + proles) // max(1, namespace.objects)
        values |= {
            "ns_cluster_size": len(cluster.members),
            "effective_replication_factor": cluster.replicas,
            "objects": masters + proles,
            "master_objects": masters,
            "prole_objects": proles,
            "non_expirable_objects": masters + proles,
            "unavailable_partitions": len(cluster.unavailable),
            "current_time": cluster.clock.now(),
            "truncating": namespace.unswept > 0 and namespace.truncate_at > 0,
            "truncate_lut": namespace.truncate_at,
            "index_used_bytes": INDEX_BYTES * (masters + proles),
            "sindex_used_bytes": SINDEX_BYTES * len(cluster.indexes.rows(namespace.name)),
            "data_total_bytes": namespace.room_bytes,
            "data_used_bytes": used,
            "data_used_pct": used * 100 // namespace.room_bytes,
            "stop_writes": namespace.stop_writes,
            "data_avail_pct": max(0, 87 - used * 100 // namespace.room_bytes),
            "migrate_tx_partitions_remaining": moving,
            "migrate_rx_partitions_remaining": moving,
            "migrate_fresh_partitions": PARTITIONS,
        }
        return _joined(values)

    def _share(self, namespace: Namespace) -> tuple[int, int]:
        """Records of which this node is the master, and of which it holds a replica."""
        if len(self.cluster.members) == 1:
            return namespace.objects, 0
        masters = proles = 0
        for partition, owners in zip(namespace.partitions, self.cluster.owners, strict=True):
            if owners[0] is self.node:
                masters += partition.count
            elif self.node in owners:
                proles += partition.count
        return masters, proles

    def _config(self, namespace: Namespace) -> dict[str, object]:
        return {
            **_template("config_namespace.txt"),
            "default-ttl": namespace.default_ttl,
            "replication-factor": self.cluster.replicas,
            "nsup-period": namespace.nsup_period,
            "storage-engine.data-size": namespace.room_bytes,
        }

    def _get_config(self, _: list[str], parameters: Parameters) -> str:
        context = parameters.get("context", "service")
        if context == "service":
            values: dict[str, object] = dict(_template("config_service.txt"))
            return _joined(values | {"cluster-name": self.cluster.name, "node-id": self.node.name})
        if context == "namespace":
            return _joined(self._config(self._namespace_named(parameters, "id")))
        raise InfoError(PARAMETER, "unknown context")

    def _sets(self, arguments: list[str], _: Parameters) -> str:
        namespaces = list(self.cluster.namespaces.values())
        if arguments and arguments[0]:
            if arguments[0] not in self.cluster.namespaces:
                return "ns_type=unknown"
            namespaces = [self.cluster.namespaces[arguments[0]]]
        wanted = arguments[1].encode() if len(arguments) > 1 else None
        rows = []
        for namespace in namespaces:
            held = self._held(namespace)
            for name, info in namespace.sets.items():
                if wanted in (None, name):
                    rows.append(self._set_row(namespace, info, held.get(name, 0)) + ";")
        return "".join(rows)

    def _held(self, namespace: Namespace) -> dict[bytes, int]:
        """Objects of each set that this node holds, as master or replica."""
        if len(self.cluster.members) <= self.cluster.replicas:
            return {name: info.objects for name, info in namespace.sets.items()}
        return namespace.objects_of_sets(pid for pid, owners in enumerate(self.cluster.owners) if self.node in owners)

    def _set_row(self, namespace: Namespace, info: SetInfo, objects: int) -> str:
        name = info.name.decode("utf-8", "replace")
        indexes = self.cluster.indexes.count(namespace.name, name)
        size = info.bytes * objects // info.objects if info.objects else 0
        return (
            f"ns={namespace.name}:set={name}:objects={objects}:tombstones=0:data_used_bytes={size}"
            f":truncate_lut={info.truncate_at}:sindexes={indexes}:index_populating=false"
            f":truncating={_shown(info.truncating)}:default-read-touch-ttl-pct=0:default-ttl=0"
            ":disable-eviction=false:enable-index=false:stop-writes-count=0:stop-writes-size=0"
        )

    def _truncate(self, _: list[str], parameters: Parameters) -> str:
        if "set" not in parameters:
            raise InfoError(PARAMETER, "missing 'set'")
        return self._truncate_to(parameters, parameters["set"].encode())

    def _truncate_namespace(self, _: list[str], parameters: Parameters) -> str:
        if "set" in parameters:
            raise InfoError(PARAMETER, "unexpected set name")
        return self._truncate_to(parameters, None)

    def _truncate_to(self, parameters: Parameters, set_name: bytes | None) -> str:
        name = parameters.get("namespace")
        if not name:
            raise InfoError(PARAMETER, "missing 'namespace'")
        border = now = self.cluster.clock.now_ms()
        if "lut" in parameters:
            border = _whole(parameters["lut"], "bad lut") // 1_000_000 - EPOCH * 1000
            if border <= 0:
                raise InfoError(PARAMETER, "would truncate to 0")
            if border > now:
                raise InfoError(PARAMETER, "would truncate in the future")
        if name in self.cluster.namespaces:  # the real server says ok to an unknown one
            self.cluster.namespaces[name].truncate(set_name, border)
        return "ok"

    def _partition_info(self, _: list[str], __: Parameters) -> str:
        names = (
            "namespace:partition:state:n_replicas:replica:succession:n_dupl:working_master:proxy_dst:emigrates"
            ":lead_emigrates:immigrates:records:tombstones:regime:tree_id:version:final_version"
        )
        rows = [names]
        key = self.cluster.key.lower()
        for namespace in self.cluster.namespaces.values():
            for pid, owners in enumerate(self.cluster.owners):
                rank = owners.index(self.node) if self.node in owners else -1
                state = "S" if rank >= 0 else "A"
                count = namespace.partitions[pid].count if rank >= 0 else 0
                version = f"{key}.0.{'m' if rank == 0 else '-'}p-"
                rows.append(
                    f"{namespace.name}:{pid}:{state}:{len(owners)}:{rank}:{max(0, rank)}:0:{owners[0].name}"
                    f":{owners[0].name}:0:0:0:{count}:0:0:1:{version}:{version}"
                )
        return ";".join(rows)

    # ------------------------------------------------------------------ indexes and UDFs

    def _sindex_create(self, arguments: list[str], parameters: Parameters) -> str:
        name = parameters.get("indexname", "")
        namespace = parameters.get("namespace") or parameters.get("ns", "")
        bin_name, value_type = parameters.get("bin", ""), parameters.get("type", "")
        if "indexdata" in parameters:
            bin_name, _, value_type = parameters["indexdata"].partition(",")
        collection = parameters.get("indextype", "default").lower()
        context = parameters.get("context", "")
        if not name or not namespace:
            raise InfoError(PARAMETER, "missing 'indexname' or 'namespace'")
        if "exp" in parameters:
            raise InfoError(PARAMETER, "an index on an expression is not supported here")
        if not 0 < len(bin_name) <= 15:
            raise InfoError(PARAMETER, "bad 'bin'")
        if value_type.lower() not in VALUE_TYPES or collection not in COLLECTIONS:
            raise InfoError(PARAMETER, "bad 'type' or 'indextype'")
        if context and not context_is_sound(context):
            raise InfoError(PARAMETER, "'context' invalid cdt context")
        set_name = parameters.get("set", "")
        index = Index(namespace, name, set_name, bin_name, value_type.lower(), collection, context)
        if namespace in self.cluster.namespaces:  # the real server says ok to an unknown one
            if set_name:
                self.cluster.namespaces[namespace].set_info(set_name.encode())
            if not self.cluster.indexes.create(index):
                raise InfoError(INDEX_EXISTS, "index already exists with different definition")
        return "ok"

    def _sindex_delete(self, _: list[str], parameters: Parameters) -> str:
        namespace = parameters.get("namespace") or parameters.get("ns", "")
        if not namespace or "indexname" not in parameters:
            raise InfoError(PARAMETER, "missing 'indexname' or 'namespace'")
        self.cluster.indexes.remove(namespace, parameters["indexname"])
        return "ok"

    def _sindex_list(self, _: list[str], parameters: Parameters) -> str:
        namespace = None
        if parameters.keys() & {"namespace", "ns"}:
            namespace = self._namespace_named(parameters).name
        is_b64 = parameters.get("b64") == "true"
        return ";".join(index.row(b64=is_b64) for index in self.cluster.indexes.rows(namespace))

    def _sindex(self, arguments: list[str], _: Parameters) -> str:
        if not arguments:
            return self._sindex_list([], {})
        if arguments[0] not in self.cluster.namespaces:
            return "ns_type=unknown"
        if len(arguments) > 1:
            return self._sindex_stat([], {"namespace": arguments[0], "indexname": arguments[1]})
        return self._sindex_list([], {"namespace": arguments[0]})

    def _sindex_exists(self, _: list[str], parameters: Parameters) -> str:
        namespace = self._namespace_named(parameters)
        return _shown(self.cluster.indexes.get(namespace.name, parameters.get("indexname", "")) is not None)

    def _sindex_stat(self, _: list[str], parameters: Parameters) -> str:
        namespace = self._namespace_named(parameters)
        index = self.cluster.indexes.get(namespace.name, parameters.get("indexname", ""))
        if index is None:
            raise InfoError(INDEX_NOT_FOUND, "no index")
        info = namespace.sets.get(index.set_name.encode(), namespace.no_set)
        return (
            f"entries={info.objects};used_bytes={SINDEX_BYTES};entries_per_bval=1;entries_per_rec=1"
            ";load_pct=100;load_time=1;stat_gc_recs=0"
        )

    def _udf_put(self, _: list[str], parameters: Parameters) -> str:
        name, text = parameters.get("filename", ""), parameters.get("content", "")
        if "." not in name or name.startswith(".") or name.endswith(".") or "/" in name:
            return "error=invalid_filename"
        if parameters.get("udf-type", "LUA") != "LUA":
            return "error=invalid_udf_type"
        if parameters.get("content-len") != str(len(text)):
            return "error=invalid_content_len"
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return "error=invalid_base64_content"
        if len(content) > MAX_UDF:
            return "error=invalid_udf_content_len,>1M"
        self.cluster.udfs.put(name, content)
        return "ok"

    def _udf_get(self, _: list[str], parameters: Parameters) -> str:
        content = self.cluster.udfs.get(parameters.get("filename", ""))
        if content is None:
            return "error=not_found"
        return f"type=LUA;content={base64.b64encode(content).decode()};"

    def _udf_remove(self, _: list[str], parameters: Parameters) -> str:
        self.cluster.udfs.remove(parameters.get("filename", ""))
        return "ok"

    def _user_agent(self, _: list[str], parameters: Parameters) -> str:
        try:
            base64.b64decode(parameters["value"], validate=True)
        except KeyError:
            raise InfoError(PARAMETER, "missing 'value'") from None
        except (binascii.Error, ValueError):
            raise InfoError(PARAMETER, "'value' invalid base64") from None
        return "ok"


def _whole(text: str, problem: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise InfoError(PARAMETER, problem) from None


COMMANDS: dict[str, Command] = {
    "build": lambda *_: BUILD,
    "version": lambda *_: f"{EDITION} build {BUILD}",
    "release": lambda *_: f"edition={EDITION};version={BUILD};os=none;arch=x86_64;sha=lab",
    "edition": lambda *_: EDITION,
    "features": lambda *_: FEATURES,
    "status": lambda *_: "ok",
    "health-outliers": lambda *_: "",
    "node": lambda info, *_: info.node.name,
    "cluster-name": lambda info, *_: info.cluster.name or "null",
    "namespaces": lambda info, *_: ";".join(info.cluster.namespaces),
    "partition-generation": lambda info, *_: str(info.partition_generation),
    "peers-generation": lambda info, *_: str(info.node.peers_generation),
    "rebalance-generation": lambda info, *_: str(info.cluster.formed - 1),
    "service": Info._service,
    "service-clear-std": lambda info, *_: "" if info.is_tls else info._service([], {}),
    "service-tls-std": lambda info, *_: info._service([], {}) if info.is_tls else "",
    "peers-clear-std": lambda info, *_: info._peers(is_tls=False),
    "peers-tls-std": lambda info, *_: info._peers(is_tls=True),
    "replicas": Info._replicas,
    "cluster-stable": Info._cluster_stable,
    "statistics": Info._statistics,
    "latencies": Info._latencies,
    "namespace": Info._namespace,
    "get-config": Info._get_config,
    "sets": Info._sets,
    "truncate": Info._truncate,
    "truncate-namespace": Info._truncate_namespace,
    "partition-info": Info._partition_info,
    "sindex-create": Info._sindex_create,
    "sindex-delete": Info._sindex_delete,
    "sindex-list": Info._sindex_list,
    "sindex-exists": Info._sindex_exists,
    "sindex-stat": Info._sindex_stat,
    "sindex": Info._sindex,
    "udf-put": Info._udf_put,
    "udf-get": Info._udf_get,
    "udf-list": lambda info, *_: info.cluster.udfs.rows(),
    "udf-remove": Info._udf_remove,
    "user-agent-set": Info._user_agent,
}
