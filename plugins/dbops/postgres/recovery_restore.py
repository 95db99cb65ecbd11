"""The new instance of a recovery: made once, adopted, waited for, compared with what it should be. Never deleted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dbops.aws import RUN_TAG, ApiRefused, NotThere, TakenName, as_dict, as_list, tag_value
from dbops.aws import tags_of as own_tags
from dbops.errors import FinalError, RetryableError
from dbops.platform import duration_text
from dbops.postgres.rds import calls
from dbops.postgres.recovery_plan import RECOVERY_TAG, InstanceSettings, RecoveryPlan, settings_of, tags_of

FAILED = frozenset({
    "deleting",
    "failed",
    "inaccessible-encryption-credentials",
    "incompatible-create",
    "incompatible-network",
    "incompatible-option-group",
    "incompatible-parameters",
    "incompatible-restore",
    "insufficient-capacity",
    "restore-error",
    "stopped",
    "storage-full",
})
"""Statuses of an instance that does not become available by itself. All others are waited for."""
COMPARED = (
    "instance_class", "port", "subnet_group", "security_groups", "parameter_group", "option_group", "multi_az",
    "publicly_accessible", "deletion_protection", "iam_authentication", "storage_type", "encrypted", "kms_key",
    "backup_retention_days",
)  # fmt: skip
PENDING = {"multi_az": "MultiAZ", "instance_class": "DBInstanceClass", "backup_retention_days": "BackupRetentionPeriod"}
"""What RDS may still be about to change when the instance is available already."""
BY_HAND = {
    "monitoring_interval": "enhanced monitoring", "performance_insights": "Performance Insights",
    "maintenance_window": "the maintenance window", "backup_window": "the backup window",
    "max_storage_gb": "storage autoscaling", "log_exports": "log exports",
}  # fmt: skip
"""Worth a word: data and access do not depend on them, and the Terraform sets them."""


class RecoveryFailed(FinalError):
    """The new instance does not come, or is not as it should be. What exists is said."""


@dataclass(frozen=True)
class Made:
    """How far the new instance is.

    :param status: as RDS calls it.
    :param address, port: when it can be reached.
    """

    done: bool
    status: str
    address: str | None = None
    port: int | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def advance(client: Any, plan: RecoveryPlan, limit: timedelta, now: datetime) -> Made:
    """Make the new instance, or adopt the one that this run has made, and say how far it is. Call it until `done`.

    :param limit: since the plan.
    :raises RecoveryFailed: it will not become available, or the name is somebody else's.
    """
    try:
        found = find(client, plan.target)
        if found is None:
            found = _make(client, plan)
        _check_ours(plan, found)
    except (ApiRefused, NotThere) as error:
        raise RecoveryFailed(f"{error}. {left_behind(client, plan)}") from None
    status = str(found.get("DBInstanceStatus", "")).lower()
    if status in FAILED:
        raise RecoveryFailed(f"{plan.target} is {status}: it does not become available. {left_behind(client, plan)}")
    endpoint = found.get("Endpoint") or {}
    if status == "available" and endpoint.get("Address"):
        problems, notes = differences(plan.settings, found)
        return Made(True, status, endpoint["Address"], int(endpoint["Port"]), problems, notes)
    if now - plan.planned_at > limit:
        raise RecoveryFailed(
            f"{plan.target} is still {status} after {duration_text(limit)}, the longest that it may take "
            f"(recovery.restore_timeout). {left_behind(client, plan)}"
        )
    return Made(False, status)


def find(client: Any, instance: str) -> Mapping[str, Any] | None:
    try:
        with calls(f"describe instance {instance}"):
            found: Mapping[str, Any] = client.describe_db_instances(DBInstanceIdentifier=instance)["DBInstances"][0]
            return found
    except NotThere:
        return None


def is_ours(plan: RecoveryPlan, found: Mapping[str, Any]) -> bool:
    tags = as_dict(found.get("TagList"))
    return (tags.get(RECOVERY_TAG), tags.get(RUN_TAG)) == (plan.target, tag_value(plan.run))


def _check_ours(plan: RecoveryPlan, found: Mapping[str, Any]) -> None:
    if not is_ours(plan, found):
        raise RecoveryFailed(
            f"restore to {plan.target}: an instance of that name exists, and its tags {RECOVERY_TAG} and {RUN_TAG} are "
            "not this run's; nothing was done: trigger a new run, which has another name"
        )


def _make(client: Any, plan: RecoveryPlan) -> Mapping[str, Any]:
    words = restore_words(plan)
    try:
        with calls(f"restore {plan.source} as of {plan.moment:%FT%TZ} to {plan.target}"):
            made: Mapping[str, Any] = client.restore_db_instance_to_point_in_time(**words)["DBInstance"]
            return {**made, "TagList": words["Tags"]}
    except TakenName:
        found = find(client, plan.target)
        if found is None:
            raise RetryInstance(f"{plan.target} exists, and yet does not: ask again") from None
        return found


class RetryInstance(RetryableError):
    """RDS contradicts itself for a moment."""


def restore_words(plan: RecoveryPlan) -> dict[str, Any]:
    """Of RestoreDBInstanceToPointInTime: all that it would otherwise choose itself.

    https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_RestoreDBInstanceToPointInTime.html
    """
    settings = plan.settings
    words = {
        "SourceDBInstanceIdentifier": plan.source,
        "TargetDBInstanceIdentifier": plan.target,
        "RestoreTime": plan.moment,
        "DBInstanceClass": settings.instance_class,
        "Port": settings.port,
        "DBSubnetGroupName": settings.subnet_group,
        "VpcSecurityGroupIds": list(settings.security_groups) or None,
        "DBParameterGroupName": settings.parameter_group,
        "OptionGroupName": settings.option_group,
        "MultiAZ": settings.multi_az,
        "PubliclyAccessible": settings.publicly_accessible,
        "DeletionProtection": settings.deletion_protection,
        "EnableIAMDatabaseAuthentication": settings.iam_authentication,
        "CopyTagsToSnapshot": settings.copy_tags_to_snapshot,
        "AutoMinorVersionUpgrade": settings.auto_minor_version_upgrade,
        "EnableCloudwatchLogsExports": list(settings.log_exports) or None,
        "CACertificateIdentifier": settings.ca_certificate,
        "NetworkType": settings.network_type,
        "StorageType": settings.storage_type,
        "MaxAllocatedStorage": settings.max_storage_gb,
        # gp3 below its threshold has a baseline that cannot be asked for; RDS gives it by itself.
        "Iops": settings.iops if settings.storage_type in ("io1", "io2") else None,
        "Tags": as_list(tags_of(plan, own_tags(plan.platform, plan.run, plan.reason))),
    }
    return {name: value for name, value in words.items() if value is not None}


def differences(wanted: InstanceSettings, found: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where the new instance is not as the source: what must not be, and what is only worth a word."""
    has, pending = settings_of(dict(found)), found.get("PendingModifiedValues") or {}
    problems, notes = [], []
    for name in COMPARED:
        want, is_now = getattr(wanted, name), getattr(has, name)
        if want == is_now:
            continue
        text = f"{name.replace('_', ' ')} is {_shown(is_now)}, the source has {_shown(want)}"
        if name in PENDING and pending.get(PENDING[name]) == want:
            notes.append(f"{text}; RDS is about to change it")
        else:
            problems.append(text)
    for name, words in BY_HAND.items():
        if getattr(wanted, name) != getattr(has, name):
            notes.append(
                f"{words} is {_shown(getattr(has, name))}, the source has {_shown(getattr(wanted, name))}; applying "
                "the Terraform sets it"
            )
    return tuple(problems), tuple(notes)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if value is None or isinstance(value, bool):
        return {True: "on", False: "off", None: "none"}[value]
    return str(value)


def left_behind(client: Any, plan: RecoveryPlan) -> str:
    """What a recovery has made so far, and how that is removed."""
    try:
        found = find(client, plan.target)
    except Exception as error:  # the first error is the one that counts
        return f"Whether {plan.target} exists is unknown ({type(error).__name__}): look in the console"
    if found is None or not is_ours(plan, found):
        return "Nothing was made"
    unprotect = (
        f"aws rds modify-db-instance --db-instance-identifier {plan.target} --no-deletion-protection "
        f"--apply-immediately --region {plan.region}; "
        if found.get("DeletionProtection")
        else ""
    )
    return (
        f"Instance {plan.target} exists ({found.get('DBInstanceStatus')}) and is kept. When nobody needs it any more: "
        f"{unprotect}aws rds delete-db-instance --db-instance-identifier {plan.target} --skip-final-snapshot --region "
        f"{plan.region}"
    )
