"""moto's instances and snapshots, with PostgreSQL servers behind them, and refused as RDS refuses."""

from __future__ import annotations

import secrets
import string
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbops.errors import DbopsError
from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2.models import ec2_backends
from moto.rds import models
from moto.rds.exceptions import (
    DBInstanceAlreadyExists,
    DBInstanceNotFoundError,
    DBSnapshotAlreadyExistsError,
    InvalidParameterCombination,
    InvalidParameterValue,
    RDSClientError,
    SnapshotQuotaExceededFault,
)
from moto.rds.models import DBInstance, DBInstanceAutomatedBackup, DBLogFile, DBSnapshot, RDSBackend
from moto.rds.responses import RDSResponse

if TYPE_CHECKING:
    from dbops_lab.rds_api.servers import Base, Room, Server

DOMAIN = "rds.lab.bedrock.internal"
REACHABLE = ("available", "backing-up", "modifying", "deleting", "storage-optimization")
PORTION = 1 << 20  # what one call of DownloadDBLogFilePortion gives at most
LINES = 10_000
PAGE = 100


@dataclass
class Orders:
    """What goes slower or wrong, as ordered, and how much of everything there may be."""

    seconds: dict[str, float] = field(
        default_factory=lambda: {
            "snapshot": 0.0, "copy": 0.0, "restore": 0.0, "delete": 0.0, "archive": 1.0, "day": 86_400.0,
        }
    )  # fmt: skip
    """How much longer each takes than the work does; `archive`: between two rounds, `day`: automated backups."""
    restores: list[str] = field(default_factory=list)
    """In which state the next restores end."""
    instances: int = 40
    snapshots: int = 100


orders = Orders()
room: Room
"""Where servers are started; set by `install`."""


class LabInstance(DBInstance):
    """An instance of the lab has a server, or will have; one that is only made in the API is as moto has it."""

    server: Server | None = None

    def __init__(self, backend: RDSBackend, *, is_real: bool = False, **words: Any) -> None:
        self.is_real = is_real
        self.work: threading.Thread | None = None
        self.registered: dict[str, Any] | None = None
        super().__init__(backend, **words)
        letters = string.ascii_uppercase + string.digits
        self.dbi_resource_id = "db-" + "".join(secrets.choice(letters) for _ in range(26))

    def reset(self) -> None:
        """As it was registered."""
        for name, value in (self.registered or {}).items():
            setattr(self, name, value)
        self.status = "available"

    @property
    def address(self) -> str:
        return f"{self.db_instance_identifier}.{self.region}.{DOMAIN}" if self.is_real else super().address

    @property
    def endpoint(self) -> dict[str, Any] | None:  # type: ignore[override]
        if self.is_real and (self.server is None or self.status not in REACHABLE):
            return None
        return {"Address": self.address, "Port": self.port, "HostedZoneId": "Z2LABLABLABLAB"}

    @property
    def latest_restorable_time(self) -> datetime | None:  # type: ignore[override]
        if not self.is_real:
            return super().latest_restorable_time
        return self.server.latest if self.server and self.server.bases and self.backup_retention_period else None

    @property
    def earliest_restorable_time(self) -> datetime | None:
        """Not before the first backup that is kept."""
        if self.server is None or self.server.earliest is None or not self.backup_retention_period:
            return None
        return max(self.server.earliest, datetime.now(UTC) - timedelta(days=self.backup_retention_period))

    def save_automated_backup(self) -> None:
        if not self.is_real:
            super().save_automated_backup()


class LabSnapshot(DBSnapshot):
    """A snapshot of a real instance holds a base backup."""

    base: Base | None = None
    percent_progress = 100
    source_region: str | None = None
    source_db_snapshot_identifier: str | None = None
    at: datetime | None = None
    """When it was taken; what a test plants is as old as it wants."""

    @property
    def snapshot_create_time(self) -> datetime:
        return self.at or self.created

    @property
    def is_real(self) -> bool:
        return isinstance(self.database, LabInstance) and self.database.is_real


