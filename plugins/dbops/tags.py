"""The tags that a DAG of this package may carry: the system, the kind of work, and how urgent a failure is."""

from __future__ import annotations

from enum import StrEnum


class Tag(StrEnum):
    AEROSPIKE = "aerospike"
    POSTGRES = "postgres"
    SYNC = "sync"
    ETL = "etl"
    REDSHIFT = "redshift"
    ARCHIVE = "archive"
    BACKUP = "backup"
    VERIFY = "verify"
    RESTORE = "restore"
    RETENTION = "retention"
    HEALTH = "health"
    MAINTENANCE = "maintenance"
    CRITICAL = "critical"
    WARNING = "warning"
