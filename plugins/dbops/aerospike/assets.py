"""The asset that stands for the restore points of one namespace; each commit adds an event to it."""

from __future__ import annotations

from airflow.sdk import Asset, AssetAlias


def backup_asset(cluster: str, namespace: str) -> Asset:
    """Its events carry in `extra`: id, kind, records, bytes, snapshot_at, location."""
    return Asset(name=f"aerospike_backup_{cluster}_{namespace}", group="aerospike_backup")


VERIFIED_FULL = Asset(name="aerospike_verified_full", group="aerospike_backup")
"""An event for each full restore point that was found whole; `extra` carries cluster, namespace, id."""

VERIFIED = AssetAlias(name="aerospike_verified", group="aerospike_backup")
"""What the verifying task has as its outlet: it adds an event of `VERIFIED_FULL` when there is something to tell."""
