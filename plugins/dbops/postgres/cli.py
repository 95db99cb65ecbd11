"""`dbops postgres ...`: look at PostgreSQL's health, report, plan and do maintenance, with Airflow up or down."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as Printed

from dbops.connections import from_env
from dbops.errors import ConfigurationError, DbopsError
from dbops.platform import Platform, Postgres, load_platform
from dbops.postgres.backup_cli import app as backup_app
from dbops.postgres.recovery_cli import app as recovery_app

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from dbops.postgres.health import OpenSession
    from dbops.postgres.maintain import Outcome, Plan, Step
    from dbops.postgres.session import Table

app = typer.Typer(help="PostgreSQL: look at its health, report, plan and do maintenance.", no_args_is_help=True)
app.add_typer(backup_app, name="backup")
app.add_typer(recovery_app, name="recovery")

Databases = Annotated[
    list[str] | None, typer.Option("--database", "-d", help="Only this one; may be repeated. Default: all.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]

errors = Console(stderr=True, highlight=False)


@app.command()
def health(as_json: Json = False) -> None:
    """Compare what runs out, is stuck, slow or behind with its limits.

    What statements took is counted since the last look of the DAG, which the ledger remembers.
    Exit codes: 0 all is well; 1 a limit is passed; 2 none is known to be, but something could not be looked at; also
    wrong usage or configuration.
    """
    from dbops.postgres.health import check_health
    from dbops.postgres.statements import load_counters

    platform, postgres = instance()
    with perhaps_ledger(platform) as ledger:
        before = load_counters(ledger, postgres.name, "") if ledger is not None else None
    found = check_health(platform, postgres, reader(postgres), before, datetime.now(UTC))
    rows = [
        {
            "check": check.name,
            "target": check.target,
            "state": "unknown" if check.error else (check.severity or "ok"),
            "value": check.value,
            "limit": check.limit,
            "unit": check.unit,
            "message": check.message,
        }
        for check in found.checks
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, default=str))
    else:
        for row in rows:
            value = "" if row["value"] is None else f" ({row['value']:g}{row['unit'] or ''})"
            typer.echo(f"{str(row['state']).upper():9} {row['check']} {row['target']}{value}: {row['message']}")
    if any(check.severity for check in found.checks):
        raise typer.Exit(1)
    if any(check.error for check in found.checks):
        raise typer.Exit(2)


@app.command()
def report(
    name: Annotated[
        str | None,
        typer.Argument(help="One report, such as blocked or slow_queries; `list` names them. Default: all in words."),
    ] = None,
    of: Annotated[str | None, typer.Option("--of", help="schema.name of the table or index that is measured.")] = None,
    database: Databases = None,
    as_json: Json = False,
) -> None:
    """What grew, what is slow, what is in the way. One report is shown as a table, for each database it is about."""
    from dbops.postgres.report import LOOK_BACK, SIZE, compile_report
    from dbops.postgres.reports import REPORTS, run_report
    from dbops.postgres.reports import report as known
    from dbops.postgres.statements import load_counters

    if name == "list":
        for key, one in REPORTS.items():
            typer.echo(f"{key:24} {one.title}{' (--of schema.name)' if one.argument else ''}")
        return
    platform, postgres = instance(database)
    if name is not None:
        wanted = known(name)
        documents = {}
        for place in postgres.databases if wanted.scope == "database" else postgres.databases[:1]:
            with reader(postgres)(place) as session:
                found = run_report(session, name, *([of] if of else []))
            documents[place] = found.dicts()
            if not as_json:
                show(f"{wanted.title}: {postgres.name}/{place}", found)
        if as_json:
            typer.echo(json.dumps(documents, indent=2, default=str))
        return
    past: dict[str, Any] = {}
    before, now = None, datetime.now(UTC)
    with perhaps_ledger(platform) as ledger:
        if ledger is not None:
            from dbops.ledger.read import checks_since

            past = {
                place: checks_since(ledger, SIZE, f"{postgres.name}/{place}", now - LOOK_BACK)
                for place in postgres.databases
            }
            before = load_counters(ledger, f"{postgres.name}/daily", "")
    daily = compile_report(postgres, reader(postgres), past, before, now)
    if as_json:
        document = {"findings": daily.findings, "lines": daily.lines, "could_not_look": sorted(daily.blind)}
        typer.echo(json.dumps(document, indent=2))
    else:
        for line in daily.lines:
            typer.echo(line)
    if daily.blind:
        raise typer.Exit(1)


@app.command()
def plan(database: Databases = None, as_json: Json = False) -> None:
    """Show what maintenance would do, and why. Changes nothing."""
    _, postgres = instance(database)
    plans = [_plan(postgres, place) for place in postgres.databases]
    if as_json:
        typer.echo(json.dumps([found.document() for found in plans], indent=2))
        return
    for found in plans:
        show_plan(postgres, found)


@app.command()
def maintain(
    database: Databases = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Plan and carry it out now: the window of the platform file begins with this command.

    Exit codes: 0 done (what was skipped is told); 1 a step failed, or it was not confirmed; 2 wrong usage or
    configuration.
    """
    from dbops.postgres.maintain import carry_out, summary
    from dbops.postgres.session import Session

    platform, postgres = instance(database)
    began = datetime.now(UTC)
    plans = [_plan(postgres, place) for place in postgres.databases]
    for found in plans:
        show_plan(postgres, found)
    if not any(found.steps for found in plans):
        return
    if not yes and not typer.confirm("Do this now?"):
        raise typer.Exit(1)
    window, failed = postgres.maintenance.window, False
    run = f"cli/{getpass.getuser()}@{socket.gethostname()}/{began:%Y%m%dT%H%M%SZ}"
    with perhaps_ledger(platform) as ledger:
        for found in plans:

            def finished(outcome: Outcome, place: str = found.database) -> None:
                typer.echo(f"{outcome.result}: {outcome.step.statement}: {outcome.message}")
                if ledger is not None:
                    _record(ledger, f"{postgres.name}/{place}", run, outcome)

            with Session(from_env(postgres.maintenance_connection), database=found.database) as session:
                outcomes = carry_out(
                    session,
                    found.steps,
                    postgres.maintenance,
                    last_start=began + window.last_start,
                    hard_end=began + window.hard_end,
                    finished=finished,
                )
            typer.echo(f"{postgres.name}/{found.database}: {summary(outcomes)}")
            failed |= any(outcome.result == "failed" for outcome in outcomes)
    if failed:
        raise typer.Exit(1)


