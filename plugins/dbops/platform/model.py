"""The typed form of a platform file.

A check that needs two fields is a validator of the later one, so that it also runs when a third one is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dbops.platform.fields import (
    Bucket,
    ConnectionId,
    Cron,
    Duration,
    DurationOrZero,
    Email,
    KmsKey,
    Model,
    Name,
    NamespaceName,
    Number,
    PlatformError,
    Prefix,
    Region,
    Seed,
    SetName,
    Whole,
    duration_text,
    inherited,
    pattern,
    program,
    refuse,
    unique,
)
from dbops.platform.postgres import Postgres
from dbops.platform.redshift import Redshift
from dbops.platform.sync import Sync

MAX_SLICES_OF_A_RUN = 1024  # Airflow's default for [core] max_map_length, and the limit of one mapped task

Engine = Literal["native", "asbackup", "absctl"]
"""What reads a cluster for a backup: this package, or one of Aerospike's own programs."""


class Severity(StrEnum):
    CRITICAL = "critical"
    WARNING = "warning"
    SUMMARY = "summary"


# Unit of each metric that has limits. More is worse for every one of them.
METRICS: Mapping[str, str] = {
    "aerospike_memory": "%",
    "aerospike_disk": "%",
    "aerospike_response_p95": "ms",
    "aerospike_replication_lag": "ms",
    "postgres_connections": "%",
    "postgres_query_p95": "ms",
    "postgres_replication_lag": "s",
    "postgres_disk": "%",
    "redshift_query": "s",
    "redshift_cpu": "%",
    "redshift_disk": "%",
    "etl_failed": "%",
}


