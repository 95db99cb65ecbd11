"""`make demo`: the platform's main job, run for real on this machine, shown while it happens, and taken down again."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aerospike
from dbops.aerospike.cluster import Access, Cluster
from dbops.backups import catalog
from dbops.backups.rpo import State, measure
from dbops.backups.store import Store, open_store
from dbops.connections import from_env
from dbops.errors import DbopsError
from dbops.platform import Platform, duration_text, load_platform
from dbops_lab.airflow import Airflow, Client
from dbops_lab.cli import inbox_table, interruptible, shown
from dbops_lab.lab import PROJECT, Lab
from dbops_lab.recovery_demo import RECOVERY, Recovery
from dbops_lab.seed import seed
from dbops_lab.sync_demo import SyncDemo
from dbops_lab.traffic import connect, traffic
from dbops_lab.warehouse_demo import ARCHIVE, WEEKLY, Warehouse
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

STATE = PROJECT / ".lab-demo"
SLICES = 2  # per namespace: a task costs Airflow more than such a small slice costs
RUN_SECONDS = 600.0  # only so that it ends; a run takes half a minute
VERIFY_SECONDS = 600.0
TRAFFIC_SECONDS = 5.0
LOG_LINES = 25  # of each task that failed
VERIFY = "aerospike_backup_verify"
RESTORE = "aerospike_restore"
DRILL = "aerospike_restore_drill"
LOST = ("eu", "bidder")  # the namespace that is lost and restored
RETENTION = f"backup_retention_{LOST[0]}"
RPO = "backup_rpo"

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
    _title("Starting the lab: PostgreSQL, Redshift, S3, two Aerospike clusters, Slack, PagerDuty, mail")
    with shown() as progress:
        lab.up(progress)
    environment = lab.environment()
    platform = _adopt(environment)
    store = open_store(platform.storage, from_env(platform.storage.connection))

    _title("Starting Airflow, and filling the clusters and the warehouse meanwhile")
    warehouse, recovery = Warehouse(lab, platform), Recovery(lab, platform)
    seeded: dict[str, Any] = {}

    def fill() -> None:
        warehouse.fill()
        recovery.fill()
        seeded.update(seed(lab))

    filling = threading.Thread(target=fill, name="seed")
    filling.start()
    airflow = Airflow(lab)
    with shown() as progress:
        airflow.up(progress)
    filling.join()
    if not seeded:
        return ["the clusters and the warehouse could not be filled"]
    client = airflow.client()
    clusters = [cluster.name for cluster in platform.aerospike.clusters]
    full = [f"aerospike_backup_full_{name}" for name in clusters]
    incremental = [f"aerospike_backup_incremental_{name}" for name in clusters]
    client.wait_for_dags([*full, *incremental, VERIFY, RESTORE, DRILL, RPO, ARCHIVE, WEEKLY, RECOVERY])
    client.start_without_missed_runs([*full, *incremental, DRILL, RPO])
    client.unpause(RESTORE)
    console.print(f"{sum(_objects(platform).values()):,} records in {len(clusters)} clusters")

    problems: list[str] = []
    console.print("The warehouse's old days are archived meanwhile, then it is maintained; see the end.")
    warehouse.begin(client)
    sync = SyncDemo(lab)
    sync.begin()
    console.print("PostgreSQL is damaged and recovered meanwhile; see the end.")
    recovery.begin(client)
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

    _title(
        f"Loss: changes, deletes, then {'/'.join(LOST)} is truncated; restored to the moment before, after an approval"
    )
    rows.append(_lose_and_restore(lab, client, problems))

    _title("Drills that ran meanwhile, and what retention would do")
    client.unpause(RETENTION)
    plan = client.trigger(RETENTION, {"dry_run": True})
    rows += _drills(client, platform, problems)
    run = client.wait(RETENTION, plan, seconds=RUN_SECONDS)
    rows.append(Row(RETENTION, plan, run["state"], run.get("duration") or 0.0))
    if run["state"] != "success":
        problems.append(f"{RETENTION}: the run is {run['state']}")

    rows.append(_rpo(client, problems))

    _title("The warehouse: old days were archived meanwhile, then its tables maintained")
    warehouse.end()
    problems += warehouse.problems
    rows += [Row(run.workflow, run.id, run.state, run.seconds, run.rows, run.bytes) for run in warehouse.runs]
    console.print(warehouse.table())

    _title("The data: drift between PostgreSQL and Aerospike, and a load that lost a file, were found and put right")
    problems += sync.end()
    console.print(sync.table())
    _title("PostgreSQL: an UPDATE without WHERE, and a recovery to the second before it, meanwhile")
    recovery.end()
    problems += recovery.problems
    rows.append(Row(RECOVERY, recovery.run_id, recovery.state, recovery.seconds, recovery.rows))
    for line in recovery.lines:
        console.print(f"  {escape(line)}")
    console.print(recovery.table())

    _report(rows)
    _objectives(platform, store, problems)
    console.print(inbox_table(lab.inbox()))
    if problems:
        _tell_failed(client)
    return problems


def _tell_failed(client: Client) -> None:
    """What the failed tasks said last: the lab and its logs are gone in a moment."""
    for task in client.failed():
        where = f"{task['dag_id']}.{task['task_id']}" + (f"[{task['map_index']}]" if task["map_index"] >= 0 else "")
        console.print(f"\n[red]{where}[/] is {task['state']}, {task['dag_run_id']}; the end of its log:")
        for line in client.log_end(task, LOG_LINES):
            console.print(f"  {escape(line)}", soft_wrap=True)


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


def _snapshot(client: aerospike.Client) -> dict[bytes, tuple[str, dict[str, Any], int]]:
    """Digest -> set, bins and when it expires (0 = never) of every record of the namespace that will be lost."""
    found: dict[bytes, tuple[str, dict[str, Any], int]] = {}

    def take(record: Any) -> None:
        (_, set_name, _, digest), meta, bins = record
        # The client makes a TTL of the moment that the server sends, as each record arrives.
        expires = 0 if meta["ttl"] == aerospike.TTL_NEVER_EXPIRE else round(time.time() + meta["ttl"])
        found[bytes(digest)] = (set_name, bins, expires)

    client.query(LOST[1]).foreach(take)
    return found


def _lose_and_restore(lab: Lab, client: Client, problems: list[str]) -> Row:
    """Damage and empty the namespace, restore it through Airflow, and compare it with a snapshot of before."""
    connection = connect(lab, LOST[0])
    try:
        before, moment = _snapshot(connection), datetime.now(UTC)
        for number, digest in enumerate(list(before)[:400]):
            key = (LOST[1], before[digest][0], None, bytearray(digest))
            if number % 2:
                connection.remove(key)
            else:
                connection.put(key, {"touched": -1})
        time.sleep(0.01)
        connection.truncate(LOST[1], None, 0)
        while connection.query(LOST[1]).results():
            time.sleep(0.1)
        conf = {"cluster": LOST[0], "namespace": LOST[1], "point_in_time": moment.isoformat()}
        run_id = client.trigger(RESTORE, conf)
        asked: list[str] = []
        # Try of the task -> since when. Airflow takes an answer of the first second for a task that was killed, and
        # asks again.
        waiting: dict[int, float] = {}

        def approve(run: dict[str, Any], tasks: list[dict[str, Any]]) -> None:
            task = next((t for t in tasks if t["task_id"] == "approve" and t["state"] == "awaiting_input"), None)
            if task is None or time.monotonic() - waiting.setdefault(task["try_number"], time.monotonic()) < 2.5:
                return
            waiting[task["try_number"]] = time.monotonic() + RUN_SECONDS
            asked.append(client.approve(RESTORE, run_id, "approve"))
            if len(asked) == 1:
                console.print("  the plan, approved:\n" + "\n".join(f"  {line}" for line in asked[0].splitlines()))

        run = client.wait(RESTORE, run_id, seconds=RUN_SECONDS, tick=approve)
        after = _snapshot(connection)
    finally:
        connection.close()
    row = Row(RESTORE, run_id, run["state"], run.get("duration") or 0.0, records=len(after))
    if run["state"] != "success" or not asked:
        problems.append(f"{RESTORE}: the run is {run['state']}, {'approved' if asked else 'nobody was asked'}")
    now = time.time()
    gone = {digest for digest, record in before.items() if record[2] and record[2] <= now + 1}
    differ = [
        digest
        for digest in before.keys() - gone
        if digest not in after
        or after[digest][:2] != before[digest][:2]
        or abs(after[digest][2] - before[digest][2]) > 3
    ]
    if differ or after.keys() - before.keys():
        problems.append(f"{'/'.join(LOST)}: {len(differ)} records differ, {len(after.keys() - before.keys())} are new")
    else:
        console.print(
            f"  {len(before) - len(gone):,} records are as they were in the snapshot of {moment:%T} UTC"
            + (f"; {len(gone)} have expired since" if gone else "")
        )
    return row


def _drills(client: Client, platform: Platform, problems: list[str]) -> list[Row]:
    """Wait for the drills that the verified fulls have set off, one of each namespace, and tell what they found.

    Airflow loses an event that comes while it makes a run; those left then are drilled by the next event, here by hand.
    """
    deadline, quiet, by_hand = time.monotonic() + VERIFY_SECONDS, time.monotonic(), False
    places = sum(len(cluster.namespaces) for cluster in platform.aerospike.clusters)
    while True:
        runs = [run for run in client.runs(DRILL) if run["run_type"] == "asset_triggered" or by_hand]
        tasks = {run["dag_run_id"]: client.tasks(DRILL, run["dag_run_id"]) for run in runs}
        ended = sum(
            task["task_id"] == "drill" and task["map_index"] >= 0 and task["state"] in ("success", "failed")
            for found in tasks.values()
            for task in found
        )
        active = any(run["state"] in ("queued", "running") for run in runs)
        if (ended >= places and not active) or time.monotonic() > deadline:
            break
        if active or not runs:
            quiet = time.monotonic()
        elif time.monotonic() - quiet > 15 and not by_hand:
            by_hand = True
            client.trigger(DRILL)
        time.sleep(1)
    rows, drilled = [], set()
    for run in runs:
        row = Row(DRILL, run["dag_run_id"], run["state"], run.get("duration") or 0.0)
        for task in tasks[run["dag_run_id"]]:
            if task["task_id"] == "drill" and task["state"] == "success":
                result = client.result(DRILL, run["dag_run_id"], "drill", task["map_index"])
                row.records += result["records"]
                drilled.add(result["point"].partition(" ")[0])
                console.print(
                    f"  {result['point']}: {result['records']:,} records in {result['seconds']:.1f} s, "
                    f"RTO {result['rto_seconds']:.0f} s"
                )
        if run["state"] != "success":
            problems.append(f"{DRILL}: run {row.run} is {run['state']}")
        rows.append(row)
    if len(drilled) != places:
        problems.append(f"{DRILL}: {len(drilled)} of {places} namespaces were drilled")
    return rows


def _rpo(client: Client, problems: list[str]) -> Row:
    """Let the watchdog look: every namespace has a restorable point that is young enough."""
    run_id = client.trigger(RPO)
    run = client.wait(RPO, run_id, seconds=RUN_SECONDS)
    if run["state"] != "success":
        problems.append(f"{RPO}: the run is {run['state']}")
    return Row(RPO, run_id, run["state"], run.get("duration") or 0.0)


def _objectives(platform: Platform, store: Store, problems: list[str]) -> None:
    """The age of the newest restorable point of each namespace beside its RPO."""
    places = [
        (cluster.name, namespace.name) for cluster in platform.aerospike.clusters for namespace in cluster.namespaces
    ]
    table = Table(title="objectives", title_justify="left", title_style="bold")
    for column in ("namespace", "newest restorable point", "age", "RPO", "RTO"):
        table.add_column(column)
    for found in measure(store, platform, places):
        colour = "green" if found.state is State.KEPT else "red"
        if found.state is not State.KEPT:
            problems.append(found.message)
        table.add_row(
            found.target,
            found.point or "none",
            f"[{colour}]{duration_text(found.age) if found.age is not None else '-'}[/]",
            duration_text(found.rpo),
            duration_text(platform.aerospike.cluster(found.cluster).objectives.rto),
        )
    console.print(table)


def _report(rows: list[Row]) -> None:
    # As wide as a plain terminal at most.
    table = Table(
        title="what ran", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, show_edge=False
    )
    for column in ("workflow", "started", "state"):
        table.add_column(column, overflow="fold")
    for column in ("s", "records", "MB"):
        table.add_column(column, justify="right")
    for row in rows:
        by_hand = row.run.startswith("manual__")
        colour = "green" if row.state == "success" else "red"
        table.add_row(
            row.workflow,
            "by hand" if by_hand else "by event",
            f"[{colour}]{row.state}[/]",
            f"{row.seconds:.1f}",
            f"{row.records:,}" if row.records else "",
            f"{row.bytes / 1e6:.1f}" if row.bytes else "",
        )
    console.print(table)
    console.print(f"Backups lie in {_common([place for row in rows for place in row.locations])}")


def _common(locations: list[str]) -> str:
    """The folder that holds them all."""
    return ", ".join(
        sorted({location.rstrip("/").rpartition("/")[0].rpartition("/")[0] + "/" for location in locations})
    )


def _title(text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


if __name__ == "__main__":
    sys.exit(main())
