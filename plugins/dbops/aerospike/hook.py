"""Airflow's connection type `aerospike`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from dbops.adapter import connection
from dbops.aerospike.cluster import Access, Cluster
from dbops.platform import AerospikeCluster

if TYPE_CHECKING:
    import aerospike


class AerospikeHook(BaseHook):
    """Reach an Aerospike cluster.

    :param aerospike_conn_id: its connection. Host may name several seeds, `host:port,host:port`.
    """

    conn_name_attr = "aerospike_conn_id"
    default_conn_name = "aerospike_default"
    conn_type = "aerospike"
    hook_name = "Aerospike"

    def __init__(self, aerospike_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.aerospike_conn_id = aerospike_conn_id

    @classmethod
    def of(cls, cluster: AerospikeCluster) -> AerospikeHook:
        """The hook of a cluster of the platform file."""
        return cls(cluster.connection)

    def access(self, cluster: str | None = None, seeds: tuple[str, ...] = ()) -> Access:
        """Address and login for our own wire engine (bulk work)."""
        return Access.of(cluster or self.aerospike_conn_id, seeds, connection(self.aerospike_conn_id))

    def get_conn(self) -> aerospike.Client:
        """The official client, connected; for single records, not for bulk reads."""
        import aerospike

        access = self.access()
        config: dict[str, Any] = {"hosts": [(host, port) for host, port in access.seeds]}
        if access.tls:
            config["hosts"] = [(host, port, access.tls.name or host) for host, port in access.seeds]
            config["tls"] = {"enable": True, "cafile": access.tls.ca_file}
            if access.tls.cert_file:
                config["tls"] |= {"certfile": access.tls.cert_file, "keyfile": access.tls.key_file}
        if access.user:
            config |= {"user": access.user, "password": access.password}
        config["use_services_alternate"] = access.alternate_addresses
        return aerospike.client(config).connect()

    def test_connection(self) -> tuple[bool, str]:
        """For the button in Airflow's connection form."""
        try:
            with Cluster(self.access()) as cluster:
                cluster.refresh()
                return (
                    True,
                    f"{len(cluster.nodes)} node(s), build {cluster.build()}, cluster key {cluster.key()}",
                )
        except Exception as problem:  # whatever it is, the form shows it
            return False, str(problem)