class LabBackend(RDSBackend):
    """moto's, with everything that touches data done for real."""

    # ------------------------------------------------------------------ instances

    def instance(self, name: str | None) -> LabInstance:
        found = self.databases.get(name or "")
        if not isinstance(found, LabInstance):
            raise DBInstanceNotFoundError(name or "")
        return found

    def adopt(self, words: dict[str, Any], server: Server) -> LabInstance:
        """The instance of a server that runs."""
        made = self.create_db_instance({**words, "is_real": True})
        assert isinstance(made, LabInstance)
        made.registered = dict(words)
        made.server = server
        self.begin(made)
        return made

    def begin(self, instance: LabInstance) -> None:
        """Its first automated backup, from which on it can be had again, and one every day."""
        assert instance.server is not None
        seconds = orders.seconds
        instance.server.begin(lambda: seconds["archive"], lambda: seconds["day"], lambda: self._back_up(instance))

    def _back_up(self, instance: LabInstance) -> None:
        """A base backup, which is an automated snapshot; those that are older than the retention period go."""
        server, name = instance.server, f"rds:{instance.db_instance_identifier}-"
        assert server is not None
        server.bases.append(server.copy())
        made = self._snapshot(instance, f"{name}{utcnow():%Y-%m-%d-%H-%M}", kind="automated")
        made.base = server.bases[-1]
        oldest = datetime.now(UTC) - timedelta(days=instance.backup_retention_period)
        server.expire(oldest)
        for id, snapshot in list(self.database_snapshots.items()):
            if id.startswith(name) and snapshot.created.replace(tzinfo=UTC) < oldest and snapshot is not made:
                del self.database_snapshots[id]

    def modify_db_instance(self, db_instance_identifier: str, db_kwargs: dict[str, Any]) -> DBInstance:
        instance = self.databases.get(db_instance_identifier)
        if not isinstance(instance, LabInstance) or not instance.is_real:
            return super().modify_db_instance(db_instance_identifier, db_kwargs)
        _in_state(instance, "available", "Database instance is not in available state.")
        new = db_kwargs.get("new_db_instance_identifier")
        if new and new in self.databases:
            raise DBInstanceAlreadyExists()
        password = db_kwargs.get("master_user_password")
        if password and instance.server and instance.master_username:
            instance.server.set_password(instance.master_username, password)
        return super().modify_db_instance(db_instance_identifier, db_kwargs)

    def delete_db_instance(
        self,
        db_instance_identifier: str,
        final_db_snapshot_identifier: str | None = None,
        skip_final_snapshot: bool | None = False,
        delete_automated_backups: bool | None = True,
    ) -> DBInstance:
        instance = self.instance(db_instance_identifier)
        if instance.deletion_protection:
            raise InvalidParameterCombination(
                "Cannot delete protected DB Instance, please disable deletion protection and try again."
            )
        if bool(skip_final_snapshot) == bool(final_db_snapshot_identifier):
            text = "FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot is specified."
            if final_db_snapshot_identifier:
                text = "FinalDBSnapshotIdentifier can not be specified when SkipFinalSnapshot is true."
            raise InvalidParameterCombination(text)
        if instance.status == "deleting":
            raise _wrong_state(f"Instance {db_instance_identifier} is already being deleted.")
        if final_db_snapshot_identifier:
            _in_state(instance, "available", f"Instance {db_instance_identifier} is not currently available.")
            final = self.create_db_snapshot(db_instance_identifier, final_db_snapshot_identifier)
            assert isinstance(final, LabSnapshot)
        instance.status = "deleting"

        def delete() -> None:
            time.sleep(orders.seconds["delete"])
            if instance.work is not None:
                instance.work.join()
            if final_db_snapshot_identifier:
                while final.status == "creating":
                    time.sleep(0.05)
            self.forget(instance)

        threading.Thread(target=delete, daemon=True).start()
        return instance

    def forget(self, instance: LabInstance) -> None:
        """Nothing is left of an instance but its manual snapshots."""
        if instance.server is not None:
            instance.server.end()
        self.databases.pop(instance.db_instance_identifier, None)
        for name, snapshot in list(self.database_snapshots.items()):
            is_its = snapshot.db_instance_identifier == instance.db_instance_identifier
            if is_its and snapshot.snapshot_type == "automated":
                self.database_snapshots.pop(name, None)

    # ------------------------------------------------------------------ snapshots

    def _snapshot(
        self, instance: LabInstance, name: str, *, kind: str = "manual", tags: Any = None, kms_key_id: str | None = None
    ) -> LabSnapshot:
        made = LabSnapshot(self, instance, name, kind, tags, kms_key_id=kms_key_id)
        self.database_snapshots[name] = made
        return made

    def _room_for_snapshot(self, name: str) -> None:
        if name in self.database_snapshots:
            raise DBSnapshotAlreadyExistsError(name)
        if sum(item.snapshot_type == "manual" for item in self.database_snapshots.values()) >= orders.snapshots:
            raise SnapshotQuotaExceededFault()

    def create_db_snapshot(
        self,
        db_instance_identifier: str,
        db_snapshot_identifier: str,
        snapshot_type: str = "manual",
        tags: list[dict[str, str]] | None = None,
        original_created_at: datetime | None = None,
        kms_key_id: str | None = None,
    ) -> DBSnapshot:
        instance = self.instance(db_instance_identifier)
        if not instance.is_real:
            return super().create_db_snapshot(
                db_instance_identifier, db_snapshot_identifier, snapshot_type, tags, original_created_at, kms_key_id
            )
        self._room_for_snapshot(db_snapshot_identifier)
        text = (
            f"Cannot create a snapshot because the database instance {db_instance_identifier} is not currently in the "
        )
        _in_state(instance, "available", f"{text}available state.")
        made = self._snapshot(instance, db_snapshot_identifier, tags=tags, kms_key_id=kms_key_id)
        made.status, made.percent_progress = "creating", 0

        def copy() -> None:
            assert instance.server is not None
            made.base = instance.server.copy()
            made.status, made.percent_progress = "available", 100

        _in_background(copy, "snapshot", lambda: setattr(made, "status", "failed"))
        return made

    def copy_db_snapshot(
        self, source_db_snapshot_identifier: str, target_db_snapshot_identifier: str, *args: Any, **words: Any
    ) -> DBSnapshot:
        source = self.get_db_snapshot(source_db_snapshot_identifier)
        if not isinstance(source, LabSnapshot) or not source.is_real:
            return super().copy_db_snapshot(
                source_db_snapshot_identifier, target_db_snapshot_identifier, *args, **words
            )
        if source.status != "available":
            text = f"The source snapshot {source_db_snapshot_identifier} is in {source.status} state."
            raise RDSClientError("InvalidDBSnapshotState", text)
        if source.encrypted and source.region != self.region_name and not words.get("kms_key_id"):
            raise InvalidParameterValue("Must specify new KMS key for cross region encrypted snapshot copy.")
        self._room_for_snapshot(target_db_snapshot_identifier)
        made = super().copy_db_snapshot(source_db_snapshot_identifier, target_db_snapshot_identifier, *args, **words)
        assert isinstance(made, LabSnapshot)
        made.source_region, made.source_db_snapshot_identifier = source.region, source.arn
        made.status, made.percent_progress = "creating", 0

        def copy() -> None:
            made.base, made.status, made.percent_progress = source.base, "available", 100

        _in_background(copy, "copy", lambda: setattr(made, "status", "failed"))
        return made

    def delete_db_snapshot(self, db_snapshot_identifier: str) -> DBSnapshot:
        found = self.get_db_snapshot(db_snapshot_identifier)
        if found.snapshot_type != "manual":
            raise RDSClientError("InvalidDBSnapshotState", "Automated snapshots may not be deleted.")
        if found.status not in ("available", "failed"):
            text = "Cannot delete the snapshot because it is not currently in the available or failed state."
            raise RDSClientError("InvalidDBSnapshotState", text)
        return super().delete_db_snapshot(db_snapshot_identifier)

    def describe_db_instance_automated_backups(self, db_instance_identifier: str | None = None, **words: Any) -> Any:
        found: list[Any] = []
        for instance in list(self.databases.values()):
            is_asked = db_instance_identifier in (None, instance.db_instance_identifier)
            if is_asked and words.get("dbi_resource_id") in (None, instance.dbi_resource_id):
                if isinstance(instance, LabInstance) and instance.is_real:
                    found += [LabAutomatedBackup(instance)] if instance.backup_retention_period else []
                else:
                    found += super().describe_db_instance_automated_backups(instance.db_instance_identifier)
        return found

    # ------------------------------------------------------------------ restores

    def restore_db_instance_from_db_snapshot(self, from_snapshot_id: str, overrides: dict[str, Any]) -> DBInstance:
        snapshot = self.get_db_snapshot(from_snapshot_id)
        if not isinstance(snapshot, LabSnapshot) or not snapshot.is_real:
            return super().restore_db_instance_from_db_snapshot(from_snapshot_id, overrides)
        if snapshot.status != "available" or snapshot.base is None:
            raise RDSClientError(
                "InvalidDBSnapshotState", f"Snapshot {from_snapshot_id} is in {snapshot.status} state."
            )
        source, base = snapshot.database, snapshot.base
        assert isinstance(source, LabInstance)
        assert source.server is not None
        like = source.server.postgres
        name = overrides["db_instance_identifier"]
        return self._restored(name, source, overrides, lambda: room.restore(base, like, name))

    def restore_db_instance_to_point_in_time(
        self, source_db_identifier: str, target_db_identifier: str, overrides: dict[str, Any]
    ) -> DBInstance:
        source = self._source(source_db_identifier, overrides)
        if not source.is_real:
            return super().restore_db_instance_to_point_in_time(source_db_identifier, target_db_identifier, overrides)
        at, is_latest = overrides.get("restore_time"), bool(overrides.get("use_latest_restorable_time"))
        if (at is not None) == is_latest:
            raise InvalidParameterCombination(
                "Exactly one of RestoreTime and UseLatestRestorableTime must be specified"
            )
        if target_db_identifier in self.databases:
            raise DBInstanceAlreadyExists()
        server, earliest, latest = source.server, source.earliest_restorable_time, source.latest_restorable_time
        if server is None or earliest is None or latest is None:
            text = f"Point in time restore is not enabled for {source.db_instance_identifier}."
            raise RDSClientError("PointInTimeRestoreNotEnabled", text)
        moment = latest if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC))
        refused = "The specified instance cannot be restored to a time"
        if moment > latest:
            why = "because its backups are not yet complete to that time."
            raise InvalidParameterValue(f"{refused} later than {_text(latest)} {why}")
        if moment < earliest:
            why = f"because its backup retention period is set to {source.backup_retention_period} days."
            raise InvalidParameterValue(f"{refused} earlier than {_text(earliest)} {why}")
        base = [base for base in server.bases if base.at <= moment][-1]
        like, archive = server.postgres, server.archive
        return self._restored(
            target_db_identifier,
            source,
            overrides,
            lambda: room.restore(base, like, target_db_identifier, archive=archive, until=moment),
        )

    def _source(self, name: str | None, overrides: dict[str, Any]) -> LabInstance:
        if name:
            return self.instance(name)
        wanted = overrides.get("source_dbi_resource_id")
        for instance in self.databases.values():
            if isinstance(instance, LabInstance) and instance.dbi_resource_id == wanted:
                return instance
        raise DBInstanceNotFoundError(str(wanted))

    def _restored(
        self, name: str, source: LabInstance, overrides: dict[str, Any], restore: Callable[[], Server]
    ) -> DBInstance:
        """The new instance, which comes up in the background. What is not asked for is RDS's default.

        https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_RestoreDBInstanceToPointInTime.html
        """
        if len(self.databases) >= orders.instances:
            text = "The request would exceed your quota of DB instances"
            raise RDSClientError("InstanceQuotaExceeded", text)
        kept = (
            "db_instance_class", "engine", "engine_version", "port", "allocated_storage", "storage_type", "db_name",
            "iops", "storage_encrypted", "kms_key_id", "master_username", "backup_retention_period", "license_model",
            "auto_minor_version_upgrade", "copy_tags_to_snapshot", "preferred_backup_window", "publicly_accessible",
            "preferred_maintenance_window", "ca_certificate_identifier", "option_group_name",
        )  # fmt: skip
        words = {key: value for key in kept if (value := getattr(source, key, None)) is not None}
        own = ("tags", "multi_az", "deletion_protection", "db_subnet_group_name", "vpc_security_group_ids",
               "db_parameter_group_name", "enable_cloudwatch_logs_exports", "availability_zone")  # fmt: skip
        if source.region != self.region_name:
            words.pop("option_group_name", None)
        words |= {key: overrides[key] for key in (*kept, *own) if overrides.get(key) is not None}
        default_subnets(self)
        words.setdefault("db_subnet_group_name", "default")
        made = self.create_db_instance({**words, "db_instance_identifier": name, "is_real": True})
        assert isinstance(made, LabInstance)
        made.status = "creating"

        def come_up() -> None:
            if orders.restores:
                _unless_deleted(made, orders.restores.pop(0))
                return
            made.server = restore()
            _unless_deleted(made, "backing-up" if made.backup_retention_period else "available")
            if made.status == "backing-up":
                self.begin(made)
                _unless_deleted(made, "available")

        made.work = _in_background(come_up, "restore", lambda: _unless_deleted(made, "incompatible-restore"))
        return made

    # ------------------------------------------------------------------ logs

    def describe_db_log_files(self, db_instance_identifier: str, **words: Any) -> list[DBLogFile]:
        instance = self.instance(db_instance_identifier)
        if not instance.is_real:
            return super().describe_db_log_files(db_instance_identifier)
        found = []
        for path in sorted(instance.server.log.iterdir()) if instance.server else ():
            about = path.stat()
            file = DBLogFile(f"error/{path.name}")
            file.last_written, file.size = int(about.st_mtime * 1000), about.st_size
            is_asked = words.get("filename_contains", "") in file.log_file_name
            is_fresh = file.last_written >= int(words.get("file_last_written") or 0)
            if is_asked and is_fresh and file.size >= int(words.get("file_size") or 0):
                found.append(file)
        return found

    def log_portion(self, name: str, file: str, marker: str | None, lines: int | None) -> dict[str, Any]:
        """A piece of a log: from `marker` on, or its last `lines` when nothing says where to begin."""
        instance = self.instance(name)
        folder, wanted = instance.server.log if instance.server else Path(), Path(file)
        path = folder / wanted.name
        if instance.server is None or str(wanted.parent) != "error" or not path.is_file():
            raise RDSClientError("DBLogFileNotFoundFault", f"DBLogFile: {file}, is not found on the DB instance")
        content = path.read_bytes()
        begin = int((marker or "0").rpartition(":")[2])
        if lines and marker is None:
            portion = b"".join(content.splitlines(keepends=True)[-lines:])
            begin = len(content) - len(portion)
        portion = b"".join(content[begin : begin + PORTION].splitlines(keepends=True)[: lines or LINES])
        end = begin + len(portion)
        hour = path.name.rpartition("-")[2]
        text = portion.decode(errors="replace")
        return {"LogFileData": text, "Marker": f"{hour}:{end}", "AdditionalDataPending": end < len(content)}


