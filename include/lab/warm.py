"""Compile the kernels before the first tasks need them: on a fresh machine each of them would do so by itself.

A tiny full and incremental backup, with a deleted record, of a stand-in cluster to a folder, and their verification;
then a sync validation of small tables in a PostgreSQL of its own, with a difference of each kind. What Numba compiles
for them is what it needs later, and it keeps that on disk. Takes a moment when it is there.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

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
from dbops.sync.validate import Validation
from dbops_lab import connections
from dbops_lab.aerospike.process import StandIn
from dbops_lab.application.database import Database
from dbops_lab.application.drift import plant
from dbops_lab.application.publish import Cluster, publish_all
from dbops_lab.application.world import World
from dbops_lab.lab import PROJECT
from dbops_lab.postgres import ADMIN, APPLICATION, DATABASES, Postgres
from dbops_lab.supervisor import Supervisor, free_port


def warm() -> None:
    """Run everything once that is compiled."""
    _backups()
    _sync()


def _backups() -> None:
    platform = load_platform(PROJECT / "include" / "platform" / "lab.yaml")
    cluster = platform.aerospike.clusters[0]
    namespace = next(space for space in cluster.namespaces if space.track_deletes)
    with StandIn(namespaces=[namespace.name]) as server, TemporaryDirectory() as folder:
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


def _sync() -> None:
    """Rows that differ, are missing or too many make it look twice and name them, which compiles the rest."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)  # PostgreSQL may run as another user
        supervisor = Supervisor(Path(folder) / "lab", guarded=True)
        stack.callback(supervisor.stop)
        passwords = {name: secrets.token_urlsafe(16) for name in (ADMIN, *DATABASES)}
        server = Postgres(supervisor.state, free_port(), passwords, guarded=True)
        server.create()
        supervisor.start(server.part)
        supervisor.wait([server.part])
        server.create_databases()
        database = Database(
            connections.info("dbops_app", connections.postgres(server.port, APPLICATION, passwords[APPLICATION]))
        )
        standin = stack.enter_context(StandIn(namespaces=["bidder", "spend"]))
        cluster = Cluster("warm", tuple(standin.ports), standin.control)
        world = World(campaigns=40, line_items=80, creatives=80, days=1, requests_per_hour=20)
        database.create()
        database.seed(world)
        publish_all(world, [cluster])
        sync = load_platform(PROJECT / "include" / "platform" / "lab.yaml").sync
        assert sync is not None
        for seed, kinds in enumerate((["missing"], ["extra"], ["different"])):
            plant(database, cluster, seed, kinds=kinds, tables=["campaigns"], count=1)
        access = Access("warm", (("127.0.0.1", standin.ports[0]),))
        for pair in sync.pairs:
            Validation(pair, "warm", database.info, access, lag=timedelta(0)).run()


if __name__ == "__main__":
    warm()
