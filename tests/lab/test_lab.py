"""A lab comes up whole, is repaired, shares the machine with others, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import psutil
import psycopg2
import pytest
import redshift_connector
from dbops.platform import load_platform
from dbops_lab import dns, rds
from dbops_lab import lab as lab_module
from dbops_lab.lab import NAMESPACES, NODES, PROJECT, WITH_LOGIN, Lab, NoLab
from dbops_lab.supervisor import Part, StartFailed, Supervisor, direct, free_port, listens

PARTS = {"postgres", "rds-exchange", "syncer", "redshift", "s3", "kubernetes", "receivers", "aerospike-eu",
         "aerospike-apac", "aerospike-scratch"}  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path / "lab", guarded=True)
    yield lab
    lab.down()


def running(lab: Lab) -> dict[str, int]:
    return {part.name: part.pid for part in lab.status() if part.pid is not None}


def left_in(state: Path) -> list[str]:
    """Command lines of processes that mention the folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(state) in line and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(line)
    return found


def warehouse(lab: Lab, query: str) -> int:
    """A number that the lab's Redshift answers to its real driver."""
    known = json.loads(lab.environment()["AIRFLOW_CONN_DBOPS_REDSHIFT"])
    connection = redshift_connector.connect(
        host=known["host"], port=known["port"], database=known["schema"], user=known["login"],
        password=known["password"], **known["extra"],
    )  # fmt: skip
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(query)
        return int(cursor.fetchone()[0])


def run(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dbops_lab.cli", *words, "--state", str(state)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_every_part_answers_and_the_environment_leads_to_it(lab: Lab) -> None:
    lab.up()
    assert running(lab).keys() == PARTS
    text = (lab.state / "env").read_text()
    env = {name: value for name, _, value in (word.partition("=") for word in shlex.split(text))}
    assert env == lab.environment()
    assert env["DBOPS_PLATFORM"] == "lab"
    assert warehouse(lab, "SELECT count(*) FROM stl_query") >= 0
    s3 = boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id="x",
        aws_secret_access_key="x",
        region_name="eu-west-1",
    )
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["bedrock-backups"]
    ledger = json.loads(env["AIRFLOW_CONN_DBOPS_LEDGER"])
    connection = psycopg2.connect(
        host=ledger["host"],
        port=ledger["port"],
        user=ledger["login"],
        password=ledger["password"],
        dbname=ledger["schema"],
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from restore_point")
        assert cursor.fetchone() == (0,)
    connection.close()
    slack = json.loads(env["AIRFLOW_CONN_DBOPS_SLACK"])
    url = f"{slack['host']}/{slack['password']}"
    direct.open(urllib.request.Request(url, data=b'{"text": "hello"}')).close()  # noqa: S310
    assert [entry["message"] for entry in lab.inbox()] == [{"text": "hello"}]


def test_aerospike_wants_the_password_of_its_connection(lab: Lab) -> None:
    aerospike = pytest.importorskip("aerospike")
    lab.up()
    for cluster, count in NODES.items():
        connection = lab.connections()[f"aerospike_{cluster}"]
        config = {"hosts": [(connection["host"], connection["port"])]}
        if cluster == WITH_LOGIN:
            config |= {"user": connection["login"], "password": connection["password"]}
        client = aerospike.client(config)
        assert len(client.get_node_names()) == count
        client.close()
    eu = lab.connections()[f"aerospike_{WITH_LOGIN}"]
    for login in ({}, {"user": eu["login"], "password": "guess"}):
        with pytest.raises(aerospike.exception.AerospikeError):
            aerospike.client({"hosts": [(eu["host"], eu["port"])], **login})


def test_the_applications_database_is_an_instance_with_a_name_clients_and_secrets(lab: Lab) -> None:
    lab.up()
    aws, nameserver = lab.settings.s3, f"127.0.0.1:{lab.settings.nameserver}"
    instances = rds.client(aws, "rds")
    found = instances.describe_db_instances(DBInstanceIdentifier=rds.INSTANCE)["DBInstances"][0]
    known = lab.connections()["dbops_app"]
    assert dns.resolve(nameserver, rds.CNAME) == dns.resolve(nameserver, found["Endpoint"]["Address"]) == known["host"]
    assert found["Endpoint"]["Port"] == known["port"]
    manager = rds.client(aws, "secretsmanager")
    for conn_id in rds.CONNECTIONS:
        secret = manager.get_secret_value(SecretId=f"{rds.PREFIX}/{conn_id}")["SecretString"]
        assert json.loads(secret) == lab.connections()[conn_id]
    wait_for(lambda: programs(lab, known["host"]) == rds.DEPLOYMENTS)
    instances.restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier=rds.INSTANCE, TargetDBInstanceIdentifier="another", UseLatestRestorableTime=True
    )
    wait_for(lambda: state_of(lab, "another") == "available")
    lab.up()
    assert state_of(lab, "another") == "available"
    another = f"{lab.state}/rds/room/servers/another."
    assert [line for line in left_in(lab.state) if another in line]
    lab.down()
    assert left_in(lab.state) == []
    assert not lab.state.exists()


