"""A private Airflow around a lab: the project's DAGs and plugins, LocalExecutor, everything on loopback."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbops.errors import DbopsError
from dbops_lab import rds
from dbops_lab.lab import PROJECT, Lab, Progress
from dbops_lab.supervisor import Part, StartFailed, direct, listens, write_private

USER = "admin"
PREFERRED_PORT = 8080
PARALLELISM = 4
PRELOAD = Path(__file__).parent / "preload"
START_SECONDS = 150.0
SECRETS_BACKEND = "airflow.providers.amazon.aws.secrets.secrets_manager.SecretsManagerBackend"
COMPONENTS = ("airflow-api", "airflow-scheduler", "airflow-dag-processor")


class ApiError(DbopsError):
    """Airflow's API refused or did not answer."""


class Airflow:
    """Airflow of one lab. Its home is `<state>/airflow`; its metadata is in the lab's PostgreSQL.

    :param port: of UI and API; default: the lab's own free port.
    """

    def __init__(self, lab: Lab, port: int | None = None) -> None:
        self.lab = lab
        self.home = lab.state / "airflow"
        self._port_file = self.home / "port"
        self._port = port

    @property
    def port(self) -> int:
        if self._port is None:
            self._port = self.lab.airflow_port
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        return str(json.loads((self.home / "passwords.json").read_text())[USER])

    def environment(self) -> dict[str, str]:
        """What every Airflow process of this lab gets: the lab's connections, and Airflow's settings."""
        keys = self._keys()
        database = self.lab.postgres()
        login = f"airflow:{database.passwords['airflow']}@127.0.0.1:{self.lab.settings.postgres}/airflow"
        settings = {
            "CORE__DAGS_FOLDER": str(PROJECT / "dags"),
            "CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": str(PARALLELISM),
            "CORE__FERNET_KEY": keys["fernet"],
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.home / "passwords.json"),
            "DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{login}",
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self.port),
            "API__BASE_URL": self.url,
            "API__WORKERS": "1",
            "API__SECRET_KEY": keys["api"],
            "API_AUTH__JWT_SECRET": keys["jwt"],
            "LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            **self._secrets_backend(),
            "USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        kept = {f"AIRFLOW_CONN_{conn_id.upper()}" for conn_id in rds.CONNECTIONS}
        return {
            **{name: value for name, value in self.lab.environment().items() if name not in kept},
            "AIRFLOW_HOME": str(self.home),
            **{f"AIRFLOW__{name}": value for name, value in settings.items()},
            # Numba threads and BLAS pools are of no use in a task and cost memory in each.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    @staticmethod
    def _secrets_backend() -> dict[str, str]:
        """The logins of the application's database come from Secrets Manager; nothing else is looked for there."""
        words = {
            "connections_prefix": rds.PREFIX,
            "connections_lookup_pattern": f"^({'|'.join(rds.CONNECTIONS)})$",
            "variables_lookup_pattern": "^$",
            "config_lookup_pattern": "^$",
        }
        return {"SECRETS__BACKEND": SECRETS_BACKEND, "SECRETS__BACKEND_KWARGS": json.dumps(words)}

    def up(self, progress: Progress = lambda part, what: None) -> None:
        """Migrate, import the pools, start the components, wait until they are healthy and the engine compiled.

        :raises StartFailed: one did not come up; those that were started are ended again.
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._choose_port()
        if not (self.home / "passwords.json").exists():
            write_private(self.home / "passwords.json", json.dumps({USER: secrets.token_urlsafe(9)}))
        supervisor, parts = self.lab.supervisor(), self._parts()
        running = {part.name for part in parts if supervisor.alive(part.name)}
        for part in parts:
            progress(part.name, "running" if part.name in running else "starting")
        engine = Part("engine", [sys.executable, "-m", "dbops_lab.warm"], lambda: not supervisor.alive("engine"))
        progress(engine.name, "compiling")
        try:
            supervisor.start(engine)
            if "airflow-api" not in running:
                progress("airflow-database", "starting")
                self._run("db", "migrate")
                progress("airflow-database", "ready")
            for part in parts:
                supervisor.start(part)
            supervisor.wait(parts[:1], seconds=START_SECONDS)
            self._import_pools()
            supervisor.wait([*parts, engine], seconds=START_SECONDS, tick=lambda name: progress(name, "ready"))
            supervisor.stop([engine.name])
        except BaseException:
            supervisor.stop([engine.name, *(part.name for part in parts if part.name not in running)])
            raise

    def down(self) -> list[str]:
        """End Airflow's processes; returns those that ran."""
        return self.lab.supervisor().stop(COMPONENTS)

    def client(self) -> Client:
        return Client(self.url, USER, self.password)

    # --------------------------------------------------------------------- parts

    def _parts(self) -> list[Part]:
        environment = self.environment()
        programs = {
            "airflow-api": (["api-server"], lambda: listens(self.port)),
            # The log server would listen on all interfaces; the API server reads the same folder anyway.
            "airflow-scheduler": (["scheduler", "--skip-serve-logs"], lambda: self._healthy("scheduler")),
            "airflow-dag-processor": (["dag-processor"], lambda: self._healthy("dag_processor")),
        }
        # Tasks are forks of the scheduler: it loads the engine once for all of them.
        path = [str(PRELOAD), os.environ.get("PYTHONPATH")]
        preloaded = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        return [
            Part(
                name,
                [sys.executable, "-m", "airflow", *arguments],
                ready,
                env=preloaded if name == "airflow-scheduler" else environment,
            )
            for name, (arguments, ready) in programs.items()
        ]

    def _healthy(self, component: str) -> bool:
        try:
            with direct.open(f"{self.url}/api/v2/monitor/health", timeout=2) as answer:
                return bool(json.load(answer)[component]["status"] == "healthy")
        except (OSError, ValueError, KeyError):
            return False

    def _choose_port(self) -> None:
        if self._port_file.exists():
            self._port = self.lab.airflow_port
            return
        if self._port is not None and listens(self._port):
            self._port = self.lab.settings.airflow
        write_private(self._port_file, str(self.port))

    def _keys(self) -> dict[str, str]:
        path = self.home / "keys.json"
        if not path.exists():
            made = {
                "fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                "api": secrets.token_urlsafe(32),
                "jwt": secrets.token_urlsafe(48),
            }
            write_private(path, json.dumps(made))
        return dict(json.loads(path.read_text()))

    def _import_pools(self) -> None:
        answer = subprocess.run(
            [sys.executable, "-m", "dbops.cli", "platform", "pools"],
            env={**os.environ, **self.environment()},
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode:
            raise StartFailed(f"lab: the pools of the platform file cannot be listed: {answer.stderr.strip()}")
        pools = [{"name": name, **pool} for name, pool in json.loads(answer.stdout).items()]
        order = {"action": "create", "action_on_existence": "overwrite", "entities": pools}
        self.client().call("PATCH", "/api/v2/pools", {"actions": [order]})  # `airflow pools import` takes 7 s more

    def _run(self, *arguments: str) -> None:
        answer = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env={**os.environ, **self.environment()},
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode:
            tail = " | ".join((answer.stdout + answer.stderr).strip().splitlines()[-8:])
            raise StartFailed(f"lab: `airflow {' '.join(arguments)}` ended with {answer.returncode}: {tail}")


class Client:
    """Airflow's public API, as far as the demonstration and the tests need it."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._token = ""
        login = {"username": user, "password": password}
        self._token = str(self.call("POST", "/auth/token", login)["access_token"])

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The parsed answer.

        :raises ApiError: an answer other than 2xx, or none.
        """
        request = urllib.request.Request(  # noqa: S310 - loopback
            self.url + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json"},
        )
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with direct.open(request, timeout=30) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as problem:
            raise ApiError(f"{method} {path}: {problem.code} {problem.read().decode()[:400]}") from problem
        except (OSError, ValueError) as problem:
            raise ApiError(f"{method} {path}: {problem}") from problem

    def wait_for_dags(self, dag_ids: list[str], seconds: float = 60) -> None:
        """Until the dag processor has stored them all."""
        deadline = time.monotonic() + seconds
        while True:
            found = {dag["dag_id"] for dag in self.call("GET", "/api/v2/dags?limit=1000")["dags"]}
            if found.issuperset(dag_ids):
                return
            if time.monotonic() > deadline:
                errors = self.call("GET", "/api/v2/importErrors")["import_errors"]
                raise ApiError(f"DAGs {sorted(set(dag_ids) - found)} are not there after {seconds} s; errors: {errors}")
            time.sleep(0.5)

    def unpause(self, dag_id: str) -> None:
        self.call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})

    def start_without_missed_runs(self, dag_ids: list[str]) -> None:
        """Unpause DAGs without the run of the missed tick that Airflow would start then: they are run by hand.

        That run is made, and ended before it begins, while its DAG is paused and the scheduler does not touch it.
        """
        for dag_id in dag_ids:
            tick = self.call("GET", f"/api/v2/dags/{dag_id}")["next_dagrun_logical_date"]
            missed = self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": tick})["dag_run_id"]
            over = {"state": "success", "note": "passed over: nothing was done for this tick"}
            self.call("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{missed}", over)
            self.unpause(dag_id)

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run; its id."""
        answer = self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf or {}})
        return str(answer["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return dict(self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"))

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        return list(self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns?limit=100&order_by=run_after")["dag_runs"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        answer = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=1000")
        return list(answer["task_instances"])

    def result(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
        """What a task returned; None when it returned nothing."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        try:
            return self.call("GET", f"{path}?map_index={map_index}&deserialize=true")["value"]
        except ApiError:
            return None

    def failed(self) -> list[dict[str, Any]]:
        """The task instances of all DAGs that have failed, or wait to be tried again after that."""
        path = "/api/v2/dags/~/dagRuns/~/taskInstances?limit=100&state=failed&state=up_for_retry"
        return list(self.call("GET", path)["task_instances"])

    def log_end(self, task: dict[str, Any], lines: int) -> list[str]:
        """The last lines that a task instance logged in its last try."""
        path = f"/api/v2/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}"
        number = max(task["try_number"] - (task["state"] == "up_for_retry"), 1)
        found = self.call("GET", f"{path}/logs/{number}?map_index={task['map_index']}&full_content=true")["content"]
        said = []
        for line in found:
            error = "; ".join(f"{e['exc_type']}: {e['exc_value']}" for e in line.get("error_detail") or ())
            said.append(" ".join(filter(None, [line.get("timestamp"), line.get("level"), line.get("event"), error])))
        return said[-lines:]

    def approve(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Agree to what a task asks; the text that was agreed to."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"
        text = str(self.call("GET", path)["body"])
        self.call("PATCH", path, {"chosen_options": ["Approve"], "params_input": {}})
        return text

    def wait(
        self,
        dag_id: str,
        run_id: str,
        *,
        seconds: float,
        tick: Callable[[dict[str, Any], list[dict[str, Any]]], None] = lambda run, tasks: None,
    ) -> dict[str, Any]:
        """Follow a run to its end.

        :raises ApiError: it is not over after `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            run = self.run(dag_id, run_id)
            tick(run, self.tasks(dag_id, run_id))
            if run["state"] in ("success", "failed"):
                return run
            if time.monotonic() > deadline:
                raise ApiError(f"run {run_id} of {dag_id} is {run['state']} after {seconds:.0f} s")
            time.sleep(0.7)


def of(lab: Lab) -> Airflow:
    """Airflow on the well-known port when it is free."""
    return Airflow(lab, PREFERRED_PORT)


__all__ = ["USER", "Airflow", "ApiError", "Client", "of"]
