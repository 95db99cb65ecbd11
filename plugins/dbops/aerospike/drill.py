"""Restore drills: a restore point is restored to the scratch namespace, compared, timed, and removed again."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from dbops.aerospike.backup import OnProgress, no_progress
from dbops.aerospike.cluster import Access, Cluster
from dbops.aerospike.restore import LEASE, plan_restore, run_restore
from dbops.backups import catalog
from dbops.backups.cipher import NO_KEYS, Keys
from dbops.backups.lease import Lease
from dbops.backups.restores import RestoreReport, RestoreTarget
from dbops.backups.store import Store
from dbops.errors import FinalError, RetryableError

log = logging.getLogger(__name__)

EMPTY_SECONDS = 60.0


class ProductionTarget(FinalError):
    """The scratch cluster is one that is backed up: a drill would empty it."""


class DrillFailed(FinalError):
    """The restore point could not be restored as it should be, or not in time."""


@dataclass(frozen=True)
class Drill:
    """What a drill found. `seconds` run from the plan to the end of the comparison."""

    report: RestoreReport
    seconds: float
    rto: timedelta
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def run_drill(
    store: Store,
    cluster: str,
    namespace: str,
    id: str,
    scratch: Access,
    scratch_namespace: str,
    *,
    production: Sequence[Access],
    rto: timedelta,
    holder: str,
    workers: int,
    keys: Keys = NO_KEYS,
    on_progress: OnProgress = no_progress,
) -> Drill:
    """Restore a point to the scratch namespace, compare and time it, and empty the namespace again.

    :param production: every cluster that is backed up; none of their addresses may be one of the scratch cluster's.
    :raises ProductionTarget, LeaseHeld: nothing was touched.
    """
    refuse_production(scratch, production)
    target = RestoreTarget(cluster=scratch.cluster, namespace=scratch_namespace, is_scratch=True)
    # Before anything is emptied: it may be what another drill is just restoring.
    lease = Lease.acquire(store, catalog.lease_key(target.cluster, target.namespace), holder, LEASE)
    try:
        return _drill(store, cluster, namespace, id, scratch, target, rto, holder, workers, keys, on_progress)
    finally:
        lease.release()


def _drill(
    store: Store,
    cluster: str,
    namespace: str,
    id: str,
    scratch: Access,
    target: RestoreTarget,
    rto: timedelta,
    holder: str,
    workers: int,
    keys: Keys,
    on_progress: OnProgress,
) -> Drill:
    scratch_namespace = target.namespace
    with Cluster(scratch) as reader:
        reader.wait_ready(scratch_namespace, EMPTY_SECONDS, lambda reason: log.info("waiting: %s", reason))
        if reader.namespace_state(scratch_namespace).master_objects:
            log.warning("%s holds what an earlier drill has left: it is emptied", target.text)
            empty(reader, scratch_namespace)
    started = time.monotonic()
    plan = plan_restore(store, cluster, namespace, scratch, target, holder=holder, id=id, keys=keys)
    try:
        report = run_restore(scratch, store, plan, workers=workers, keys=keys, on_progress=on_progress)
        seconds = time.monotonic() - started
    finally:
        lease_key = catalog.lease_key(target.cluster, target.namespace)
        Lease.acquire(store, lease_key, holder, LEASE)  # the restore has given it back
        with Cluster(scratch) as reader:
            reader.refresh()
            empty(reader, scratch_namespace)
    problems = list(report.problems)
    points = [catalog.find(store, cluster, namespace, point).manifest for point in plan.points]
    expected = sum(manifest.records for manifest in points)
    if report.outcomes.read != expected:
        problems.append(f"{report.outcomes.read:,} records were read, the manifests say {expected:,}")
    if report.indexes != points[-1].indexes or report.udfs != points[-1].udfs:
        problems.append("not every index and UDF of the manifest was made")
    if report.target_records > expected:
        problems.append(f"the scratch namespace held {report.target_records:,} records, more than were restored")
    if seconds > rto.total_seconds():
        problems.append(f"it took {seconds:.0f} s, the objective (RTO) is {rto.total_seconds():.0f} s")
    return Drill(report, seconds, rto, tuple(problems))


def refuse_production(scratch: Access, production: Iterable[Access]) -> None:
    """:raises ProductionTarget: an address of the scratch cluster leads to a cluster that is backed up."""
    mine = _addresses(scratch)
    for access in production:
        if both := mine & _addresses(access):
            where = ", ".join(f"{host}:{port}" for host, port in sorted(both))
            raise ProductionTarget(
                f"drill: {where} is an address of the scratch cluster and of cluster {access.cluster}, which is backed "
                "up: a drill would empty it; give `scratch` a cluster of its own"
            )


def _addresses(access: Access) -> set[tuple[str, int]]:
    """Addresses of the seeds and of all nodes that they name, as numbers where they resolve."""
    found = set(access.seeds)
    try:
        with Cluster(access) as cluster:
            cluster.refresh()
            found |= {address for node in cluster.nodes.values() for address in node.addresses}
    except RetryableError as problem:  # a production cluster that is down must not stop a drill: its seeds are compared
        log.warning("nodes of cluster %s are not known now: %s", access.cluster, problem)
    resolved: set[tuple[str, int]] = set()
    for host, port in found:
        resolved.add((host, port))
        try:
            resolved |= {(str(entry[4][0]), port) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        except OSError:
            continue
    return resolved


def empty(cluster: Cluster, namespace: str) -> None:
    """Remove all records and indexes of a namespace, and wait until they are gone.

    :raises DrillFailed: they are still there after a minute.
    """
    node = next(iter(cluster.nodes))
    listing = f"sindex-list:namespace={namespace}"
    for row in filter(None, cluster.ask(node, listing).get(listing, "").split(";")):
        fields = dict(pair.split("=", 1) for pair in row.split(":") if "=" in pair)
        if fields.get("ns") == namespace:
            cluster.ask(node, f"sindex-delete:namespace={namespace};indexname={fields['indexname']}")
    deadline = time.monotonic() + EMPTY_SECONDS
    command = f"truncate-namespace:namespace={namespace}"
    time.sleep(0.01)  # what was written in the very millisecond of a truncate stays
    answer = cluster.ask(node, command).get(command, "")
    while (left := cluster.namespace_state(namespace).master_objects) and time.monotonic() < deadline:
        time.sleep(0.2)
    if left:
        raise DrillFailed(
            f"empty {cluster.access.cluster}/{namespace}: {left:,} records are left (truncate answered {answer!r}); "
            "truncate it by hand before the next drill"
        )


def newest_points(store: Store, places: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """The newest verified restorable point of each (cluster, namespace); places without one are left out."""
    found = []
    for cluster, namespace in places:
        if newest := catalog.newest_verified(store, cluster, namespace).point:
            found.append({"cluster": cluster, "namespace": namespace, "id": newest.id})
    return found