class BackupEncryption(Model):
    """Encryption of backup objects before they leave the worker, as asbackup does it."""

    mode: Literal["aes128", "aes256"]
    connection: ConnectionId = "dbops_backup_key"
    """Holds the RSA private key: PEM in its password, or extra `key_file`, or extra `secret_id` (Secrets Manager)."""
    older_keys: Annotated[tuple[ConnectionId, ...], unique("connection")] = ()
    """Connections of keys that backups which are still kept were encrypted with."""

    @field_validator("older_keys")
    @classmethod
    def _others(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("connection") in value:
            raise ValueError(f"holds {info.data['connection']!r}, which is the key in use: see `connection`")
        return value


class Storage(Model):
    """The bucket that all backups go to."""

    bucket: Bucket
    prefix: Prefix = ""
    connection: ConnectionId = "dbops_s3"
    region: Region
    replica_region: Region | None = None
    """Where the bucket's own replication copies to: stated here, set up on the bucket."""
    kms_key: KmsKey | None = None
    """S3 encrypts with this KMS key (SSE-KMS); `alias/aws/s3` is the account's own. None: as the bucket says."""
    encryption: BackupEncryption | None = None
    """None: objects are stored as they are, and S3 may encrypt them."""

    @field_validator("replica_region")
    @classmethod
    def _elsewhere(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value == info.data.get("region"):
            raise ValueError("must be another region than `region`: it is there for the loss of that one")
        return value


class Retention(Model):
    """How long restore points are kept. They go as whole chains; see `dbops.backups.retention`."""

    full: Duration
    incremental: Duration
    """When shorter than `full`, the end of a chain goes before its full does."""
    floor: Annotated[Whole, Field(ge=1, le=100)] = 2
    """So many of the newest verified fulls always stay; with fewer, nothing expires."""
    max_share: Annotated[Number, Field(le=1)] = 0.5
    """When more than this share of a namespace's restore points would go at once, a person is asked."""
    grace: Duration = timedelta(days=1)
    """So long is left alone what is not verified, damaged, or was never committed."""


class Objective(Model):
    """How much may be lost (rpo) and how long recovery may take (rto)."""

    rpo: Duration
    rto: Duration
    guide_rpo: Duration | None = None
    """What the operations guide promises, when that is more than the schedules can keep."""


SYSTEMS = ("aerospike", "postgres", "redshift")


class Objectives(Model):
    aerospike: Objective
    postgres: Objective
    redshift: Objective
    configuration_rpo: Duration
    full_platform_rto: Duration

    @field_validator("full_platform_rto")
    @classmethod
    def _longest(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        parts = [(info.data[name].rto, name) for name in SYSTEMS if name in info.data]
        longest, name = max(parts, default=(value, ""))
        if longest > value:
            raise ValueError(f"is shorter than the {duration_text(longest)} that {name} alone may take")
        return value


class Namespace(Model):
    name: NamespaceName
    purpose: str = ""
    sets: Annotated[tuple[SetName, ...], unique("set")] = ()
    """The sets that are expected; a backup always holds the whole namespace."""
    track_deletes: StrictBool
    """Store the digests of all records too, so that a restore does not bring deleted ones back."""
    retention: Retention = Field(default_factory=inherited)
    """Default: the platform's."""


class Schedules(Model):
    """Cron of five fields, UTC."""

    full: Cron
    incremental: Cron | None = None


class MaxDurations(Model):
    """Longest that a run of each kind may take: its deadline, and what the RPO proof counts with."""

    full: Duration
    incremental: Duration | None = None


@dataclass(frozen=True)
class BackupKind:
    """One scheduled kind of backup of a cluster."""

    name: str
    schedule: str
    max_duration: timedelta


class AerospikeCluster(Model):
    name: Name
    connection: ConnectionId
    seeds: Annotated[tuple[Seed, ...], unique("seed")] = ()
    """`host:port` of nodes to ask first. Empty: host and port of the connection."""
    schedules: Schedules
    max_duration: MaxDurations
    slices: Annotated[Whole, Field(ge=1, le=256)] = 64
    """Parts of a namespace that are backed up, and retried, by themselves; one mapped task each."""
    pool: Annotated[str, pattern(r"^[\w.-]+$", 256)] = Field(default_factory=inherited)
    """Default: `aerospike_<name>`."""
    pool_slots: Annotated[Whole, Field(ge=1, le=1024)] = 8
    """Slices of this cluster that Airflow runs at once."""
    workers: Annotated[Whole, Field(ge=1, le=64)] = 4
    """Slices that one process runs at once (`dbops backup run`)."""
    records_per_second: Annotated[Whole, Field(ge=0)] = 0
    """Limit per slice; 0 = none."""
    engine: Engine = "native"
    """What reads the cluster. Restore points of every engine are verified, kept and restored alike."""
    engine_path: Annotated[str, AfterValidator(program)] | None = None
    """Where the workers have the program of `engine`; None: on their PATH."""
    clock_skew_overlap: Annotated[DurationOrZero, Field(le=timedelta(hours=1))] = timedelta(seconds=60)
    """How far an incremental reaches back before the snapshot that it follows."""
    objectives: Objective = Field(default_factory=inherited)
    """Default: the platform's for Aerospike."""
    namespaces: Annotated[tuple[Namespace, ...], unique("namespace"), Field(min_length=1)]

    @field_validator("max_duration")
    @classmethod
    def _bounded(cls, value: MaxDurations, info: ValidationInfo) -> MaxDurations:
        schedules = info.data.get("schedules")
        if schedules is not None and schedules.incremental and value.incremental is None:
            refuse([(("incremental",), "is required, since incrementals are scheduled")])
        return value

    @field_validator("engine_path")
    @classmethod
    def _of_a_program(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("engine") == "native":
            raise ValueError("has no meaning with the engine native, which is no program of its own")
        return value

    @field_validator("namespaces")
    @classmethod
    def _deletes_are_native(cls, value: tuple[Namespace, ...], info: ValidationInfo) -> tuple[Namespace, ...]:
        engine = info.data.get("engine", "native")
        refuse(
            ((number, "track_deletes"), f"needs the engine native: what {engine} reads does not show what is gone")
            for number, namespace in enumerate(value)
            if namespace.track_deletes and engine != "native"
        )
        return value

    @field_validator("namespaces")
    @classmethod
    def _slices_of_a_run(cls, value: tuple[Namespace, ...], info: ValidationInfo) -> tuple[Namespace, ...]:
        slices = info.data.get("slices")
        if slices is not None and slices * len(value) > MAX_SLICES_OF_A_RUN:
            raise ValueError(
                f"{len(value)} namespaces x {slices} slices are more than the {MAX_SLICES_OF_A_RUN} tasks "
                f"of a run; set slices to {max(1, MAX_SLICES_OF_A_RUN // len(value))} or less"
            )
        return value

    @model_validator(mode="after")
    def _own_pool(self) -> AerospikeCluster:
        if self.pool is None:
            object.__setattr__(self, "pool", f"aerospike_{self.name}")
        return self

    @property
    def asrestore_path(self) -> str | None:
        """Where the workers have `asrestore`: beside `asbackup`; None: on their PATH."""
        if self.engine != "asbackup" or self.engine_path is None:
            return None
        return str(PurePosixPath(self.engine_path).with_name("asrestore"))

    @property
    def backup_kinds(self) -> tuple[BackupKind, ...]:
        kinds = [BackupKind("full", self.schedules.full, self.max_duration.full)]
        if self.schedules.incremental and self.max_duration.incremental:
            kinds.append(BackupKind("incremental", self.schedules.incremental, self.max_duration.incremental))
        return tuple(kinds)

    def namespace(self, name: str) -> Namespace:
        """:raises PlatformError: the cluster has no such namespace; the message names those that it has."""
        return _find(self.namespaces, name, f"namespace of cluster {self.name}")


Named = TypeVar("Named", AerospikeCluster, Namespace)


SCRATCH = "scratch"


class Scratch(Model):
    """The namespace that drills restore to and empty again: of a cluster of its own, which serves nobody."""

    connection: ConnectionId = "aerospike_scratch"
    seeds: Annotated[tuple[Seed, ...], unique("seed")] = ()
    """`host:port` of nodes to ask first. Empty: host and port of the connection."""
    namespace: NamespaceName
    workers: Annotated[Whole, Field(ge=1, le=64)] = 4
    """Slices that a drill restores at once."""


class Aerospike(Model):
    clusters: Annotated[tuple[AerospikeCluster, ...], unique("cluster"), Field(min_length=1)]
    scratch: Scratch | None = None
    """None: no drills."""

    @field_validator("clusters")
    @classmethod
    def _apart(cls, value: tuple[AerospikeCluster, ...]) -> tuple[AerospikeCluster, ...]:
        refuse(_shared(value))
        refuse(
            ((index, "name"), f"{SCRATCH!r} is the name of the cluster for drills")
            for index, cluster in enumerate(value)
            if cluster.name == SCRATCH
        )
        return value

    @field_validator("scratch")
    @classmethod
    def _not_production(cls, value: Scratch | None, info: ValidationInfo) -> Scratch | None:
        """A drill empties its target: it is refused by construction that this is a place that is backed up."""
        problems: list[tuple[Sequence[str | int], str]] = []
        for cluster in info.data.get("clusters", ()) if value is not None else ():
            assert value is not None
            if value.connection == cluster.connection:
                problems.append((("connection",), f"is that of cluster {cluster.name}: drills empty their target"))
            for seed in set(value.seeds) & set(cluster.seeds):
                problems.append((("seeds",), f"{seed} is of cluster {cluster.name}: drills empty their target"))
            if any(namespace.name == value.namespace for namespace in cluster.namespaces):
                reason = f"cluster {cluster.name} has a namespace of that name: drills empty their target"
                problems.append((("namespace",), reason))
        refuse(dict(problems).items())
        return value

    def cluster(self, name: str) -> AerospikeCluster:
        """:raises PlatformError: there is no such cluster; the message names those that exist."""
        return _find(self.clusters, name, "Aerospike cluster")


class Slack(Model):
    connection: ConnectionId = "dbops_slack"
    channel: Annotated[str, StringConstraints(pattern=r"^#[^\s#]{1,80}$")]


class PagerDuty(Model):
    connection: ConnectionId = "dbops_pagerduty"


class Mail(Model):
    connection: ConnectionId = "dbops_smtp"
    to: Annotated[tuple[Email, ...], unique("address"), Field(min_length=1)]


class Alerts(Model):
    """Where alerts go. Which severity goes where is fixed: see `channels`."""

    slack: Slack
    pagerduty: PagerDuty | None = None
    email: Mail | None = None
    runbooks: Annotated[str, StringConstraints(pattern=r"^https?://\S+[^/]$")] | None = None
    """Address of the folder with the runbooks, for links in alerts. None: their path in this repository."""

    def channels(self, severity: Severity) -> tuple[str, ...]:
        """Critical: Slack and PagerDuty; warning: Slack; summary: email. Only those that are configured."""
        wanted = {
            Severity.CRITICAL: ("slack", "pagerduty"),
            Severity.WARNING: ("slack",),
            Severity.SUMMARY: ("email",),
        }[severity]
        return tuple(name for name in wanted if getattr(self, name) is not None)


class Limit(Model):
    """`target` is what is aimed for; above `warn` and `critical` an alert of that severity is raised."""

    unit: str
    target: Number
    warn: Number
    critical: Number

    @field_validator("critical")
    @classmethod
    def _order(cls, value: float, info: ValidationInfo) -> float:
        for lower in ("warn", "target"):
            if lower in info.data and info.data[lower] >= value:
                raise ValueError(f"must be above {lower}, which is {info.data[lower]:g}")
        return value


def _metrics(value: dict[str, Limit]) -> dict[str, Limit]:
    problems: list[tuple[Sequence[str], str]] = []
    for name, limit in value.items():
        unit = METRICS.get(name)
        if unit is None:
            problems.append(((name,), f"is no metric; known are {', '.join(METRICS)}"))
            continue
        if limit.unit != unit:
            problems.append(((name, "unit"), f"must be {unit!r}, the unit that {name} is measured in"))
        if unit == "%" and limit.critical > 100:
            problems.append(((name, "critical"), "is more than 100 %: it would never be reached"))
    problems += [((name,), "is required") for name in METRICS if name not in value]
    refuse(problems)
    return value


class Platform(Model):
    """Everything of one `include/platform/<name>.yaml`."""

    name: Name
    sha256: str
    storage: Storage
    ledger_connection: ConnectionId = "dbops_ledger"
    retention: Retention
    objectives: Objectives
    alerts: Alerts
    limits: Annotated[dict[str, Limit], AfterValidator(_metrics)]
    aerospike: Aerospike
    redshift: Redshift | None = None
    """None: this platform has no warehouse."""
    postgres: Postgres | None = None
    """None: this platform has no PostgreSQL that is looked after."""
    sync: Sync | None = None
    """None: nothing is carried from PostgreSQL to Aerospike."""

    @field_validator("objectives")
    @classmethod
    def _kept_long_enough(cls, value: Objectives, info: ValidationInfo) -> Objectives:
        retention = info.data.get("retention")
        if retention is not None:
            refuse((("aerospike", "rpo"), reason) for reason in _too_short(retention, value.aerospike))
        return value

    @field_validator("aerospike")
    @classmethod
    def _kept_long_enough_here(cls, value: Aerospike, info: ValidationInfo) -> Aerospike:
        """Namespaces and clusters that have retention or objectives of their own."""
        retention, objectives = info.data.get("retention"), info.data.get("objectives")
        problems: list[tuple[Sequence[str | int], str]] = []
        for index, cluster in enumerate(value.clusters):
            objective = cluster.objectives or (objectives and objectives.aerospike)
            for place, namespace in enumerate(cluster.namespaces):
                kept = namespace.retention or retention
                if objective and kept and (namespace.retention or cluster.objectives):
                    path = ("clusters", index, "namespaces", place, "retention")
                    problems += [(path, reason) for reason in _too_short(kept, objective)]
        refuse(problems)
        return value

    @field_validator("sync")
    @classmethod
    def _known_places(cls, value: Sync | None, info: ValidationInfo) -> Sync | None:
        aerospike = info.data.get("aerospike")
        known = {one.name: {place.name for place in one.namespaces} for one in aerospike.clusters} if aerospike else {}
        problems: list[tuple[Sequence[str | int], str]] = []
        for number, pair in enumerate(value.pairs if value is not None and aerospike else ()):
            for index, cluster in enumerate(pair.clusters):
                if cluster not in known:
                    problems.append((("pairs", number, "clusters", index), f"{cluster!r} is no Aerospike cluster"))
                elif pair.namespace not in known[cluster]:
                    problems.append((("pairs", number, "namespace"), f"cluster {cluster} has none of that name"))
        refuse(problems)
        return value

    @field_validator("redshift")
    @classmethod
    def _snapshots_meet_the_rpo(cls, value: Redshift | None, info: ValidationInfo) -> Redshift | None:
        objectives = info.data.get("objectives")
        if value is not None and objectives is not None and value.snapshots.max_age > objectives.redshift.rpo:
            reason = f"is more than the RPO of {duration_text(objectives.redshift.rpo)}"
            refuse([(("snapshots", "max_age"), f"{reason}: the alert would come after the promise is broken")])
        return value

    @model_validator(mode="after")
    def _inherit(self) -> Platform:
        if self.redshift is not None:
            if self.redshift.aws_connection is None:
                object.__setattr__(self.redshift, "aws_connection", self.storage.connection)
            if self.redshift.region is None:
                object.__setattr__(self.redshift, "region", self.storage.region)
        if self.postgres is not None:
            if self.postgres.aws_connection is None:
                object.__setattr__(self.postgres, "aws_connection", self.storage.connection)
            if self.postgres.region is None:
                object.__setattr__(self.postgres, "region", self.storage.region)
        for cluster in self.aerospike.clusters:
            if cluster.objectives is None:
                object.__setattr__(cluster, "objectives", self.objectives.aerospike)
            for namespace in cluster.namespaces:
                if namespace.retention is None:
                    object.__setattr__(namespace, "retention", self.retention)
        return self


def _too_short(retention: Retention, objective: Objective) -> list[str]:
    return [
        f"{kind} restore points are kept {duration_text(kept)}, less than the RPO of "
        f"{duration_text(objective.rpo)}: they would be gone before the next one exists"
        for kind, kept in (("full", retention.full), ("incremental", retention.incremental))
        if kept < objective.rpo
    ]


def _shared(clusters: Sequence[AerospikeCluster]) -> list[tuple[tuple[str | int, ...], str]]:
    """Two clusters must not be one: same seed, same pool, or the same connection as their only address."""
    problems: list[tuple[tuple[str | int, ...], str]] = []
    owner: dict[tuple[str, str], str] = {}
    for index, cluster in enumerate(clusters):
        used = [("pool", cluster.pool), *(("seeds", seed) for seed in cluster.seeds)]
        if not cluster.seeds:
            used.append(("connection", cluster.connection))
        for field, value in used:
            other = owner.setdefault((field, value), cluster.name)
            if other != cluster.name:
                problems.append(((index, field), f"{value!r} is that of cluster {other} too"))
    return problems


def _find(items: Sequence[Named], name: str, what: str) -> Named:
    for item in items:
        if item.name == name:
            return item
    raise PlatformError(f"{name!r} is no {what}; there are {', '.join(item.name for item in items)}")
