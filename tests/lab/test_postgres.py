"""A real PostgreSQL starts for every kind of user, listens on loopback only, and asks for a password."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
from dbops_lab import postgres
from dbops_lab.postgres import ADMIN, DATABASES, LOWERED, NAMESPACE, Postgres, PostgresMissing, find_binaries
from dbops_lab.supervisor import Supervisor, free_port
from dbops_lab.testing import LabPostgres

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about root")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that the user nobody cannot reach."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    yield closed / "lab"
    shutil.rmtree(closed)


def start(state: Path) -> tuple[Supervisor, Postgres]:
    supervisor = Supervisor(state, guarded=True)
    passwords = {name: secrets.token_hex(8) for name in (ADMIN, *DATABASES)}
    server = Postgres(state, free_port(), passwords, guarded=True)
    server.create()
    supervisor.start(server.part)
    supervisor.wait([server.part])
    server.create_databases()
    return supervisor, server


@as_root
@pytest.mark.parametrize("way", [NAMESPACE, LOWERED], ids=["namespace", "lowered"])
def test_root_can_run_it_either_way_in_a_folder_closed_to_nobody(
    way: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not postgres.works(way, find_binaries()):
        pytest.skip(f"{way[0]} does not work on this system")
    monkeypatch.setattr(postgres, "launcher", lambda binaries: way)
    supervisor, server = start(folder)
    try:
        with server.connect("exchange") as connection, connection.cursor() as cursor:
            cursor.execute("create table t (n int); insert into t values (1); select n from t")
            assert cursor.fetchall() == [(1,)]
    finally:
        supervisor.stop()


@as_root
def test_root_keeps_nothing_but_the_right_to_pass_folders() -> None:
    if not postgres.works(LOWERED, find_binaries()):
        pytest.skip("setpriv does not work on this system")
    status = subprocess.run([*LOWERED, "cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    assert int(effective, 16) == 1 << 1  # CAP_DAC_OVERRIDE


@as_root
def test_an_ordinary_user_just_starts_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    nobody = 65534
    state = Path("/tmp") / f"dbops-lab-{secrets.token_hex(6)}"
    state.mkdir()
    os.chown(state, nobody, nobody)
    binaries = find_binaries()
    try:
        command = [str(binaries / "initdb"), "-D", str(state / "data"), "--no-sync"]
        done = subprocess.run(command, user=nobody, group=nobody, extra_groups=[], capture_output=True, check=False)
        if b"could not" in done.stderr and not os.access(binaries, os.X_OK):
            pytest.skip("PostgreSQL's programs are closed to other users here")
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(state)


def test_it_listens_on_loopback_only(lab_postgres: LabPostgres) -> None:
    addresses = {
        connection.laddr.ip
        for connection in psutil.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == lab_postgres.port
    }
    assert addresses == {"127.0.0.1"}


def test_a_wrong_password_is_refused(lab_postgres: LabPostgres) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(host="127.0.0.1", port=lab_postgres.port, user="airflow", password="guess", dbname="airflow")


def test_each_owner_has_a_password_of_its_own(lab_postgres: LabPostgres) -> None:
    infos = [lab_postgres.info(name) for name in DATABASES]
    assert len({info.password for info in infos}) == len(DATABASES)
    for info in infos:
        lab_postgres.connect(info).close()


def test_new_databases_are_apart(lab_postgres: LabPostgres) -> None:
    one, other = lab_postgres.new_database(), lab_postgres.new_database()
    with lab_postgres.connect(one) as connection, connection.cursor() as cursor:
        cursor.execute("create table only_here (n int)")
    with lab_postgres.connect(other) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_tables where tablename = 'only_here'")
        assert cursor.fetchone() == (0,)


def test_data_and_secrets_are_closed_to_others(lab_postgres: LabPostgres, lab_supervisor: Supervisor) -> None:
    data = lab_supervisor.state / "postgres"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert not (lab_supervisor.state / "postgres.password").exists()


def test_pg_bin_wins_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    for name in ("initdb", "postgres"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert find_binaries({"PG_BIN": str(tmp_path)}) == tmp_path
    with pytest.raises(PostgresMissing, match="PG_BIN=/nowhere"):
        find_binaries({"PG_BIN": "/nowhere"})


def test_a_system_one_serves_when_there_is_no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "find_spec", lambda name: None)
    for name in ("initdb", "postgres"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert find_binaries({"PATH": str(tmp_path)}) == tmp_path
