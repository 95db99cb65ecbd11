"""Restore of a snapshot to a new cluster, or to a new namespace and workgroup of Serverless. Nothing is ever deleted.

Every function may be repeated: what an earlier try has made is found by its name and adopted, when it is ours.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from dbops.backups.manifest import Document, Utc
from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError, DbopsError, FinalError
from dbops.platform import Redshift, duration_text
from dbops.redshift.api import ApiRefused, NotThere, TakenName, as_dict, as_list, calls, name_of, tags_of
from dbops.redshift.figures import Comparison, Figures, compare, count_days, read_figures
from dbops.redshift.session import open_session
from dbops.redshift.snapshots import CLOCK_SKEW, Snapshot, Snapshots

if TYPE_CHECKING:
    from sqlalchemy import Engine

RESTORE_TAG = "dbops-restore"
SETTINGS, FIGURES = "redshift_settings", "redshift_figures"
"""Checks whose rows in the ledger a restore needs when its source is gone."""
FAILED = frozenset({
    "deleting",
    "final-snapshot",
    "hardware-failure",
    "incompatible-hsm",
    "incompatible-network",
    "incompatible-parameters",
    "incompatible-restore",
    "paused",
    "storage-full",
})
"""Statuses of a cluster that does not become available by itself. All others are waited for."""


class RestoreRefused(ConfigurationError):
    """What was asked for is not done."""


class RestoreFailed(FinalError):
    """The new cluster does not come, or does not hold what it should. What exists is said."""


class ClusterSettings(Document):
    """What a new cluster is given besides its data: as the source has it."""

    kind: Literal["cluster"] = "cluster"
    node_type: str | None = None
    nodes: int | None = None
    port: int | None = None
    subnet_group: str | None = None
    security_groups: tuple[str, ...] = ()
    parameter_group: str | None = None
    iam_roles: tuple[str, ...] = ()
    default_iam_role: str | None = None
    publicly_accessible: bool = False
    enhanced_vpc_routing: bool = False
    encrypted: bool = True
    kms_key: str | None = None
    maintenance_track: str | None = None
    multi_az: bool = False


class WorkgroupSettings(Document):
    """What a new namespace and its workgroup are given besides the data: as the source has it."""

    kind: Literal["workgroup"] = "workgroup"
    namespace: str
    """Of the source."""
    database: str | None = None
    iam_roles: tuple[str, ...] = ()
    default_iam_role: str | None = None
    kms_key: str | None = None
    base_capacity: int | None = None
    max_capacity: int | None = None
    port: int | None = None
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    parameters: dict[str, str] = Field(default_factory=dict)
    publicly_accessible: bool = False
    enhanced_vpc_routing: bool = False


Settings = Annotated[ClusterSettings | WorkgroupSettings, Field(discriminator="kind")]


class StoredSettings(Document):
    """Settings as the ledger keeps them, for the day on which the source is gone."""

    settings: Settings


class RestorePlan(Document):
    """One restore's decisions, made once."""

    platform: str
    run: str
    reason: str
    source: str
    """Cluster, or namespace."""
    snapshot: str
    snapshot_arn: str
    snapshot_at: Utc
    is_recovery_point: bool = False
    target: str
    """Name of the new cluster; with Serverless, of the new namespace and of its workgroup."""
    region: str
    settings: Settings
    settings_of: str
    """Where the settings are from, in words."""
    asked_at: Utc
    """When somebody asked for it: the time to recovery counts from here."""
    planned_at: Utc

    @property
    def mark(self) -> str:
        """What tells this restore's cluster from others of that name: the run and what it restores."""
        return restore_mark(self.run, self.snapshot)

    def describe(self) -> str:
        settings = self.settings.model_dump(exclude={"kind"}, exclude_defaults=True)
        given = ", ".join(f"{name} {value}" for name, value in settings.items())
        what = "namespace and workgroup" if isinstance(self.settings, WorkgroupSettings) else "cluster"
        return (
            f"restore of {self.source} as of {self.snapshot_at:%FT%TZ} (snapshot {self.snapshot}) to the new {what} "
            f"{self.target} in {self.region}, with the settings of {self.settings_of}: {given}. Reason: {self.reason}. "
            "Nothing is deleted or switched over."
        )