class LabAutomatedBackup(DBInstanceAutomatedBackup):
    """What an instance can be had again from."""

    def __init__(self, instance: LabInstance) -> None:
        super().__init__(instance.backend, instance.db_instance_identifier, [])
        self.__dict__ |= {
            name: getattr(instance, name)
            for name in (
                "db_instance_arn", "dbi_resource_id", "region", "allocated_storage", "port", "availability_zone",
                "instance_create_time", "master_username", "engine", "engine_version", "license_model",
                "option_group_name", "storage_type", "backup_retention_period", "preferred_backup_window", "tag_list",
            )
        }  # fmt: skip
        self.encrypted = instance.storage_encrypted
        self.restore_window = {
            "EarliestTime": instance.earliest_restorable_time,
            "LatestTime": instance.latest_restorable_time,
        }


def _text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _wrong_state(text: str) -> RDSClientError:
    return RDSClientError("InvalidDBInstanceState", text)


def _in_state(instance: LabInstance, wanted: str, text: str) -> None:
    if instance.status != wanted:
        raise _wrong_state(text)


def _unless_deleted(instance: LabInstance, status: str) -> None:
    if instance.status != "deleting":
        instance.status = status


def _in_background(work: Callable[[], None], kind: str, failed: Callable[[], None]) -> threading.Thread:
    def run() -> None:
        try:
            time.sleep(orders.seconds[kind])
            work()
        except DbopsError as problem:
            print(problem, flush=True)  # noqa: T201 - into the log of the part
            failed()
        except Exception:
            traceback.print_exc()
            failed()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


