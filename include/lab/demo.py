"""`make demo`: the platform's main job, run for real on this machine, shown while it happens, and taken down again."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from dbops.aerospike.cluster import Access, Cluster
from dbops.backups import catalog
from dbops.backups.store import Store, open_store
from dbops.connections import from_env
from dbops.errors import DbopsError
from dbops.platform import Platform, load_platform
from dbops_lab.airflow import Airflow, Client
from dbops_lab.cli import inbox_table, interruptible, shown
from dbops_lab.lab import PROJECT, Lab
from dbops_lab.seed import seed
from dbops_lab.traffic import traffic
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

STATE = PROJECT / ".lab-demo"
SLICES = 2  # per namespace: a task costs Airflow more than such a small slice costs
RUN_SECONDS = 600.0  # only so that it ends; a run takes half a minute
VERIFY_SECONDS = 600.0
TRAFFIC_SECONDS = 5.0
VERIFY = "aerospike_backup_verify"

console = Console(highlight=False)


@dataclass
class Row:
    """One line of the final table."""

    workflow: str
    run: str
    state: str
    seconds: float
    records: int = 0
    bytes: int = 0
    locations: list[str] = field(default_factory=list)


def main() -> int:
    """0 when all that was expected happened, 1 when not, 130 when interrupted. All that was started is stopped."""
    lab = Lab(STATE, guarded=True)
    began = time.monotonic()
    problems: list[str] = []
    try:
        with interruptible():
            lab.down()  # what an earlier demonstration that was killed may have left
            try:
                problems = _demonstrate(lab)
            finally:
                # A second Ctrl-C, or a signal that make sends on, must not leave anything running.
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                console.print("\nstopping the lab ...")
                lab.down()
    except DbopsError as problem:
        problems = [str(problem)]
    except KeyboardInterrupt:
        console.print("[yellow]interrupted[/]; all that was started has been stopped")
        return 130
    for problem in problems:
        console.print(f"[red]not as expected:[/] {escape(problem)}")
    verdict = "[red]FAILED[/]" if problems else "[green]everything happened as expected[/]"
    console.print(f"{verdict} in {time.monotonic() - began:.0f} s")
    return 1 if problems else 0


def _demonstrate(lab: Lab) -> list[str]:
    _title("Starting the lab: PostgreSQL, S3, two Aerospike clusters, Slack, PagerDuty, mail")
    with shown() as progress:
        lab.up(progress)
    environment = lab.environment()
    platform = _adopt(environment)
    store = open_store(platform.storage, from_env(platform.storage.connection))

    _title("Starting Airflow, and filling the clusters meanwhile")
    seeded: dict[str, Any] = {}
    filling = threading.Thread(target=lambda: seeded.update(seed(lab)), name="seed")
    filling.start()
    airflow = Airflow(lab)
    with shown() as progress:
        airflow.up(progress)
    filling.join()
    if not seeded:
        return ["the clusters could not be filled"]
    client = airflow.client()
    clusters = [cluster.name for cluster in platform.aerospike.clusters]
    full = [f"aerospike_backup_full_{name}" for name in clusters]
    incremental = [f"aerospike_backup_incremental_{name}" for name in clusters]
    client.wait_for_dags([*full, *incremental, VERIFY])
    client.start_without_missed_runs([*full, *incremental])
    console.print(f"{sum(_objects(platform).values()):,} records in {len(clusters)} clusters")

    problems: list[str] = []
    _title("Full backups of every namespace, through Airflow's API")
    client.unpause(VERIFY)
    rows = _run(client, full, problems)
    _compare(platform, store, problems)

    _title(f"Traffic for {TRAFFIC_SECONDS:.0f} s: updates, inserts, deletes")
    changed = traffic(lab, seconds=TRAFFIC_SECONDS)
    console.print(", ".join(f"{count:,} {what}" for what, count in changed.items()))

    _title("Incremental backups: what changed, and what was deleted")
    rows += _run(client, incremental, problems)
    _compare_incrementals(platform, store, problems)

    _title("Verification: Airflow reads every new restore point back")
    rows += _verified(client, platform, store, problems)

    _report(rows)
    console.print(inbox_table(lab.inbox()))
    return problems


def _adopt(environment: dict[str, str]) -> Platform:
    os.environ.update(environment)
    return load_platform()


def _run(client: Client, dag_ids: list[str], problems: list[str]) -> list[Row]:
    """Trigger the DAGs together, show their progress, and tell what each run did."""
    runs = {}
    for dag_id in dag_ids:
        runs[dag_id] = client.trigger(dag_id, {"slices": SLICES})
    began = said = time.monotonic()
    ended: dict[str, tuple[str, float]] = {}
    with Live(console=console, refresh_per_second=4, transient=not console.is_terminal) as live:
        while len(ended) < len(runs) and time.monotonic() - began < RUN_SECONDS:
            grid = Table.grid(padding=(0, 2))
            for dag_id, run_id in runs.items():
                run, tasks = client.run(dag_id, run_id), client.tasks(dag_id, run_id)
                done = sum(task["state"] in ("success", "failed", "skipped", "upstream_failed") for task in tasks)
                seconds = ended.get(dag_id, ("", time.monotonic() - began))[1]
                if run["state"] in ("success", "failed"):
                    ended.setdefault(dag_id, (run["state"], seconds))
                grid.add_row(f"  {dag_id}", run["state"], f"{done} of {len(tasks)} tasks", f"{seconds:.0f} s")
            live.update(grid)
            if not console.is_terminal and time.monotonic() - said > 10:
                said = time.monotonic()
                console.print(grid)
            time.sleep(0.7)
    rows = []
    for dag_id, run_id in runs.items():
        state, seconds = ended.get(dag_id, (client.run(dag_id, run_id)["state"], RUN_SECONDS))
        row = Row(dag_id, run_id, state, seconds)
        for task in client.tasks(dag_id, run_id):
            if task["task_id"].startswith("commit_") and task["state"] == "success":
                result = client.result(dag_id, run_id, task["task_id"])
                row.records += result["records"]
                row.bytes += result["bytes"]
                row.locations.append(result["location"])
            elif task["state"] == "failed":
                problems.append(f"{dag_id}: task {task['task_id']} failed")
        if state != "success":
            problems.append(f"{dag_id}: the run is {state} after {seconds:.0f} s")
        rows.append(row)
    return rows


def _objects(platform: Platform) -> dict[tuple[str, str], int]:
    """Records that each namespace holds, asked from the cluster itself."""
    found = {}
    for cluster in platform.aerospike.clusters:
        with Cluster(Access.of(cluster.name, cluster.seeds, from_env(cluster.connection))) as reader:
            reader.refresh()
            for namespace in cluster.namespaces:
                found[cluster.name, namespace.name] = reader.namespace_state(namespace.name).master_objects
    return found


def _compare(platform: Platform, store: Store, problems: list[str]) -> None:
    """Each full holds as many records as its namespace, which nobody has changed yet."""
    for (cluster, namespace), objects in _objects(platform).items():
        point = catalog.latest(catalog.restore_points(store, cluster, namespace))
        records = point.manifest.records if point else None
        if records != objects:
            problems.append(f"{cluster}/{namespace} holds {objects:,} records, its full backup {records}")


def _compare_incrementals(platform: Platform, store: Store, problems: list[str]) -> None:
    for cluster in platform.aerospike.clusters:
        for namespace in cluster.namespaces:
            point = catalog.latest(catalog.restore_points(store, cluster.name, namespace.name))
            where = f"{cluster.name}/{namespace.name}"
            if point is None or str(point.kind) != "incremental":
                problems.append(f"{where}: the newest restore point is {point.id if point else None}, no incremental")
            elif namespace.track_deletes and not point.manifest.deleted:
                problems.append(f"{where}: records were deleted, and {point.id} knows of none")


def _verified(client: Client, platform: Platform, store: Store, problems: list[str]) -> list[Row]:
    """Wait until every restore point was read back by the DAG that the commits trigger."""
    deadline = time.monotonic() + VERIFY_SECONDS
    places = [(cluster.name, space.name) for cluster in platform.aerospike.clusters for space in cluster.namespaces]
    with console.status("waiting ...") as status:
        while True:
            points = [point for place in places for point in catalog.restore_points(store, *place)]
            left = [point for point in points if point.verified is None]
            runs = client.runs(VERIFY)
            active = [run for run in runs if run["state"] in ("queued", "running")]
            status.update(f"{len(points) - len(left)} of {len(points)} restore points are verified")
            if not (left or active) or time.monotonic() > deadline:
                break
            time.sleep(1)
    damaged = [point.id for point in points if point.verified and not point.verified.ok]
    if left or damaged:
        problems.append(f"{len(left)} restore points were not verified in time, damaged: {damaged or 'none'}")
    rows = []
    for run in runs:
        row = Row(VERIFY, run["dag_run_id"], run["state"], run.get("duration") or 0.0)
        for task in client.tasks(VERIFY, run["dag_run_id"]):
            if task["task_id"] == "verify" and task["state"] == "success":
                result = client.result(VERIFY, run["dag_run_id"], "verify", task["map_index"])
                row.records += result["records"]
                row.bytes += result["bytes"]
        if run["state"] == "failed":
            problems.append(f"{VERIFY}: run {row.run} failed")
        rows.append(row)
    return rows


def _report(rows: list[Row]) -> None:
    table = Table(title="what ran", title_justify="left", title_style="bold")
    for column, justify in (("workflow", "left"), ("run", "left"), ("state", "left"), ("seconds", "right")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for column in ("records", "bytes"):
        table.add_column(column, justify="right")
    table.add_column("location", overflow="fold")
    for row in rows:
        run = row.run.partition("__")[0]
        colour = "green" if row.state == "success" else "red"
        table.add_row(
            row.workflow,
            run,
            f"[{colour}]{row.state}[/]",
            f"{row.seconds:.1f}",
            f"{row.records:,}",
            f"{row.bytes:,}",
            _common(row.locations),
        )
    console.print(table)


def _common(locations: list[str]) -> str:
    """The folder that holds them all."""
    return ", ".join(
        sorted({location.rstrip("/").rpartition("/")[0].rpartition("/")[0] + "/" for location in locations})
    )


def _title(text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


if __name__ == "__main__":
    sys.exit(main())
