"""moto's clusters and snapshots, with data in them."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from dbops_lab.redshift_api.data import Warehouses
from moto.core.responses import ActionResult
from moto.redshift import models
from moto.redshift.exceptions import (
    ClusterSnapshotNotFoundError,
    InvalidClusterSnapshotStateFaultError,
    InvalidParameterValueError,
)
from moto.redshift.models import Cluster, RedshiftBackend, Snapshot
from moto.redshift.responses import RedshiftResponse

ADDRESS = "127.0.0.1"
PAGE = 100  # https://docs.aws.amazon.com/redshift/latest/APIReference/API_DescribeClusterSnapshots.html

warehouses = Warehouses()
seconds = {"snapshot": 0.0, "restore": 0.0}
"""How much longer a snapshot or restore takes than the copying does."""


def in_background(work: Callable[[], None], kind: str, failed: Callable[[], None]) -> None:
    def run() -> None:
        try:
            time.sleep(seconds[kind])
            work()
        except Exception:
            traceback.print_exc()
            failed()

    threading.Thread(target=run, daemon=True).start()


class LabCluster(Cluster):
    @property
    def endpoint(self) -> dict[str, str | int] | None:  # type: ignore[override]
        place = warehouses.places.get(self.cluster_identifier)
        if place is None:
            return super().endpoint
        return {"Address": ADDRESS, "Port": place.port} if self.status == "available" else None

    @property
    def restore_status(self) -> dict[str, Any] | None:
        if not self.restored_from_snapshot:
            return None
        return {"Status": {"available": "completed", "creating": "restoring"}.get(self.status, "failed")}


class LabBackend(RedshiftBackend):
    def create_cluster(self, **words: Any) -> Cluster:
        made = super().create_cluster(**words)
        if made.restored_from_snapshot:  # moto snapshots it at once, before it holds anything
            for snapshot in self.describe_cluster_snapshots(made.cluster_identifier):
                self.snapshots.pop(snapshot.snapshot_identifier)
        return made

    def delete_cluster(self, **words: Any) -> Cluster:
        gone = super().delete_cluster(**words)
        warehouses.drop(gone.cluster_identifier)
        return gone

    def create_cluster_snapshot(
        self,
        cluster_identifier: str,
        snapshot_identifier: str,
        region_name: str,
        tags: Any,
        snapshot_type: str = "manual",
    ) -> Snapshot:
        made = super().create_cluster_snapshot(
            cluster_identifier, snapshot_identifier, region_name, tags, snapshot_type
        )
        if cluster_identifier not in warehouses.places:
            return made
        made.status = "creating"

        def copy() -> None:
            dump = warehouses.dump(cluster_identifier, snapshot_identifier)
            made.total_backup_size_in_mega_bytes = dump.megabytes
            made.status = "available"

        in_background(copy, "snapshot", lambda: setattr(made, "status", "failed"))
        return made

    def describe_cluster_snapshots(
        self,
        cluster_identifier: str | None = None,
        snapshot_identifier: str | None = None,
        snapshot_type: str | None = None,
    ) -> list[Snapshot]:
        """Only those that were asked for: moto gives all when a cluster has none."""
        if snapshot_identifier and snapshot_identifier not in self.snapshots:
            raise ClusterSnapshotNotFoundError(snapshot_identifier)
        return [
            item
            for item in self.snapshots.values()
            if cluster_identifier in (None, item.cluster_identifier)
            and snapshot_identifier in (None, item.snapshot_identifier)
            and snapshot_type in (None, item.snapshot_type)
        ]

    def delete_cluster_snapshot(self, snapshot_identifier: str) -> Snapshot:
        gone = super().delete_cluster_snapshot(snapshot_identifier)
        warehouses.forget(snapshot_identifier)
        return gone

    def restore_from_cluster_snapshot(self, **words: Any) -> Cluster:
        name = words["snapshot_identifier"]
        snapshot, dump = self.describe_cluster_snapshots(snapshot_identifier=name)[0], warehouses.dumps.get(name)
        if snapshot.status != "available" or dump is None:
            raise InvalidClusterSnapshotStateFaultError(name)
        made = super().restore_from_cluster_snapshot(**words)
        made.status = "creating"

        def copy() -> None:
            if made.cluster_identifier in self.clusters:
                warehouses.restore(dump, made.cluster_identifier)
                made.status = "available"

        in_background(copy, "restore", lambda: setattr(made, "status", "incompatible-restore"))
        return made


def describe_snapshots_in_pages(self: RedshiftResponse) -> ActionResult:
    found = self.redshift_backend.describe_cluster_snapshots(
        self._get_param("ClusterIdentifier"), self._get_param("SnapshotIdentifier"), self._get_param("SnapshotType")
    )
    size, first = self._get_int_param("MaxRecords", PAGE), int(self._get_param("Marker", 0))
    if not 20 <= size <= PAGE:
        raise InvalidParameterValueError("MaxRecords must be between 20 and 100")
    answer: dict[str, Any] = {"Snapshots": found[first : first + size]}
    if first + size < len(found):
        answer["Marker"] = str(first + size)
    return ActionResult(answer)


def install() -> None:
    """From now on this process's moto keeps clusters so."""
    models.Cluster = LabCluster  # type: ignore[misc]
    LabBackend.__module__ = models.__name__  # beside which moto looks for the urls
    models.redshift_backends.backend = LabBackend
    models.redshift_backends.clear()
    RedshiftResponse.describe_cluster_snapshots = describe_snapshots_in_pages  # type: ignore[method-assign]