@dataclass(frozen=True)
class Progress:
    """How far a restore is.

    :param status: as AWS calls it.
    :param host, port: of the new cluster, when it is available.
    """

    done: bool
    status: str
    host: str | None = None
    port: int | None = None


def restore_mark(run: str, snapshot: str) -> str:
    return hashlib.sha256(f"{run}\0{snapshot}".encode()).hexdigest()[:20]


# --- plan -------------------------------------------------------------------------------------------------


def known_settings(ledger: Engine, redshift: Redshift) -> tuple[ClusterSettings | WorkgroupSettings, str] | None:
    """How the warehouse was set up when it was last looked at, and when that was; None: it never was."""
    from dbops.ledger import newest_check

    found = newest_check(ledger, SETTINGS, redshift.name)
    return None if found is None else (StoredSettings.model_validate(found[1]).settings, f"{found[0]:%FT%TZ}")


def read_settings(client: Any, redshift: Redshift) -> ClusterSettings | WorkgroupSettings:
    """What the platform's warehouse is set up with now.

    :raises NotThere: it does not exist.
    """
    if redshift.serverless:
        return _workgroup_settings(client, redshift.name)
    with calls(f"describe cluster {redshift.name}"):
        found = client.describe_clusters(ClusterIdentifier=redshift.name)["Clusters"][0]
    groups = [item["ParameterGroupName"] for item in found.get("ClusterParameterGroups", ())]
    return ClusterSettings(
        node_type=found.get("NodeType"),
        nodes=found.get("NumberOfNodes"),
        port=(found.get("Endpoint") or {}).get("Port"),
        subnet_group=found.get("ClusterSubnetGroupName"),
        security_groups=tuple(item["VpcSecurityGroupId"] for item in found.get("VpcSecurityGroups", ())),
        parameter_group=groups[0] if groups else None,
        iam_roles=tuple(item["IamRoleArn"] for item in found.get("IamRoles", ())),
        default_iam_role=found.get("DefaultIamRoleArn"),
        publicly_accessible=bool(found.get("PubliclyAccessible")),
        enhanced_vpc_routing=bool(found.get("EnhancedVpcRouting")),
        encrypted=bool(found.get("Encrypted")),
        kms_key=found.get("KmsKeyId"),
        maintenance_track=found.get("MaintenanceTrackName"),
        multi_az=str(found.get("MultiAZ", "")).lower() == "enabled",
    )


def _workgroup_settings(client: Any, workgroup: str) -> WorkgroupSettings:
    with calls(f"describe workgroup {workgroup}"):
        found = client.get_workgroup(workgroupName=workgroup)["workgroup"]
        namespace = client.get_namespace(namespaceName=found["namespaceName"])["namespace"]
    parameters = {item["parameterKey"]: item["parameterValue"] for item in found.get("configParameters", ())}
    return WorkgroupSettings(
        namespace=found["namespaceName"],
        database=namespace.get("dbName"),
        iam_roles=tuple(namespace.get("iamRoles", ())),
        default_iam_role=namespace.get("defaultIamRoleArn"),
        kms_key=None if namespace.get("kmsKeyId") == "AWS_OWNED_KMS_KEY" else namespace.get("kmsKeyId"),
        base_capacity=found.get("baseCapacity"),
        max_capacity=found.get("maxCapacity"),
        port=found.get("port"),
        subnets=tuple(found.get("subnetIds", ())),
        security_groups=tuple(found.get("securityGroupIds", ())),
        parameters=parameters,
        publicly_accessible=bool(found.get("publiclyAccessible")),
        enhanced_vpc_routing=bool(found.get("enhancedVpcRouting")),
    )


