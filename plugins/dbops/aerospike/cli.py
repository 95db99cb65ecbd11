"""`dbops restore ...` and `dbops drill ...`: restores for real and for practice, with Airflow up or down."""

from __future__ import annotations

import json
import os
import socket
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown

from dbops.backups.cli import (
    Cluster,
    Json,
    NamespaceName,
    errors,
    open_access,
    open_bucket,
    open_keys,
    open_ledger,
    places,
    print_rows,
    progress_bars,
)
from dbops.errors import ConfigurationError, DbopsError
from dbops.platform import SCRATCH, Platform, load_platform

if TYPE_CHECKING:
    from dbops.aerospike.cluster import Access
    from dbops.backups.restores import RestorePlan, RestoreReport

app = typer.Typer(help="Restore a namespace to a point in time.", no_args_is_help=True)
drill_app = typer.Typer(help="Restore for practice: to the scratch cluster, compared and timed.", no_args_is_help=True)

Point = Annotated[str | None, typer.Option("--id", help="Restore point; default: the newest that can be restored.")]
At = Annotated[
    str | None, typer.Option("--at", help="Point in time with time zone, as 2026-11-24T06:00:00Z, in place of --id.")
]
To = Annotated[str | None, typer.Option("--to", help="Target cluster, or `scratch`; default: the cluster itself.")]
ToNamespace = Annotated[str | None, typer.Option("--to-namespace", help="Target namespace; default: the same.")]
Policy = Annotated[str, typer.Option(help="replace, update, missing or newer; see the runbook of restores.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be repeated.")]
Bins = Annotated[list[str] | None, typer.Option("--bin", help="Only this bin; may be repeated.")]
ExtraTtl = Annotated[int, typer.Option(min=0, help="Seconds that records which expire live longer.")]
Unverified = Annotated[bool, typer.Option("--allow-unverified", help="Also points that were never read back.")]


@app.command()
def plan(
    cluster: Cluster,
    namespace: NamespaceName,
    id: Point = None,
    at: At = None,
    to: To = None,
    to_namespace: ToNamespace = None,
    policy: Policy = "replace",
    sets: Sets = None,
    bins: Bins = None,
    extra_ttl: ExtraTtl = 0,
    allow_unverified: Unverified = False,
    as_json: Json = False,
) -> None:
    """Show what a restore would do, after all its checks; write nothing."""
    platform = load_platform()
    made, _ = _plan(
        platform, cluster, namespace, id, at, to, to_namespace, policy, sets, bins, extra_ttl, allow_unverified, True
    )
    if as_json:
        typer.echo(json.dumps(made.model_dump(mode="json"), indent=2))
    else:
        Console().print(Markdown(made.describe()))


