"""Our restore beside the official asrestore, on the same files and into the same server.

Loads N records, backs them up once, then each round empties the namespace and restores it with each program in turn.
The namespace is emptied: name one that holds nothing else. Exit codes: see bench/README.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
from aerospike_backup import PLATFORM, load, measured, memory, objects, version
from dbops.aerospike import kernel
from dbops.aerospike.backup import plan_backup, run_backup
from dbops.aerospike.cluster import Access, Cluster
from dbops.aerospike.drill import empty
from dbops.aerospike.restore import plan_restore, release_target, require_ok, restore_slice, run_restore
from dbops.aerospike.wire import PARTITIONS
from dbops.backups import catalog
from dbops.backups.manifest import Kind
from dbops.backups.restores import RestoreTarget
from dbops.backups.store import LocalStore
from dbops.backups.verify import verify
from dbops.errors import DbopsError
from dbops.platform import AerospikeCluster, Namespace, Platform, load_platform
from report import NOT_MEASURED, Report, machine

SET = "bench"
OURS = "ours, counted and compared at the end"
WRITING = "ours, writing alone as asrestore does"
THEIRS = "asrestore, its defaults"


def main() -> int:
    parser = argparse.ArgumentParser(description="Aerospike restore: ours beside asrestore")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--standin", action="store_true", help="start the lab's stand-in and measure it")
    parser.add_argument("--namespace", default="bidder", help="is emptied")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--asrestore", help="path of the official program, to be measured too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        try:
            if options.standin:
                from dbops_lab.aerospike.process import StandIn

                options.port = stack.enter_context(StandIn(namespaces=[options.namespace])).ports[0]
            return run(options, folder).show(as_json=options.json)
        except (DbopsError, OSError, subprocess.SubprocessError) as problem:
            print(f"bench aerospike_restore: not measured: {problem}", file=sys.stderr)
            return NOT_MEASURED


def run(options: argparse.Namespace, folder: Path) -> Report:
    access = Access("bench", ((options.host, options.port),))
    store = LocalStore(folder)
    platform = load_platform(PLATFORM)
    cluster = platform.aerospike.clusters[0].model_copy(update={"name": "bench", "slices": 4})
    namespace = cluster.namespaces[0].model_copy(update={"name": options.namespace, "track_deletes": False})
    peers = {}
    with Cluster(access) as reader:
        reader.wait_ready(options.namespace, 30, lambda reason: None)
        peers["aerospike"] = reader.build()
    if options.asrestore:
        peers["asrestore"] = version(options.asrestore)
    clear(access, options.namespace)
    load(access, options.namespace, SET, options.records)
    report = Report(machine(**peers))
    report.machine["records"] = options.records
    plan = plan_backup(platform, cluster, namespace, Kind.FULL, access, store, holder="bench")
    manifest = run_backup(access, store, plan, workers=2)
    (point,) = catalog.restore_points(store, "bench", options.namespace)
    _, seconds, cpu = measured(lambda: len(verify(store, point).problems))
    report.add(
        "verify", [{"text MB/s": manifest.text_bytes / seconds / 1e6, "text MB/cpu s": manifest.text_bytes / cpu / 1e6}]
    )
    report.target("MB of text verified per CPU second", manifest.text_bytes / cpu / 1e6, least=300)

    def ours() -> int:
        target = RestoreTarget(cluster="bench", namespace=options.namespace, is_scratch=True)
        made = plan_restore(store, "bench", options.namespace, access, target, holder="bench")
        return require_ok(run_restore(access, store, made, workers=2)).outcomes.inserted

    def writing() -> int:
        target = RestoreTarget(cluster="bench", namespace=options.namespace, is_scratch=True)
        made = plan_restore(store, "bench", options.namespace, access, target, holder="bench")
        try:
            with ThreadPoolExecutor(2) as pool:
                results = list(pool.map(lambda part: restore_slice(access, store, made, *part), made.slices))
        finally:
            release_target(store, made)
        return sum(result.outcomes.inserted for result in results)

    def theirs() -> int:
        command = [options.asrestore, "-h", options.host, "-p", str(options.port), "-n", options.namespace]
        command += ["-d", str(folder / manifest.prefix), "--compress", "zstd"]
        subprocess.run(command, check=True, capture_output=True)
        return objects(access, options.namespace, None)

    runs = {OURS: ours, WRITING: writing}
    if options.asrestore:
        runs[THEIRS] = theirs
    else:
        report.not_measured.append(THEIRS)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    clear(access, options.namespace)
    ours()  # loads the kernels
    for _ in range(options.rounds):
        for name, call in runs.items():
            clear(access, options.namespace)
            count, seconds, cpu = measured(call)
            if count != options.records:
                raise DbopsError(f"{name} wrote {count:,} of {options.records:,} records")
            samples[name].append({"records/s": count / seconds, "seconds": seconds, "cpu_s": cpu})
    for name, values in samples.items():
        report.add(name, values)
    peaks(options, platform, cluster, namespace, access, store, report)
    clear(access, options.namespace)

    def ratio(key: str, name: str) -> float | None:
        if THEIRS not in samples:
            return None
        return median(a[key] / b[key] for a, b in zip(samples[name], samples[THEIRS], strict=True))

    report.target("records/s, ours, writing alone / asrestore", ratio("records/s", WRITING), least=3.5)
    report.target("records/s, ours with all its checks / asrestore", ratio("records/s", OURS), least=3.5)
    report.target("CPU seconds, ours with all its checks / asrestore", ratio("cpu_s", OURS), most=0.2)
    return report


def peaks(
    options: argparse.Namespace,
    platform: Platform,
    cluster: AerospikeCluster,
    namespace: Namespace,
    access: Access,
    store: LocalStore,
    report: Report,
) -> None:
    """Peak of one slice over interpreter and imports, for a twentieth of twice the records and for all of these."""
    clear(access, options.namespace)
    load(access, options.namespace, SET, 2 * options.records)
    plan = plan_backup(platform, cluster, namespace, Kind.FULL, access, store, holder="bench", slices=1)
    run_backup(access, store, plan, workers=1)
    found = {}
    for size, partitions in (("few", PARTITIONS // 20), ("many", PARTITIONS)):
        clear(access, options.namespace)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            records, peak, baseline = pool.submit(slice_peak, access, store, options.namespace, partitions).result()
        found[size] = peak
        report.add(
            f"peak memory of a slice, {size} records", [{"records": records, "MiB": peak, "baseline_MiB": baseline}]
        )
    report.target("MiB, peak of a slice, many records", found["many"], most=64)
    report.target("MiB, difference of the peaks, many and few records", abs(found["many"] - found["few"]), most=8)


def slice_peak(access: Access, store: LocalStore, namespace: str, partitions: int) -> tuple[int, float, float]:
    """Runs in a process of its own: records, peak MiB over the baseline, baseline MiB."""
    target = RestoreTarget(cluster="bench", namespace=namespace, is_scratch=True)
    plan = plan_restore(store, "bench", namespace, access, target, holder="bench", allow_unverified=True)
    try:
        empty, state = np.zeros(kernel.SLACK, np.uint8), np.zeros(kernel.STATE_SIZE, np.int64)
        rows = np.zeros((1, 2), np.int64)
        kernel.decode(empty, 0, 0, True, empty, 0, state, empty[:0], 0, 0, 0, rows, *kernel.EVERYTHING)
        with memory() as used:
            result = restore_slice(access, store, plan, 0, partitions - 1)
        return result.outcomes.inserted, used.peak, used.baseline
    finally:
        release_target(store, plan)


def clear(access: Access, namespace: str) -> None:
    with Cluster(access) as cluster:
        cluster.refresh()
        empty(cluster, namespace)
    time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
