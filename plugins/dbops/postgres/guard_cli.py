"""`dbops postgres guard`, `migrations`, `audit`, `access`: what was agreed on PostgreSQL, with Airflow up or down."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dbops.connections import from_env
from dbops.errors import DbopsError
from dbops.platform import Platform, Postgres

if TYPE_CHECKING:
    from dbops.postgres.health import Check

app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


@app.command()
def guard(
    database: Annotated[
        str | None, typer.Option("--database", "-d", help="Where the change is to be made. Default: the first one.")
    ] = None,
    change: Annotated[str, typer.Option("--change", help="What is changed, in a sentence.")] = "",
    ticket: Annotated[str, typer.Option("--ticket", help="Where it was agreed.")] = "",
    rollback: Annotated[str, typer.Option("--rollback", help="How it is taken back.")] = "",
    expected_version: Annotated[
        int | None,
        typer.Option("--expected-version", min=0, help="Of goose, now. Default: that of the platform file."),
    ] = None,
    new_version: Annotated[
        int | None, typer.Option("--new-version", min=0, help="Of the migration. Default: it is none.")
    ] = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot/--no-snapshot", help="Take one of an instance on RDS, and wait for it.")
    ] = True,
    as_json: Json = False,
) -> None:
    """May a change be made now? Looks, takes a snapshot, looks again, and says go or no-go with every reason.

    Exit codes: 0 go; 1 no-go, also when something could not be looked at; 2 wrong usage or configuration.
    """
    from dbops.postgres.cli import instance, reader
    from dbops.postgres.guard import Change, examine

    platform, postgres = instance()
    wanted = Change(database or postgres.databases[0], change, ticket, rollback, expected_version, new_version)
    now = datetime.now(UTC)
    verdict = examine(platform, postgres, wanted, reader(postgres), from_env, now)
    if verdict.is_go and snapshot and postgres.rds is not None:
        run = f"cli/{getpass.getuser()}@{socket.gethostname()}/{now:%Y%m%dT%H%M%SZ}"
        name = _take(platform, postgres, run, f"before {ticket} {change}")
        verdict = examine(platform, postgres, wanted, reader(postgres), from_env, datetime.now(UTC), name)
    if as_json:
        typer.echo(json.dumps({"go": verdict.is_go, "title": verdict.title, "checks": _rows(verdict.checks)}, indent=2))
    else:
        typer.echo(verdict.title)
        for line in verdict.lines:
            typer.echo(f"  {line}")
    if not verdict.is_go:
        raise typer.Exit(1)


def _take(platform: Platform, postgres: Postgres, run: str, reason: str) -> str:
    from dbops.aws import tags_of
    from dbops.postgres.rds import begin_snapshot, open_snapshots, snapshot_id, wait_for_snapshot

    snapshots = open_snapshots(postgres, from_env(postgres.aws_connection))
    id, tags = snapshot_id(run, postgres.name, "guard"), tags_of(platform.name, run, reason)
    typer.echo(f"taking snapshot {id} ...", err=True)
    begin_snapshot(snapshots, id, tags)
    return wait_for_snapshot(snapshots, id, tags, postgres.guard.snapshot_timeout).id


@app.command()
def migrations(as_json: Json = False) -> None:
    """Compare goose's version in each database with that of the platform file.

    Exit codes: 0 as expected; 1 a database is behind, ahead or otherwise; 2 something could not be looked at.
    """
    from dbops.postgres.cli import instance, reader
    from dbops.postgres.migrations import check_migrations

    _, postgres = instance()
    show(check_migrations(postgres, reader(postgres)), as_json)


@app.command()
def access(as_json: Json = False) -> None:
    """Compare roles and rights with the platform file; beside each difference the statement that ends it.

    Exit codes: 0 as agreed; 1 there are differences; 2 something could not be looked at.
    """
    from dbops.postgres.access import review_access
    from dbops.postgres.cli import instance, reader

    _, postgres = instance()
    checks = review_access(postgres, reader(postgres), datetime.now(UTC))
    if as_json:
        show(checks, as_json)
        return
    for check in checks:
        for finding in check.details.get("findings", ()):
            fix = f": {finding['fix']};" if finding["fix"] else ""
            typer.echo(f"{check.target}: {finding['who']} {finding['text']}{fix}")
        for note in check.details.get("notes", ()):
            typer.echo(f"{check.target}: note: {note}")
        if check.error is not None:
            typer.echo(f"{check.target}: {check.message}")
    _leave(checks)


@app.command()
def audit(
    since: Annotated[
        str | None, typer.Option("--since", help="Look at logs written to since then: 2026-11-25T04:00Z.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the settings of the audit, and look through the server's log for changes of schema and rights.

    The position of `postgres_audit` is neither used nor moved. Exit codes: 0 nothing found; 1 a difference, or a change
    by a role that should make none; 2 something could not be looked at.
    """
    from dbops.postgres.audit import DDL, check_ddl, check_settings
    from dbops.postgres.cli import instance, reader
    from dbops.postgres.health import Check
    from dbops.postgres.places import open_log

    _, postgres = instance()
    begin = _moment(since) if since else datetime.now(UTC) - postgres.audit.look_back
    checks = [check_settings(postgres, reader(postgres))]
    if postgres.audit.log == "none":
        typer.echo("the log is not looked at: audit.log is none in the platform file", err=True)
    else:
        try:
            with reader(postgres)(postgres.databases[0]) as session:
                source, form = open_log(postgres, session, from_env)
                checks.append(check_ddl(postgres, source, form, {}, begin)[0])
        except DbopsError as error:
            checks.append(Check(DDL, postgres.name, f"could not look: {error}", error=error))
    show(checks, as_json)


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no moment; write 2026-11-25T04:00Z", param_hint="--since") from None
    if found.tzinfo is None:
        raise typer.BadParameter("has no time zone; write 2026-11-25T04:00Z", param_hint="--since")
    return found


def show(checks: Sequence[Check], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_rows(checks), indent=2))
    else:
        for row in _rows(checks):
            typer.echo(f"{str(row['state']).upper():9} {row['check']} {row['target']}: {row['message']}")
    _leave(checks)


def _rows(checks: Sequence[Check]) -> list[dict[str, object]]:
    return [
        {
            "check": check.name,
            "target": check.target,
            "state": "unknown" if check.error else (check.severity or "ok"),
            "message": check.message,
        }
        for check in checks
    ]


def _leave(checks: Sequence[Check]) -> None:
    if any(check.severity for check in checks):
        raise typer.Exit(1)
    if any(check.error for check in checks):
        raise typer.Exit(2)