def plan_restore(
    client: Any,
    snapshots: Snapshots,
    redshift: Redshift,
    *,
    platform: str,
    run: str,
    reason: str,
    asked_at: datetime,
    snapshot: str | None = None,
    target: str | None = None,
    known: tuple[ClusterSettings | WorkgroupSettings, str] | None = None,
) -> RestorePlan:
    """Decide what is restored to where; nothing is done.

    :param snapshot: its id; None: the newest usable one.
    :param target: name of the new cluster; None: one that this run always gets.
    :param known: settings that the ledger remembers and of when they are, for a source that is gone.
    :raises RestoreRefused: the name is that of the warehouse, is taken or is none; the snapshot is not usable; nobody
        knows the settings any more.
    """
    if not reason.strip():
        raise RestoreRefused("a restore needs a reason: it stands in the ledger and on what is made")
    target = target or name_of(run, redshift.name, "restored")
    try:
        settings, settings_of = read_settings(client, redshift), f"{redshift.name}, as it is now"
    except NotThere as gone:
        if known is None:
            raise RestoreRefused(
                f"{gone}; and the ledger does not know how it was set up (no row redshift_settings): restore in "
                "the console or with `aws`, where subnet group, security groups and roles can be given"
            ) from None
        settings, settings_of = known[0], f"{redshift.name}, as the ledger knew them {known[1]}"
    chosen = _choose(snapshots.list(), snapshot, snapshots.source)
    _check_target(client, redshift, settings, target, restore_mark(run, chosen.id))
    if isinstance(settings, ClusterSettings) and redshift.snapshots.restore_node_type:
        settings = settings.model_copy(update={"node_type": redshift.snapshots.restore_node_type})
    return RestorePlan(
        platform=platform,
        run=run,
        reason=reason.strip(),
        source=snapshots.source,
        snapshot=chosen.id,
        snapshot_arn=chosen.arn,
        snapshot_at=chosen.created_at,
        is_recovery_point=chosen.is_recovery_point,
        target=target,
        region=redshift.region,
        settings=settings,
        settings_of=settings_of,
        asked_at=asked_at,
        planned_at=datetime.now(UTC),
    )


def _check_target(client: Any, redshift: Redshift, settings: Settings, target: str, mark: str) -> None:
    longest = 63 if isinstance(settings, ClusterSettings) else 64
    if not re.fullmatch(r"[a-z](-?[a-z0-9])*", target) or len(target) > longest:
        raise RestoreRefused(
            f"{target!r} is no name for a new cluster: lower case letters, digits and single hyphens, a letter first, "
            f"at most {longest}"
        )
    source = settings.namespace if isinstance(settings, WorkgroupSettings) else redshift.name
    if target in (redshift.name, source):
        raise RestoreRefused(
            f"{target} is the name of the platform's warehouse: what is restored gets another name, and is given that "
            "one by hand when it was checked (include/runbooks/redshift_restore.md)"
        )
    found = _find(client, settings, target)
    if found is not None and found.tags.get(RESTORE_TAG) != mark:
        raise RestoreRefused(f"{target} exists already ({found.status}); choose another name, nothing is overwritten")


def _choose(found: Sequence[Snapshot], wanted: str | None, source: str) -> Snapshot:
    if wanted is None:
        usable = [item for item in found if item.is_usable]
        if not usable:
            raise RestoreRefused(f"{source} has no usable snapshot")
        return usable[-1]
    for item in found:
        if item.id == wanted:
            if not item.is_usable:
                raise RestoreRefused(f"snapshot {wanted} of {source} is {item.status}, so it cannot be restored")
            return item
    newest = ", ".join(item.id for item in found[-5:][::-1])
    raise RestoreRefused(f"{source} has no snapshot {wanted}; the newest are {newest or 'none'}")


# --- carry out --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """The new cluster, or the new workgroup and its namespace."""

    status: str
    created_at: datetime
    tags: Mapping[str, str]
    host: str | None = None
    port: int | None = None


def advance(client: Any, plan: RestorePlan, limit: timedelta, now: datetime) -> Progress:
    """Do the next step, if there is one, and say how far it is. Call it until `done`.

    The first call makes the new cluster; one that this run has made already is adopted.

    :param limit: since the plan; what is not available by then has failed.
    :raises RestoreFailed: it will not become available. What exists, and how it is removed, is said.
    """
    try:
        if isinstance(plan.settings, WorkgroupSettings):
            progress = _advance_workgroup(client, plan, plan.settings)
        else:
            progress = _advance_cluster(client, plan, plan.settings)
    except (ApiRefused, NotThere, TakenName) as error:
        raise RestoreFailed(f"{error}. {left_behind(client, plan)}") from None
    if progress.done:
        return progress
    if progress.status in FAILED:
        raise RestoreFailed(
            f"{plan.target} is {progress.status}: it does not become available. {left_behind(client, plan)}"
        )
    if now - plan.planned_at > limit:
        raise RestoreFailed(
            f"{plan.target} is still {progress.status} after {duration_text(limit)}, the longest that a restore may "
            f"take (snapshots.restore_timeout). {left_behind(client, plan)}"
        )
    return progress