def state_of(lab: Lab, instance: str) -> str:
    found = rds.client(lab.settings.s3, "rds").describe_db_instances(DBInstanceIdentifier=instance)["DBInstances"]
    return str(found[0]["DBInstanceStatus"])


def programs(lab: Lab, host: str) -> dict[str, int]:
    """Sessions of each deployment that a server has."""
    known = lab.connections()["dbops_app"]
    connection = psycopg2.connect(
        host=host, port=known["port"], user=known["login"], password=known["password"], dbname=known["schema"]
    )
    query = "select split_part(application_name, '/', 1), count(*) from pg_stat_activity"
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(f"{query} where application_name like '%/%' group by 1")
        return dict(cursor.fetchall())


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_up_again_changes_nothing_and_repairs_what_died(lab: Lab) -> None:
    lab.up()
    before, env = running(lab), lab.environment()
    assert warehouse(lab, "SELECT count(*) FROM stl_query") == 0
    lab.up()
    assert running(lab) == before
    for name in ("s3", "postgres"):
        os.kill(before[name], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while len(running(lab)) > len(before) - 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    events = []
    lab.up(lambda name, what: events.append((name, what)))
    after = running(lab)
    assert after.keys() == PARTS
    assert {name for name in PARTS if after[name] != before[name]} == {"s3", "postgres"}
    assert {name for name, what in events if what == "starting"} == {"s3", "postgres"}
    assert warehouse(lab, "SELECT count(*) FROM stl_query") >= 0
    assert lab.environment() == env


def test_two_labs_share_nothing(tmp_path: Path) -> None:
    one, other = Lab(tmp_path / "one", guarded=True), Lab(tmp_path / "other", guarded=True)
    try:
        one.up()
        other.up()
        assert not set(running(one).values()) & set(running(other).values())
        assert not set(one.environment().values()) & {
            value for name, value in other.environment().items() if name.startswith("AIRFLOW_CONN_")
        }
        one.down()
        assert running(other).keys() == PARTS
    finally:
        one.down()
        other.down()


def test_down_ends_every_process_and_removes_the_folder(lab: Lab) -> None:
    lab.up()
    pids = list(running(lab).values())
    assert set(lab.down()) == PARTS
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)
    assert not lab.state.exists()
    assert lab.down() == []
    with pytest.raises(NoLab, match="dbops lab up"):
        lab.status()


