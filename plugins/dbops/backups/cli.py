"""`dbops backup ...`: take, adopt, list, show, verify, pin and expire backups, with Airflow up or down."""

from __future__ import annotations

import getpass
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dbops.connections import ConnectionMissing, from_env
from dbops.errors import ConfigurationError, DbopsError
from dbops.platform import SCRATCH, AerospikeCluster, Platform, Scratch, duration_text, load_platform

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from dbops.aerospike.backup import Progress
    from dbops.aerospike.cluster import Access
    from dbops.backups.catalog import RestorePoint
    from dbops.backups.cipher import Keys
    from dbops.backups.expire import ExpiryPlan, PlanItem
    from dbops.backups.store import Store

app = typer.Typer(help="Take, adopt, list, show, verify, pin and expire backups.", no_args_is_help=True)

Cluster = Annotated[str, typer.Argument(help="Cluster of the platform file, for example eu.")]
NamespaceName = Annotated[str, typer.Argument(help="Namespace of the cluster.")]
Point = Annotated[str, typer.Argument(help="Its id, from `dbops backup list`.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]

errors = Console(stderr=True, highlight=False)


@app.command()
def run(
    cluster: Cluster,
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", help="Only this one; may be repeated. Default: all."),
    ] = None,
    kind: Annotated[str, typer.Option(help="full or incremental. An incremental without a full becomes one.")] = "full",
    slices: Annotated[
        int | None, typer.Option(min=1, max=256, help="Parts per namespace; default: the platform's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, read nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Back up namespaces of a cluster to the platform's bucket.

    Exit codes: 0 every namespace is committed; 1 one is not; 2 wrong usage or configuration.
    """
    from dbops.aerospike.backup import plan_backup, release_lease, run_backup
    from dbops.backups import catalog
    from dbops.backups.manifest import Kind
    from dbops.ledger import record_restore_point

    if kind not in list(Kind):
        raise typer.BadParameter(f"{kind!r} is neither full nor incremental", param_hint="--kind")
    platform = load_platform()
    there = platform.aerospike.cluster(cluster)
    wanted = [there.namespace(name) for name in namespace] if namespace else list(there.namespaces)
    store, access, keys = open_bucket(platform), _cluster_access(there), open_keys(platform)
    ledger = open_ledger(platform)
    holder = f"dbops backup run on {socket.gethostname()}, pid {os.getpid()}, {uuid.uuid4().hex[:8]}"
    done: list[dict[str, Any]] = []
    failed = False
    for place in wanted:
        try:
            plan = plan_backup(
                platform, there, place, Kind(kind), access, store, holder=holder, slices=slices, keys=keys
            )
            if dry_run:
                release_lease(store, plan)
                done.append(plan.model_dump(mode="json", exclude={"slices"}) | {"slices": len(plan.slices)})
                continue
            with progress_bars(f"{cluster}/{place.name}", as_json) as show:
                manifest = run_backup(access, store, plan, workers=there.workers, keys=keys, on_progress=show)
        except DbopsError as problem:
            failed = True
            errors.print(f"[red]{cluster}/{place.name} failed:[/] {escape(str(problem))}")
            done.append({"namespace": place.name, "error": str(problem)})
            continue
        location = f"{store.url}/{manifest.prefix}"
        if ledger is not None:
            try:
                record_restore_point(ledger, manifest, location, catalog.manifest_sha256(manifest))
            except DbopsError as problem:
                errors.print(f"[yellow]not in the ledger[/] (`dbops ledger rebuild` later): {escape(str(problem))}")
        done.append({
            "namespace": place.name,
            "id": manifest.id,
            "records": manifest.records,
            "deleted": manifest.deleted,
            "stored_bytes": manifest.stored_bytes,
            "seconds": round(manifest.duration.total_seconds(), 3),
            "location": location,
        })
    if as_json:
        typer.echo(json.dumps(done, indent=2))
    else:
        print_rows(f"{'Planned' if dry_run else 'Backups'} of {cluster}", done)
    if failed:
        raise typer.Exit(1)


@app.command()
def adopt(
    cluster: Cluster,
    namespace: NamespaceName,
    source: Annotated[
        str, typer.Argument(help="Folder of .asb files, or one file: a path, or s3://bucket/prefix (by `storage`).")
    ],
    snapshot_at: Annotated[
        str,
        typer.Option(
            "--snapshot-at", help="When that backup began, with time zone, as 2026-11-24T06:00:00Z. No file says it."
        ),
    ],
    records: Annotated[
        int | None,
        typer.Option(min=0, help="How many records its log says: the files must hold as many."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a full backup that asbackup or absctl wrote as a restore point: copied, read, counted, committed.

    The files must be those of one full backup of the whole namespace (no --set, no --modified-after, ...): nothing in
    them says so. Compressed or encrypted ones are recognised; the key is one of `storage.encryption`.

    Exit codes: 0 it is committed; 1 it is not, and nothing is left of it; 2 wrong usage or configuration.
    """
    from dbops.aerospike.adopt import adopt as adopt_files
    from dbops.aerospike.adopt import find_files
    from dbops.backups import catalog
    from dbops.ledger import record_restore_point

    at = point_in_time(snapshot_at, "--snapshot-at")
    platform = load_platform()
    there = platform.aerospike.cluster(cluster)
    place = there.namespace(namespace)
    store, keys, ledger = open_bucket(platform), open_keys(platform), open_ledger(platform)
    connection = from_env(platform.storage.connection) if source.startswith("s3://") else None
    files = find_files(source, connection, platform.storage.region)
    for warning in files.warnings:
        errors.print(f"[yellow]mind:[/] {escape(warning)}")
    with progress_bars(f"{cluster}/{namespace}", as_json) as show:
        manifest = adopt_files(
            store,
            cluster,
            namespace,
            files,
            snapshot_at=at,
            holder=f"dbops backup adopt by {_who()}, pid {os.getpid()}, {uuid.uuid4().hex[:8]}",
            platform_sha256=platform.sha256,
            workers=there.workers,
            records=records,
            keys=keys,
            on_progress=show,
        )
    location = f"{store.url}/{manifest.prefix}"
    if ledger is not None:
        try:
            record_restore_point(ledger, manifest, location, catalog.manifest_sha256(manifest))
        except DbopsError as problem:
            errors.print(f"[yellow]not in the ledger[/] (`dbops ledger rebuild` later): {escape(str(problem))}")
    if datetime.now(UTC) - manifest.snapshot_at > place.retention.full:
        errors.print(
            f"[yellow]mind:[/] it is older than full backups are kept ({duration_text(place.retention.full)}): "
            "`dbops backup pin` it, or the next retention may let it go"
        )
    done = {
        "namespace": namespace,
        "id": manifest.id,
        "files": len(manifest.objects),
        "records": manifest.records,
        "indexes": manifest.indexes,
        "udfs": manifest.udfs,
        "stored_bytes": manifest.stored_bytes,
        "seconds": round(manifest.duration.total_seconds(), 3),
        "location": location,
    }
    if as_json:
        typer.echo(json.dumps(done, indent=2))
    else:
        print_rows(f"Adopted by {cluster}", [done])


@app.command(name="list")
def list_points(
    cluster: Annotated[str | None, typer.Argument(help="Default: every cluster.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only this one.")] = None,
    as_json: Json = False,
) -> None:
    """List restore points, the newest last, with whether each can be restored."""
    from dbops.backups import catalog
    from dbops.backups.in_use import pins

    platform = load_platform()
    store = open_bucket(platform)
    rows = []
    for name, place in places(platform, cluster, namespace):
        points = catalog.restore_points(store, name, place)
        pinned = pins(store, name, place, [point.id for point in points])
        rows += [
            _row(point, catalog.why_not_restorable(points, point.id)) | {"pinned": pinned.get(point.id)}
            for point in points
        ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        row["verified"] = {None: "not yet", True: "yes", False: "DAMAGED"}[row["verified"]]
        row["restorable"] = "yes" if row.pop("why_not") is None else "no"
    print_rows("Restore points", rows)


@app.command()
def rpo(
    cluster: Annotated[str | None, typer.Argument(help="Default: every cluster.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only this one.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the age of the newest restorable point of each namespace with its RPO.

    Restorable is what was read back whole, together with all that it builds on.
    Exit codes: 0 every RPO is kept; 1 one is exceeded, or there is no restorable point; 2 none is known to be, but one
    could not be looked at; also wrong usage or configuration.
    """
    from dbops.backups.rpo import MOST_NAMED, State, age_text, measure

    platform = load_platform()
    found = measure(open_bucket(platform), platform, places(platform, cluster, namespace))
    rows = [
        {
            "cluster": one.cluster,
            "namespace": one.namespace,
            "state": one.state,
            "point": one.point,
            "age_seconds": round(one.age.total_seconds()) if one.age is not None else None,
            "rpo_seconds": round(one.rpo.total_seconds()),
            "newer": dict(one.newer),
            "error": str(one.error) if one.error else None,
        }
        for one in found
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_rows(
            "Newest restorable points",
            [
                {
                    "namespace": one.target,
                    "newest restorable point": one.point,
                    "age": age_text(one.age) if one.age is not None else None,
                    "RPO": duration_text(one.rpo),
                    "state": one.state if one.state is State.KEPT else one.state.upper(),
                }
                for one in found
            ],
        )
        for one in found:
            for id, why in list(one.newer.items())[:MOST_NAMED]:
                errors.print(f"[yellow]{one.target}:[/] {escape(f'{id}: {why}')}")
            if one.error:
                errors.print(f"[red]{one.target}:[/] {escape(str(one.error))}")
    states = {one.state for one in found}
    if states & {State.EXCEEDED, State.NEVER}:
        raise typer.Exit(1)
    if State.UNKNOWN in states:
        raise typer.Exit(2)


@app.command()
def show(
    cluster: Cluster,
    namespace: NamespaceName,
    point: Point,
    as_json: Json = False,
) -> None:
    """Show one restore point: what it holds, what it builds on, its objects."""
    from dbops.backups import catalog

    platform = load_platform()
    there = platform.aerospike.cluster(cluster)
    store = open_bucket(platform)
    points = catalog.restore_points(store, there.name, there.namespace(namespace).name)
    found = catalog.find(store, cluster, namespace, point)
    manifest = found.manifest
    document = manifest.model_dump(
        mode="json",
        exclude={"partition_counts", "partition_fingerprints", "inventory_counts", "deleted_counts"},
    )
    document["verified"] = found.verified.model_dump(mode="json") if found.verified else None
    document["why_not_restorable"] = catalog.why_not_restorable(points, point)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    objects = document.pop("objects")
    console = Console(highlight=False)
    facts = Table.grid(padding=(0, 2))
    for key, value in document.items():
        facts.add_row(key, escape(str(value)))
    console.print(facts)
    print_rows(
        "\nObjects",
        [{key: entry[key] for key in ("name", "role", "size", "records", "sha256")} for entry in objects],
    )


@app.command()
def verify(
    cluster: Annotated[str | None, typer.Argument(help="Default: every cluster.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only this one.")] = None,
    point: Annotated[str | None, typer.Option("--id", help="Only this restore point.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were found whole before.")] = False,
    as_json: Json = False,
) -> None:
    """Read restore points back and compare them with their manifests, without a database.

    What is encrypted is decrypted for that, when its key is known here; else only sizes and SHA-256 are compared.
    Exit codes: 0 all that was read is whole; 1 something is damaged, or is encrypted with another key.
    """
    from dbops.backups import catalog
    from dbops.backups.cipher import NO_KEYS, WrongKey
    from dbops.backups.verify import verify as verify_point
    from dbops.ledger import record_verification

    platform = load_platform()
    store, ledger = open_bucket(platform), open_ledger(platform)
    try:
        keys = open_keys(platform)
    except ConnectionMissing as problem:
        errors.print(f"[yellow]without the backup key:[/] {escape(str(problem))}")
        keys = NO_KEYS
    rows: list[dict[str, Any]] = []
    wrong_key = False
    for name, place in places(platform, cluster, namespace):
        for found in catalog.restore_points(store, name, place):
            if (point and found.id != point) or (found.verified and found.verified.ok and not everything and not point):
                continue
            if not as_json:
                errors.print(f"reading {name}/{place} {found.id} ...")
            report = verify_point(store, found, keys=keys)
            wrong_key |= isinstance(report.unread, WrongKey)
            if ledger is not None and report.conclusive:
                try:
                    record_verification(
                        ledger, name, place, found.id, at=report.at, ok=report.ok, problems=report.problems
                    )
                except DbopsError as problem:
                    errors.print(f"[yellow]not in the ledger:[/] {escape(str(problem))}")
            rows.append({
                "point": f"{name}/{place} {found.id}",
                "ok": report.ok,
                "objects": report.objects,
                "records": report.records,
                "bytes": report.bytes,
                "seconds": round(report.seconds, 3),
                "problems": report.problems,
                "warnings": report.warnings,
            })
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_rows("Verified", rows)
        if not rows:
            errors.print("nothing to verify: every restore point was read back already (--all reads them again)")
    if wrong_key or not all(row["ok"] for row in rows):
        raise typer.Exit(1)


@app.command()
def pin(
    cluster: Cluster,
    namespace: NamespaceName,
    point: Point,
    reason: Annotated[str, typer.Option(help="Why it has to stay; people will read it.")],
) -> None:
    """Keep a restore point, and all that it builds on, until it is unpinned.

    Exit codes: 0 it is pinned; 1 there is no such restore point; 2 wrong usage or configuration.
    """
    from dbops.backups import in_use

    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    platform = load_platform()
    platform.aerospike.cluster(cluster).namespace(namespace)
    found = in_use.pin(open_bucket(platform), cluster, namespace, point, by=_who(), reason=reason.strip())
    typer.echo(f"{cluster}/{namespace} {point} is pinned {found}")


@app.command()
def unpin(cluster: Cluster, namespace: NamespaceName, point: Point) -> None:
    """Let a restore point expire as others do.

    Exit codes: 0 it is not pinned any more, or was not; 1 there is no such restore point; 2 wrong usage or
    configuration.
    """
    from dbops.backups import in_use

    platform = load_platform()
    platform.aerospike.cluster(cluster).namespace(namespace)
    was = in_use.unpin(open_bucket(platform), cluster, namespace, point)
    typer.echo(f"{cluster}/{namespace} {point} {'is not pinned any more' if was else 'was not pinned'}")


@app.command()
def retention(
    cluster: Annotated[str | None, typer.Argument(help="Default: every cluster.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only this one.")] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Show what would expire, what stays, and why; delete nothing.")
    ] = False,
    confirmation: Annotated[
        str | None,
        typer.Option("--yes", help="The text that would have to be typed, for use in scripts. Another text: nothing."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Expire restore points that are kept long enough, after a typed confirmation, and sweep up what is left over.

    Exit codes: 0 done, or nothing to do; 1 something was not deleted, or not confirmed; 2 wrong usage or configuration.
    """
    from dbops.backups.expire import plan_namespace

    if as_json and not plan_only and confirmation is None:
        raise typer.BadParameter("asks nothing: add --plan, or --yes with the text", param_hint="--json")
    platform = load_platform()
    store, holder = (
        open_bucket(platform),
        f"dbops backup retention by {_who()}, pid {os.getpid()}, {uuid.uuid4().hex[:8]}",
    )
    plans = [
        plan_namespace(
            store, name, place, platform.aerospike.cluster(name).namespace(place).retention, by=f"dbops, {_who()}"
        )
        for name, place in places(platform, cluster, namespace)
    ]
    done: list[dict[str, Any]] = [{"plan": plan.model_dump(mode="json")} for plan in plans]
    if not as_json:
        print_rows("Restore points", [_plan_row(plan.name, item) for plan in plans for item in plan.items])
        for plan in plans:
            if plan.approval:
                errors.print(f"[yellow]{plan.name}:[/] {escape(plan.approval)}")
    failed = False
    if not plan_only:
        _confirm(plans, confirmation)
        ledger = open_ledger(platform)
        for plan, row in zip(plans, done, strict=True):
            grace = platform.aerospike.cluster(plan.cluster).namespace(plan.namespace).retention.grace
            try:
                row |= _expire(store, ledger, plan, holder, grace, quiet=as_json)
            except DbopsError as problem:
                row["error"] = str(problem)
                errors.print(f"[red]{plan.name}:[/] {escape(str(problem))}")
            failed = failed or bool(row.get("error") or row.get("failed"))
        for text in _sweep_restores(store, platform):
            errors.print(f"[red]restores:[/] {escape(text)}")
            failed = True
    if as_json:
        typer.echo(json.dumps(done, indent=2))
    if failed:
        raise typer.Exit(1)


def _plan_row(name: str, item: PlanItem) -> dict[str, Any]:
    return {
        "namespace": name,
        "id": item.id,
        "stored_bytes": item.stored_bytes,
        "what": "stays" if item.keep else "EXPIRES",
        "why": item.reason,
    }


def _confirm(plans: list[ExpiryPlan], given: str | None) -> None:
    """A person, or a script that knows the number, agrees to what is about to be deleted.

    :raises Exit: not so; nothing was deleted.
    """
    count = sum(len(plan.expire) for plan in plans)
    if not count:
        return
    many = "mass " if any(plan.approval for plan in plans) else ""
    wanted = f"{many}expire {count} restore point{'s' if count > 1 else ''}"
    if given is None:
        try:
            given = typer.prompt(f"Type '{wanted}' to go on", err=True, default="", show_default=False)
        except typer.Abort:
            given = ""
        if given != wanted:
            errors.print("not confirmed: nothing was deleted")
            raise typer.Exit(1)
    elif given != wanted:
        raise ConfigurationError(f"--yes is {given!r}, the plan asks for {wanted!r}: nothing was deleted")


def _expire(
    store: Store, ledger: Engine | None, plan: ExpiryPlan, holder: str, grace: timedelta, *, quiet: bool
) -> dict[str, Any]:
    """Carry out what was confirmed, then sweep."""
    from dbops.backups.expire import expire, store_plan, sweep
    from dbops.ledger import record_expiry

    unwritten: list[DbopsError] = []
    key = store_plan(store, plan) if plan.expire else ""

    def remember(item: PlanItem, outcome: Any, message: str) -> None:
        if not quiet:
            errors.print(f"{plan.name} {item.id}: {escape('expired' if outcome == 'done' else message)}")
        if ledger is None or unwritten:
            return
        try:
            record_expiry(
                ledger,
                plan.cluster,
                plan.namespace,
                item.id,
                run=holder,
                at=datetime.now(UTC),
                outcome=outcome,
                message=message,
                details={"plan": f"{store.url}/{key}", "stored_bytes": item.stored_bytes},
            )
        except DbopsError as problem:
            unwritten.append(problem)
            errors.print(f"[yellow]not in the ledger[/] (`dbops ledger rebuild` later): {escape(str(problem))}")

    result: dict[str, Any] = {}
    if plan.expire:
        outcome = expire(store, plan, key, holder=holder, approved=True, on_point=remember)
        result = asdict(outcome)
    swept = asdict(sweep(store, plan.cluster, plan.namespace, grace, holder=holder))
    result["failed"] = {**result.get("failed", {}), **swept.pop("failed")}
    return result | {"stored_as": key or None, "swept": swept}


def _sweep_restores(store: Store, platform: Platform) -> list[str]:
    """What went wrong."""
    from dbops.backups.restores import sweep_restores

    policies = [platform.aerospike.cluster(name).namespace(place).retention for name, place in places(platform)]
    try:
        return [f"{id}: {why}" for id, why in sweep_restores(store, policies)[1].items()]
    except DbopsError as problem:
        return [str(problem)]


# ------------------------------------------------------------------------------ parts


def point_in_time(text: str, option: str) -> datetime:
    """:raises BadParameter: it is no time, or one without a time zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write it as 2026-11-24T06:00:00Z", param_hint=option) from None
    if found.tzinfo is None:
        raise typer.BadParameter("has no time zone: add Z or an offset such as +02:00", param_hint=option)
    return found.astimezone(UTC)


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"


def open_bucket(platform: Platform) -> Store:
    from dbops.backups.store import open_store

    return open_store(platform.storage, from_env(platform.storage.connection))


def open_keys(platform: Platform) -> Keys:
    from dbops.backups.keys import load_keys

    return load_keys(platform.storage, from_env)


def _cluster_access(cluster: AerospikeCluster | Scratch) -> Access:
    from dbops.aerospike.cluster import Access

    try:
        connection = from_env(cluster.connection)
    except ConnectionMissing:
        if not cluster.seeds:
            raise
        connection = None  # the seeds are enough for a cluster without users
    name = cluster.name if isinstance(cluster, AerospikeCluster) else SCRATCH
    return Access.of(name, cluster.seeds, connection)


def open_access(platform: Platform, name: str) -> Access:
    """Address and login of a cluster of the platform, or of its scratch cluster."""
    if name != SCRATCH:
        return _cluster_access(platform.aerospike.cluster(name))
    if platform.aerospike.scratch is None:
        raise ConfigurationError(f"platform {platform.name} has no aerospike.scratch: name a cluster for drills there")
    return _cluster_access(platform.aerospike.scratch)


def open_ledger(platform: Platform) -> Engine | None:
    from dbops.ledger import connect

    try:
        return connect(from_env(platform.ledger_connection))
    except ConnectionMissing as problem:
        errors.print(f"[yellow]without the ledger:[/] {escape(str(problem))}")
        return None


def places(platform: Platform, cluster: str | None = None, namespace: str | None = None) -> list[tuple[str, str]]:
    clusters = [platform.aerospike.cluster(cluster)] if cluster else list(platform.aerospike.clusters)
    return [
        (there.name, place.name)
        for there in clusters
        for place in ([there.namespace(namespace)] if namespace else there.namespaces)
    ]


def _row(point: RestorePoint, why_not: str | None) -> dict[str, Any]:
    manifest = None if point.damage else point.manifest
    return {
        "cluster": point.cluster,
        "namespace": point.namespace,
        "id": point.id,
        "age": duration_text(datetime.now(UTC).replace(microsecond=0) - point.snapshot_at),
        "records": manifest.records if manifest else None,
        "deleted": manifest.deleted if manifest else None,
        "stored_bytes": manifest.stored_bytes if manifest else None,
        "verified": point.verified.ok if point.verified else None,
        "restorable": why_not is None,
        "why_not": why_not,
    }


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        number = any(isinstance(row.get(column), int | float) and not isinstance(row.get(column), bool) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(row.get(column))) for column in columns))
    Console(highlight=False).print(table)


def _text(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


@contextmanager
def progress_bars(what: str, quiet: bool) -> Iterator[Any]:
    """A progress bar with records, MB, rate and time left, on stderr."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of about {task.total:,.0f} records"),
        TextColumn("{task.fields[stored]:.1f} MB"),
        TextColumn("{task.fields[rate]:,.0f} records/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=quiet,
    ) as bars:
        task = bars.add_task(what, total=1, stored=0.0, rate=0.0)

        def show(progress: Progress) -> None:
            elapsed = bars.tasks[0].elapsed or 0
            bars.update(
                task,
                completed=progress.records,
                total=max(progress.total, progress.records),
                stored=progress.stored_bytes / 1e6,
                rate=progress.records / elapsed if elapsed else 0,
            )

        yield show