def left_behind(client: Any, plan: RestorePlan) -> str:
    """What a restore has made so far, and how to go on or to remove it."""
    try:
        found = _find(client, plan.settings, plan.target)
        namespace = isinstance(plan.settings, WorkgroupSettings) and _find_namespace(client, plan.target)
    except Exception as error:  # the first error is the one that counts
        return f"Whether {plan.target} exists is unknown ({type(error).__name__}): look in the console"
    where = f"--region {plan.region}"
    if isinstance(plan.settings, ClusterSettings):
        if found is None:
            return "Nothing was made"
        remove = f"aws redshift delete-cluster --cluster-identifier {plan.target} --skip-final-cluster-snapshot {where}"
    else:
        commands = [f"aws redshift-serverless delete-workgroup --workgroup-name {plan.target} {where}"] if found else []
        commands += (
            [f"aws redshift-serverless delete-namespace --namespace-name {plan.target} {where}"] if namespace else []
        )
        if not commands:
            return "Nothing was made"
        remove = "; ".join(commands)
    status = found.status if found else "without a workgroup"
    there = f"{plan.target} exists ({status}) and is paid for"
    return f"{there}: clear the failed task to go on with it, or remove it: {remove}"


def _our_tags(plan: RestorePlan) -> dict[str, str]:
    return tags_of(plan.platform, plan.run, plan.reason) | {RESTORE_TAG: plan.mark}


def _find(client: Any, settings: Settings, target: str) -> _Found | None:
    if isinstance(settings, WorkgroupSettings):
        return _find_workgroup(client, target)
    try:
        with calls(f"describe cluster {target}"):
            found = client.describe_clusters(ClusterIdentifier=target)["Clusters"][0]
    except NotThere:
        return None
    endpoint = found.get("Endpoint") or {}
    return _Found(
        status=str(found["ClusterStatus"]).partition(",")[0],  # "available, prep-for-resize"
        created_at=found.get("ClusterCreateTime", datetime.now(UTC)).astimezone(UTC),  # none while it is created
        tags=as_dict(found.get("Tags")),
        host=endpoint.get("Address"),
        port=endpoint.get("Port"),
    )


def _advance_cluster(client: Any, plan: RestorePlan, settings: ClusterSettings) -> Progress:
    found = _find(client, settings, plan.target)
    if found is None:
        with calls(f"restore snapshot {plan.snapshot} to cluster {plan.target}"):
            client.restore_from_cluster_snapshot(**_cluster_request(plan, settings))
        _tag_cluster(client, plan)
        return Progress(False, "creating")
    if found.tags.get(RESTORE_TAG) != plan.mark:
        # A restore takes no tags, so a try that was killed right after it has left none. The name was free when the
        # plan was made: what came since is what this run asked for.
        if RESTORE_TAG in found.tags or found.created_at < plan.planned_at - CLOCK_SKEW:
            raise TakenName(f"restore to cluster {plan.target}: it is not what this run has made, so it is left alone")
        _tag_cluster(client, plan)
    done = found.status == "available" and found.host is not None
    return Progress(done, found.status, found.host, found.port)


def _cluster_request(plan: RestorePlan, settings: ClusterSettings) -> dict[str, Any]:
    words = {
        "ClusterIdentifier": plan.target,
        "SnapshotIdentifier": plan.snapshot,
        "SnapshotClusterIdentifier": plan.source,
        "NodeType": settings.node_type,
        "NumberOfNodes": settings.nodes,
        "Port": settings.port,
        "ClusterSubnetGroupName": settings.subnet_group,
        "VpcSecurityGroupIds": list(settings.security_groups),
        "ClusterParameterGroupName": settings.parameter_group,
        "IamRoles": list(settings.iam_roles),
        "DefaultIamRoleArn": settings.default_iam_role,
        "PubliclyAccessible": settings.publicly_accessible,
        "EnhancedVpcRouting": settings.enhanced_vpc_routing,
        "Encrypted": settings.encrypted or None,  # an encrypted snapshot stays encrypted; false would ask to undo it
        "KmsKeyId": settings.kms_key,
        "MaintenanceTrackName": settings.maintenance_track,
        "MultiAZ": settings.multi_az or None,
    }
    return {name: value for name, value in words.items() if value not in (None, [])}


