"""The asset that stands for the restore points of one namespace; each commit adds an event to it."""

from __future__ import annotations

from airflow.sdk import Asset


def backup_asset(cluster: str, namespace: str) -> Asset:
    """Its events carry in `extra`: id, kind, records, bytes, snapshot_at, location."""
    return Asset(name=f"aerospike_backup_{cluster}_{namespace}", group="aerospike_backup")


VERIFIED_FULL = Asset(name="aerospike_verified_full", group="aerospike_backup")
"""An event for each run that found full restore points whole; `extra` has `points`: cluster, namespace, id of each."""
