"""`dbops lab ...`: the platform's systems as stand-ins on this machine, to try, test and demonstrate."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from dbops_lab.application.cli import app as application
from dbops_lab.lab import Lab
from rich.console import Console
from rich.live import Live
from rich.table import Table

app = typer.Typer(
    help="A private copy of the platform on loopback: PostgreSQL, S3, Aerospike, Slack, PagerDuty, mail.",
    no_args_is_help=True,
)
app.add_typer(application, name="application")
Json = Annotated[bool, typer.Option("--json", help="one JSON document instead of a table")]
State = Annotated[
    Path | None,
    typer.Option("--state", envvar="DBOPS_LAB", help="folder of the lab", show_default="<project>/.lab"),
]
MARKS = {
    "compiling": "[yellow]compiling[/]",
    "starting": "[yellow]starting[/]",
    "ready": "[green]ready[/]",
    "running": "[green]runs already[/]",
}


@app.command()
def up(
    state: State = None,
    airflow: Annotated[
        bool, typer.Option("--airflow", help="with a real Airflow that runs the project's DAGs on it")
    ] = False,
) -> None:
    """Start the lab, or what of it does not run. Its addresses and passwords then stand in <state>/env."""
    lab, began = Lab(state), time.monotonic()
    with interruptible(), shown() as progress:
        lab.up(progress)
        if airflow:
            from dbops_lab.airflow import PREFERRED_PORT, USER, Airflow

            scheduler = Airflow(lab, PREFERRED_PORT)
            scheduler.up(progress)
            Console().print(f"Airflow: {scheduler.url}  user {USER}  password {scheduler.password}")
    use = f"set -a; . {shlex.quote(str(lab.state / 'env'))}; set +a"
    Console().print(f"lab ready in {time.monotonic() - began:.1f} s: {use}", soft_wrap=True)


@app.command()
def down(
    state: State = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave the folder with data and logs")] = False,
) -> None:
    """End everything that the lab started, and remove its folder."""
    stopped = Lab(state).down(keep=keep)
    Console().print(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def status(state: State = None, as_json: Json = False) -> None:
    """What runs, where, and how much memory it takes. Exit code 1 when a part does not run."""
    parts = Lab(state).status()
    if as_json:
        print_json([vars(part) for part in parts])
    else:
        table = Table("part", "state", "pid", "address", "memory")
        for part in parts:
            table.add_row(
                part.name,
                "[green]runs[/]" if part.running else "[red]does not run[/]",
                str(part.pid or ""),
                part.address,
                f"{part.memory / 1e6:.0f} MB" if part.running else "",
            )
        Console().print(table)
    if not all(part.running for part in parts):
        raise typer.Exit(1)


@app.command()
def env(state: State = None, as_json: Json = False) -> None:
    """Print the environment of the lab: eval "$(dbops lab env)"."""
    variables = Lab(state).environment()
    if as_json:
        print_json(variables)
    else:
        sys.stdout.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


@app.command()
def seed(
    state: State = None,
    records: Annotated[int, typer.Option(min=1, help="per namespace and cluster")] = 50_000,
    seed: Annotated[int, typer.Option(help="the same number makes the same data")] = 1,
    as_json: Json = False,
) -> None:
    """Fill the Aerospike clusters with line items, creatives, segments and spend."""
    from dbops_lab.seed import seed as fill

    began = time.monotonic()
    with interruptible():
        made = fill(Lab(state), records, seed)
    if as_json:
        print_json(made)
        return
    took = time.monotonic() - began
    table = Table("cluster/namespace", "records")
    for place, count in made.items():
        table.add_row(place, f"{count:,}")
    Console().print(table)
    Console().print(f"{sum(made.values()):,} records in {took:.1f} s ({sum(made.values()) / took:,.0f}/s)")


@app.command()
def traffic(
    state: State = None,
    seconds: Annotated[float, typer.Option(min=0.1)] = 30.0,
    rate: Annotated[int, typer.Option(min=1, help="operations per second and cluster, at most")] = 400,
    seed: Annotated[int, typer.Option(help="the same number makes the same changes")] = 2,
    records: Annotated[int, typer.Option(min=1, help="what `seed` was told")] = 50_000,
    as_json: Json = False,
) -> None:
    """Change the data for a while, as the bidders and the syncer would."""
    from dbops_lab.traffic import traffic as change

    console, began = Console(stderr=True), time.monotonic()

    def show(done: Mapping[str, int]) -> None:
        per_second = sum(done.values()) / (time.monotonic() - began)
        console.print(f"{time.monotonic() - began:4.0f} s  {_counts(done)}  ({per_second:,.0f}/s)")

    with interruptible():
        done = change(Lab(state), seconds=seconds, rate=rate, seed=seed, records=records, show=show)
    if as_json:
        print_json(done)
    else:
        Console().print(_counts(done))


def _counts(done: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in done.items())


@app.command()
def inbox(state: State = None, as_json: Json = False) -> None:
    """What arrived for Slack, PagerDuty and mail."""
    entries = Lab(state).inbox()
    if as_json:
        print_json(entries)
        return
    Console().print(inbox_table(entries))


def inbox_table(entries: list[dict[str, Any]]) -> Table:
    table = Table("at (UTC)", "channel", "answered", "what", title="inbox")
    for entry in entries:
        table.add_row(entry["at"][:19].replace("T", " "), entry["channel"], str(entry["answered"]), _what(entry))
    return table


def _what(entry: dict[str, Any]) -> str:
    if entry["channel"] == "slack":
        return str((entry["message"] or {}).get("text", entry["message"]))
    if entry["channel"] == "smtp":
        return f"{entry['subject']} (to {', '.join(entry['to'])})"
    event = entry["event"]
    summary = (event.get("payload") or {}).get("summary", "")
    return f"{event.get('event_action', 'change')} {entry.get('dedup_key', '')} {summary}".strip()


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the work in the block as Ctrl-C does, with all its cleaning up."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def shown() -> Iterator[Callable[[str, str], None]]:
    """A table of parts that follows what happens to them; plain lines where there is no terminal."""
    console = Console(stderr=True)
    states: dict[str, str] = {}

    def table() -> Table:
        grid = Table.grid(padding=(0, 2))
        for name, what in states.items():
            grid.add_row(f"  {name}", MARKS.get(what, what))
        return grid

    if not console.is_terminal:
        yield lambda name, what: None
        return
    with Live(table(), console=console, refresh_per_second=8) as live:

        def progress(name: str, what: str) -> None:
            states[name] = what
            live.update(table())

        yield progress


if __name__ == "__main__":
    app()