def _tag_cluster(client: Any, plan: RestorePlan) -> None:
    partition, _, region, account = plan.snapshot_arn.split(":")[1:5]
    arn = f"arn:{partition}:redshift:{region}:{account}:cluster:{plan.target}"
    with calls(f"tag cluster {plan.target}"):
        client.create_tags(ResourceName=arn, Tags=as_list(_our_tags(plan)))


# --- Serverless -------------------------------------------------------------------------------------------


def _find_namespace(client: Any, name: str) -> dict[str, Any] | None:
    try:
        with calls(f"describe namespace {name}"):
            found: dict[str, Any] = client.get_namespace(namespaceName=name)["namespace"]
            tags = client.list_tags_for_resource(resourceArn=found["namespaceArn"])["tags"]
    except NotThere:
        return None
    return found | {"tags": as_dict(tags)}


def _find_workgroup(client: Any, name: str) -> _Found | None:
    try:
        with calls(f"describe workgroup {name}"):
            found = client.get_workgroup(workgroupName=name)["workgroup"]
            tags = client.list_tags_for_resource(resourceArn=found["workgroupArn"])["tags"]
    except NotThere:
        return None
    endpoint = found.get("endpoint") or {}
    created = found["creationDate"].astimezone(UTC)
    return _Found(found["status"].lower(), created, as_dict(tags), endpoint.get("address"), endpoint.get("port"))


def _advance_workgroup(client: Any, plan: RestorePlan, settings: WorkgroupSettings) -> Progress:
    """Namespace, workgroup, then the data into them: a step a call, each once."""
    tags = as_list(_our_tags(plan), lower=True)
    namespace = _find_namespace(client, plan.target)
    if namespace is None:
        words = {
            "namespaceName": plan.target,
            "dbName": settings.database,
            "iamRoles": list(settings.iam_roles),
            "defaultIamRoleArn": settings.default_iam_role,
            "kmsKeyId": settings.kms_key,
            "tags": tags,
        }
        with calls(f"create namespace {plan.target}"):
            client.create_namespace(**{name: value for name, value in words.items() if value not in (None, [])})
        return Progress(False, "creating")
    if namespace["tags"].get(RESTORE_TAG) != plan.mark:
        raise TakenName(f"restore to namespace {plan.target}: it is not what this run has made, so it is left alone")
    workgroup = _find_workgroup(client, plan.target)
    if workgroup is None:
        more: dict[str, Any] = {
            "workgroupName": plan.target,
            "namespaceName": plan.target,
            "baseCapacity": settings.base_capacity,
            "maxCapacity": settings.max_capacity,
            "port": settings.port,
            "subnetIds": list(settings.subnets),
            "securityGroupIds": list(settings.security_groups),
            "configParameters": [
                {"parameterKey": name, "parameterValue": value} for name, value in settings.parameters.items()
            ],
            "publiclyAccessible": settings.publicly_accessible,
            "enhancedVpcRouting": settings.enhanced_vpc_routing,
            "tags": tags,
        }
        with calls(f"create workgroup {plan.target}"):
            client.create_workgroup(**{name: value for name, value in more.items() if value not in (None, [])})
        return Progress(False, "creating")
    if workgroup.status != "available" or namespace["status"].lower() != "available":
        busy = workgroup.status if workgroup.status != "available" else namespace["status"].lower()
        return Progress(False, busy)
    if namespace["tags"].get("dbops-restored-from") != plan.snapshot:
        _begin_data(client, plan)
        with calls(f"tag namespace {plan.target}"):
            # Killed before this, the next try restores the same snapshot once more.
            client.tag_resource(
                resourceArn=namespace["namespaceArn"], tags=as_list({"dbops-restored-from": plan.snapshot}, lower=True)
            )
        return Progress(False, "restoring")
    return Progress(workgroup.host is not None, "available", workgroup.host, workgroup.port)


