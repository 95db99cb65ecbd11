"""The `dbops` command: what the DAGs do, without Airflow. A group of commands is imported when it is used."""

from __future__ import annotations

import ast
import os
import shlex
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import dbops
from dbops.errors import ConfigurationError, DbopsError
from dbops.redact import redact

if TYPE_CHECKING:
    from typer._click import Command, Context

GROUP = "dbops.commands"
OWN = {
    "platform": ("dbops.platform.cli:app", "What exists: check the file, prove its RPOs, print the pools."),
    "backup": ("dbops.backups.cli:app", "Take, adopt, list, show, verify, pin and expire backups."),
    "restore": ("dbops.aerospike.cli:app", "Restore a namespace to a point in time."),
    "drill": ("dbops.aerospike.cli:drill_app", "Restore for practice: to the scratch cluster, compared and timed."),
    "postgres": ("dbops.postgres.cli:app", "PostgreSQL: look at its health, report, plan and do maintenance."),
    "sync": ("dbops.sync.cli:app", "Compare Aerospike with PostgreSQL, and put right what differs."),
    "consistency": ("dbops.consistency.cli:app", "Compare PostgreSQL, Aerospike and Redshift with each other."),
    "etl": ("dbops.etl.cli:app", "Check the pipelines that load the warehouse, hour by hour."),
    "redshift": ("dbops.redshift.cli:app", "Maintenance, snapshots, restores and rights of the warehouse."),
    "archive": (
        "dbops.redshift.archive_cli:app",
        "Old days of the warehouse: archive, list, verify, query and restore them.",
    ),
    "ledger": ("dbops.ledger.cli:app", "The record of what was done: migrate it, rebuild it."),
}


class Commands(TyperGroup):
    """Our groups of commands and those of the entry points `dbops.commands`; `--help` imports none."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.places: dict[str, EntryPoint] = {}
        for name, (value, text) in OWN.items():
            self.places[name] = EntryPoint(name, value, GROUP)
            self.commands[name] = TyperCommand(name=name, help=text)
        for place in entry_points(group=GROUP):
            if place.name not in self.places:
                self.places[place.name] = place
                self.commands[place.name] = TyperCommand(name=place.name, help=_summary(place))

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _group(self.places[name]) if name in self.places else command, rest

    def invoke(self, ctx: Context) -> Any:
        try:
            return super().invoke(ctx)
        except DbopsError as error:
            typer.secho(f"error: {redact(str(error))}", err=True, fg="red")
            raise typer.Exit(2 if isinstance(error, ConfigurationError) else 1) from error


def _summary(place: EntryPoint) -> str:
    """First line of the module's docstring, read without importing it."""
    try:
        spec = find_spec(place.module)
        source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
        lines = (ast.get_docstring(ast.parse(source)) or "").splitlines()
    except (ImportError, OSError, SyntaxError, ValueError):
        lines = []
    text = lines[0].removeprefix(f"`dbops {place.name} ...`: ") if lines else f"brought by {place.module}."
    return text[:1].upper() + text[1:]


def _group(place: EntryPoint) -> Command:
    try:
        return typer.main.get_group(place.load())
    except ImportError as error:
        raise ConfigurationError(
            f"dbops {place.name}: {place.module} cannot be imported ({error}); "
            "install requirements.txt (for the lab also requirements-dev.txt)"
        ) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback must not show the values of variables
    epilog="Exit codes: 0 done; 1 failed, or a check is not met; 2 wrong usage or configuration; 130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dbops {dbops.__version__}")
        raise typer.Exit


@app.callback()
def options(
    lab: Annotated[
        bool,
        typer.Option(
            "--lab",
            help="Work with the running lab: connections and platform of its file `env` replace those of the "
            "environment. The lab's folder is $DBOPS_LAB, or .lab in the project.",
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Backups, checks and maintenance of the platform's databases, without Airflow.

    Connections are read as Airflow reads them, from AIRFLOW_CONN_<ID>. What exists is read from the file that
    $DBOPS_PLATFORM says, or names in include/platform; default: production.
    """
    if lab:
        folder = os.environ.get("DBOPS_LAB", "").strip() or Path(dbops.__file__).parents[2] / ".lab"
        os.environ.update(read_env(Path(folder) / "env"))


def read_env(file: Path) -> dict[str, str]:
    """The variables of a file of `NAME=value` lines, quoted as for a shell.

    :raises ConfigurationError: the file is missing or not of that form; values are never shown.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(
            f"--lab: {file} cannot be read ({error.strerror}); start the lab with `dbops lab up`"
        ) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = ["an open quote"]
        words = words[1:] if words[:1] == ["export"] else words
        if not words:
            continue
        name, sign, value = words[0].partition("=")
        if len(words) > 1 or not sign or not name.isidentifier():
            raise ConfigurationError(f"--lab: line {number} of {file} is not of the form NAME='value'")
        found[name] = value
    return found


def main() -> None:
    app()


if __name__ == "__main__":
    main()
