"""What the tests of the restore engine share: restores of a world to another cluster, and what a cluster holds then."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import aerospike
from backup_world import LOOPBACK, World, connect
from dbops.aerospike import restore
from dbops.aerospike.cluster import Access
from dbops.backups.restores import Outcomes, RestorePlan, RestoreReport, RestoreTarget
from dbops.backups.verify import verify
from dbops_lab.aerospike.process import StandIn

NEVER = 0xFFFFFFFF


@dataclass(frozen=True)
class Held:
    """A record as the official client shows it."""

    set: str
    key: Any
    bins: Mapping[str, Any]
    ttl: int = field(compare=False)
    generation: int = field(compare=False)


def held(server: StandIn, namespace: str) -> dict[bytes, Held]:
    """All records of a namespace by digest, through the official client."""
    with closing(connect(server.ports[0])) as client:
        found = client.query(namespace).results()
    records = {
        bytes(digest): Held(
            set_name, key, {name: _comparable(value) for name, value in bins.items()}, meta["ttl"], meta["gen"]
        )
        for (_, set_name, key, digest), meta, bins in found
    }
    assert len(records) == len(found)
    return records


def _comparable(value: Any) -> Any:
    """GeoJSON objects of the client are equal only to themselves."""
    return ("GeoJSON", value.dumps()) if isinstance(value, aerospike.GeoJSON) else value


def access_to(server: StandIn) -> Access:
    return Access("scratch", tuple((LOOPBACK, port) for port in server.ports))


def scratch(namespace: str) -> RestoreTarget:
    return RestoreTarget(cluster="scratch", namespace=namespace, is_scratch=True)


def verify_all(lab: World) -> None:
    for point in lab.points:
        if point.verified is None:
            assert verify(lab.store, point, keys=lab.keys).problems == []


def planned(lab: World, server: StandIn, namespace: str, *, holder: str = "restore-1", **options: Any) -> RestorePlan:
    verify_all(lab)
    return restore.plan_restore(
        lab.store,
        lab.cluster_name,
        lab.namespace,
        access_to(server),
        scratch(namespace),
        holder=holder,
        keys=lab.keys,
        **options,
    )


def run(lab: World, server: StandIn, plan: RestorePlan) -> RestoreReport:
    report = restore.run_restore(access_to(server), lab.store, plan, workers=2, keys=lab.keys)
    assert report.outcomes.accounted()
    return report


def restored(lab: World, server: StandIn, namespace: str, **options: Any) -> Outcomes:
    """Plan, run and check; what became of the records."""
    return restore.require_ok(run(lab, server, planned(lab, server, namespace, **options))).outcomes


def restore_in_child(pipe: Connection, world: World, server_access: Access, plan: RestorePlan) -> None:
    """A restore in a process that may be killed."""
    try:
        pipe.send("started")
        pipe.send(restore.run_restore(server_access, world.store, plan, workers=2, keys=world.keys).ok)
    except Exception as error:  # the parent must see whatever it is
        pipe.send(f"{type(error).__name__}: {error}")
