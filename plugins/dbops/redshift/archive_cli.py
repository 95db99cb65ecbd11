"""`dbops archive ...`: old days of the warehouse in S3: archive, list, verify, query and restore them."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from dbops.backups.cli import Json, errors, open_ledger, print_rows
from dbops.connections import from_env
from dbops.errors import ConfigurationError, DbopsError
from dbops.platform import ArchiveTable, Platform, load_platform

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from dbops.redshift.archive_parts import ArchivedPart, ArchivePlace
    from dbops.redshift.archive_plan import ArchivePlan

app = typer.Typer(
    help="Old days of the warehouse: archive, list, verify, query and restore them.", no_args_is_help=True
)

Tables = Annotated[list[str] | None, typer.Option("--table", "-t", help="Only this one; may be repeated.")]
Name = Annotated[str, typer.Argument(help="The archived table, for example public.wins.")]
Names = Annotated[str | None, typer.Argument(help="Only this archived table.")]
First = Annotated[str | None, typer.Option("--first", help="First day, as 2026-01-31.")]
Last = Annotated[str | None, typer.Option("--last", help="Last day, included. Default: the first one.")]
Confirmation = Annotated[
    str | None, typer.Option("--yes", help="The text that is asked for otherwise, for use in scripts.")
]


@app.command()
def plan(table: Tables = None, first: First = None, last: Last = None, as_json: Json = False) -> None:
    """Show which days would be archived and deleted, which stay, and why. Changes nothing."""
    from dbops.redshift.session import open_session

    platform = load_platform()
    place, tables = _place(platform), _tables(platform, table)
    with open_session(from_env(_warehouse(platform))) as session:
        found = _plan(session, place, tables, first, last)
    _show_plan(found, as_json=as_json)


@app.command()
def run(
    table: Tables = None,
    first: First = None,
    last: Last = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Where a day was brought back and has other rows now: archive these, and give up the older archive.",
        ),
    ] = False,
    confirmation: Confirmation = None,
    as_json: Json = False,
) -> None:
    """Archive old days and delete them from the warehouse, after a typed confirmation.

    Exit codes: 0 done, or nothing to do; 1 a day could not be done, or not confirmed; 2 wrong usage or configuration.
    """
    from dbops.redshift.archive import archive_day
    from dbops.redshift.archive_upkeep import reclaim
    from dbops.redshift.session import open_session

    platform = load_platform()
    place, tables = _place(platform), _tables(platform, table)
    info, ledger = from_env(_warehouse(platform)), open_ledger(platform)
    holder = f"dbops archive run on {socket.gethostname()}, pid {os.getpid()}, {uuid.uuid4().hex[:8]}"
    with open_session(info) as session:
        found = _plan(session, place, tables, first, last)
    if not as_json:
        _show_plan(found, as_json=False)
    _confirm(found, confirmation)
    rows: list[dict[str, Any]] = []
    for day in found.days:
        one = place.settings.table(day.table)
        row: dict[str, Any] = {"table": one.dataset, "day": str(day.day)}
        try:
            with open_session(info) as session:
                done = archive_day(
                    session, place, one, day.day, holder=holder, replace=replace,
                    on_part=lambda part: _remember(ledger, place, part),
                    reconnect=lambda: open_session(info),
                )  # fmt: skip
            row |= {"archived": done.archived, "deleted": done.gone, "bytes": done.bytes, "stays": done.kept}
        except DbopsError as problem:
            row["error"] = str(problem)
            errors.print(f"[red]{escape(one.dataset)} {day.day}:[/] {escape(str(problem))}")
        rows.append(row)
    for one in tables:
        if one.days == "rows" and any(row["table"] == one.dataset and row.get("deleted") for row in rows):
            try:
                with open_session(info) as session:
                    problem_found = reclaim(session, one.table).problem
            except DbopsError as problem:
                problem_found = str(problem)
            if problem_found:
                errors.print(f"[yellow]{escape(one.dataset)}:[/] {escape(problem_found)}")
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        print_rows("Archived", rows)
    if any("error" in row for row in rows):
        raise typer.Exit(1)


@app.command("list")
def list_(name: Names = None, first: First = None, last: Last = None, as_json: Json = False) -> None:
    """List archived days, read from the bucket."""
    place = _place(load_platform())
    rows = [_row(part) for part in _parts(place, name, first, last)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_rows(f"Archive {place.url}", rows)


@app.command()
def verify(name: Names = None, first: First = None, last: Last = None, as_json: Json = False) -> None:
    """Read archived files back whole, and compare them with what was written down when their rows were deleted.

    Exit codes: 0 all is as it was; 1 something is not, or is frozen.
    """
    from dbops.redshift.archive_query import verify_part
    from dbops.redshift.archive_restore import require_readable

    place = _place(load_platform())
    rows = []
    for part in _parts(place, name, first, last):
        try:
            require_readable(place, [part])
            problems = verify_part(place, part)
        except DbopsError as problem:
            problems = [str(problem)]
        rows.append({**_row(part), "problems": problems})
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_rows(f"Archive {place.url}", rows)
    if any(row["problems"] for row in rows):
        raise typer.Exit(1)


@app.command()
def query(
    name: Name,
    first: First = None,
    last: Last = None,
    column: Annotated[list[str] | None, typer.Option("--column", "-c", help="Default: all.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", help='"price > 2.5", "country = DE", "bid is null". All of them hold.'),
    ] = None,
    aggregate: Annotated[
        list[str] | None, typer.Option("--aggregate", "-a", help="count, or count, sum, min, max of (column).")
    ] = None,
    group_by: Annotated[list[str] | None, typer.Option("--group-by", "-g", help="A column; `dt` is the day.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows that are shown.")] = 100,
    as_json: Json = False,
) -> None:
    """Ask archived days here, without the warehouse: rows, or counts, sums and extremes of groups."""
    from dbops.redshift.archive_query import Aggregate, Condition, Query, run_query
    from dbops.redshift.archive_restore import require_readable

    if group_by and not aggregate:
        raise typer.BadParameter("needs an --aggregate", param_hint="--group-by")
    asked = Query(
        columns=tuple(column or ()),
        where=tuple(Condition.parse(text) for text in where or ()),
        aggregates=tuple(Aggregate.parse(text) for text in aggregate or ()),
        group_by=tuple(group_by or ()),
        limit=limit,
    )
    place = _place(load_platform())
    parts = _parts(place, name, first, last)
    if not parts:
        raise ConfigurationError(f"nothing of {name} is archived of these days; `dbops archive list` shows what is")
    require_readable(place, parts)
    found = run_query(place, parts, asked).to_pylist()
    if as_json:
        typer.echo(json.dumps(found, indent=2, default=str))
    else:
        print_rows(f"{name}: {len(found):,} rows", found)


@app.command()
def restore(
    name: Name,
    first: Annotated[str, typer.Option("--first", help="First day, as 2026-01-31.")],
    last: Last = None,
    attach: Annotated[
        bool, typer.Option("--attach", help="Move the rows into their table too, after a typed confirmation.")
    ] = False,
    keep: Annotated[int, typer.Option(min=1, help="Days that archival then leaves them there.")] = 7,
    thaw: Annotated[bool, typer.Option("--thaw", help="Ask S3 to thaw what is frozen, and stop.")] = False,
    confirmation: Confirmation = None,
    as_json: Json = False,
) -> None:
    """Load archived days into side tables, compared with what was archived; with --attach back into their table.

    Exit codes: 0 done; 1 it failed, or not confirmed; 2 wrong usage or configuration.
    """
    from datetime import timedelta

    from dbops.redshift.archive_restore import attach_day, plan_restore, require_attachable, restore_day
    from dbops.redshift.session import open_session

    platform = load_platform()
    place, info, ledger = _place(platform), from_env(_warehouse(platform)), open_ledger(platform)
    begin, end = _range(first, last)
    assert begin is not None
    assert end is not None
    found = plan_restore(place, name, begin, end, thaw=thaw)
    if not as_json:
        errors.print(escape(found.describe()))
    if attach:
        with open_session(info) as session:
            require_attachable(session, found)
        _typed(f"attach {len(found.days)} days", confirmation, "nothing was loaded")
    holder = f"dbops archive restore on {socket.gethostname()}, pid {os.getpid()}, {uuid.uuid4().hex[:8]}"
    rows: list[dict[str, Any]] = []
    for day in found.days:
        with open_session(info) as session:
            sides = restore_day(session, place, name, day, holder=holder)
            moved = None
            if attach:
                moved = attach_day(
                    session, place, name, day, holder=holder, keep=timedelta(days=keep),
                    on_part=lambda part: _remember(ledger, place, part),
                )  # fmt: skip
        rows.append({"day": str(day), "side_table": sorted(sides), "rows": sum(sides.values()), "attached": moved})
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_rows(f"Restored {name}", rows)


# ------------------------------------------------------------------------------ parts


def _warehouse(platform: Platform) -> str:
    from dbops.redshift.archive_parts import warehouse

    return warehouse(platform).connection


def _place(platform: Platform) -> ArchivePlace:
    from dbops.redshift.archive_parts import open_place, warehouse

    warehouse(platform)
    return open_place(platform, from_env(platform.storage.connection))


def _tables(platform: Platform, names: Sequence[str] | None) -> list[ArchiveTable]:
    from dbops.redshift.archive_parts import warehouse

    settings = warehouse(platform).archive
    return [settings.table(name) for name in names] if names else list(settings.tables)


def _day(text: str | None, option: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day; write 2026-01-31", param_hint=option) from None


def _range(first: str | None, last: str | None) -> tuple[date | None, date | None]:
    """Both days; the last one is the first one when only that is given."""
    begin, end = _day(first, "--first"), _day(last, "--last")
    return begin, end or begin


def _plan(
    session: Any, place: ArchivePlace, tables: list[ArchiveTable], first: str | None, last: str | None
) -> ArchivePlan:
    from dbops.redshift.archive_plan import plan_archive

    begin, end = _range(first, last)
    return plan_archive(session, place, tables, now=datetime.now(UTC), first=begin, last=end)


def _show_plan(found: ArchivePlan, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, default=str))
        return
    rows: list[dict[str, Any]] = [
        {"table": day.table, "day": str(day.day), "rows": day.rows, "what": "GOES", "why": day.why}
        for day in found.days
    ]
    for name, why in sorted(found.left.items()):
        table, _, day = name.rpartition(" ")
        rows.append({"table": table, "day": day, "rows": None, "what": "stays", "why": why})
    print_rows("Days", rows)
    if found.later:
        errors.print(f"{found.later:,} more days are left to the next run")
    if found.approval:
        errors.print(f"[yellow]{escape(found.approval)}[/]")


def _confirm(found: ArchivePlan, given: str | None) -> None:
    """A person, or a script that knows the number, agrees to what is about to be deleted."""
    count = len(found.days)
    if count:
        many = "mass " if found.approval else ""
        _typed(f"{many}archive {count} day{'s' if count > 1 else ''}", given, "nothing was archived")


def _typed(wanted: str, given: str | None, otherwise: str) -> None:
    """:raises Exit: not so."""
    if given is None:
        try:
            given = typer.prompt(f"Type '{wanted}' to go on", err=True, default="", show_default=False)
        except typer.Abort:
            given = ""
        if given != wanted:
            errors.print(f"not confirmed: {otherwise}")
            raise typer.Exit(1)
    elif given != wanted:
        raise ConfigurationError(f"--yes is {given!r}, the plan asks for {wanted!r}: {otherwise}")


def _parts(place: ArchivePlace, name: str | None, first: str | None, last: str | None) -> list[ArchivedPart]:
    from dbops.redshift.archive_parts import datasets, parts_of

    begin, end = _range(first, last)
    names = [name] if name else datasets(place.store)
    return [part for one in names for part in parts_of(place.store, one, begin, end)]


def _row(part: ArchivedPart) -> dict[str, Any]:
    return {
        "table": part.dataset,
        "day": str(part.day),
        "part": part.part,
        "rows": part.rows,
        "bytes": part.bytes,
        "files": len(part.files),
        "archived_at": f"{part.archived_at:%Y-%m-%d %H:%M:%SZ}",
        "deleted": part.deleted_at is not None,
        "attached": part.attached_at is not None,
    }


def _remember(ledger: Engine | None, place: ArchivePlace, part: ArchivedPart) -> None:
    """The ledger's row; without it the day is not done, and the next run writes it."""
    from dbops.ledger import record_archived_part

    if ledger is not None:
        record_archived_part(ledger, part, place.url)
