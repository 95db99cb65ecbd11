"""`dbops consistency ...`: compare PostgreSQL, Aerospike and Redshift with each other."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dbops.backups.cli import open_access, print_rows
from dbops.connections import from_env
from dbops.errors import ConfigurationError, DbopsError
from dbops.platform import load_platform

app = typer.Typer(help="Compare PostgreSQL, Aerospike and Redshift with each other.", no_args_is_help=True)
errors = Console(stderr=True, highlight=False)


@app.callback()
def _group() -> None:
    """A group, although it has one command."""


@app.command()
def check(
    first_day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Default: as many days as the platform file says.")
    ] = None,
    last_day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Default: the newest day that has arrived.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")] = False,
) -> None:
    """Compare the spend of line items and days, and look for events of campaigns that do not exist.

    Exit codes: 0 all the same; 1 something differs; 2 something could not be looked at, or wrong usage.
    """
    from dbops.consistency.campaigns import check_campaigns
    from dbops.consistency.days import days_between, settled
    from dbops.consistency.report import campaign_in_words, spend_in_words
    from dbops.consistency.spend import SpendCheck

    platform = load_platform()
    consistency = platform.consistency
    if consistency is None:
        raise ConfigurationError(f"platform {platform.name} has no section `consistency`")
    try:
        days = days_between(
            _day(first_day), _day(last_day), settled(datetime.now(UTC), consistency.settle), consistency.days
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    found: list[Any] = []
    failed: dict[str, str] = {}
    lines: list[str] = []
    try:
        if consistency.spend is not None:
            spend = SpendCheck(platform, from_env, lambda name: open_access(platform, name)).run(days)
            found += spend
            lines += [f"{one.system}: {spend_in_words(item)}" for one in spend for item in one.differences]
    except ConfigurationError:
        raise
    except DbopsError as problem:
        failed["spend"] = str(problem)
    try:
        if consistency.campaigns is not None:
            campaigns = check_campaigns(platform, from_env, days)
            found += campaigns
            lines += [f"{one.system}: {campaign_in_words(item)}" for one in campaigns for item in one.found]
    except ConfigurationError:
        raise
    except DbopsError as problem:
        failed["campaigns"] = str(problem)
    if as_json:
        results = [asdict(one) | {"ok": one.ok, "message": one.message} for one in found]
        typer.echo(json.dumps({"results": results, "failed": failed}, indent=2, default=str))
    else:
        print_rows(
            "Consistency",
            [{"system": one.system, "same": "yes" if one.ok else "no", "found": one.message} for one in found],
        )
        for line in lines:
            Console(highlight=False).print(escape(line), soft_wrap=True)
    for what, message in failed.items():
        errors.print(f"[red]{what}:[/] {escape(message)}")
    if failed:
        raise typer.Exit(2)
    if not all(one.ok for one in found):
        raise typer.Exit(1)


def _day(value: datetime | None) -> date | None:
    return value.date() if value else None
