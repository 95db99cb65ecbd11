"""The Terraform that brings the code in line with a recovery: the new instance is imported, the record leads to it."""

from __future__ import annotations

import re
from typing import Any

from dbops.postgres.recovery_plan import RecoveryPlan, tags_of


def terraform(plan: RecoveryPlan, ours: dict[str, str]) -> str:
    """A file of its own: import blocks (Terraform 1.5 and later) and resources for the instance and the CNAME.

    :param ours: the tags that this package puts on what it makes.
    """
    settings, name = plan.settings, identifier(plan.target)
    values: dict[str, Any] = {
        "identifier": plan.target,
        "instance_class": settings.instance_class,
        "engine": settings.engine,
        "engine_version": settings.engine_version or None,
        "port": settings.port,
        "db_subnet_group_name": settings.subnet_group,
        "vpc_security_group_ids": list(settings.security_groups) or None,
        "parameter_group_name": settings.parameter_group,
        "option_group_name": settings.option_group,
        "multi_az": settings.multi_az,
        "publicly_accessible": settings.publicly_accessible,
        "deletion_protection": settings.deletion_protection,
        "iam_database_authentication_enabled": settings.iam_authentication,
        "copy_tags_to_snapshot": settings.copy_tags_to_snapshot,
        "auto_minor_version_upgrade": settings.auto_minor_version_upgrade,
        "enabled_cloudwatch_logs_exports": list(settings.log_exports) or None,
        "ca_cert_identifier": settings.ca_certificate,
        "network_type": settings.network_type,
        "storage_type": settings.storage_type,
        "allocated_storage": settings.storage_gb,
        "max_allocated_storage": settings.max_storage_gb,
        "iops": settings.iops if settings.storage_type in ("io1", "io2") else None,
        "storage_encrypted": settings.encrypted,
        "kms_key_id": settings.kms_key if settings.encrypted else None,
        "backup_retention_period": settings.backup_retention_days,
        "backup_window": settings.backup_window,
        "maintenance_window": settings.maintenance_window,
        "monitoring_interval": settings.monitoring_interval,
        "monitoring_role_arn": settings.monitoring_role,
        "performance_insights_enabled": settings.performance_insights,
        "skip_final_snapshot": False,
        "final_snapshot_identifier": f"{plan.target[:57].rstrip('-')}-final",
        "tags": tags_of(plan, ours),
    }
    record = identifier(plan.record.name)
    return "\n".join([
        f"# Recovery of {plan.source} to {plan.moment:%FT%TZ}, run {_comment(plan.run)}.",
        f"# Reason: {_comment(plan.reason)}",
        "# Put this beside the code of the instance and run `terraform plan`: it must import, and change nothing that",
        "# you do not expect. The instance exists: with restore_to_point_in_time Terraform would build another one.",
        f"# {plan.source} stays in the code until nobody needs it any more.",
        "",
        *_block("import", {"to": _Raw(f"aws_db_instance.{name}"), "id": plan.target}),
        "",
        *_block(f'resource "aws_db_instance" "{name}"', values),
        "",
        "# When the record is in the code already, change its `records` there in place of the two blocks below.",
        *_block("import", {"to": _Raw(f"aws_route53_record.{record}"), "id": f"{plan.zone}_{plan.record.name}_CNAME"}),
        "",
        *_block(
            f'resource "aws_route53_record" "{record}"',
            {
                "zone_id": plan.zone,
                "name": plan.record.name,
                "type": "CNAME",
                "ttl": plan.record.ttl,
                "records": [_Raw(f"aws_db_instance.{name}.address")],
            },
        ),
        "",
    ])  # fmt: skip


class _Raw(str):
    """An expression, no text."""


def identifier(name: str) -> str:
    """What Terraform takes for the name of a resource."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return found if re.match(r"[A-Za-z_]", found) else f"_{found}"


def _block(head: str, values: dict[str, Any]) -> list[str]:
    """What has no value is left out."""
    given = {key: value for key, value in values.items() if value is not None}
    width = max(map(len, given))
    return [f"{head} {{", *(f"  {key:{width}} = {_value(value)}" for key, value in given.items()), "}"]


def _value(value: Any) -> str:
    if isinstance(value, _Raw):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        inner = "".join(f"    {_text(key)} = {_text(item)}\n" for key, item in sorted(value.items()))
        return f"{{\n{inner}  }}"
    return _text(str(value))


def _text(value: str) -> str:
    """A quoted template without sequences that Terraform would fill in."""
    escaped = (
        value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    )
    return f'"{escaped.replace("${", "$${").replace("%{", "%%{")}"'


def _comment(text: str) -> str:
    return re.sub(r"\s+", " ", text)