def test_everything_listens_on_loopback_only(lab: Lab) -> None:
    lab.up()
    pids = set(running(lab).values())
    addresses = {
        connection.laddr.ip
        for connection in psutil.net_connections("inet")
        if connection.pid in pids and connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1", "127.0.0.2"}


def test_files_with_secrets_are_closed_to_others(lab: Lab) -> None:
    lab.up()
    secrets = list(lab.settings.secrets.values())
    for path in lab.state.iterdir():
        if path.is_file() and any(secret in path.read_text() for secret in secrets):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert not any(secret in line for line in left_in(lab.state) for secret in secrets)


def test_a_pid_that_belongs_to_somebody_else_now_is_left_alone(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path / "lab")
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        record = {
            "pid": stranger.pid,
            "created": psutil.Process(stranger.pid).create_time() - 100,
            "stop_signal": 15,
        }
        (tmp_path / "lab" / "run" / "s3.json").write_text(json.dumps(record))
        assert not supervisor.alive("s3")
        assert supervisor.stop() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_what_a_part_started_ends_with_it_even_if_it_was_killed(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path / "lab")
    script = "sleep 300 & echo $!; wait"
    part = Part("parent", ["sh", "-c", script], lambda: bool(supervisor_log(tmp_path)))
    supervisor.start(part)
    supervisor.wait([part])
    child = int(supervisor_log(tmp_path))
    os.kill(int(supervisor.pid("parent") or 0), signal.SIGKILL)
    assert psutil.pid_exists(child)
    supervisor.stop()
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def supervisor_log(tmp_path: Path) -> str:
    return (tmp_path / "lab" / "logs" / "parent.log").read_text().strip()


def test_a_part_that_cannot_start_is_named_with_its_log_and_the_rest_ends(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Part("s3", [sys.executable, "-c", "raise SystemExit('no such bucket')"], lambda: False)
    monkeypatch.setattr(lab_module, "s3_part", lambda port: broken)
    with pytest.raises(StartFailed, match="s3 ended while starting: no such bucket"):
        lab.up()
    assert running(lab) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    state = tmp_path / "lab"
    command = [sys.executable, "-m", "dbops_lab.cli", "up", "--state", str(state)]
    starting = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 30
    while not list(state.glob("run/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    starting.send_signal(number)
    assert starting.wait(30) != 0
    assert left_in(state) == []
    assert list(state.glob("run/*.json")) == []


def test_up_outlives_its_terminal_and_the_command_line_knows_all_of_it(tmp_path: Path) -> None:
    state = tmp_path / "lab"
    try:
        started = run(state, "up")
        assert started.returncode == 0, started.stderr
        assert run(state, "status").returncode == 0
        parts = json.loads(run(state, "status", "--json").stdout)
        assert {part["name"] for part in parts} == PARTS
        assert all(part["running"] for part in parts)
        shell = subprocess.run(
            ["sh", "-c", f'. {state}/env; eval "$1"; env', "sh", run(state, "env").stdout],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert re.search(r"^DBOPS_PLATFORM=lab$", shell, re.MULTILINE)
        assert run(state, "inbox", "--json").stdout == "[]\n"
        os.kill(next(part["pid"] for part in parts if part["name"] == "s3"), signal.SIGKILL)
        time.sleep(0.2)
        assert run(state, "status").returncode == 1
    finally:
        ended = run(state, "down")
    assert ended.returncode == 0
    assert left_in(state) == []
    assert not state.exists()


def test_fixtures_end_with_a_test_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dbops_lab.lab import Lab\n"
        f"Lab(Path({str(tmp_path / 'lab')!r}), guarded=True).up(); print('up', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    pids = list(running(Lab(tmp_path / "lab")).values())
    assert len(pids) == len(PARTS)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=15)
    assert not alive


def test_a_folder_with_other_things_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("x")
    with pytest.raises(NoLab, match="other things"):
        Lab(tmp_path).up()
    Lab(tmp_path).down()
    assert (tmp_path / "holiday.jpg").exists()


def test_what_a_killed_lab_left_half_written_is_no_obstacle(lab: Lab) -> None:
    lab.state.mkdir()
    for name in (".lab.json.4711", ".lock"):
        (lab.state / name).touch()
    lab.up()
    (lab.state / "notes.txt").write_text("mine")
    lab.up()
    lab.down()
    assert [path.name for path in lab.state.iterdir()] == ["notes.txt"]
    (lab.state / "notes.txt").unlink()


def test_free_ports_are_free_and_not_lent_to_outgoing_connections() -> None:
    port = free_port()
    assert port < 32768
    assert not listens(port)
    with socket.create_server(("127.0.0.1", port)):
        assert listens(port)


def test_the_lab_has_the_clusters_and_namespaces_of_its_platform_file() -> None:
    platform = load_platform(PROJECT / "include" / "platform" / "lab.yaml")
    found = {cluster.name: [n.name for n in cluster.namespaces] for cluster in platform.aerospike.clusters}
    assert found == {name: list(NAMESPACES) for name in NODES}


def test_no_port_is_given_twice_to_any_process() -> None:
    script = "from dbops_lab.supervisor import free_port as f; print(*(f() for _ in range(400)), flush=True); input()"
    others = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    given = []
    for process in others:
        assert process.stdout is not None
        given += process.stdout.readline().split()
    for process in others:
        process.communicate("\n", timeout=30)
    assert len(given) == len(set(given)) == 1200