# ------------------------------------------------------------------------------------------------- moto takes them


def describe_snapshots_in_pages(self: RDSResponse) -> ActionResult:
    """moto gives all at once.

    https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_DescribeDBSnapshots.html
    """
    asked = self.params
    filters = {item["Name"]: item["Values"] for item in asked.get("Filters", [])}
    name, instance = asked.get("DBSnapshotIdentifier"), asked.get("DBInstanceIdentifier")
    found = self.backend.describe_db_snapshots(instance, name, asked.get("SnapshotType"), filters)
    size, first = int(asked.get("MaxRecords") or PAGE), int(asked.get("Marker") or 0)
    if not 20 <= size <= PAGE:
        raise InvalidParameterValue(f"Invalid value {size} for MaxRecords. Must be between 20 and {PAGE}")
    answer: dict[str, Any] = {"DBSnapshots": found[first : first + size]}
    if first + size < len(found):
        answer["Marker"] = str(first + size)
    return ActionResult(answer)


def download_log_portion(self: RDSResponse) -> ActionResult:
    asked, backend = self.params, self.backend
    assert isinstance(backend, LabBackend)
    lines = int(asked["NumberOfLines"]) if asked.get("NumberOfLines") else None
    return ActionResult(
        backend.log_portion(asked["DBInstanceIdentifier"], asked["LogFileName"], asked.get("Marker"), lines)
    )


