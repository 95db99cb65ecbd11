"""The private Airflow runs the project's DAGs, is closed to strangers and to other machines, and ends whole."""

from __future__ import annotations

import stat
import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from dbops.platform import load_platform
from dbops_lab.airflow import COMPONENTS, Airflow, ApiError, Client
from dbops_lab.lab import PROJECT, Lab
from dbops_lab.seed import seed
from dbops_lab.supervisor import direct

pytestmark = pytest.mark.slow
PLATFORM = load_platform(PROJECT / "include" / "platform" / "lab.yaml")


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    lab = Lab(tmp_path_factory.mktemp("airflow") / "lab", guarded=True)
    try:
        lab.up()
        seed(lab, 200)
        airflow = Airflow(lab)
        airflow.up()
        yield airflow
    finally:
        lab.down()


@pytest.fixture(scope="module")
def client(airflow: Airflow) -> Client:
    return airflow.client()


def processes(airflow: Airflow) -> set[int]:
    """Every process of the lab, descendants included."""
    supervisor = airflow.lab.supervisor()
    found: set[int] = set()
    for name in supervisor.names():
        process = psutil.Process(supervisor.pid(name))
        found |= {process.pid, *(child.pid for child in process.children(recursive=True))}
    return found


def test_it_has_the_dags_and_pools_of_the_lab_and_no_other(client: Client) -> None:
    clusters = PLATFORM.aerospike.clusters
    wanted = {f"aerospike_backup_{kind.name}_{cluster.name}" for cluster in clusters for kind in cluster.backup_kinds}
    wanted |= {f"backup_retention_{cluster.name}" for cluster in clusters} | {"aerospike_backup_verify"}
    wanted |= {"aerospike_restore", "aerospike_restore_drill", "backup_rpo", "sync_validation"}
    wanted |= {"postgres_health", "postgres_report", "postgres_maintenance", "postgres_recovery"}
    wanted |= {"postgres_backup", "postgres_backup_drill", "postgres_rpo"}
    wanted |= {f"redshift_maintenance_{often}" for often in ("daily", "weekly", "monthly")}
    wanted |= {"redshift_archive", "redshift_archive_restore", "redshift_snapshots", "redshift_restore"}
    client.wait_for_dags([*wanted])
    assert {dag["dag_id"] for dag in client.call("GET", "/api/v2/dags")["dags"]} == wanted
    assert client.call("GET", "/api/v2/importErrors")["import_errors"] == []
    pools = {pool["name"]: pool["slots"] for pool in client.call("GET", "/api/v2/pools")["pools"]}
    assert {cluster.pool: cluster.pool_slots for cluster in clusters}.items() <= pools.items()


def test_every_process_listens_on_loopback_only(airflow: Airflow) -> None:
    pids = processes(airflow)
    listening = [
        connection
        for connection in psutil.net_connections("inet")
        if connection.pid in pids and connection.status == psutil.CONN_LISTEN
    ]
    assert airflow.port in {connection.laddr.port for connection in listening}
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1", "127.0.0.2"}


def test_strangers_get_in_nowhere(airflow: Airflow) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        direct.open(f"{airflow.url}/api/v2/dags", timeout=10)
    with pytest.raises(ApiError, match="401"):
        Client(airflow.url, "admin", "admin")


def test_what_it_keeps_is_closed_to_others_and_no_secret_is_logged(airflow: Airflow) -> None:
    assert stat.S_IMODE(airflow.home.stat().st_mode) == 0o700
    secrets = [*airflow.lab.settings.secrets.values(), airflow.password]
    logs = [path for folder in (airflow.lab.state / "logs", airflow.home / "logs") for path in folder.rglob("*.log")]
    assert logs
    for path in logs:
        text = path.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], path


def test_it_stays_small(airflow: Airflow) -> None:
    resident = 0
    for pid in processes(airflow):
        with suppress(psutil.NoSuchProcess):  # a file that was parsed, a task that ended
            resident += psutil.Process(pid).memory_full_info().pss
    assert 0 < resident < 2 << 30


def test_a_run_is_triggered_followed_and_read(airflow: Airflow, client: Client) -> None:
    dag = "aerospike_backup_full_apac"
    client.wait_for_dags([dag])
    seen: list[int] = []
    client.start_without_missed_runs([dag])
    run_id = client.trigger(dag, {"slices": 1, "namespaces": ["spend"]})
    run = client.wait(dag, run_id, seconds=240, tick=lambda run, tasks: seen.append(len(tasks)))
    assert run["state"] == "success"
    assert max(seen) > 2
    result = client.result(dag, run_id, "commit_spend")
    assert result["records"] == 200
    assert client.result(dag, run_id, "no_such_task") is None


def test_logins_of_the_applications_database_come_from_secrets_manager(airflow: Airflow, client: Client) -> None:
    assert not [name for name in airflow.environment() if name.startswith("AIRFLOW_CONN_DBOPS_POSTGRES")]
    dag = "postgres_health"
    client.wait_for_dags([dag])
    client.start_without_missed_runs([dag])
    run = client.wait(dag, client.trigger(dag, {}), seconds=120)
    assert run["state"] == "success"


def test_up_again_changes_nothing_and_brings_back_what_died(airflow: Airflow) -> None:
    supervisor = airflow.lab.supervisor()
    before = {name: supervisor.pid(name) for name in COMPONENTS}
    psutil.Process(before["airflow-dag-processor"]).kill()
    psutil.Process(before["airflow-dag-processor"]).wait(10)
    port, password = airflow.port, airflow.password
    airflow.up()
    after = {name: supervisor.pid(name) for name in COMPONENTS}
    assert {name for name in COMPONENTS if before[name] != after[name]} == {"airflow-dag-processor"}
    again = Airflow(Lab(airflow.lab.state))
    assert (again.port, again.password) == (port, password)


def test_it_ends_with_every_descendant(airflow: Airflow) -> None:
    supervisor = airflow.lab.supervisor()
    scheduler = psutil.Process(supervisor.pid("airflow-scheduler"))
    family = [scheduler, *scheduler.children(recursive=True)]
    assert set(airflow.down()) == set(COMPONENTS)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert set(supervisor.names()) == {
        "postgres",
        "s3",
        "receivers",
        "aerospike-eu",
        "aerospike-apac",
        "aerospike-scratch",
        "redshift",
        "syncer",
        "rds-exchange",
        "kubernetes",
    }
    assert Path(airflow.home).exists()
