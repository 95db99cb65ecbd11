"""Our Aerospike backup beside the raw limit of the wire and, when given, beside the official asbackup.

    python bench/aerospike_backup.py --host H --port P [--asbackup PATH] [--json]
    python bench/aerospike_backup.py --standin --records 100000

For test servers only: it writes the sets `bench` and `bench_more` into the namespace (the second is truncated at
the end, the first is kept for the next run) and reads the whole namespace. Rounds alternate between all that is
compared, the figures are medians, and a ratio is the median of the ratios within each round, so that other work on
the machine hits both sides. Our runs count from the plan to the manifest, with fsync, without the start of the
interpreter, which stands in the table by itself.
"""

from __future__ import annotations

import argparse
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
from dbops.aerospike import kernel
from dbops.aerospike.backup import backup_slice, partition_slices, plan_backup, release_lease, run_backup
from dbops.aerospike.cluster import Access, Cluster
from dbops.aerospike.drain import Tally
from dbops.aerospike.wire import PARTITIONS, Connection, partition_query
from dbops.backups.manifest import Kind, Manifest
from dbops.backups.store import LocalStore, S3Store, Store
from dbops.errors import DbopsError
from dbops.platform import load_platform
from numpy.typing import NDArray
from report import NOT_MEASURED, Report, machine

PLATFORM = Path(__file__).parents[1] / "include" / "platform" / "lab.yaml"
SET, MORE = "bench", "bench_more"
ROWS = 2000
MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description="Aerospike backup: ours, the raw drain, asbackup")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--standin", action="store_true", help="start the lab's stand-in and measure it")
    parser.add_argument("--namespace", default="dmp")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--asbackup", help="path of the official program, to be measured too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="slices that are read at once")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(NOT_MEASURED))  # so that the S3 server ends too
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        try:
            if options.standin:
                from dbops_lab.aerospike.process import StandIn

                options.host = "127.0.0.1"
                options.port = stack.enter_context(StandIn(namespaces=[options.namespace])).ports[0]
            bench = Bench(options, directory, stack.enter_context(s3_server()))
            return bench.run().show(as_json=options.json)
        except (DbopsError, OSError, subprocess.SubprocessError) as problem:
            print(f"bench aerospike_backup: not measured: {problem}", file=sys.stderr)
            return NOT_MEASURED


@contextmanager
def s3_server() -> Iterator[S3Store]:
    """moto in a process of its own."""
    from dbops_lab import connections
    from dbops_lab.s3 import BUCKET, REGION, ready
    from dbops_lab.supervisor import free_port

    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "dbops_lab.s3", "--port", str(port)])
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise OSError(f"the S3 server ended with code {process.returncode}")
            if ready(port):
                break
            time.sleep(0.1)
        yield S3Store(BUCKET, "", connections.info("dbops_s3", connections.s3(port)), REGION)
    finally:
        process.terminate()
        process.wait(10)