def install(in_room: Room) -> None:
    """From now on this process's moto keeps instances so."""
    global room
    room = in_room
    models.DBInstance, models.DBSnapshot = LabInstance, LabSnapshot  # type: ignore[misc]
    LabBackend.__module__ = models.__name__  # beside which moto looks for the urls
    models.rds_backends.backend = LabBackend
    models.rds_backends.clear()
    RDSResponse.describe_db_snapshots = describe_snapshots_in_pages  # type: ignore[method-assign]
    RDSResponse.download_db_log_file_portion = download_log_portion  # type: ignore[attr-defined]


def real_instances() -> list[LabInstance]:
    """Of all regions."""
    regions = [region for account in list(models.rds_backends.values()) for region in list(account.values())]
    every = [instance for region in regions for instance in list(region.databases.values())]
    return [instance for instance in every if isinstance(instance, LabInstance) and instance.is_real]


def surroundings(backend: LabBackend, name: str, family: str) -> dict[str, Any]:
    """Subnet, security, parameter and option groups of an instance's own, made for it."""
    ec2 = ec2_backends[backend.account_id][backend.region_name]
    default_subnets(backend)
    subnets = ec2.describe_subnets()[:2]
    backend.create_subnet_group(f"{name}-subnets", f"Private subnets of {name}", subnets, [])
    group = ec2.create_security_group(f"{name}-clients", f"Clients of {name}", vpc_id=ec2.default_vpc.id)
    backend.create_db_parameter_group({
        "db_parameter_group_name": f"{name}-{family}",
        "db_parameter_group_family": family,
        "description": f"Settings of {name}",
    })
    option_group = {
        "option_group_name": f"{name}-options",
        "engine_name": "postgres",
        "major_engine_version": family.removeprefix("postgres"),
        "option_group_description": f"Options of {name}",
    }
    backend.option_groups[f"{name}-options"] = models.OptionGroup(backend, **option_group)
    return {
        "db_subnet_group_name": f"{name}-subnets",
        "vpc_security_group_ids": [group.id],
        "db_parameter_group_name": f"{name}-{family}",
        "option_group_name": f"{name}-options",
    }


def default_subnets(backend: LabBackend) -> None:
    if "default" not in backend.subnet_groups:
        subnets = ec2_backends[backend.account_id][backend.region_name].describe_subnets()
        backend.create_subnet_group("default", "default", subnets, [])
