"""docker-compose.yaml and what it mounts: against the specification, Airflow's options, the platform file, the code."""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import airflow
import dbops
import jsonschema
import psycopg2
import pytest
import yaml
from airflow.configuration import retrieve_configuration_description
from dbops.connections import from_env
from dbops.ledger import connect, migrate
from dbops.platform import Platform, load_platform
from dbops_lab import connections
from dbops_lab.postgres import ADMIN, DATABASES, Postgres, find_binaries
from dbops_lab.supervisor import Supervisor, free_port
from dbops_lab.testing import LabS3

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "docker-compose.yaml").read_text()
PLACEHOLDER = re.compile(r"\$\{([A-Z0-9_]+):\?[^}]+\}")
CREDENTIAL = re.compile(r"(PASSWORD|SECRET|_KEY|TOKEN|REDISCLI_AUTH)$")


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    """The file as it is written."""
    return yaml.safe_load(TEXT)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as docker reads it, each variable filled with `value-of-<name>`."""
    return yaml.safe_load(PLACEHOLDER.sub(r"value-of-\1", TEXT).replace("$$", "$"))


@pytest.fixture(scope="module")
def platform() -> Platform:
    return load_platform(PROJECT / "include/platform/compose.yaml")


def environments(compose: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for service, settings in compose["services"].items():
        for name, value in settings.get("environment", {}).items():
            assert isinstance(value, str), f"{service}: {name} is no text: YAML reads {value!r}"
            yield service, name, value


def test_it_follows_the_compose_specification(raw: dict[str, Any], compose: dict[str, Any]) -> None:
    schema = json.loads((PROJECT / "tests/data/compose-spec/compose-spec.json").read_text())
    for document in (raw, compose):
        jsonschema.Draft7Validator(schema).validate(document)
    broken = {**compose, "services": {**compose["services"], "s3": {"imagge": "x"}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(broken)


def test_every_variable_is_required_and_in_the_example() -> None:
    assert "$" not in PLACEHOLDER.sub("", TEXT).replace("$$", ""), "write ${NAME:?message}, without a default"
    lines = [line for line in (PROJECT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    assert {line.partition("=")[0] for line in lines} == set(PLACEHOLDER.findall(TEXT))
    assert all(line.endswith("=") for line in lines), "the example holds no value"
    ignored = subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=PROJECT, check=False)
    assert ignored.returncode == 0 or ".env" in (PROJECT / ".gitignore").read_text().splitlines()


def test_no_credential_is_written_down(raw: dict[str, Any]) -> None:
    seen = 0
    for service, name, value in environments(raw):
        found = [value] if CREDENTIAL.search(name) else []
        if value.startswith("{"):
            found = [text for key, text in json.loads(value).items() if key == "password"]
        elif "://" in value:
            found = re.findall(r"://[^:/]*:(.+)@", value)
        for credential in found:
            assert PLACEHOLDER.fullmatch(credential), f"{service}: {name}"
            seen += 1
    assert seen > 20
    settings = [line.split() for line in raw["configs"]["valkey"]["content"].splitlines()]
    assert [PLACEHOLDER.fullmatch(" ".join(words[1:])) for words in settings if words[0] == "requirepass"] != [None]
    commands = json.dumps([service.get("command", "") for service in raw["services"].values()])
    assert not PLACEHOLDER.search(commands), "a command line can be read by everybody on the host"


def test_every_option_of_airflow_is_known(compose: dict[str, Any]) -> None:
    known = retrieve_configuration_description()
    names = {name for _, name, _ in environments(compose) if name.startswith("AIRFLOW__")}
    assert "AIRFLOW__CELERY__BROKER_URL" in names
    for name in names:
        _, section, option = name.lower().split("__")
        assert option in known.get(section, {}).get("options", {}), f"{name} is no option of Airflow or a provider"


def test_the_executor_imports_with_the_lock(compose: dict[str, Any]) -> None:
    from airflow.executors.executor_loader import ExecutorLoader

    name = compose["x-airflow-environment"]["AIRFLOW__CORE__EXECUTOR"]
    lookup = ExecutorLoader.executors[name]
    module, _, attribute = lookup.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


def test_every_variable_of_ours_is_read_by_the_code(compose: dict[str, Any]) -> None:
    code = "".join(path.read_text() for path in (PROJECT / "plugins/dbops").rglob("*.py"))
    names = {name for _, name, _ in environments(compose) if name.startswith("DBOPS_")}
    assert names
    assert all(f'"{name}"' in code for name in names), names
    assert (PROJECT / f"include/platform/{compose['x-airflow-environment']['DBOPS_PLATFORM']}.yaml").exists()


def test_the_connections_are_those_of_the_platform(compose: dict[str, Any], platform: Platform) -> None:
    alerts = platform.alerts
    wanted = {cluster.connection for cluster in platform.aerospike.clusters}
    wanted |= {platform.storage.connection, platform.ledger_connection}
    wanted |= {channel.connection for channel in (alerts.slack, alerts.pagerduty, alerts.email) if channel}
    for service, settings in compose["services"].items():
        if not settings.get("build"):
            continue
        environment = settings["environment"]
        given = {name.removeprefix("AIRFLOW_CONN_").lower() for name in environment if name.startswith("AIRFLOW_CONN_")}
        assert given == wanted, service
        for conn_id in given:
            info = from_env(conn_id, environment)
            inner = info.host in compose["services"]
            assert inner or conn_id in {"dbops_s3", "dbops_slack", "dbops_pagerduty", "dbops_smtp"}
    s3 = from_env("dbops_s3", compose["x-airflow-environment"])
    assert s3.extra["endpoint_url"] == "http://s3:7070"
    assert s3.extra["region_name"] == platform.storage.region == compose["services"]["s3"]["environment"]["VGW_REGION"]


def test_the_clusters_are_those_of_the_platform(compose: dict[str, Any], platform: Platform) -> None:
    for cluster in platform.aerospike.clusters:
        host = from_env(cluster.connection, compose["x-airflow-environment"]).host
        mount = compose["services"][host]["volumes"][0]
        conf = (PROJECT / mount.split(":")[0]).read_text()
        assert re.findall(r"^namespace (\S+) \{", conf, re.M) == [item.name for item in cluster.namespaces]
        assert re.findall(r"cluster-name (\S+)", conf) == [cluster.name]
        assert len(cluster.namespaces) <= 2, "Community Edition has no more"
        assert conf.count("{") == conf.count("}")
        assert mount.split(":")[1] in compose["services"][host]["command"]
        for path in re.findall(r"file (\S+)", conf):
            assert any(path.startswith(f"{volume.split(':')[1]}/") for volume in compose["services"][host]["volumes"])


def test_mounts_exist_and_are_read_only(compose: dict[str, Any]) -> None:
    used = set()
    for service, settings in compose["services"].items():
        for volume in settings.get("volumes", []):
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert (PROJECT / source).is_file(), f"{service}: {source}"
                assert rest.endswith(":ro"), f"{service}: {volume}"
            else:
                used.add(source)
    assert used == set(compose["volumes"])


def test_services_say_when_they_are_ready(compose: dict[str, Any]) -> None:
    services = compose["services"]
    jobs = {name for name, settings in services.items() if settings.get("restart") == "no"}
    assert jobs == {"airflow-init", "ledger-grants", "bucket"}
    waited_for = set()
    for name, settings in services.items():
        assert (name in jobs) != ("healthcheck" in settings), f"{name}: a job ends, a service has a health check"
        for other, how in settings.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in jobs else "service_healthy"
            assert how["condition"] == expected, f"{name} on {other}"
            waited_for.add(other)
    assert jobs <= waited_for


def test_images_are_pinned_and_ports_are_of_this_machine(compose: dict[str, Any]) -> None:
    for name, settings in compose["services"].items():
        assert re.fullmatch(r"[a-z0-9./-]+:v?\d+(\.\d+)+(-[a-z0-9.]+)?", settings["image"]), name
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in settings.get("ports", [])), name
    built = {settings["image"] for settings in compose["services"].values() if "build" in settings}
    assert built == {f"dbops-airflow:{dbops.__version__}"}


def test_the_image_is_the_airflow_of_the_lock_and_copies_what_is_there() -> None:
    lines = (PROJECT / "Dockerfile").read_text().splitlines()
    lock = (PROJECT / "requirements.txt").read_text()
    assert f"FROM apache/airflow:{airflow.__version__}-python3.11" in lines
    assert f"\napache-airflow=={airflow.__version__} " in lock
    assert "\napache-airflow-providers-celery==" in lock, "what CeleryExecutor needs is part of the hashed install"
    assert "\nsetuptools==" in lock, "--no-build-isolation takes it from there"
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for line in lines:
        if line.startswith("COPY "):
            copied.update(word for word in line.split()[1:-1] if not word.startswith("--"))
    assert copied == allowed
    assert all((PROJECT / name).exists() for name in copied)


def test_the_bucket_is_made_once(
    lab_s3: LabS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: Platform
) -> None:
    text = (PROJECT / "include/platform/compose.yaml").read_text()
    assert f"bucket: {platform.storage.bucket}\n" in text
    (tmp_path / "other.yaml").write_text(text.replace(f"bucket: {platform.storage.bucket}\n", "bucket: made-by-test\n"))
    monkeypatch.setenv("DBOPS_PLATFORM", str(tmp_path / "other.yaml"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = connections.s3(int(lab_s3.endpoint.rpartition(":")[2]))
    for name, value in connections.variables({"dbops_s3": made}).items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        runpy.run_path(str(PROJECT / "include/compose/make_bucket.py"), run_name="__main__")
    assert "made-by-test" in [bucket["Name"] for bucket in lab_s3.client.list_buckets()["Buckets"]]


def test_the_login_is_read_by_airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    path = tmp_path / "passwords.json"
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(path))
    monkeypatch.setenv("AIRFLOW_UI_PASSWORD", 'q"uote')
    for _ in range(2):
        runpy.run_path(str(PROJECT / "include/compose/write_login.py"), run_name="__main__")
    assert path.stat().st_mode & 0o777 == 0o600
    assert SimpleAuthManager.get_passwords() == {"admin": 'q"uote'}


def test_databases_and_grants_on_a_real_server(tmp_path: Path, compose: dict[str, Any]) -> None:
    supervisor = Supervisor(tmp_path, guarded=True)
    server = Postgres(tmp_path, free_port(), {name: f"pw-{name}" for name in (ADMIN, *DATABASES)}, guarded=True)
    server.create()
    try:
        supervisor.start(server.part)
        supervisor.wait([server.part])
        psql = str(find_binaries() / "psql")
        services = compose["services"]
        address = ["-h", "127.0.0.1", "-p", str(server.port)]
        environment = {**os.environ, **services["postgres"]["environment"], "PGPASSWORD": f"pw-{ADMIN}"}
        script = str(PROJECT / "include/compose/postgres/databases.sql")
        subprocess.run(
            [psql, "-X", "-v", "ON_ERROR_STOP=1", *address, "-U", ADMIN, "-d", "postgres", "-f", script],
            env=environment, check=True, capture_output=True, timeout=60,
        )  # fmt: skip

        def local(owner: str) -> dict[str, str]:
            raw = json.loads(services[owner]["environment"]["AIRFLOW_CONN_DBOPS_LEDGER"])
            return connections.variables({"dbops_ledger": raw | {"host": "127.0.0.1", "port": server.port}})

        migrate(connect(from_env("dbops_ledger", local("airflow-init"))))
        grants = services["ledger-grants"]
        source = next(volume.split(":")[0] for volume in grants["volumes"])
        command = [str(PROJECT / source) if word == "/sql/grants.sql" else word for word in
                   shlex.split(grants["command"])[1:]]  # fmt: skip
        at = command.index("-h")
        subprocess.run(
            [psql, *command[:at], *address, *command[at + 2 :]],
            env={**os.environ, **grants["environment"]}, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        writer = from_env("dbops_ledger", local("airflow-worker"))
        with psycopg2.connect(
            host=writer.host, port=writer.port, user=writer.login, password=writer.password, dbname=writer.schema
        ) as connection, connection.cursor() as cursor:  # fmt: skip
            cursor.execute("select count(*) from restore_point")
            assert cursor.fetchone() == (0,)
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute("delete from restore_point")
        url = services["airflow-scheduler"]["environment"]["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        plain = url.replace("+psycopg2", "").replace("@postgres:5432", f"@127.0.0.1:{server.port}")
        with psycopg2.connect(plain) as connection, connection.cursor() as cursor:
            cursor.execute("create table allowed (id int)")
    finally:
        supervisor.stop()
