"""A manifest as the ledger sees it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

from dbops.backups.manifest import PARTITIONS, Kind, Manifest, ObjectEntry, backup_id

START = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
LOCATION = "s3://bedrock-backups/aerospike/eu/bidder/20261123T020000Z-full/"
SHA = "ab" * 32


def manifest(namespace: str = "bidder", snapshot_at: datetime = START, **changes: object) -> Manifest:
    kind = Kind.FULL if "parent" not in changes else Kind.INCREMENTAL
    entry = {"first": 0, "last": PARTITIONS - 1, "sha256": SHA}
    objects = [ObjectEntry(name="slice_0000_4095.asb", role="records", size=700, records=8192, text_bytes=9, **entry)]
    values = {
        "id": backup_id(snapshot_at, kind),
        "kind": kind,
        "cluster": "eu",
        "namespace": namespace,
        "snapshot_at": snapshot_at,
        "started_at": snapshot_at,
        "finished_at": snapshot_at + timedelta(minutes=3),
        "modified_after": None,
        "base": None,
        "parent": None,
        "cluster_name": "eu",
        "cluster_key_before": "k",
        "cluster_key_after": "k",
        "server_build": "8.1",
        "engine_version": "1",
        "objects": objects,
        "records": 8192,
        "deleted": 0,
        "stored_bytes": 700,
        "text_bytes": 9,
        "partition_counts": [2] * PARTITIONS,
        "partition_fingerprints": base64.b64encode(bytes(8 * PARTITIONS)).decode(),
        "inventory_counts": None,
        "deleted_counts": None,
        "indexes": [],
        "udfs": [],
        "platform_sha256": SHA,
    }
    return Manifest.model_validate(values | changes)