def _begin_data(client: Any, plan: RestorePlan) -> None:
    """Overwrites the namespace, which this run has made."""
    place = {"namespaceName": plan.target, "workgroupName": plan.target}
    with calls(f"restore {plan.snapshot} to namespace {plan.target}"):
        if plan.is_recovery_point:
            client.restore_from_recovery_point(recoveryPointId=plan.snapshot, **place)
        else:
            client.restore_from_snapshot(snapshotName=plan.snapshot, **place)


# --- check ------------------------------------------------------------------------------------------------


def connection_to(info: ConnectionInfo, plan: RestorePlan, progress: Progress) -> ConnectionInfo:
    """The connection of the source, leading to the new cluster: logins are part of a snapshot."""
    extra = dict(info.extra)
    for name in ("cluster_identifier", "workgroup_name", "serverless_work_group"):
        if extra.get(name):
            extra[name] = plan.target
    return replace(info, host=progress.host, port=progress.port, extra=extra)


def count_restored(info: ConnectionInfo, redshift: Redshift, plan: RestorePlan, progress: Progress) -> Figures:
    """Count in the new cluster the days before the snapshot.

    :param info: the connection of the source.
    """
    return _count(connection_to(info, plan, progress), redshift, plan)


def count_reference(
    ledger: Engine | None, info: ConnectionInfo, redshift: Redshift, plan: RestorePlan
) -> tuple[Figures, str] | None:
    """The same of the source, and where it is from: counted there now, else as the ledger has it; None: nowhere."""
    from dbops.ledger import newest_check

    try:
        return _count(info, redshift, plan), f"{redshift.name}, counted now"
    except DbopsError:
        found = newest_check(ledger, FIGURES, redshift.name) if ledger is not None else None
    if found is None:
        return None
    return read_figures(found[1]), f"{redshift.name}, as the ledger had it {found[0]:%FT%TZ}"


def _count(info: ConnectionInfo, redshift: Redshift, plan: RestorePlan) -> Figures:
    until = plan.snapshot_at.date()
    session = open_session(info)
    try:
        return count_days(
            session, redshift.archive.tables, until - timedelta(days=redshift.snapshots.check_days), until
        )
    finally:
        session.close()


class Step(Document):
    name: str
    seconds: float


class RestoreReport(Document):
    """What came of a restore."""

    target: str
    host: str | None
    port: int | None
    snapshot: str
    snapshot_at: Utc
    compared_with: str
    compared_days: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    steps: tuple[Step, ...]
    seconds: float
    """From asking for it to checked data: the time to recovery."""
    rto_seconds: float
    finished_at: Utc

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def in_time(self) -> bool:
        return self.seconds <= self.rto_seconds


def report_restore(
    plan: RestorePlan,
    progress: Progress,
    redshift: Redshift,
    restored: Figures,
    reference: tuple[Figures, str] | None,
    *,
    available_at: datetime,
    rto: timedelta,
    now: datetime,
) -> RestoreReport:
    """Compare the new cluster with the source's figures and put the times together.

    :param restored: counted in the new cluster.
    :param reference: of the source, and where they are from; None: there are none.
    :param available_at: when the new cluster was seen to be available.
    """
    found: Comparison = compare(
        restored,
        reference[0] if reference else None,
        redshift.archive.tables,
        plan.snapshot_at.date(),
        redshift.snapshots.tolerance,
    )
    moments = (plan.asked_at, plan.planned_at, available_at, now)
    names = ("decide", "restore", "check")
    steps = [
        Step(name=name, seconds=round((end - start).total_seconds(), 3))
        for name, start, end in zip(names, moments, moments[1:], strict=False)
    ]
    return RestoreReport(
        target=plan.target,
        host=progress.host,
        port=progress.port,
        snapshot=plan.snapshot,
        snapshot_at=plan.snapshot_at,
        compared_with=reference[1] if reference else "nothing",
        compared_days=found.days,
        problems=found.problems,
        notes=found.notes,
        steps=tuple(steps),
        seconds=round((now - plan.asked_at).total_seconds(), 3),
        rto_seconds=rto.total_seconds(),
        finished_at=now,
    )
