"""`dbops redshift ...`: plan and run maintenance of the warehouse, look at its health, with Airflow up or down."""

from __future__ import annotations

import getpass
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dbops.backups.cli import open_ledger, print_rows
from dbops.connections import ConnectionMissing, from_env
from dbops.errors import ConfigurationError
from dbops.platform import Platform, Redshift, load_platform

if TYPE_CHECKING:
    from dbops.redshift.cloudwatch import CloudWatch
    from dbops.redshift.maintain import StepResult
    from dbops.redshift.rules import Decision
    from dbops.redshift.session import Session

app = typer.Typer(help="Plan and run maintenance of the warehouse, look at its health.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
Tables = Annotated[
    list[str] | None,
    typer.Option("--table", "-t", help="Only this one, as schema.table; may be repeated. Default: all."),
]

errors = Console(stderr=True, highlight=False)


@app.command()
def plan(
    table: Tables = None,
    everything: Annotated[bool, typer.Option("--all", help="Also tables that need nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Show which tables would be vacuumed and analyzed, how, and why. Changes nothing.

    Exit codes: 0 shown; 1 the warehouse does not answer; 2 wrong usage or configuration.
    """
    from dbops.redshift.plan import plan_maintenance

    _, redshift = warehouse()
    with open_warehouse(redshift) as session:
        made, decisions = plan_maintenance(session, redshift, run="dbops redshift plan", tables=table or ())
    shown = [one for one in decisions if everything or not one.is_nothing or one.advice]
    if as_json:
        document = made.model_dump(mode="json") | {"decisions": [_decision(one) for one in shown]}
        typer.echo(json.dumps(document, indent=2))
        return
    _show(f"{made.tables} tables of {made.cluster} looked at", [_row(one) for one in shown])
    for blocker in made.blockers:
        errors.print(f"[yellow]rows deleted since it began cannot be removed:[/] {escape(blocker)}")
    for advice in made.advice:
        errors.print(f"\n{escape(advice.table)} wants a deep copy, by hand:\n{escape(advice.statements)}")


@app.command()
def maintain(
    table: Tables = None,
    confirmation: Annotated[
        str | None, typer.Option("--yes", help="The text that would have to be typed, for use in scripts.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Vacuum and analyze the tables that need it, one statement at a time, after a typed confirmation.

    The window of the platform file counts from now. Ctrl-C ends the statement that runs.
    Exit codes: 0 done, or nothing to do; 1 a statement failed or was skipped for a reason that stays, or it was not
    confirmed; 2 wrong usage or configuration.
    """
    from dbops.redshift.maintain import Deadlines, Maintainer, in_words
    from dbops.redshift.plan import plan_maintenance, store_plan

    if as_json and confirmation is None:
        raise typer.BadParameter("asks nothing: add --yes with the text", param_hint="--json")
    platform, redshift = warehouse()
    run = f"dbops redshift maintain by {_who()}, pid {os.getpid()}, {uuid.uuid4().hex[:8]}"
    with open_warehouse(redshift) as session:
        made, decisions = plan_maintenance(session, redshift, run=run, tables=table or ())
    if not as_json:
        working = [_row(one) for one in decisions if not one.is_nothing]
        _show(f"{made.tables} tables of {made.cluster} looked at", working)
    if made.steps:
        _confirm(f"run {len(made.steps)} statement{'s' if len(made.steps) > 1 else ''}", confirmation)
    ledger = open_ledger(platform)
    if ledger is not None:
        store_plan(ledger, made)

    def show(result: StepResult) -> None:
        if not as_json:
            errors.print(f"{escape(result.step.statement)}: {result.outcome}: {escape(result.message)}")

    began = datetime.now(UTC)
    results = Maintainer(
        lambda: _session(redshift),
        Deadlines.of(redshift.window, began),
        old_transaction=redshift.health.old_transaction,
        ledger=ledger,
        on_result=show,
    ).carry_out(made)
    if as_json:
        typer.echo(json.dumps([_result(result) for result in results], indent=2))
    else:
        typer.echo(in_words(results, datetime.now(UTC) - began) if results else "nothing to do")
    if any(result.outcome == "failed" or result.needs_person for result in results):
        raise typer.Exit(1)


@app.command()
def health(
    hours: Annotated[int, typer.Option(min=1, max=168, help="How far to look back.")] = 24,
    as_json: Json = False,
) -> None:
    """Compare statements, queues, CPU, disk, loads and open transactions with their limits. Changes nothing.

    Exit codes: 0 all is within its limits; 1 something is not, or could not be looked at; 2 wrong usage or
    configuration.
    """
    from datetime import timedelta

    from dbops.redshift.health import Look, check_health

    platform, redshift = warehouse()
    now = datetime.now(UTC)
    with open_warehouse(redshift) as session:
        look = Look(session, platform, redshift, now - timedelta(hours=hours), now, _cloudwatch(redshift))
        checks = check_health(look)
    if as_json:
        rows = [{name: value for name, value in asdict(check).items() if name != "error"} for check in checks]
        typer.echo(json.dumps(rows, indent=2, default=str))
    else:
        print_rows(
            f"Health of {redshift.name}, last {hours} h",
            [
                {
                    "check": check.name,
                    "state": "ok" if check.ok else str(check.severity).upper(),
                    "found": check.message,
                }
                for check in checks
            ],
        )
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@app.command()
def review(as_json: Json = False) -> None:
    """Give advice on distribution and sort keys with its statements; find unused tables and cold data. Changes nothing.

    Use of tables is what the daily checks wrote into the ledger.
    Exit codes: 0 shown; 1 the warehouse or the ledger does not answer; 2 wrong usage or configuration.
    """
    from dbops.ledger import checks_since
    from dbops.redshift import review as reviews
    from dbops.redshift.health import LONGEST_LOOK_BACK, USE
    from dbops.redshift.views import table_figures

    platform, redshift = warehouse()
    ledger, now = open_ledger(platform), datetime.now(UTC)
    since = now - redshift.review.unused_after
    seen = checks_since(ledger, USE, redshift.name, since) if ledger is not None else []
    usage = reviews.usage_of(seen, since)
    with open_warehouse(redshift) as session:
        tables = table_figures(session)
        advice = reviews.read_advisor(session, tables)
        alerts = reviews.read_alerts(session, now - LONGEST_LOOK_BACK)
        advice += reviews.table_advice(tables, alerts, usage, redshift.archive, redshift.review)
        candidates = reviews.cold_candidates(
            tables, reviews.read_date_columns(session), redshift.archive, redshift.review
        )
        cold = reviews.look_for_cold(session, candidates, now - redshift.review.cold_after)
    unused, why_not = reviews.unused_tables(tables, usage, redshift.review, now)
    if as_json:
        document = {
            "advice": [asdict(one) for one in advice],
            "unused": [asdict(one) for one in unused],
            "unused_unknown": why_not,
            "cold": [asdict(one) for one in cold],
        }
        typer.echo(json.dumps(document, indent=2, default=str))
        return
    _show("Advice", [asdict(one) for one in advice])
    _show("Unused tables", [asdict(one) for one in unused])
    if why_not:
        errors.print(f"[yellow]{escape(why_not)}[/]")
    _show("Cold data", [asdict(one) for one in cold])


# ------------------------------------------------------------------------------ parts


def warehouse() -> tuple[Platform, Redshift]:
    """:raises ConfigurationError: the platform has none."""
    platform = load_platform()
    if platform.redshift is None:
        raise ConfigurationError(f"platform {platform.name} has no redshift: describe the warehouse in its file")
    return platform, platform.redshift


def _session(redshift: Redshift) -> Session:
    from dbops.redshift.session import open_session

    return open_session(from_env(redshift.connection))


@contextmanager
def open_warehouse(redshift: Redshift) -> Iterator[Session]:
    session = _session(redshift)
    try:
        yield session
    finally:
        session.close()


def _cloudwatch(redshift: Redshift) -> CloudWatch | None:
    from dbops.redshift.cloudwatch import CloudWatch

    try:
        return CloudWatch(from_env(redshift.aws_connection), redshift.region, redshift.name)
    except ConnectionMissing:
        return None


def _confirm(wanted: str, given: str | None) -> None:
    """:raises Exit: not so; nothing was run."""
    if given is None:
        try:
            given = typer.prompt(f"Type '{wanted}' to go on", err=True, default="", show_default=False)
        except typer.Abort:
            given = ""
        if given != wanted:
            errors.print("not confirmed: nothing was run")
            raise typer.Exit(1)
    elif given != wanted:
        raise ConfigurationError(f"--yes is {given!r}, the plan asks for {wanted!r}: nothing was run")


def _show(title: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        print_rows(title, rows)
    else:
        typer.echo(f"{title}: nothing")


def _what(decision: Decision) -> str:
    parts = [f"VACUUM {form.upper()}" for form in decision.vacuum] + ["ANALYZE"] * decision.analyze
    return " + ".join(parts) or ("deep copy by hand" if decision.advice else "nothing")


def _row(decision: Decision) -> dict[str, Any]:
    return {
        "table": decision.table.name,
        "size_mb": decision.table.size_mb,
        "what": _what(decision),
        "why": "; ".join(decision.reasons),
    }


def _decision(decision: Decision) -> dict[str, Any]:
    return _row(decision) | decision.table.as_details() | {"benefit_mb": round(decision.benefit, 3)}


def _result(result: StepResult) -> dict[str, Any]:
    return {
        "statement": result.step.statement,
        "table": result.step.target,
        "outcome": result.outcome,
        "message": result.message,
        "needs_person": result.needs_person,
        "before": dict(result.before),
        "after": dict(result.after),
        "seconds": result.seconds,
    }


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"
