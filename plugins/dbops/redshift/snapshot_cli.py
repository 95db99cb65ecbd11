"""`dbops redshift snapshots|restore|access`: for the day Airflow is down."""

from __future__ import annotations

import getpass
import json
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dbops.backups.cli import open_ledger, print_rows
from dbops.connections import from_env
from dbops.errors import ConfigurationError, DbopsError
from dbops.platform import Platform, Redshift, duration_text, load_platform

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from dbops.redshift.restore_cluster import RestorePlan
    from dbops.redshift.snapshots import Snapshots

snapshots_app = typer.Typer(help="List, check, take and expire snapshots.", no_args_is_help=True)
restore_app = typer.Typer(help="Restore a snapshot to a new cluster.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
Reason = Annotated[str, typer.Option(help="Why; stands on what is made.")]
NewCluster = Annotated[str, typer.Argument(help="Name of the new cluster, or of the new workgroup and namespace.")]
SnapshotName = Annotated[str | None, typer.Option("--snapshot", help="Its name. Default: the newest usable one.")]

POLL_SECONDS = 15.0

errors = Console(stderr=True, highlight=False)


def _warehouse() -> tuple[Platform, Redshift]:
    platform = load_platform()
    if platform.redshift is None:
        raise ConfigurationError(f"platform {platform.name} has no section `redshift`: add it to its file")
    return platform, platform.redshift


def _open(redshift: Redshift) -> Snapshots:
    from dbops.redshift.snapshots import open_snapshots

    return open_snapshots(redshift, from_env(redshift.aws_connection))


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


# --- snapshots --------------------------------------------------------------------------------------------


@snapshots_app.command(name="list")
def list_snapshots(as_json: Json = False) -> None:
    """All snapshots of the warehouse, the newest first."""
    from dbops.redshift.snapshots import is_ours

    platform, redshift = _warehouse()
    rows = [
        {
            "snapshot": item.id,
            "kind": "recovery point" if item.is_recovery_point else item.kind,
            "created_at": f"{item.created_at:%FT%TZ}",
            "status": item.status,
            "ours": is_ours(item, platform.name),
            "megabytes": item.megabytes,
        }
        for item in reversed(_open(redshift).list())
    ]
    _show(f"Snapshots of {redshift.name}", rows, as_json)


@snapshots_app.command()
def check(as_json: Json = False) -> None:
    """Whether the newest usable snapshot is younger than `snapshots.max_age`.

    Exit codes: 0 it is; 1 it is not, or nobody could look.
    """
    from dbops.redshift.snapshots import check_age

    _, redshift = _warehouse()
    found = check_age(_open(redshift).list(), redshift.snapshots.max_age, datetime.now(UTC))
    age = None if found.age is None else duration_text(found.age)
    row = {
        "warehouse": redshift.name,
        "ok": found.ok,
        "newest": found.newest.id if found.newest else None,
        "age": age,
        "allowed": duration_text(redshift.snapshots.max_age),
        "message": found.message,
    }
    _show("Newest snapshot", [row], as_json)
    if not found.ok:
        raise typer.Exit(1)


@snapshots_app.command()
def take(
    reason: Reason,
    wait: Annotated[bool, typer.Option(help="Wait until it can be used.")] = True,
    minutes: Annotated[int, typer.Option(min=1, help="How long to wait at most.")] = 120,
    as_json: Json = False,
) -> None:
    """Take a manual snapshot. `redshift_snapshots` lets it go after `snapshots.keep`."""
    from dbops.redshift.api import tags_of
    from dbops.redshift.snapshots import begin_snapshot, snapshot_id, wait_for_snapshot

    platform, redshift = _warehouse()
    snapshots, run = _open(redshift), f"by-hand/{_who()} {datetime.now(UTC):%FT%TZ}"
    id, tags = snapshot_id(run, snapshots.source), tags_of(platform.name, run, reason)
    found = begin_snapshot(snapshots, id, tags)
    if wait and not found.is_usable:
        errors.print(f"{escape(id)} is {found.status} ...")
        found = wait_for_snapshot(snapshots, id, tags, timedelta(minutes=minutes), poll=POLL_SECONDS)
    _show("Taken", [{"snapshot": id, "status": found.status, "created_at": f"{found.created_at:%FT%TZ}"}], as_json)


@snapshots_app.command()
def expire(
    plan_only: Annotated[bool, typer.Option("--plan", help="Show what would go, and why; delete nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Let snapshots of ours go that are kept long enough; asks first.

    Exit codes: 0 done, or nothing to do; 1 some are still there, or it was not confirmed.
    """
    from dbops.redshift.snapshots import expire_snapshot, plan_snapshot_expiry

    platform, redshift = _warehouse()
    snapshots = _open(redshift)
    plan = plan_snapshot_expiry(
        snapshots.list(), platform.name, redshift.snapshots.keep, platform.retention, datetime.now(UTC)
    )
    rows: list[dict[str, Any]] = [
        {"snapshot": item.point.id, "goes": not item.keep, "reason": f"it {item.reason}"} for item in plan.decisions
    ]
    if plan_only or not plan.expire:
        _show(f"Snapshots of {snapshots.source}", rows, as_json)
        return
    print_rows(f"Snapshots of {snapshots.source}", [row for row in rows if row["goes"]])
    if plan.approval:
        errors.print(f"[yellow]{escape(plan.approval)}[/]")
    if typer.prompt(f"Type {snapshots.source} to delete these {len(plan.expire)}", default="") != snapshots.source:
        errors.print("nothing was deleted")
        raise typer.Exit(1)
    done = []
    for item in plan.expire:
        why = expire_snapshot(snapshots, item.point.id, item.point.snapshot_at, platform.name)
        done.append({"snapshot": item.point.id, "gone": why is None, "why_not": why})
    _show("Deleted", done, as_json)
    if not all(row["gone"] for row in done):
        raise typer.Exit(1)


# --- restore ----------------------------------------------------------------------------------------------


@restore_app.command(name="plan")
def show_plan(cluster: NewCluster, reason: Reason, snapshot: SnapshotName = None, as_json: Json = False) -> None:
    """What `run` would do; makes nothing."""
    plan = _plan(cluster, reason, snapshot)
    typer.echo(plan.model_dump_json(indent=2) if as_json else plan.describe())


@restore_app.command()
def run(
    cluster: NewCluster,
    reason: Reason,
    snapshot: SnapshotName = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Make the new cluster, wait for it, and compare what it holds. Interrupted, the same command goes on.

    Exit codes: 0 the data is as it should be; 1 it is not, or the cluster did not come; 2 refused.
    """
    from dbops.redshift.restore_cluster import advance, count_reference, count_restored, left_behind, report_restore

    platform, redshift = _warehouse()
    plan = _plan(cluster, reason, snapshot)
    errors.print(escape(plan.describe()))
    if not yes and not typer.confirm("Make it?"):
        raise typer.Exit(1)
    client, status = _client(redshift), ""
    while True:
        progress = advance(client, plan, redshift.snapshots.restore_timeout, datetime.now(UTC))
        if progress.status != status:
            status = progress.status
            errors.print(f"{datetime.now(UTC):%T} {escape(plan.target)} is {status}")
        if progress.done:
            break
        time.sleep(POLL_SECONDS)
    available_at, source = datetime.now(UTC), from_env(redshift.connection)
    report = report_restore(
        plan,
        progress,
        redshift,
        count_restored(source, redshift, plan, progress),
        count_reference(_ledger(platform), source, redshift, plan),
        available_at=available_at,
        rto=platform.objectives.redshift.rto,
        now=datetime.now(UTC),
    )
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        row = {
            "cluster": report.target,
            "address": f"{report.host}:{report.port}",
            "as_of": f"{report.snapshot_at:%FT%TZ}",
            "compared_with": report.compared_with,
            "days_compared": report.compared_days,
            "seconds": report.seconds,
            "in_time": report.in_time,
            "ok": report.ok,
        }
        print_rows("Restored", [row])
        for line in (*report.problems, *report.notes):
            typer.echo(line)
    if not report.ok:
        errors.print(escape(left_behind(client, plan)))
        raise typer.Exit(1)


def _ledger(platform: Platform) -> Engine | None:
    """The ledger, if it answers: a restore goes on without it."""
    from dbops.ledger import status

    ledger = open_ledger(platform)
    try:
        if ledger is not None:
            status(ledger)
    except DbopsError as problem:
        errors.print(f"[yellow]without the ledger:[/] {escape(str(problem))}")
        return None
    return ledger


def _client(redshift: Redshift) -> Any:
    from dbops.redshift.api import redshift_client

    return redshift_client(from_env(redshift.aws_connection), redshift.region, serverless=redshift.serverless)


def _plan(cluster: str, reason: str, snapshot: str | None) -> RestorePlan:
    from dbops.redshift.restore_cluster import WorkgroupSettings, known_settings, plan_restore
    from dbops.redshift.snapshots import open_snapshots

    platform, redshift = _warehouse()
    ledger = _ledger(platform)
    known = known_settings(ledger, redshift) if ledger is not None else None
    namespace = known[0].namespace if known and isinstance(known[0], WorkgroupSettings) else None
    return plan_restore(
        _client(redshift),
        open_snapshots(redshift, from_env(redshift.aws_connection), namespace),
        redshift,
        platform=platform.name,
        run=f"dbops redshift restore run/{cluster}",
        reason=reason,
        asked_at=datetime.now(UTC),
        snapshot=snapshot,
        target=cluster,
        known=known,
    )


# --- access -----------------------------------------------------------------------------------------------


def access(as_json: Json = False) -> None:
    """Compare users, groups, roles and grants with `redshift.access` of the platform file.

    Exit codes: 0 nothing goes beyond it; 1 something does, or this login does not see it.
    """
    from dbops.redshift.access import review_access
    from dbops.redshift.session import open_session

    _, redshift = _warehouse()
    session = open_session(from_env(redshift.connection))
    try:
        review = review_access(session, redshift.access, datetime.now(UTC))
    finally:
        session.close()
    rows = [{"who": item.who, "finding": item.text, "what_ends_it": item.fix} for item in review.findings]
    _show(f"Rights in {redshift.name} beyond the platform file", rows, as_json)
    for note in review.notes:
        errors.print(escape(note))
    if not rows and not as_json:
        typer.echo(f"none: {review.users} users, {review.groups} groups, {review.roles} roles")
    if rows:
        raise typer.Exit(1)


def _show(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        print_rows(title, rows)
