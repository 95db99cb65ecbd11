"""Compile the backup kernel before the first tasks need it: on a fresh machine each of them would do so by itself.

A tiny full and incremental backup, with a deleted record, of a stand-in cluster to a folder, and their verification:
what Numba compiles for them is what it needs later, and it keeps that on disk. Takes a moment when it is there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import aerospike
from dbops.aerospike.backup import plan_backup, run_backup
from dbops.aerospike.cluster import Access
from dbops.aerospike.restore import plan_restore, run_restore
from dbops.backups import catalog
from dbops.backups.manifest import Kind
from dbops.backups.restores import RestoreTarget
from dbops.backups.store import LocalStore
from dbops.backups.verify import verify
from dbops.platform import load_platform
from dbops_lab.aerospike.process import StandIn
from dbops_lab.lab import PROJECT


def warm() -> None:
    """Run everything once that is compiled."""
    platform = load_platform(PROJECT / "include" / "platform" / "lab.yaml")
    cluster = platform.aerospike.clusters[0]
    namespace = next(space for space in cluster.namespaces if space.track_deletes)
    with StandIn(namespaces=[namespace.name]) as server, tempfile.TemporaryDirectory() as folder:
        client = aerospike.client({"hosts": [("127.0.0.1", server.ports[0])]})
        for number in range(100):
            client.put((namespace.name, "warm", number), {"number": number, "text": "x", "share": number / 7})
        access = Access(cluster.name, (("127.0.0.1", server.ports[0]),))
        store = LocalStore(Path(folder))
        for kind in (Kind.FULL, Kind.INCREMENTAL):
            plan = plan_backup(platform, cluster, namespace, kind, access, store, holder="warm", slices=2)
            run_backup(access, store, plan, workers=1)
            if kind is Kind.FULL:
                client.remove((namespace.name, "warm", 1))
        client.close()
        for point in catalog.restore_points(store, cluster.name, namespace.name):
            verify(store, point)
        # Back to where it came from: the deletes of the incremental, too, and several connections.
        target = RestoreTarget(cluster=cluster.name, namespace=namespace.name)
        restore = plan_restore(store, cluster.name, namespace.name, access, target, holder="warm")
        run_restore(access, store, restore, workers=1)


if __name__ == "__main__":
    warm()
