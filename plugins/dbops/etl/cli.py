"""`dbops etl ...`: check the pipelines that load the warehouse, hour by hour."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dbops.backups.cli import print_rows
from dbops.connections import from_env
from dbops.errors import ConfigurationError
from dbops.platform import load_platform
from dbops.platform.etl import HOUR

app = typer.Typer(help="Check the pipelines that load the warehouse, hour by hour.", no_args_is_help=True)
errors = Console(stderr=True, highlight=False)

Pipelines = Annotated[
    list[str] | None, typer.Option("--pipeline", "-p", help="Only this one; may be repeated. Default: all.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


@app.command()
def check(
    pipeline: Pipelines = None,
    hour: Annotated[
        str | None,
        typer.Option(help="Beginning of an hour, ISO 8601, UTC unless it says else. Default: the newest due."),
    ] = None,
    hours: Annotated[int, typer.Option(min=1, max=168, help="So many hours up to that one.")] = 1,
    every: Annotated[bool, typer.Option("--all", help="Show what passes too.")] = False,
    as_json: Json = False,
) -> None:
    """Judge hours of pipelines: Glue runs, files, loads, rows and their values; and how the pipelines are now.

    With --hour, what is about now (rule, freshness, success) is not looked at. Changes nothing.
    Exit codes: 0 all passes; 1 something is a warning or an error; 2 something could not be looked at, or wrong usage.
    """
    from dbops.etl.check import check_hour, check_now, etl_of, newest_due, opened_look
    from dbops.etl.findings import Finding, Outcome

    platform = load_platform()
    etl = etl_of(platform)
    chosen = [etl.pipeline(name) for name in pipeline] if pipeline else etl.pipelines
    found: list[Finding] = []
    with opened_look(platform, from_env) as look:
        last = newest_due(etl, look.now) if hour is None else _moment(hour)
        for one in chosen:
            for n in reversed(range(hours)):
                found += check_hour(look, one, last - HOUR * n)
            found += check_now(look, one) if hour is None else []
    if as_json:
        typer.echo(json.dumps([one.document() for one in found], indent=2, default=str))
    else:
        shown = [one for one in found if every or not one.ok]
        if shown:
            print_rows("Checks", [_row(one) for one in shown])
        bad = len(found) - sum(one.ok for one in found)
        typer.echo(f"{len(chosen)} pipelines, {len(found)} checks: {bad} do not pass")
    blind = [one for one in found if one.outcome == Outcome.BLIND]
    for dark in blind:
        errors.print(f"[red]{dark.target} {dark.check}:[/] {escape(dark.message)}")
    if blind:
        raise typer.Exit(2)
    if not all(one.ok for one in found):
        raise typer.Exit(1)


@app.command()
def accept(
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="Whose hour.")],
    hour: Annotated[str, typer.Option(help="Its beginning, ISO 8601, UTC unless it says else.")],
    reason: Annotated[str, typer.Option(help="Why it may stay as it is.")],
) -> None:
    """Take an hour as it is: the next run of `etl_checks` counts it to no incident. The ledger keeps who, when and why.

    Exit codes: 0 done; 1 the ledger does not answer; 2 wrong usage or configuration.
    """
    from dbops.etl.check import etl_of
    from dbops.etl.incidents import accept as take
    from dbops.etl.jobs import floor_hour
    from dbops.ledger import connect

    platform = load_platform()
    name, start = etl_of(platform).pipeline(pipeline).name, floor_hour(_moment(hour))
    take(connect(from_env(platform.ledger_connection)), name, start, reason, getpass.getuser())
    typer.echo(f"{name}: {start:%Y-%m-%d %H}:00 UTC is accepted: {reason}")


def _row(one: Any) -> dict[str, Any]:
    return {"of": one.target, "check": one.check, "outcome": str(one.outcome), "found": one.message}


def _moment(text: str) -> datetime:
    """:raises ConfigurationError: it is no time."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"--hour {text!r} is no time; write 2026-11-22T13:00") from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
