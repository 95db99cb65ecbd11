"""`dbops postgres backup ...`: exports, snapshots and drills, with Airflow up or down."""

from __future__ import annotations

import getpass
import json
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dbops.backups.cli import print_rows
from dbops.connections import from_env
from dbops.errors import ConfigurationError
from dbops.platform import Platform, Postgres, PostgresExports, PostgresRds, duration_text

if TYPE_CHECKING:
    from dbops.backups.cipher import Keys
    from dbops.backups.store import Store
    from dbops.postgres.exports import Export
    from dbops.postgres.rds import InstanceSnapshots

app = typer.Typer(help="Export, list, verify, drill, take snapshots, let old ones go.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
Name = Annotated[str, typer.Argument(help="Name of the export, as in `postgres.exports.sets`.")]
Id = Annotated[str | None, typer.Option("--id", help="Which one. Default: the newest.")]
POLL_SECONDS = 15.0

errors = Console(stderr=True, highlight=False)


def _instance() -> tuple[Platform, Postgres]:
    from dbops.postgres.cli import instance

    return instance()


def _exports() -> tuple[Platform, Postgres, PostgresExports]:
    platform, postgres = _instance()
    if postgres.exports is None:
        raise ConfigurationError(f"platform {platform.name} has no section `postgres.exports`: add it to its file")
    return platform, postgres, postgres.exports


def _rds() -> tuple[Platform, Postgres, PostgresRds]:
    platform, postgres = _instance()
    if postgres.rds is None:
        raise ConfigurationError(f"platform {platform.name} has no section `postgres.rds`: add it to its file")
    return platform, postgres, postgres.rds


def _store(platform: Platform) -> Store:
    from dbops.backups.store import open_store

    return open_store(platform.storage, from_env(platform.storage.connection))


def _keys(platform: Platform) -> Keys:
    from dbops.backups.keys import load_keys

    return load_keys(platform.storage, from_env)


def _run(what: str) -> str:
    return f"cli/{what} {getpass.getuser()}@{socket.gethostname()} {datetime.now(UTC):%FT%TZ}"


def _show(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        print_rows(title, rows)


def _note(platform: Platform, **words: Any) -> None:
    from dbops.ledger import record_action
    from dbops.postgres.cli import perhaps_ledger

    with perhaps_ledger(platform) as ledger:
        if ledger is not None:
            record_action(ledger, finished_at=datetime.now(UTC), **words)


def _pick(store: Store, postgres: Postgres, name: str, id: str | None) -> Export:
    from dbops.postgres.exports import exports, find_export

    if id is not None:
        return find_export(store, postgres.name, name, id)
    found = exports(store, postgres.name, name)
    if not found:
        raise ConfigurationError(f"there is no export {name} of {postgres.name} yet: `dbops postgres backup export`")
    return found[-1]


# --- exports ----------------------------------------------------------------------------------------------


@app.command()
def export(name: Name, as_json: Json = False) -> None:
    """Export what the platform file names so; it exists when this has ended well.

    Exit codes: 0 done; 1 it failed, and left nothing that is listed; 2 wrong usage or configuration.
    """
    from dbops.postgres.export import export as make

    platform, postgres, settings = _exports()
    settings.export(name)
    started, run = datetime.now(UTC), _run("export")
    made = make(
        _store(platform),
        postgres,
        name,
        from_env(settings.connection),
        run=run,
        platform_sha256=platform.sha256,
        keys=_keys(platform),
    )
    _note(
        platform,
        name="postgres_export",
        target=f"{postgres.name}/{name}",
        run=run,
        started_at=started,
        outcome="done",
        details={"id": made.id, "rows": made.rows, "stored_bytes": made.stored_bytes},
    )
    row = {
        "export": name,
        "id": made.id,
        "database": made.database,
        "tables": len(made.tables),
        "rows": made.rows,
        "megabytes": round(made.stored_bytes / 1e6, 1),
        "seconds": round((made.finished_at - made.started_at).total_seconds(), 1),
    }
    _show("Exported", [row], as_json)


@app.command(name="list")
def list_exports(
    name: Annotated[str | None, typer.Argument(help="Only those of this export.")] = None, as_json: Json = False
) -> None:
    """All exports, the newest first."""
    from dbops.postgres.exports import exports

    platform, postgres, settings = _exports()
    store = _store(platform)
    names = [settings.export(name).name] if name else [one.name for one in settings.sets]
    rows = [
        {
            "export": item.export,
            "id": item.id,
            "snapshot_at": f"{item.snapshot_at:%FT%TZ}",
            "rows": item.document.rows if item.document else None,
            "megabytes": round(item.document.stored_bytes / 1e6, 1) if item.document else None,
            "state": item.problem or ("verified" if item.verified else "not read back"),
        }
        for one in names
        for item in reversed(exports(store, postgres.name, one))
    ]
    _show(f"Exports of {postgres.name}", rows, as_json)


@app.command()
def verify(name: Name, id: Id = None, as_json: Json = False) -> None:
    """Read an export back: SHA-256 of every byte, and `pg_restore --list`.

    Exit codes: 0 it is whole; 1 it is damaged.
    """
    from dbops.postgres.export_verify import verify_export

    platform, postgres, settings = _exports()
    store = _store(platform)
    item, started, run = _pick(store, postgres, name, id), datetime.now(UTC), _run("verify")
    report = verify_export(store, item, settings, keys=_keys(platform))
    _note(
        platform,
        name="postgres_export_verify",
        target=f"{postgres.name}/{name}/{item.id}",
        run=run,
        started_at=started,
        outcome="done" if report.ok else "failed",
        message="; ".join(report.problems),
    )
    row = {
        "export": name,
        "id": item.id,
        "ok": report.ok,
        "objects": report.objects,
        "megabytes": round(report.bytes / 1e6, 1),
        "problems": list(report.problems),
    }
    _show("Read back", [row], as_json)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def drill(name: Name, id: Id = None, as_json: Json = False) -> None:
    """Restore an export into a database of its own on the scratch server, compare every table, drop it.

    Exit codes: 0 all is as it was, in time; 1 something differs, or it took longer than the RTO.
    """
    from dbops.postgres.export_drill import run_export_drill, scratch_of

    platform, postgres, settings = _exports()
    store, run = _store(platform), _run("drill")
    item = _pick(store, postgres, name, id)
    found = run_export_drill(
        store,
        item.manifest,
        settings,
        from_env(scratch_of(settings).connection),
        rto=platform.objectives.postgres.rto,
        holder=run,
        keys=_keys(platform),
    )
    _note(
        platform,
        name="postgres_export_drill",
        target=f"{postgres.name}/{name}",
        run=run,
        started_at=found.started_at,
        outcome="done" if found.ok else "failed",
        message="; ".join(found.problems),
        details={"id": item.id, "seconds": round(found.seconds, 3)},
    )
    row = {
        "export": name,
        "id": item.id,
        "ok": found.ok,
        "tables": len(item.manifest.tables),
        "rows": item.manifest.rows,
        "restore_seconds": round(found.restore_seconds, 1),
        "compare_seconds": round(found.compare_seconds, 1),
        "problems": list(found.problems),
    }
    _show("Restored and compared", [row], as_json)
    for note in found.notes:
        errors.print(escape(note))
    if not found.ok:
        raise typer.Exit(1)


# --- RDS --------------------------------------------------------------------------------------------------


@app.command()
def rpo(as_json: Json = False) -> None:
    """How far the instance can be brought back, and whether its automated backups are set as they should be.

    Exit codes: 0 all is as the platform file wants it; 1 something is not.
    """
    from dbops.postgres.rds import check_automated, check_recovery, describe, open_snapshots

    platform, postgres, rds = _rds()
    snapshots, now = open_snapshots(postgres, from_env(postgres.aws_connection)), datetime.now(UTC)
    allowed = platform.objectives.postgres.rpo
    found = check_recovery(describe(snapshots.client, postgres.name), rds, allowed, now)
    age = check_automated(snapshots.list(), rds.max_age, now)
    rows = [
        {"check": "recovery to a moment", "ok": found.ok, "message": found.message},
        {"check": "automated snapshot", "ok": age.ok, "message": age.message},
        {"check": "settings", "ok": not found.settings, "message": "; ".join(found.settings) or "as they should be"},
    ]
    _show(f"{postgres.name}: RPO {duration_text(allowed)}", rows, as_json)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


@app.command()
def snapshots(as_json: Json = False) -> None:
    """All snapshots of the instance and their copies, the newest first."""
    from dbops.postgres.rds import places
    from dbops.redshift.snapshots import is_ours

    platform, postgres, rds = _rds()
    rows = [
        {
            "region": region,
            "snapshot": item.id,
            "kind": item.kind,
            "created_at": f"{item.created_at:%FT%TZ}",
            "status": item.status,
            "ours": is_ours(item, platform.name),
        }
        for region, there in places(postgres, rds, from_env(postgres.aws_connection)).items()
        for item in reversed(there.list())
    ]
    _show(f"Snapshots of {postgres.name}", rows, as_json)


@app.command()
def snapshot(
    reason: Annotated[str, typer.Option(help="Why; stands on what is made.")],
    wait: Annotated[bool, typer.Option(help="Wait until it can be used.")] = True,
    as_json: Json = False,
) -> None:
    """Take a manual snapshot of the instance. `postgres_backup` lets it go after `rds.keep`."""
    from dbops.aws import tags_of
    from dbops.postgres.rds import begin_snapshot, open_snapshots, snapshot_id, wait_for_snapshot

    platform, postgres, rds = _rds()
    there, run = open_snapshots(postgres, from_env(postgres.aws_connection)), _run("snapshot")
    id, tags, started = snapshot_id(run, postgres.name), tags_of(platform.name, run, reason), datetime.now(UTC)
    found = begin_snapshot(there, id, tags)
    if wait and not found.is_usable:
        errors.print(f"{escape(id)} is {found.status} ...")
        found = wait_for_snapshot(there, id, tags, rds.snapshot_timeout, poll=POLL_SECONDS)
    _note(
        platform,
        name="postgres_snapshot",
        target=f"{postgres.name}/{id}",
        run=run,
        started_at=started,
        outcome="done" if found.is_usable else "running",
        details={"reason": reason},
    )
    _show("Taken", [{"snapshot": id, "status": found.status, "created_at": f"{found.created_at:%FT%TZ}"}], as_json)


# --- letting go -------------------------------------------------------------------------------------------


@app.command()
def expire(
    plan_only: Annotated[bool, typer.Option("--plan", help="Show what would go, and why; delete nothing.")] = False,
) -> None:
    """Let snapshots of ours, copies and exports go that are kept long enough; asks first.

    Exit codes: 0 done, or nothing to do; 1 some are still there, or it was not confirmed.
    """
    from dbops.postgres.expiry import expire_item, plan_expiry
    from dbops.postgres.rds import places

    platform, postgres = _instance()
    there: dict[str, InstanceSnapshots] = {}
    if postgres.rds is not None:
        there = places(postgres, postgres.rds, from_env(postgres.aws_connection))
    store, run = _store(platform) if postgres.exports is not None else None, _run("expire")
    plan = plan_expiry(platform, postgres, there, store, datetime.now(UTC))
    for line in plan.lines:
        typer.echo(line)
    if plan_only or not plan.gone:
        return
    if plan.approval:
        errors.print(escape(plan.approval), style="yellow")
    if typer.prompt(f"Type {postgres.name} to delete these {len(plan.gone)}", default="") != postgres.name:
        errors.print("nothing was deleted")
        raise typer.Exit(1)
    left = []
    for item in plan.gone:
        why = expire_item(platform, postgres, there, store, item, run)
        typer.echo(f"{item}: {why or 'deleted'}")
        left += [item] if why else []
    if left:
        raise typer.Exit(1)
