"""What exists on the platform: `include/platform/*.yaml` as typed, validated objects."""

from dbops.platform.load import PlatformFileError, Problem, load_platform
from dbops.platform.model import (
    METRICS,
    Aerospike,
    AerospikeCluster,
    Alerts,
    BackupEncryption,
    BackupKind,
    Limit,
    Namespace,
    Objective,
    Objectives,
    Platform,
    PlatformError,
    Retention,
    Severity,
    Storage,
    duration_text,
)

__all__ = [
    "METRICS",
    "Aerospike",
    "AerospikeCluster",
    "Alerts",
    "BackupEncryption",
    "BackupKind",
    "Limit",
    "Namespace",
    "Objective",
    "Objectives",
    "Platform",
    "PlatformError",
    "PlatformFileError",
    "Problem",
    "Retention",
    "Severity",
    "Storage",
    "duration_text",
    "load_platform",
]