def _record(ledger: Engine, target: str, run: str, outcome: Outcome) -> None:
    from dbops.ledger import record_action

    step: Step = outcome.step
    record_action(
        ledger,
        name="postgres_maintenance",
        target=f"{target}/{step.target}/{step.work}",
        run=run,
        started_at=outcome.started_at,
        finished_at=outcome.finished_at,
        outcome=outcome.result,
        message=outcome.message,
        details={
            "statement": step.statement,
            "reason": step.reason,
            "before": dict(outcome.before),
            "after": dict(outcome.after),
        },
    )


def instance(databases: list[str] | None = None) -> tuple[Platform, Postgres]:
    """The platform's instance, narrowed to some databases.

    :raises ConfigurationError: it has none, or not these.
    """
    platform = load_platform()
    if platform.postgres is None:
        raise ConfigurationError(f"platform {platform.name} has no postgres: describe the instance in its file")
    if not databases:
        return platform, platform.postgres
    unknown = sorted(set(databases) - set(platform.postgres.databases))
    if unknown:
        raise ConfigurationError(
            f"{', '.join(unknown)}: no such database of {platform.postgres.name}; "
            f"there are {', '.join(platform.postgres.databases)}"
        )
    return platform, platform.postgres.model_copy(update={"databases": tuple(databases)})


def reader(postgres: Postgres) -> OpenSession:
    """Opens read-only sessions of the monitoring role."""
    from dbops.postgres.session import Session

    info = from_env(postgres.connection)
    return lambda database: Session(info, database=database, read_only=True)


@contextmanager
def perhaps_ledger(platform: Platform) -> Iterator[Engine | None]:
    """The ledger, or None when it is not there: on a bad day this must work without it."""
    from dbops.ledger import connect, status

    try:
        ledger = connect(from_env(platform.ledger_connection))
        status(ledger)
    except DbopsError as error:
        errors.print(f"without the ledger: {error}", style="yellow")
        yield None
        return
    yield ledger


def _plan(postgres: Postgres, database: str) -> Plan:
    from dbops.postgres.maintain import plan as decide
    from dbops.postgres.session import Session

    with Session(from_env(postgres.maintenance_connection), database=database, read_only=True) as session:
        return decide(session, postgres.maintenance)


def show_plan(postgres: Postgres, found: Plan) -> None:
    typer.echo(f"{postgres.name}/{found.database}: {len(found.steps)} steps, {len(found.left)} left as they are")
    for step in found.steps:
        typer.echo(f"  {step.statement}: {step.reason}")
    for name, why in found.left.items():
        typer.echo(f"  left as it is: {name}: {why}")


def show(title: str, found: Table) -> None:
    printed = Printed(title=title, title_justify="left", show_lines=False)
    for column in found.columns:
        printed.add_column(column, overflow="fold")
    for row in found.rows:
        printed.add_row(*("" if value is None else _cell(value) for value in row))
    Console(highlight=False, markup=False).print(printed if found.rows else f"{title}: nothing")


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, timedelta):
        return str(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
