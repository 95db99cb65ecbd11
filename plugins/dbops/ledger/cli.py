"""`dbops ledger ...`: the record of what was done: migrate it, look at it, rebuild it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Engine

from dbops.connections import from_env
from dbops.ledger import session
from dbops.ledger.rebuild import rebuild as rebuild_ledger
from dbops.ledger.rebuild import rebuild_archive
from dbops.ledger.trends import trends
from dbops.platform import Platform, load_platform
from dbops.redshift.archive_parts import open_place

BARS = "▁▂▃▄▅▆▇█"

app = typer.Typer(help="The record of what was done: migrate it, look at it, rebuild it.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


@app.command()
def migrate(as_json: Json = False) -> None:
    """Make the tables, or bring them to what this version needs. Safe to repeat."""
    engine = _engine(load_platform())
    before = session.status(engine).revision
    revision = session.migrate(engine)
    if as_json:
        typer.echo(json.dumps({"revision": revision, "was": before, "changed": revision != before}))
    elif revision == before:
        typer.echo(f"the ledger is at revision {revision} already")
    else:
        typer.echo(f"the ledger is at revision {revision} now, it was at {before or 'none'}")


@app.command()
def status(as_json: Json = False) -> None:
    """Show where the ledger is, whether it fits this version, and how much it holds.

    Exit codes: 0 it is ready; 1 it does not answer or must be migrated; 2 no connection is configured.
    """
    found = session.status(_engine(load_platform()))
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"ready": found.ready}))
    else:
        table = Table.grid(padding=(0, 2))
        table.add_row("database", found.database)
        table.add_row("revision", f"{found.revision or 'none'} (this version needs {found.head})")
        for name, rows in found.rows.items():
            note = f", {found.open_incidents} open" if name == "incident" else ""
            table.add_row(name, f"{rows:,} rows{note}")
        Console(highlight=False).print(table)
        if not found.ready:
            typer.echo("run `dbops ledger migrate`", err=True)
    if not found.ready:
        raise typer.Exit(1)


@app.command()
def rebuild(as_json: Json = False) -> None:
    """Make the lists of restore points and of archived days again from what lies in the bucket. Safe to repeat.

    Exit codes: 0 done; 1 done, but a manifest could not be read, or the ledger or bucket did not answer.
    """
    from dbops.backups.store import open_store

    platform = load_platform()
    store = open_store(platform.storage, from_env(platform.storage.connection))
    engine = _engine(platform)
    report = rebuild_ledger(engine, store, platform)
    if platform.redshift is not None:
        place = open_place(platform, from_env(platform.storage.connection))
        report.archived = rebuild_archive(engine, place)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        for title, names in (("added", report.added), ("changed", report.changed), ("gone", report.gone)):
            for name in names:
                typer.echo(f"{title:8} {name}")
        for name, damage in report.unreadable.items():
            typer.echo(f"damaged  {name}: {damage}")
        typer.echo(
            f"{len(report.added)} added, {len(report.changed)} changed, {len(report.gone)} gone, "
            f"{len(report.unreadable)} unreadable, {report.unchanged} unchanged; "
            f"{report.archived} parts of archived days"
        )
    if report.unreadable:
        raise typer.Exit(1)


@app.command()
def checks(
    name: Annotated[
        list[str] | None, typer.Option("--name", "-n", help="What names begin with; may be repeated. Default: all.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="How far back.")] = 30,
    as_json: Json = False,
) -> None:
    """Show how checks have been: the newest result of each target, how often it failed, the worst value of each day.

    Exit codes: 0 every newest result is well; 1 one is not; 2 wrong usage.
    """
    found = trends(_engine(load_platform()), name or [""], datetime.now(UTC) - timedelta(days=days))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2, default=str))
    else:
        table = Table("check", "target", "newest", "value", "limit", "failed", "worst of each day", "message")
        for one in found:
            values = [None if day is None else one.worst(day) for day in one.each_day()]
            table.add_row(
                one.name, one.target, f"{one.at:%Y-%m-%d %H:%M}", "-" if one.value is None else f"{one.value:,g}",
                "-" if one.limit is None else f"{one.limit:,g}", f"{one.failed:,} of {one.seen:,}", _bars(values),
                escape(one.message), style=None if one.ok else "red",
            )  # fmt: skip
        Console(highlight=False).print(table)
    if not all(one.ok for one in found):
        raise typer.Exit(1)


def _bars(values: Sequence[float | None]) -> str:
    """A bar for each value, as high as its share of the highest; a gap where there is none."""
    most = max([value for value in values if value is not None], default=0.0)
    return "".join(
        " " if value is None else BARS[round(max(0.0, value) / most * (len(BARS) - 1)) if most > 0 else 0]
        for value in values
    )


def _engine(platform: Platform) -> Engine:
    return session.connect(from_env(platform.ledger_connection))
