"""What a recovery will do, decided once and written down: moment, new instance, settings, record, who follows."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from dbops.aws import NotThere, as_dict, tag_value
from dbops.backups.manifest import Document, Utc
from dbops.platform import Postgres, PostgresRecovery
from dbops.postgres.rds import calls
from dbops.postgres.recovery_dns import Record, same_name
from dbops.postgres.recovery_time import RecoveryRefused, check_moment, read_window

RECOVERY_TAG, SOURCE_TAG, MOMENT_TAG = "dbops-recovery", "dbops-recovered-from", "dbops-recovered-to"
LONGEST_ID = 63


class InstanceSettings(Document):
    """What a new instance is given besides its data: as the source has it. RDS's defaults would be others."""

    instance_class: str
    engine: str = "postgres"
    engine_version: str = ""
    port: int = 5432
    subnet_group: str | None = None
    security_groups: tuple[str, ...] = ()
    parameter_group: str | None = None
    option_group: str | None = None
    multi_az: bool = False
    publicly_accessible: bool = False
    deletion_protection: bool = False
    iam_authentication: bool = False
    copy_tags_to_snapshot: bool = False
    auto_minor_version_upgrade: bool = True
    log_exports: tuple[str, ...] = ()
    ca_certificate: str | None = None
    network_type: str | None = None
    storage_type: str | None = None
    storage_gb: int | None = None
    max_storage_gb: int | None = None
    iops: int | None = None
    storage_throughput: int | None = None
    encrypted: bool = False
    kms_key: str | None = None
    backup_retention_days: int = 0
    backup_window: str | None = None
    maintenance_window: str | None = None
    monitoring_interval: int = 0
    monitoring_role: str | None = None
    performance_insights: bool = False
    tags: dict[str, str] = Field(default_factory=dict)


class RecoveryPlan(Document):
    """One recovery's decisions, made once."""

    platform: str
    run: str
    reason: str
    source: str
    source_address: str
    source_port: int
    target: str
    """Name of the new instance."""
    region: str
    moment: Utc
    is_latest: bool
    settings: InstanceSettings
    zone: str
    record: Record
    """As it was when the plan was made: it leads to the source."""
    deployments: tuple[str, ...] = ()
    """namespace/name of those that are restarted."""
    asked_at: Utc
    """When somebody asked for it: the time to recovery counts from here."""
    planned_at: Utc

    def describe(self) -> str:
        given = self.settings.model_dump(exclude_defaults=True, exclude={"tags", "engine"})
        follow = f"; then {', '.join(self.deployments)} are restarted" if self.deployments else ""
        return (
            f"Recovery of {self.source} to {self.moment:%FT%TZ}{' (the latest moment)' if self.is_latest else ''}, to "
            f"the new instance {self.target} in {self.region}, with the settings of {self.source}: "
            f"{', '.join(f'{name} {value}' for name, value in given.items())}. Its data is checked, and after an "
            f"approval CNAME {self.record.name} is switched from {self.record.value} to it{follow}. Reason: "
            f"{self.reason}. {self.source} stays as it is."
        )


def target_name(source: str, moment: datetime | None, run: str) -> str:
    """The name that this run's new instance always has: `exchange-v2-20261124t055959z-1a2b3`.

    :param moment: as it was asked for; None: the latest.
    """
    base = re.sub(r"-(\d{8}t\d{6}z|latest)-[0-9a-f]{5}$", "", source)  # one that was recovered already
    stamp = f"{moment.astimezone(UTC):%Y%m%dt%H%M%Sz}" if moment else "latest"
    digest = hashlib.sha256("\0".join([run, source, stamp]).encode()).hexdigest()[:5]
    return f"{base[: LONGEST_ID - len(stamp) - 7].rstrip('-')}-{stamp}-{digest}"


def describe_settings(client: Any, instance: str) -> tuple[InstanceSettings, dict[str, Any]]:
    """Settings of an instance, and all that RDS says of it.

    :raises NotThere: there is none of that name.
    """
    with calls(f"describe instance {instance}"):
        found = client.describe_db_instances(DBInstanceIdentifier=instance)["DBInstances"][0]
    return settings_of(found), found


