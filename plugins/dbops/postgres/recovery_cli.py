"""`dbops postgres recovery ...`: bring an instance back to a moment, with Airflow up or down."""

from __future__ import annotations

import getpass
import json
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dbops.backups.cli import open_ledger, print_rows
from dbops.connections import from_env
from dbops.errors import DbopsError, RetryableError
from dbops.platform import Platform, load_platform

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from dbops.postgres.recovery import Report, World
    from dbops.postgres.recovery_plan import RecoveryPlan

app = typer.Typer(help="Bring an instance back to a moment, on a new instance.", no_args_is_help=True)

At = Annotated[str, typer.Option("--at", help="Point in time with time zone (2026-11-24T05:59:59Z), or latest.")]
Reason = Annotated[str, typer.Option(help="Why; stands in the ledger and on the new instance.")]
Source = Annotated[str | None, typer.Option("--source", help="The instance. Default: the platform's.")]
Target = Annotated[str, typer.Argument(help="The new instance, as `list` names it.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]

MOST_TRIES = 20
"""Of a step that finds a server busy or unreachable, one after another."""

errors = Console(stderr=True, highlight=False)


@app.command()
def plan(reason: Reason, at: At, source: Source = None, as_json: Json = False) -> None:
    """What `run` would do, with all its checks of moment, record and deployments; makes and writes nothing."""
    from dbops.postgres.recovery import look
    from dbops.postgres.recovery_time import parse_moment

    now = datetime.now(UTC)
    found = look(_world(), run=_run(now), reason=reason, moment=parse_moment(at), asked_at=now, source=source)
    typer.echo(found.model_dump_json(indent=2) if as_json else found.describe())


@app.command()
def run(reason: Reason, at: At, source: Source = None, as_json: Json = False) -> None:
    """Restore to a new instance, check it, and after you have typed its name lead everybody to it.

    Interrupted, `resume` goes on. When something fails after the switch, it is rolled back.
    Exit codes: 0 done; 1 failed, or not confirmed; 2 refused.
    """
    from dbops.postgres.recovery import begin

    world, now = _world(), datetime.now(UTC)
    found = begin(world, run=_run(now), reason=reason, at=at, asked_at=now, source=source)
    errors.print(escape(found.describe()))
    errors.print(f"if this is interrupted: dbops postgres recovery resume {found.target}")
    _carry_on(world, found, as_json)


@app.command()
def resume(target: Target, as_json: Json = False) -> None:
    """Go on with a recovery, also one of Airflow's that does not run any more.

    Exit codes: 0 done; 1 failed, or not confirmed; 2 refused.
    """
    world = _world()
    _carry_on(world, _known(world, target), as_json)


@app.command()
def roll_back(target: Target) -> None:
    """Lead the CNAME back to the source, and restart the deployments that were restarted. Asks first; may be repeated.

    Exit codes: 0 done, or nothing was switched; 1 not confirmed, or it failed.
    """
    from dbops.postgres.recovery import kept

    world = _world()
    found = _known(world, target)
    errors.print(
        f"{found.record.name} is led from {target} back to {found.source}; what was written since is left there"
    )
    if typer.prompt(f"Type {target} to roll back", default="") != target:
        errors.print("nothing was rolled back")
        raise typer.Exit(1)
    _back(world, found)
    typer.echo(kept(world, found))


@app.command(name="list")
def list_recoveries(as_json: Json = False) -> None:
    """All recoveries that the bucket knows."""
    from dbops.postgres.recovery_state import Recovery, known

    world, rows = _world(), []
    for target in known(world.store):
        state = Recovery(world.store, target, None)
        try:
            found = state.plan()
        except DbopsError as problem:
            errors.print(f"[yellow]{escape(str(problem))}[/]")
            continue
        last = list(state.steps().values())[-1:]
        rows.append({
            "recovery": target,
            "source": found.source,
            "moment": f"{found.moment:%FT%TZ}",
            "asked_at": f"{found.asked_at:%FT%TZ}",
            "step": last[0].name if last else "plan",
            "outcome": last[0].outcome if last else "running",
        })
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        print_rows("Recoveries", rows)


@app.command()
def show(target: Target, as_json: Json = False) -> None:
    """The plan of a recovery and how far it is, step by step."""
    from dbops.postgres.recovery_state import phases

    world = _world()
    found = _known(world, target)
    steps = world.state(found).steps()
    took = {name: round(one.total_seconds(), 1) for name, one in phases(found.asked_at, steps).items()}
    if as_json:
        document: dict[str, Any] = {
            "plan": found.model_dump(mode="json"),
            "steps": [step.model_dump(mode="json") for step in steps.values()],
            "phases": took,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(found.describe())
    rows = [
        {
            "step": step.name,
            "outcome": step.outcome,
            "began": f"{step.started_at:%T}",
            "ended": f"{step.finished_at:%T}" if step.finished_at else "",
            "what": step.message,
        }
        for step in steps.values()
    ]
    print_rows(f"Steps of {target}", rows)
    typer.echo("  ".join(f"{name} {seconds} s" for name, seconds in took.items()))


def _carry_on(world: World, found: RecoveryPlan, as_json: bool) -> None:
    from dbops.postgres import recovery

    state = world.state(found)
    _until_done(world, "restore", lambda: recovery.restore(world, found))
    _until_done(world, "terraform", lambda: recovery.emit_terraform(world, found))
    approval = state.step("approve")
    if approval is None or approval.outcome != "done":
        _decide(world, found)
    try:
        for name, work in recovery.STEPS:
            _until_done(world, name, lambda work=work: work(world, found))  # type: ignore[misc]
    except DbopsError as problem:
        errors.print(f"[red]{escape(str(problem))}[/]")
        errors.print("rolling back ...")
        _back(world, found)
        errors.print(escape(recovery.kept(world, found)))
        raise typer.Exit(1) from None
    done: Report = recovery.report(world, found)
    typer.echo(done.model_dump_json(indent=2) if as_json else done.describe())


def _decide(world: World, found: RecoveryPlan) -> None:
    """Show the findings and have the person type the new instance's name, in place of Airflow's approval."""
    from dbops.postgres import recovery

    findings: list[recovery.Findings] = []
    _until_done(world, "validate", lambda: findings.append(recovery.check(world, found)))
    errors.print(escape(findings[-1].describe()))
    now = datetime.now(UTC)
    approved = typer.prompt(f"Type {found.target} to switch to it", default="", err=True) == found.target
    who = _who() if approved else f"not confirmed by {_who()}"
    recovery.decided(world, found, approved=approved, who=who, asked_at=now)
    if not approved:
        errors.print(escape(recovery.kept(world, found)))
        raise typer.Exit(1)


def _back(world: World, found: RecoveryPlan) -> None:
    from dbops.postgres.recovery import BACK

    for name, work in BACK:
        _until_done(world, name, lambda work=work: work(world, found))  # type: ignore[misc]


def _until_done(world: World, name: str, work: Callable[[], Any]) -> None:
    """Ask for a step until it is done; what may pass by itself is tried again."""
    errors.print(f"{datetime.now(UTC):%T} {name} ...")
    tries = 0
    while True:
        try:
            if work() is not False:
                return
            tries = 0
        except RetryableError as problem:
            tries += 1
            if tries == MOST_TRIES:
                raise
            errors.print(f"[yellow]{escape(str(problem))}[/]; trying again")
        time.sleep(world.recovery.poll.total_seconds())


def _known(world: World, target: str) -> RecoveryPlan:
    from dbops.postgres.recovery_state import Recovery

    return Recovery(world.store, target, world.ledger).plan()


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _run(now: datetime) -> str:
    return f"by-hand/{_who()} {now:%FT%T.%fZ}"


def _world() -> World:
    from dbops.backups.store import open_store
    from dbops.postgres.recovery import open_world

    platform = load_platform()
    store = open_store(platform.storage, from_env(platform.storage.connection))
    return open_world(platform, from_env, store, _ledger(platform))


def _ledger(platform: Platform) -> Engine | None:
    """The ledger, if it answers: a recovery goes on without it."""
    from dbops.ledger import status

    ledger = open_ledger(platform)
    try:
        if ledger is not None:
            status(ledger)
    except DbopsError as problem:
        errors.print(f"[yellow]without the ledger:[/] {escape(str(problem))}")
        return None
    return ledger
