"""`dbops sync ...`: compare Aerospike with PostgreSQL, ask the syncer how it is, put differing records right."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dbops.backups.cli import open_access, print_rows
from dbops.connections import from_env
from dbops.errors import ConfigurationError, DbopsError
from dbops.platform import Platform, load_platform
from dbops.platform.sync import Sync

if TYPE_CHECKING:
    from dbops.sync.validate import PairResult

app = typer.Typer(help="Compare Aerospike with PostgreSQL, and put right what differs.", no_args_is_help=True)
errors = Console(stderr=True, highlight=False)

Pairs = Annotated[list[str] | None, typer.Option("--pair", "-p", help="Only this one; may be repeated. Default: all.")]
Clusters = Annotated[
    list[str] | None, typer.Option("--cluster", "-c", help="Only this one; may be repeated. Default: all of each pair.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]


def _sync(platform: Platform) -> Sync:
    if platform.sync is None:
        raise ConfigurationError(f"platform {platform.name} has no section `sync`")
    return platform.sync


def _validated(
    platform: Platform, pairs: list[str] | None, clusters: list[str] | None, listed: int, since: datetime | None
) -> tuple[list[PairResult], dict[str, str]]:
    """Results, and what could not be looked at by target."""
    from dbops.sync.postgres import TableWrong
    from dbops.sync.validate import Validation

    sync = _sync(platform)
    results, failed = [], {}
    for pair in [sync.pair(name) for name in pairs] if pairs else sync.pairs:
        for cluster in pair.clusters:
            if clusters and cluster not in clusters:
                continue
            target = f"{cluster}/{pair.namespace}.{pair.set}"
            try:
                access = open_access(platform, cluster)
                validation = Validation(
                    pair, cluster, from_env(sync.connection), access, max_replica_lag=sync.max_replica_lag,
                    listed=listed,
                )  # fmt: skip
                results.append(validation.run(since))
            except TableWrong as problem:  # of this pair; the others are compared all the same
                failed[target] = str(problem)
            except ConfigurationError:
                raise
            except DbopsError as problem:
                failed[target] = str(problem)
    if not results and not failed:
        raise ConfigurationError(f"no pair has a set in {', '.join(clusters or [])}")
    return results, failed


@app.command()
def validate(
    pair: Pairs = None,
    cluster: Clusters = None,
    hours: Annotated[
        float | None, typer.Option(min=0.01, help="Only rows that changed in the last so many hours.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare sets with their tables, as typed values, with a second look after the lag.

    Exit codes: 0 all the same; 1 something has drifted; 2 something could not be looked at, or wrong usage.
    """
    from dbops.sync.report import difference_in_words, total

    platform = load_platform()
    since = None if hours is None else datetime.now(UTC) - timedelta(hours=hours)
    results, failed = _validated(platform, pair, cluster, _sync(platform).listed, since)
    if as_json:
        typer.echo(json.dumps({"results": [one.document() for one in results], "failed": failed}, indent=2))
    else:
        print_rows("Sets", [_row(one) for one in results])
        console = Console(highlight=False)
        for one in results:
            for difference in one.differences:
                console.print(f"{one.target}: {escape(difference_in_words(difference))}", soft_wrap=True)
            if one.unmapped:
                errors.print(f"[yellow]{one.target}:[/] neither mapped nor ignored: {escape(', '.join(one.unmapped))}")
        console.print(total(results))
    for target, problem in failed.items():
        errors.print(f"[red]{target}:[/] {escape(problem)}")
    if failed:
        raise typer.Exit(2)
    if not all(one.ok for one in results):
        raise typer.Exit(1)


def _row(one: PairResult) -> dict[str, Any]:
    names = ("rows", "records", "missing", "extra", "different", "duplicates", "in_flight", "seconds")
    return {"pair": one.pair, "set": one.target} | {name: getattr(one, name) for name in names}


@app.command()
def status(as_json: Json = False) -> None:
    """Show what the syncer says of each table.

    Exit codes: 0 in step; 1 a limit is broken; 2 could not look, or wrong usage.
    """
    from dbops.sync.status import table_status

    sync = _sync(load_platform())
    if sync.status is None:
        raise ConfigurationError("the platform file's `sync` has no `status`")
    try:
        found = table_status(from_env(sync.connection), sync.status, sync.pairs)
    except DbopsError as problem:
        raise ConfigurationError(str(problem)) from problem
    rows = [
        {
            "table": one.table,
            "status": one.status,
            "age_seconds": round(one.age.total_seconds()) if one.age is not None else None,
            "errors": one.errors,
            "problems": "; ".join(one.problems) or None,
        }
        for one in found
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_rows("Synchronisation", rows)
    if any(one.problems for one in found):
        raise typer.Exit(1)


@app.command()
def repair(
    pair: Pairs = None,
    cluster: Clusters = None,
    apply: Annotated[
        int | None,
        typer.Option("--apply", min=1, help="Put right exactly so many records, as the dry run counted them."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show which records a repair would touch; with --apply, put them right and compare again.

    Exit codes: 0 nothing differs any more, or a dry run; 1 it was not done, or something still differs; 2 wrong usage.
    """
    from dbops.sync.repair import in_words, plan_repair
    from dbops.sync.repair import repair as put_right
    from dbops.sync.report import total

    platform = load_platform()
    sync = _sync(platform)
    results, failed = _validated(platform, pair, cluster, sync.most_repaired, None)
    for target, problem in failed.items():
        errors.print(f"[red]{target}:[/] {escape(problem)}")
    if failed:
        raise typer.Exit(1)
    plan = plan_repair(results, sync.most_repaired)
    if apply is None or not plan:
        records = [f"{one.cluster} {one.pair} {one.kind} {one.key or one.digest}" for one in plan]
        document = {"planned": len(plan), "records": records}
        typer.echo(json.dumps(document, indent=2) if as_json else in_words(plan, sync) if plan else "nothing differs")
        if plan and not as_json:
            typer.echo(f"dry run: nothing was touched; --apply {len(plan)} does it")
        return
    if apply != len(plan):
        raise ConfigurationError(f"--apply {apply}: {len(plan)} records differ now; look at the dry run again")
    done = put_right(
        sync,
        plan,
        postgres=from_env(sync.connection),
        syncer=from_env(sync.syncer.connection) if sync.syncer is not None else None,
        accesses={name: open_access(platform, name) for name in dict.fromkeys(one.cluster for one in plan)},
    )
    names = list(dict.fromkeys(one.pair for one in plan))
    again, failed = _validated(platform, names, cluster, sync.listed, None)
    if as_json:
        typer.echo(json.dumps({**done, "results": [one.document() for one in again], "failed": failed}, indent=2))
    else:
        typer.echo(f"put right: {done['published']} written, {done['removed']} removed; then {total(again)}")
    if failed or not all(one.ok for one in again):
        raise typer.Exit(1)