def settings_of(found: dict[str, Any]) -> InstanceSettings:
    groups = found.get("DBParameterGroups") or ()
    options = found.get("OptionGroupMemberships") or ()
    port = (found.get("Endpoint") or {}).get("Port") or found.get("DbInstancePort") or 5432
    return InstanceSettings(
        instance_class=found["DBInstanceClass"],
        engine=found.get("Engine", "postgres"),
        engine_version=found.get("EngineVersion", ""),
        port=port,
        subnet_group=(found.get("DBSubnetGroup") or {}).get("DBSubnetGroupName"),
        security_groups=tuple(sorted(item["VpcSecurityGroupId"] for item in found.get("VpcSecurityGroups") or ())),
        parameter_group=groups[0]["DBParameterGroupName"] if groups else None,
        option_group=options[0]["OptionGroupName"] if options else None,
        multi_az=bool(found.get("MultiAZ")),
        publicly_accessible=bool(found.get("PubliclyAccessible")),
        deletion_protection=bool(found.get("DeletionProtection")),
        iam_authentication=bool(found.get("IAMDatabaseAuthenticationEnabled")),
        copy_tags_to_snapshot=bool(found.get("CopyTagsToSnapshot")),
        auto_minor_version_upgrade=bool(found.get("AutoMinorVersionUpgrade")),
        log_exports=tuple(sorted(found.get("EnabledCloudwatchLogsExports") or ())),
        ca_certificate=found.get("CACertificateIdentifier"),
        network_type=found.get("NetworkType"),
        storage_type=found.get("StorageType"),
        storage_gb=found.get("AllocatedStorage"),
        max_storage_gb=found.get("MaxAllocatedStorage"),
        iops=found.get("Iops"),
        storage_throughput=found.get("StorageThroughput"),
        encrypted=bool(found.get("StorageEncrypted")),
        kms_key=found.get("KmsKeyId"),
        backup_retention_days=int(found.get("BackupRetentionPeriod") or 0),
        backup_window=found.get("PreferredBackupWindow"),
        maintenance_window=found.get("PreferredMaintenanceWindow"),
        monitoring_interval=int(found.get("MonitoringInterval") or 0),
        monitoring_role=found.get("MonitoringRoleArn"),
        performance_insights=bool(found.get("PerformanceInsightsEnabled")),
        tags={
            name: value for name, value in as_dict(found.get("TagList")).items() if not name.lower().startswith("aws:")
        },
    )


def plan_recovery(
    client: Any,
    postgres: Postgres,
    recovery: PostgresRecovery,
    record: Record,
    zone: str,
    *,
    platform: str,
    run: str,
    reason: str,
    moment: datetime | None,
    asked_at: datetime,
    now: datetime,
    source: str | None = None,
) -> RecoveryPlan:
    """Decide; nothing is made.

    :param record, zone: the CNAME as it is, and the hosted zone that it lies in.
    :param moment: aware UTC; None: the latest.
    :param source: None: the platform's instance.
    :raises RecoveryRefused: the moment cannot be reached, the source is not there, or the record does not lead to it.
    """
    source = source or postgres.name
    if not reason.strip():
        raise RecoveryRefused("a recovery needs a reason: it stands in the ledger and on what is made")
    try:
        settings, found = describe_settings(client, source)
    except NotThere as gone:
        raise RecoveryRefused(
            f"{gone}: an instance that is gone is restored by hand, from retained automated backups or a snapshot"
        ) from None
    if not settings.engine.startswith("postgres"):
        raise RecoveryRefused(f"{source} is {settings.engine}, no PostgreSQL instance")
    chosen = check_moment(moment, read_window(client, source), source, now)
    address = (found.get("Endpoint") or {}).get("Address")
    if not address:
        raise RecoveryRefused(f"{source} is {found.get('DBInstanceStatus')} and has no address: wait for it")
    if not same_name(record.value, address):
        raise RecoveryRefused(
            f"CNAME {record.name} leads to {record.value}, not to {source} ({address}): recover the instance that it "
            "leads to, or correct `postgres.recovery.record`"
        )
    kubernetes = recovery.kubernetes
    return RecoveryPlan(
        platform=platform,
        run=run,
        reason=reason.strip(),
        source=source,
        source_address=address,
        source_port=settings.port,
        target=target_name(source, moment, run),
        region=postgres.region,
        moment=chosen,
        is_latest=moment is None,
        settings=settings,
        zone=zone,
        record=record,
        deployments=tuple(f"{kubernetes.namespace}/{one.name}" for one in kubernetes.deployments) if kubernetes else (),
        asked_at=asked_at,
        planned_at=now,
    )


def tags_of(plan: RecoveryPlan, ours: dict[str, str]) -> dict[str, str]:
    """The source's, and what says that the new instance is this recovery's."""
    made = {
        RECOVERY_TAG: plan.target,
        SOURCE_TAG: tag_value(plan.source),
        MOMENT_TAG: tag_value(f"{plan.moment:%FT%TZ}"),
    }
    kept = {name: value for name, value in plan.settings.tags.items() if name not in (ours | made)}
    return dict(list(kept.items())[: 50 - len(ours | made)]) | ours | made  # RDS takes 50
