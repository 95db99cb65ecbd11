"""`dbops platform ...`: what exists, and whether its objectives can be met."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from dbops.platform.cron import starts
from dbops.platform.fields import duration_text
from dbops.platform.load import PlatformFileError, load_platform, platform_file
from dbops.platform.model import METRICS, SYSTEMS, Platform, Severity
from dbops.platform.rpo import RpoProof, prove

app = typer.Typer(help="What exists: check the file, prove its RPOs, print the pools.", no_args_is_help=True)

File = Annotated[
    str | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="A platform file, or a name in include/platform. Default: $DBOPS_PLATFORM, else production.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
NEXT_RUNS = 3
RTO_NOTE = "not proven: no restore has been timed yet (a restore drill does); the guide's value is a restart"


@app.command()
def check(file: File = None, as_json: Json = False) -> None:
    """Validate a platform file, show what exists, and prove from the schedules whether each RPO can be met.

    Exit codes: 0 valid, and every RPO is provable; 1 an RPO cannot be met; 2 the file is wrong.
    """
    try:
        platform = _load(file)
    except PlatformFileError as error:
        if as_json:
            problems = [vars(problem) for problem in error.problems]
            typer.echo(json.dumps({"file": str(error.file), "valid": False, "problems": problems}, indent=2))
            raise typer.Exit(2) from error
        raise
    proofs = prove(platform)
    now = datetime.now(UTC)
    if as_json:
        typer.echo(json.dumps(_document(platform, proofs, now), indent=2))
    else:
        Console(highlight=False).print(_page(platform, proofs, now))
    if not all(proof.ok for proof in proofs):
        raise typer.Exit(1)


@app.command()
def pools(file: File = None) -> None:
    """Print the Airflow pools of the clusters, as JSON for `airflow pools import`."""
    found = {
        cluster.pool: {
            "slots": cluster.pool_slots,
            "description": f"backup slices that run at once on Aerospike cluster {cluster.name}",
            "include_deferred": False,
        }
        for cluster in _load(file).aerospike.clusters
    }
    typer.echo(json.dumps(found, indent=2))


def _load(file: str | None) -> Platform:
    return load_platform(platform_file(file) if file else None)


def _document(platform: Platform, proofs: list[RpoProof], now: datetime) -> dict[str, Any]:
    return {
        "valid": True,
        "ok": all(proof.ok for proof in proofs),
        "platform": platform.model_dump(mode="json"),
        "next_runs": {
            cluster.name: {
                kind.name: [at.isoformat() for at in islice(starts(kind.schedule, now), NEXT_RUNS)]
                for kind in cluster.backup_kinds
            }
            for cluster in platform.aerospike.clusters
        },
        "rpo": [
            {
                "cluster": proof.cluster,
                "namespaces": proof.namespaces,
                "ok": proof.ok,
                "objective_seconds": proof.objective.total_seconds(),
                "worst_seconds": proof.worst.total_seconds(),
                "gap_from": proof.gap_from.isoformat(),
                "gap_to": proof.gap_to.isoformat(),
                "gap_seconds": proof.gap.total_seconds(),
                "waited_seconds": proof.waited.total_seconds(),
                "duration_seconds": proof.duration.total_seconds(),
                "overlap_seconds": proof.overlap.total_seconds(),
                "ends_with": proof.ends_with,
                "note": proof.note,
                "warnings": proof.warnings,
            }
            for proof in proofs
        ],
        "rto": RTO_NOTE,
    }


def _page(platform: Platform, proofs: list[RpoProof], now: datetime) -> Group:
    storage, alerts = platform.storage, platform.alerts
    place = f"s3://{storage.bucket}/{storage.prefix}".rstrip("/")
    copy = f", replicated to {storage.replica_region}" if storage.replica_region else ""
    channels = {
        "slack": f"Slack {alerts.slack.channel}",
        "pagerduty": "PagerDuty",
        "email": f"email to {', '.join(alerts.email.to)}" if alerts.email else "",
    }
    routes = [
        f"{severity}: {' and '.join(channels[name] for name in alerts.channels(severity)) or 'nowhere'}"
        for severity in Severity
    ]
    facts = Table.grid(padding=(0, 2))
    facts.add_row("storage", escape(f"{place} ({storage.region}{copy}), connection {storage.connection}"))
    facts.add_row("ledger", f"connection {platform.ledger_connection}")
    facts.add_row("alerts", escape("; ".join(routes)))
    facts.add_row("file", f"sha256 {platform.sha256[:16]}")
    return Group(
        f"[bold]Platform {platform.name}[/] is valid",
        facts,
        _clusters(platform),
        _namespaces(platform),
        _schedules(platform, now),
        _limits(platform),
        _objectives(platform),
        _proof(proofs),
        *(f"[yellow]warning[/] {proof.cluster}: {text}" for proof in proofs for text in proof.warnings),
        *(f"[yellow]note[/] {text}" for text in dict.fromkeys(filter(None, (proof.note for proof in proofs)))),
        f"[yellow]note[/] RTO {RTO_NOTE}",
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _clusters(platform: Platform) -> Table:
    table = _table("\nAerospike clusters", "cluster", "nodes", "connection", "slices", "pool: slots", "rec/s")
    for cluster in platform.aerospike.clusters:
        table.add_row(
            cluster.name,
            "\n".join(cluster.seeds) or "of the connection",
            cluster.connection,
            str(cluster.slices),
            f"{cluster.pool}: {cluster.pool_slots}",
            f"{cluster.records_per_second:,}" if cluster.records_per_second else "any",
        )
    return table


def _namespaces(platform: Platform) -> Table:
    table = _table("\nNamespaces", "cluster", "namespace", "sets", "deletes", "kept: full", "incremental")
    for cluster in platform.aerospike.clusters:
        for namespace in cluster.namespaces:
            table.add_row(
                cluster.name,
                namespace.name,
                ", ".join(namespace.sets),
                "tracked" if namespace.track_deletes else "not tracked",
                duration_text(namespace.retention.full),
                duration_text(namespace.retention.incremental),
            )
    return table


def _schedules(platform: Platform, now: datetime) -> Table:
    table = _table("\nBackup schedules (UTC)", "cluster", "kind", "cron", "may take", "next runs")
    for cluster in platform.aerospike.clusters:
        for kind in cluster.backup_kinds:
            table.add_row(
                cluster.name,
                kind.name,
                kind.schedule,
                duration_text(kind.max_duration),
                ", ".join(f"{at:%d %b %H:%M}" for at in islice(starts(kind.schedule, now), NEXT_RUNS)),
            )
    return table


def _limits(platform: Platform) -> Table:
    table = _table("\nLimits", "metric", "target", "warning above", "critical above")
    for name in METRICS:
        limit = platform.limits[name]
        table.add_row(name, *(f"{value:g} {limit.unit}" for value in (limit.target, limit.warn, limit.critical)))
    return table


def _objectives(platform: Platform) -> Table:
    table = _table("\nObjectives", "system", "RPO", "RTO")
    objectives = platform.objectives
    for name in SYSTEMS:
        objective = getattr(objectives, name)
        table.add_row(name, duration_text(objective.rpo), duration_text(objective.rto))
    for cluster in platform.aerospike.clusters:
        if cluster.objectives != objectives.aerospike:
            own = cluster.objectives
            table.add_row(f"aerospike {cluster.name}", duration_text(own.rpo), duration_text(own.rto))
    table.add_row("configuration", duration_text(objectives.configuration_rpo), "")
    table.add_row("full platform", "", duration_text(objectives.full_platform_rto))
    return table


def _proof(proofs: list[RpoProof]) -> Table:
    table = _table("\nRPO, proven from the schedules", "cluster", "RPO", "worst case", "", "because (UTC)")
    for proof in proofs:
        wait = f" + {duration_text(proof.waited)} wait" if proof.waited else ""
        table.add_row(
            proof.cluster,
            duration_text(proof.objective),
            duration_text(proof.worst),
            "[green]met[/]" if proof.ok else "[red]NOT MET[/]",
            f"{proof.gap_from:%a %H:%M} to {proof.gap_to:%a %H:%M} = {duration_text(proof.gap)}{wait} "
            f"+ {duration_text(proof.duration)} {proof.ends_with} + {duration_text(proof.overlap)} overlap",
        )
    return table