class Bench:
    def __init__(self, options: argparse.Namespace, directory: Path, s3: S3Store) -> None:
        self.options, self.directory, self.s3 = options, directory, s3
        self.access = Access("bench", ((options.host, options.port),))
        platform = load_platform(PLATFORM)
        self.platform = platform
        self.cluster = platform.aerospike.clusters[0].model_copy(
            update={"name": "bench", "slices": 2 * options.workers, "clock_skew_overlap": timedelta(0)}
        )
        self.stored = 0  # bytes of our last full backup

    def run(self) -> Report:
        options = self.options
        with Cluster(self.access) as cluster:
            cluster.wait_ready(options.namespace, 30, lambda reason: None)
            peers = {"aerospike": cluster.build()}
        if options.asbackup:
            peers["asbackup"] = version(options.asbackup)
        load(self.access, options.namespace, SET, options.records)
        total = objects(self.access, options.namespace, None)
        report = Report(machine(**peers))
        report.machine["records"] = total
        self._rounds(report, total)
        self._kernel(report)
        self._incremental(report, total)
        self._deletes(report)
        self._start(report)
        self._memory(report)
        return report

    # -------------------------------------------------------------------------------------------- full

    def _rounds(self, report: Report, total: int) -> None:
        options = self.options
        runs: dict[str, Callable[[], int]] = {
            "raw drain": self._drain,
            "ours, local disk": lambda: self._ours(LocalStore(self.directory / "ours")),
            "ours, S3 (moto shares the cores)": lambda: self._ours(self.s3),
        }
        default, level1 = "asbackup -d -w 4 --compress zstd", "asbackup ... --compression-level 1"
        if options.asbackup:
            runs[default] = lambda: self._asbackup()
            runs[level1] = lambda: self._asbackup("--compression-level", "1")
        else:
            report.not_measured += [default, level1]
        self._ours(LocalStore(self.directory / "ours"))  # loads the kernels
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                size, seconds, cpu = measured(run)
                sample = {"records/s": total / seconds, "seconds": seconds, "cpu_s": cpu}
                samples[name].append({**sample, "MB": size / 1e6})
        for name, values in samples.items():
            report.add(name, values)

        def ratio(key: str, ours: str, theirs: str) -> float | None:
            if theirs not in samples:
                return None
            both = zip(samples[ours], samples[theirs], strict=True)
            return median(a[key] / b[key] for a, b in both)

        local = "ours, local disk"
        report.target("records/s, ours / asbackup zstd", ratio("records/s", local, default), least=2.5)
        report.target("file size, ours / asbackup zstd", ratio("MB", local, default), most=1.05)
        report.target("records/s, ours / asbackup zstd level 1", ratio("records/s", local, level1), least=1.6)
        report.target("CPU seconds, ours / asbackup zstd", ratio("cpu_s", local, default), most=0.5)
        report.target("CPU seconds, ours / asbackup zstd level 1", ratio("cpu_s", local, level1), most=0.5)
        report.target("records/s, ours / raw drain", ratio("records/s", local, "raw drain"), least=0.4)

    def _backup(self, store: Store, kind: Kind, *, track_deletes: bool = False) -> Manifest:
        namespace = (
            self.platform.aerospike
            .clusters[0]
            .namespaces[0]
            .model_copy(update={"name": self.options.namespace, "track_deletes": track_deletes})
        )
        plan = plan_backup(self.platform, self.cluster, namespace, kind, self.access, store, holder="bench")
        return run_backup(self.access, store, plan, workers=self.options.workers)

    def _ours(self, store: Store, *, track_deletes: bool = False) -> int:
        manifest = self._backup(store, Kind.FULL, track_deletes=track_deletes)
        return manifest.stored_bytes

    def _asbackup(self, *more: str) -> int:
        folder = self.directory / "asbackup"
        command = [self.options.asbackup, "-h", self.options.host, "-p", str(self.options.port)]
        command += ["-n", self.options.namespace, "-d", str(folder), "-r", "-w", "4", "--compress", "zstd", *more]
        subprocess.run(command, check=True, capture_output=True)
        return sum(file.stat().st_size for file in folder.iterdir())

    def _drain(self) -> int:
        """The same queries on as many connections; nothing is decoded."""
        with Cluster(self.access) as cluster, ThreadPoolExecutor(self.options.workers) as pool:
            owners = cluster.owners(self.options.namespace)
            asked = [
                (node, [p for p in range(first, last + 1) if owners[p] == node])
                for first, last in partition_slices(2 * self.options.workers)
                for node in cluster.nodes
            ]
            tasks = [
                pool.submit(drain, cluster.connect(node), self.options.namespace, partitions)
                for node, partitions in asked
                if partitions
            ]
            return sum(task.result() for task in tasks)

    # -------------------------------------------------------------------------------------- the rest

    def _kernel(self, report: Report) -> None:
        """The encoder alone, over one slice's answer held in memory."""
        with Cluster(self.access) as cluster:
            owners = cluster.owners(self.options.namespace)
            node = owners[0]
            partitions = [p for p in range(PARTITIONS // 16) if owners[p] == node]
            answer = bytearray()
            drain(cluster.connect(node), self.options.namespace, partitions, answer)
        source = np.frombuffer(answer, np.uint8)
        out = np.empty(16 * MIB, np.uint8)
        samples = []
        for _ in range(max(3, self.options.rounds)):
            tally, state = Tally(), np.zeros(kernel.STATE_SIZE, np.int64)
            started, pos, status = time.thread_time(), 0, kernel.OUT_FULL
            while status == kernel.OUT_FULL:
                pos, _, status = kernel.encode(source, pos, source.size, out, 0, state, *tally.arrays)
            if status != kernel.DONE:
                raise OSError(f"the kernel ended with status {status}")
            cpu = time.thread_time() - started
            samples.append({"records/s": tally.records / cpu, "cpu_s": cpu, "MB": source.size / 1e6})
        report.add("kernel alone, one core", samples)
        rate = report.figures["kernel alone, one core"]["records/s"]
        report.target("records/s, kernel alone", rate, least=1_500_000)

    def _incremental(self, report: Report, total: int) -> None:
        """Nothing has changed since the full that both build on."""
        folder = self.directory / "incremental"
        store = LocalStore(folder)
        time.sleep(1.1)  # a snapshot is a whole second, later than the load and than the point before it
        full = self._backup(store, Kind.FULL)
        since = full.snapshot_at.astimezone()  # asbackup reads local time
        name, peer = "incremental, nothing changed", "asbackup --modified-after, nothing changed"

        def ours() -> int:
            manifest = self._backup(store, Kind.INCREMENTAL)
            if manifest.records or manifest.kind is not Kind.INCREMENTAL:
                raise OSError(f"{manifest.records} records changed while the bench ran: use a quiet server")
            return manifest.stored_bytes

        samples: dict[str, list[dict[str, float]]] = {name: [], peer: []}
        for _ in range(max(5, self.options.rounds)):
            time.sleep(1.1)
            _, seconds, cpu = measured(ours)
            samples[name].append({"examined/s": total / seconds, "seconds": seconds, "cpu_s": cpu})
            if self.options.asbackup:
                _, seconds, cpu = measured(lambda: self._asbackup("--modified-after", f"{since:%Y-%m-%d_%H:%M:%S}"))
                samples[peer].append({"examined/s": total / seconds, "seconds": seconds, "cpu_s": cpu})
        report.add(name, samples[name])
        value = None
        if samples[peer]:
            report.add(peer, samples[peer])
            both = zip(samples[name], samples[peer], strict=True)
            value = median(a["seconds"] / b["seconds"] for a, b in both)
        else:
            report.not_measured.append(peer)
        report.target("seconds of an empty incremental, ours / asbackup", value, most=1.5)

    def _deletes(self, report: Report) -> None:
        store = LocalStore(self.directory / "deletes")
        fulls, incrementals = [], []
        for _ in range(self.options.rounds):
            for kind, samples in ((Kind.FULL, fulls), (Kind.INCREMENTAL, incrementals)):
                time.sleep(1.1)
                started, cpu = time.perf_counter(), time.process_time()
                manifest = self._backup(store, kind, track_deletes=True)
                seconds = time.perf_counter() - started
                records = manifest.records if kind is Kind.FULL else sum(manifest.inventory_counts or ())
                sample = {"records/s": records / seconds, "seconds": seconds}
                samples.append({**sample, "cpu_s": time.process_time() - cpu})
        report.add("ours, track_deletes, full", fulls)
        report.add("ours, track_deletes, empty incremental", incrementals)

    def _start(self, report: Report) -> None:
        """What a task pays before its first record: imports, and the kernels from Numba's cache."""
        code = (
            "import numpy as np; from dbops.aerospike import backup, kernel; from dbops.aerospike.drain import Tally; "
        )
        code += "e = np.zeros(1, np.uint8); kernel.encode(e, 0, 0, e, 0, np.zeros(16, np.int64), *Tally().arrays)"
        samples = []
        for _ in range(3):
            _, seconds, cpu = measured(lambda: subprocess.run([sys.executable, "-c", code], check=True).returncode)
            samples.append({"seconds": seconds, "cpu_s": cpu})
        report.add("start of a process, imports and kernels", samples)

    def _memory(self, report: Report) -> None:
        """Peak of one slice over interpreter and imports, for a tenth of the records and for twice as many."""
        options = self.options
        peaks: dict[tuple[str, str], float] = {}
        try:
            load(self.access, options.namespace, MORE, options.records)
            total = objects(self.access, options.namespace, None)
            sizes = {"few": max(1, PARTITIONS * options.records // 10 // total), "many": PARTITIONS}
            for place, store in (("local", LocalStore(self.directory / "memory")), ("S3", self.s3)):
                for size, partitions in sizes.items():
                    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                        task = pool.submit(slice_peak, vars(options), store, partitions)
                        records, peak, baseline = task.result()
                    peaks[place, size] = peak
                    name = f"peak memory of a slice, {place}, {size} records"
                    report.add(name, [{"records": records, "MiB": peak, "baseline_MiB": baseline}])
        finally:
            truncate(self.access, options.namespace, MORE)
        report.target("MiB, peak of a slice to S3, many records", peaks["S3", "many"], most=64)
        report.target("MiB, peak of a slice to disk, many records", peaks["local", "many"], most=64)
        difference = abs(peaks["local", "many"] - peaks["local", "few"])
        report.target("MiB, difference of the peaks, many and few records", difference, most=4)


def slice_peak(options: dict[str, object], store: Store, partitions: int) -> tuple[int, float, float]:
    """Runs in a process of its own: records, peak MiB over the baseline, baseline MiB."""
    bench = Bench(argparse.Namespace(**options), Path(), store)  # type: ignore[arg-type]
    namespace = (
        bench.platform.aerospike
        .clusters[0]
        .namespaces[0]
        .model_copy(update={"name": bench.options.namespace, "track_deletes": False})
    )
    store.check()
    plan = plan_backup(
        bench.platform, bench.cluster, namespace, Kind.FULL, bench.access, store, holder="bench", slices=1
    )
    try:
        empty = np.zeros(1, np.uint8)
        kernel.encode(empty, 0, 0, empty, 0, np.zeros(kernel.STATE_SIZE, np.int64), *Tally().arrays)
        with memory() as used:
            result = backup_slice(bench.access, store, plan, 0, partitions - 1)
        return sum(result.counts), used.peak, used.baseline
    finally:
        store.delete([item.key for item in store.list(f"aerospike/bench/{namespace.name}/")])
        release_lease(store, plan)


@dataclass
class Memory:
    """MiB of this process: resident before, and how much more at the peak."""

    baseline: float
    peak: float = 0.0


@contextmanager
def memory() -> Iterator[Memory]:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    used = Memory(_status("VmRSS"))
    yield used
    used.peak = _status("VmHWM") - used.baseline


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def measured(run: Callable[[], int]) -> tuple[int, float, float]:
    """What it returns, wall seconds, CPU seconds of this process and of the children that it waited for."""
    before, started = _cpu(), time.perf_counter()
    size = run()
    return size, time.perf_counter() - started, _cpu() - before


def _cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def version(program: str) -> str:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\d+\.\d+\.\d+", answer.stdout + answer.stderr)
    return found[0] if found else "unknown"


def drain(connection: Connection, namespace: str, partitions: Sequence[int], keep: bytearray | None = None) -> int:
    """Ask, receive to the LAST message (a bare one at the end), return the bytes."""
    with connection:
        connection.send(partition_query(namespace, partitions))
        buffer = memoryview(bytearray(2 * MIB))
        tail, total = b"", 0
        while True:
            count = connection.receive_into(buffer)
            total += count
            if keep is not None:
                keep += buffer[:count]
            tail = (tail + bytes(buffer[max(0, count - 30) : count]))[-30:]
            if tail[:9] == b"\x02\x03\0\0\0\0\0\x16\x16" and tail[11] & 1:
                if tail[13]:
                    raise OSError(f"the query ended with result {tail[13]}")
                return total


# ------------------------------------------------------------------------------------------------ loading


def objects(access: Access, namespace: str, name: str | None) -> int:
    """Records of a set, or of the namespace."""
    with Cluster(access) as cluster:
        cluster.refresh()
        state = cluster.namespace_state(namespace)
        if name is None:
            return state.master_objects
        command = f"sets/{namespace}/{name}"
        answers = (answer[command] for answer in cluster.ask_all(command).values())
        found = [re.search(r"(?:^|:)objects=(\d+)", answer) for answer in answers]
        return sum(int(match[1]) for match in found if match) // state.replication_factor


def load(access: Access, namespace: str, name: str, records: int) -> None:
    """Write what the set lacks, over two connections a node; each record always has the same digest."""
    if objects(access, namespace, name) == records:
        return
    chunks = iter(range(0, records, ROWS))
    lock = threading.Lock()

    def work() -> None:
        with Cluster(access) as cluster, ExitStack() as stack:
            owners = cluster.owners(namespace)
            names = list(cluster.nodes)
            owner = np.array([names.index(node) for node in owners])
            connections = [stack.enter_context(cluster.connect(node)) for node in names]
            while True:
                with lock:
                    first = next(chunks, None)
                if first is None:
                    return
                batch = rows(namespace, name, first, min(ROWS, records - first))
                partition = (batch["digest"][:, 0] | batch["digest"][:, 1].astype(np.uint16) << 8) & (PARTITIONS - 1)
                for number, connection in enumerate(connections):
                    write(connection, batch[owner[partition] == number])

    with ThreadPoolExecutor(2) as pool:
        for task in [pool.submit(work) for _ in range(2)]:
            task.result()
    there = objects(access, namespace, name)
    if there != records:
        raise OSError(f"{there} of {records} records are in {namespace}.{name} after loading; truncate it first")


def write(connection: Connection, batch: NDArray[np.void]) -> None:
    """One batch-write message; answers are read to the LAST one."""
    if not batch.size:
        return
    batch["number"] = np.arange(batch.size)
    body = int(batch.size).to_bytes(4, "big") + b"\x0d" + batch.tobytes()  # 13: inline, answer every row
    head = bytes([22, 8, *[0] * 12]) + (30_000).to_bytes(4, "big") + b"\0\x01\0\0"
    message = head + (len(body) + 1).to_bytes(4, "big") + b"\x29" + body
    connection.send((2 << 56 | 3 << 48 | len(message)).to_bytes(8, "big") + message)
    is_last = False
    while not is_last:
        size = int.from_bytes(receive(connection, 8), "big") & 0xFFFFFFFFFFFF
        is_last = bool(receive(connection, size)[size - 19] & 1)


def receive(connection: Connection, size: int) -> bytes:
    data = bytearray(size)
    view, have = memoryview(data), 0
    while have < size:
        have += connection.receive_into(view[have:])
    return bytes(data)


def rows(namespace: str, name: str, first: int, count: int) -> NDArray[np.void]:
    """Batch-write rows of six bins: about 250 bytes each in memory, 330 as text, 120 compressed."""
    random = np.random.default_rng([first, len(name)])
    fields = [(0, namespace.encode()), (1, name.encode())]
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz0123456789", np.uint8)
    number = np.arange(first, first + count)
    columns = {
        "id": (1, _big(number, 8)),
        "name": (3, np.char.encode(np.char.add("user-", np.char.zfill(number.astype(str), 19)))),
        "score": (2, _big((random.random(count) * 1000).view(np.int64), 8)),
        "token": (4, random.bytes(48 * count)),
        "tags": (20, _list(random, letters, count)),
        "props": (19, _map(random, count)),
    }
    parts: list[tuple[str, int]] = [("number", 4), ("digest", 20), ("head", 15)]
    values: dict[str, NDArray[np.uint8] | bytes] = {
        "digest": np.frombuffer(random.bytes(20 * count), np.uint8).reshape(count, 20),
        # flags: info, generation, ttl; write; create or replace; generation 0; never expires; fields; bins
        "head": b"\x0e\0\x01\x10\0\0\xff\xff\xff\xff\0\x02\0" + bytes([len(columns)]),
    }
    parts[2] = ("head", len(values["head"]))
    for kind, text in fields:
        parts.append((f"field{kind}", 5 + len(text)))
        values[f"field{kind}"] = (len(text) + 1).to_bytes(4, "big") + bytes([kind]) + text
    for bin_name, (particle, data) in columns.items():
        value = np.frombuffer(data, np.uint8).reshape(count, -1)
        op = (4 + len(bin_name) + value.shape[1]).to_bytes(4, "big") + bytes([2, particle, 0, len(bin_name)])
        parts += [(f"{bin_name} op", 8 + len(bin_name)), (bin_name, value.shape[1])]
        values[f"{bin_name} op"], values[bin_name] = op + bin_name.encode(), value
    ends = np.cumsum([0, *(size for _, size in parts)])
    table = np.zeros((count, ends[-1]), np.uint8)
    for (part, _), (start, end) in zip(parts, pairwise(ends), strict=True):
        if part in values:
            value = values[part]
            table[:, start:end] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    return table.view([("number", ">u4"), ("digest", "u1", 20), ("rest", "u1", ends[-1] - 24)])[:, 0]


def _big(values: NDArray[np.int64], size: int) -> bytes:
    return values.astype(f">i{size}").tobytes()


def _list(random: np.random.Generator, letters: NDArray[np.uint8], count: int) -> bytes:
    """A list of three texts of six letters: MessagePack, with Aerospike's type byte in front of a text."""
    table = np.zeros((count, 3, 8), np.uint8)
    table[:, :, 0], table[:, :, 1] = 0xA7, 3
    words = letters[random.integers(0, 36, (200, 6))]
    table[:, :, 2:] = words[random.integers(0, 200, (count, 3))]
    return np.hstack([np.full((count, 1), 0x93, np.uint8), table.reshape(count, 24)]).tobytes()


def _map(random: np.random.Generator, count: int) -> bytes:
    """A map of three texts to numbers of four bytes."""
    pieces = [np.full((count, 1), 0x83, np.uint8)]
    for key in (b"clicks", b"shown", b"spent"):
        head = bytes([0xA0 + len(key) + 1, 3]) + key + b"\xce"
        pieces.append(np.broadcast_to(np.frombuffer(head, np.uint8), (count, len(head))))
        value = random.integers(70_000, 900_000, count).astype(">u4")
        pieces.append(value.view(np.uint8).reshape(count, 4))
    return np.hstack(pieces).tobytes()


def truncate(access: Access, namespace: str, name: str) -> None:
    with Cluster(access) as cluster:
        cluster.refresh()
        cluster.ask(next(iter(cluster.nodes)), f"truncate:namespace={namespace};set={name}")
        for _ in range(300):
            if not objects(access, namespace, name):
                return
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
