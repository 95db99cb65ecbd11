"""`dbops restore ...` and `dbops drill ...`: restores for real and for practice, with Airflow up or down."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, cast

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
    point_in_time,
    print_rows,
    progress_bars,
)
from dbops.errors import ConfigurationError, DbopsError
from dbops.platform import SCRATCH, Platform, load_platform

if TYPE_CHECKING:
    from dbops.aerospike.cluster import Access
    from dbops.backups.restores import RestoreEngine, RestorePlan, RestoreReport, When

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
Indexes = Annotated[str, typer.Option(help="Make indexes and UDFs after the records, or before them.")]
Engine = Annotated[str, typer.Option(help="native, or asrestore: Aerospike's program writes; full points only.")]
Unverified = Annotated[bool, typer.Option("--allow-unverified", help="Also points that were never read back.")]


@dataclass(frozen=True)
class Wanted:
    """The arguments and options of a restore, as `plan` and `run` take them."""

    cluster: Cluster
    namespace: NamespaceName
    id: Point = None
    at: At = None
    to: To = None
    to_namespace: ToNamespace = None
    policy: Policy = "replace"
    sets: Sets = None
    bins: Bins = None
    extra_ttl: ExtraTtl = 0
    indexes: Indexes = "after"
    engine: Engine = "native"
    allow_unverified: Unverified = False

    def plan(self, platform: Platform, dry_run: bool) -> tuple[RestorePlan, Access]:
        from dbops.aerospike.restore import plan_restore
        from dbops.backups.restores import POLICIES, RestoreTarget
        from dbops.backups.restores import Policy as Policies

        for option, value, known in (
            ("--policy", self.policy, list(POLICIES)),
            ("--indexes", self.indexes, ["after", "before"]),
            ("--engine", self.engine, ["native", "asrestore"]),
        ):
            if value not in known:
                raise typer.BadParameter(f"{value!r} is none of {', '.join(known)}", param_hint=option)
        source = platform.aerospike.cluster(self.cluster)
        source.namespace(self.namespace)
        target = self.to or self.cluster
        scratch = platform.aerospike.scratch
        access = open_access(platform, target)
        default = scratch.namespace if target == SCRATCH and scratch else self.namespace
        made = plan_restore(
            open_bucket(platform),
            self.cluster,
            self.namespace,
            access,
            RestoreTarget(cluster=target, namespace=self.to_namespace or default, is_scratch=target == SCRATCH),
            holder=_holder("dbops restore"),
            id=self.id,
            at=point_in_time(self.at, "--at") if self.at else None,
            policy=Policies(self.policy),
            sets=self.sets or (),
            bins=self.bins or (),
            extra_ttl=timedelta(seconds=self.extra_ttl),
            dry_run=dry_run,
            allow_unverified=self.allow_unverified,
            definitions=cast("When", self.indexes),
            engine=cast("RestoreEngine", self.engine),
            engine_path=source.asrestore_path,
            keys=open_keys(platform),
        )
        return made, access


def takes_wanted(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of its first parameter, a `Wanted`, in that one's place."""
    shared = signature(Wanted, eval_str=True).parameters
    own = list(signature(command, eval_str=True).parameters.values())[1:]

    @wraps(command)
    def with_options(**given: Any) -> None:
        command(Wanted(**{name: given.pop(name) for name in shared}), **given)

    parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in (*shared.values(), *own)]
    with_options.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


@app.command()
@takes_wanted
def plan(wanted: Wanted, as_json: Json = False) -> None:
    """Show what a restore would do, after all its checks; write nothing."""
    made, _ = wanted.plan(load_platform(), dry_run=True)
    if as_json:
        typer.echo(json.dumps(made.model_dump(mode="json"), indent=2))
    else:
        Console().print(Markdown(made.describe()))


@app.command()
@takes_wanted
def run(
    wanted: Wanted,
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
    made, access = wanted.plan(platform, dry_run)
    store = open_bucket(platform)
    try:
        keys, ledger = open_keys(platform), open_ledger(platform)
        _confirm(made, confirm)
    except BaseException:  # Ctrl-C at the prompt too
        release_target(store, made)
        raise
    with progress_bars(made.target.text, as_json) as show:
        report = run_restore(
            access, store, made, workers=platform.aerospike.cluster(wanted.cluster).workers, keys=keys, on_progress=show
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
