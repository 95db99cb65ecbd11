"""`dbops lab application ...`: fill the lab's PostgreSQL, Aerospike and Redshift with one world, and break it."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="The platform's application: campaigns in PostgreSQL, their records in Aerospike, their events in Redshift.",
    no_args_is_help=True,
)
Json = Annotated[bool, typer.Option("--json", help="one JSON document instead of a table")]
State = Annotated[
    Path | None,
    typer.Option("--state", envvar="DBOPS_LAB", help="folder of the lab", show_default="<project>/.lab"),
]


@app.command()
def seed(
    state: State = None,
    campaigns: Annotated[int, typer.Option(min=1)] = 200,
    line_items: Annotated[int, typer.Option(min=1)] = 800,
    creatives: Annotated[int, typer.Option(min=1)] = 1600,
    days: Annotated[int, typer.Option(min=1, help="of events and spend")] = 7,
    requests: Annotated[int, typer.Option(min=1, help="bid requests of an average hour")] = 400,
    hourly: Annotated[int, typer.Option(min=0, help="hours that are run one by one, with files")] = 24,
    seed: Annotated[int, typer.Option(help="the same number makes the same data")] = 1,
    as_json: Json = False,
) -> None:
    """Fill all three systems with one world. The synchronised sets of Aerospike are emptied first."""
    from dbops_lab.application import lab as application
    from dbops_lab.application.world import World
    from dbops_lab.cli import interruptible, print_json
    from dbops_lab.lab import Lab

    began = time.monotonic()
    world = World(seed, campaigns, line_items, creatives, days, requests)
    with interruptible():
        done = application.seed(Lab(state), world, hourly=min(hourly, len(world.hours())))
    if as_json:
        print_json(done)
        return
    table = Table("table or set", "rows")
    for name, count in done.items():
        table.add_row(name, f"{count:,}")
    Console().print(table)
    Console().print(f"{sum(done.values()):,} rows and records in {time.monotonic() - began:.1f} s")


@app.command()
def traffic(
    state: State = None,
    seconds: Annotated[float, typer.Option(min=0.1)] = 30.0,
    rate: Annotated[float, typer.Option(min=0.1, help="changes per second, at most")] = 50.0,
    seed: Annotated[int, typer.Option(help="the same number makes the same changes")] = 2,
    as_json: Json = False,
) -> None:
    """Change PostgreSQL for a while, as people and bidders would. Rows for `drift` are left alone."""
    from dbops_lab.application import lab as application
    from dbops_lab.application.traffic import Traffic
    from dbops_lab.cli import interruptible, print_json
    from dbops_lab.lab import Lab

    home = application.database(Lab(state))
    with interruptible(), closing(Traffic(home, home.world(), seed)) as changes:
        changes.start(rate)
        time.sleep(seconds)
    if as_json:
        print_json(dict(changes.done))
    else:
        Console().print(", ".join(f"{count:,} {what}" for what, count in changes.done.items()))


@app.command()
def drift(
    state: State = None,
    cluster: Annotated[str, typer.Option(help="which cluster differs")] = "eu",
    count: Annotated[int, typer.Option(min=1)] = 5,
    kind: Annotated[list[str] | None, typer.Option(help="missing, extra, different ...; may be repeated")] = None,
    seed: Annotated[int, typer.Option(help="the same number breaks the same")] = 1,
    as_json: Json = False,
) -> None:
    """Let records differ from their rows, and say which."""
    from dbops_lab.application import lab as application
    from dbops_lab.application.drift import KINDS, plant
    from dbops_lab.cli import print_json
    from dbops_lab.lab import Lab

    lab = Lab(state)
    chosen = next((one for one in application.clusters(lab) if one.name == cluster), None)
    unknown = set(kind or ()) - set(KINDS)
    if chosen is None or unknown:
        names = ", ".join(one.name for one in application.clusters(lab))
        raise typer.BadParameter(f"the clusters are {names}; the kinds are {', '.join(KINDS)}")
    planted = plant(application.database(lab), chosen, seed, kinds=kind or KINDS, count=count)
    if as_json:
        print_json([vars(one) for one in planted])
        return
    table = Table("kind", "table", "key", "column: row, record")
    for one in planted:
        fields = (f"{name}: {ours!r}, {theirs!r}" for name, (ours, theirs) in one.fields.items())
        table.add_row(one.kind, one.table, one.key, "\n".join(fields))
    Console().print(table)


@app.command()
def hour(
    state: State = None,
    start: Annotated[datetime | None, typer.Option("--start", help="UTC; default: the next one after the seed")] = None,
    fault: Annotated[list[str] | None, typer.Option(help="table=fault, as wins=glue_failed; may be repeated")] = None,
    as_json: Json = False,
) -> None:
    """Run the ETL of one hour, and let pipelines fail as told."""
    from dbops_lab.application import lab as application
    from dbops_lab.application.etl import faults_of
    from dbops_lab.application.events import TABLES
    from dbops_lab.cli import interruptible, print_json
    from dbops_lab.lab import Lab

    faults = dict(one.partition("=")[::2] for one in fault or ())
    for table, wanted in faults.items():
        if table not in TABLES or wanted not in faults_of(table):
            known = ", ".join(faults_of(table)) if table in TABLES else "none"
            raise typer.BadParameter(f"{table}={wanted}: tables are {', '.join(TABLES)}; its faults are {known}")
    lab = Lab(state)
    world = application.database(lab).world()
    with interruptible():
        loads = application.etl(lab, world).run(start.replace(tzinfo=UTC) if start else world.now, faults)
    if as_json:
        print_json([{name: str(value) for name, value in vars(load).items()} for load in loads.values()])
        return
    table_of = Table("table", "expected", "written", "loaded", "Glue", "fault")
    for load in loads.values():
        counts = (str(count) for count in (load.expected, load.written, load.loaded))
        table_of.add_row(load.table, *counts, load.state or "", load.fault or "")
    Console().print(table_of)