@app.command()
def run(
    cluster: Cluster,
    namespace: NamespaceName,
    id: Point = None,
    at: At = None,
    to: To = None,
    to_namespace: ToNamespace = None,
    policy: Policy = "replace",
    sets: Sets = None,
    bins: Bins = None,
    extra_ttl: ExtraTtl = 0,
    allow_unverified: Unverified = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read everything, count, write nothing.")] = False,
    confirm: Annotated[
        str | None, typer.Option(help="The target as CLUSTER/NAMESPACE, in place of typing it when asked.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Restore a namespace. Asks to type the target when it is in use or holds data.

    Exit codes: 0 the target holds what it should; 1 it does not, or records were refused; 2 wrong usage.
    """
    from dbops.aerospike.restore import release_target, run_restore
    from dbops.ledger import record_action

    platform = load_platform()
    made, access = _plan(
        platform, cluster, namespace, id, at, to, to_namespace, policy, sets, bins, extra_ttl, allow_unverified, dry_run
    )
    store = open_bucket(platform)
    try:
        keys, ledger = open_keys(platform), open_ledger(platform)
        _confirm(made, confirm)
    except BaseException:  # Ctrl-C at the prompt too
        release_target(store, made)
        raise
    with progress_bars(made.target.text, as_json) as show:
        report = run_restore(
            access, store, made, workers=platform.aerospike.cluster(cluster).workers, keys=keys, on_progress=show
        )
    if ledger is not None:
        try:
            record_action(
                ledger,
                name="aerospike_restore",
                target=report.target,
                run=made.holder,
                started_at=report.started_at,
                finished_at=report.finished_at,
                outcome="done" if report.ok else "failed",
                message="; ".join(report.problems),
                details=report.model_dump(mode="json", exclude={"problems", "failures"}),
            )
        except DbopsError as problem:
            errors.print(f"[yellow]not in the ledger:[/] {problem}")
    _show(report, as_json)
    if not report.ok:
        raise typer.Exit(1)


@drill_app.command(name="run")
def run_drills(
    cluster: Annotated[str | None, typer.Argument(help="Default: every cluster.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only this one.")] = None,
    id: Point = None,
    as_json: Json = False,
) -> None:
    """Restore the newest verified point of each namespace to the scratch cluster; compare, time, empty it again.

    Exit codes: 0 every drill was as promised; 1 one was not.
    """
    from dbops.aerospike.drill import newest_points, run_drill

    platform = load_platform()
    scratch = platform.aerospike.scratch
    if scratch is None:
        raise ConfigurationError(f"platform {platform.name} has no aerospike.scratch: name a cluster for drills there")
    store, keys = open_bucket(platform), open_keys(platform)
    wanted = places(platform, cluster, namespace)
    if id and len(wanted) != 1:
        raise typer.BadParameter("name cluster and namespace of the restore point too", param_hint="--id")
    found = [{"cluster": wanted[0][0], "namespace": wanted[0][1], "id": id}] if id else newest_points(store, wanted)
    rows: list[dict[str, Any]] = []
    failed = False
    for point in found:
        name = f"{point['cluster']}/{point['namespace']} {point['id']}"
        try:
            with progress_bars(name, as_json) as show:
                drill = run_drill(
                    store,
                    point["cluster"],
                    point["namespace"],
                    point["id"],
                    open_access(platform, SCRATCH),
                    scratch.namespace,
                    production=[open_access(platform, there.name) for there in platform.aerospike.clusters],
                    rto=platform.aerospike.cluster(point["cluster"]).objectives.rto,
                    holder=_holder("dbops drill run"),
                    workers=scratch.workers,
                    keys=keys,
                    on_progress=show,
                )
        except DbopsError as problem:
            failed = True
            rows.append({"point": name, "ok": False, "problems": [str(problem)]})
            continue
        failed |= not drill.ok
        rows.append({
            "point": name,
            "ok": drill.ok,
            "records": drill.report.target_records,
            "seconds": round(drill.seconds, 3),
            "rto_seconds": drill.rto.total_seconds(),
            "problems": list(drill.problems),
        })
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_rows("Drills", rows)
        if not rows:
            errors.print("no namespace has a verified restore point yet: `dbops backup verify`")
    if failed:
        raise typer.Exit(1)


def _confirm(plan: RestorePlan, given: str | None) -> None:
    """A person, or a script that knows the target, agrees to what is about to be written.

    :raises ConfigurationError: not so.
    """
    if not plan.needs_approval:
        return
    errors.print(Markdown(plan.describe()))
    typed = given if given is not None else typer.prompt(f"Type {plan.target.text} to restore to it", err=True)
    if typed != plan.target.text:
        raise ConfigurationError(f"restore to {plan.target.text}: {typed!r} was typed; nothing was written")


def _holder(what: str) -> str:
    return f"{what} on {socket.gethostname()}, pid {os.getpid()}, {uuid.uuid4().hex[:8]}"


def _at(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write it as 2026-11-24T06:00:00Z", param_hint="--at") from None
    if found.tzinfo is None:
        raise typer.BadParameter("has no time zone: add Z or an offset such as +02:00", param_hint="--at")
    return found.astimezone(UTC)


def _plan(
    platform: Platform,
    cluster: str,
    namespace: str,
    id: str | None,
    at: str | None,
    to: str | None,
    to_namespace: str | None,
    policy: str,
    sets: list[str] | None,
    bins: list[str] | None,
    extra_ttl: int,
    allow_unverified: bool,
    dry_run: bool,
) -> tuple[RestorePlan, Access]:
    from dbops.aerospike.restore import plan_restore
    from dbops.backups.restores import POLICIES, RestoreTarget
    from dbops.backups.restores import Policy as Policies

    if policy not in list(POLICIES):
        raise typer.BadParameter(f"{policy!r} is none of {', '.join(POLICIES)}", param_hint="--policy")
    source = platform.aerospike.cluster(cluster)
    source.namespace(namespace)
    target = to or cluster
    scratch = platform.aerospike.scratch
    access = open_access(platform, target)
    default = scratch.namespace if target == SCRATCH and scratch else namespace
    made = plan_restore(
        open_bucket(platform),
        cluster,
        namespace,
        access,
        RestoreTarget(cluster=target, namespace=to_namespace or default, is_scratch=target == SCRATCH),
        holder=_holder("dbops restore"),
        id=id,
        at=_at(at),
        policy=Policies(policy),
        sets=sets or (),
        bins=bins or (),
        extra_ttl=timedelta(seconds=extra_ttl),
        dry_run=dry_run,
        allow_unverified=allow_unverified,
        keys=open_keys(platform),
    )
    return made, access


def _show(report: RestoreReport, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.model_dump(mode="json"), indent=2))
        return
    print_rows(
        f"Restore {report.id}",
        [
            {
                "target": report.target,
                "ok": report.ok,
                **{name: count for name, count in report.outcomes.model_dump().items() if count},
                "compared": report.compared,
                "seconds": round(report.seconds, 3),
            }
        ],
    )
    for warning in report.warnings:
        errors.print(f"[yellow]mind:[/] {warning}")
    for problem in report.problems:
        errors.print(f"[red]problem:[/] {problem}")
    for failure in report.failures:
        errors.print(f"  refused: {failure.digest} of set {failure.set!r}: {failure.reason}")
