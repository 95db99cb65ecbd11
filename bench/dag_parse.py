"""What parsing the DAG files costs over `import airflow`, which every parse of the dag-processor pays.

    python bench/dag_parse.py [--json]

Each sample is a fresh process. The second part parses the same files for a generated platform of 100 clusters with 50
namespaces each. Any connection (network or SQLite) while the files are parsed is counted.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import yaml
from report import NOT_MEASURED, Report, machine

ROOT = Path(__file__).parents[1]
PLATFORM = ROOT / "include" / "platform" / "lab.yaml"

CHILD = """
import json, sys, time
started, cpu = time.perf_counter(), time.process_time()
import airflow
imported = time.perf_counter() - started
connections = []
def watch(event, args):
    if event in ("socket.connect", "sqlite3.connect"):
        connections.append(f"{event} {args[-1]}")
sys.addaudithook(watch)
import runpy
started, cpu = time.perf_counter(), time.process_time()
from airflow.sdk import DAG
sdk = time.perf_counter() - started
dags = set()
for file in sys.argv[1:]:
    dags |= {value.dag_id for value in runpy.run_path(file).values() if isinstance(value, DAG)}
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
print(json.dumps({"airflow": imported, "sdk": sdk, "seconds": seconds, "cpu_s": cpu, "connections": connections}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="parse cost of the DAG files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--namespaces", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    files = sorted(str(file) for file in (ROOT / "dags").glob("*.py"))
    report = Report(machine(dag_files=str(len(files))))
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        big = Path(directory) / "big.yaml"
        big.write_text(yaml.safe_dump(platform(options.clusters, options.namespaces)))
        try:
            usual = [parse(files, "production", directory) for _ in range(options.rounds)]
            large = [parse(files, str(big), directory) for _ in range(3)]
        except subprocess.CalledProcessError as problem:
            print(f"bench dag_parse: not measured: {problem.stderr[-2000:]}", file=sys.stderr)
            return NOT_MEASURED
    connections = [name for sample in usual + large for name in sample.pop("connections")]
    report.add("import airflow", [{"seconds": sample["airflow"]} for sample in usual])
    report.add("airflow.sdk, in any DAG file", [{"seconds": sample["sdk"]} for sample in usual])
    keys = ("seconds", "cpu_s")
    report.add("all DAG files, sdk included", [{key: sample[key] for key in keys} for sample in usual])
    name = f"{options.clusters} clusters x {options.namespaces} namespaces"
    report.add(name, [{key: sample[key] for key in keys} for sample in large])
    added = median(sample["seconds"] for sample in usual)
    report.target("seconds that all DAG files add to import airflow", added, most=0.3)
    report.target(f"seconds, {name}", median(sample["seconds"] for sample in large), most=10)
    report.target("connections opened while parsing", float(len(connections)), most=0)
    return report.show(as_json=options.json)


def parse(files: list[str], platform_file: str, home: str) -> dict[str, float]:
    environment = {**os.environ, "DBOPS_PLATFORM": platform_file, "AIRFLOW_HOME": home}
    command = [sys.executable, "-c", CHILD, *files]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    sample: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return sample


def platform(clusters: int, namespaces: int) -> dict[str, object]:
    """The lab's platform with that many clusters and namespaces."""
    whole = yaml.safe_load(PLATFORM.read_text())
    model = whole["aerospike"]["clusters"][0]
    whole.pop("sync", None)  # of clusters that go
    model["slices"] = max(1, min(model["slices"], 1024 // namespaces))
    model["namespaces"] = [
        {**copy.deepcopy(model["namespaces"][0]), "name": f"namespace_{number}"} for number in range(namespaces)
    ]
    whole["aerospike"]["clusters"] = [
        {**copy.deepcopy(model), "name": f"cluster_{number}", "connection": f"aerospike_{number}"}
        for number in range(clusters)
    ]
    result: dict[str, object] = whole
    return result


if __name__ == "__main__":
    sys.exit(main())
