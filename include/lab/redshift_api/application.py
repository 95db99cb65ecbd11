"""The WSGI application around moto's."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dbops_lab.supervisor import direct

if TYPE_CHECKING:
    from dbops_lab.redshift_api.data import Place

ACCOUNT, REGION = "123456789012", "eu-west-1"
PATH = "/lab/warehouse"
JSON = "application/x-amz-json-1.1"


class RedshiftApi:
    """Passes on what it does not answer itself; imports nothing of its own until a warehouse is told of."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._services: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
        if environ["PATH_INFO"].startswith(PATH):
            orders = {PATH: self._register, f"{PATH}/plant": self._plant, f"{PATH}/seconds": self._take}
            return _answer(orders.get(environ["PATH_INFO"]), environ, start_response)
        if service in ("RedshiftServerless", "RedshiftData") and self._services:
            return _answer(self._services[service].operation(operation), environ, start_response)
        return self._app(environ, start_response)

    # ------------------------------------------------------------------ orders

    def _register(self, asked: dict[str, Any]) -> dict[str, Any]:
        from dbops_lab.redshift_api import clusters
        from dbops_lab.redshift_api.data import Place

        name, workgroup = asked["name"], asked.get("workgroup")
        words = asked["place"] | {"admin": tuple(asked["place"]["admin"])}
        with self._lock:
            if not self._services:
                self._start()
            if name in clusters.warehouses.places:
                return {}
            clusters.warehouses.places[name] = Place(**words)
            if workgroup:
                serverless = self._services["RedshiftServerless"]
                serverless.do_create_namespace({"namespaceName": name, "dbName": words["database"]})
                serverless.do_create_workgroup({"namespaceName": name, "workgroupName": workgroup} | asked["settings"])
            else:
                self._backend().create_cluster(**_cluster(name, words["database"]) | asked["settings"])
        return {}

    def _start(self) -> None:
        from dbops_lab.redshift_api import clusters
        from dbops_lab.redshift_api.serverless import Serverless
        from dbops_lab.redshift_api.statements import DataApi, place_of

        # A restored warehouse unloads to and copies from the S3 of this very process, which takes any keys.
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            os.environ.setdefault(name, "lab")
        clusters.install()
        serverless = Serverless()
        self._services = {"RedshiftServerless": serverless, "RedshiftData": DataApi(_secret, place_of(serverless))}

    def _backend(self) -> Any:
        from moto.redshift.models import redshift_backends

        return redshift_backends[ACCOUNT][REGION]

    def _take(self, asked: dict[str, Any]) -> dict[str, Any]:
        from dbops_lab.redshift_api import clusters

        clusters.seconds.update(asked)
        return {}

    def _plant(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A snapshot as if it had been taken long ago; it holds what the warehouse holds now.

        With `again`, one that is there becomes as old.
        """
        from dbops_lab.redshift_api import clusters

        source, id = asked["source"], asked["id"]
        at = datetime.now(UTC) - timedelta(seconds=asked.get("age", 0))
        tags, status, kind = asked.get("tags", {}), asked.get("status", "available"), asked.get("kind", "manual")
        serverless = self._services["RedshiftServerless"]
        if source in serverless.namespaces:
            if kind == "automated":
                serverless.recovery_points[id] = {
                    "recoveryPointId": id,
                    "namespaceName": source,
                    "recoveryPointCreateTime": f"{at:%Y-%m-%dT%H:%M:%S}Z",
                }
                clusters.warehouses.dump(source, f"recovery/{id}")
                return {}
            made = [{"key": key, "value": value} for key, value in tags.items()]
            serverless.do_create_snapshot({"snapshotName": id, "namespaceName": source, "tags": made})
            _until(lambda: serverless.snapshots[id]["status"] == "AVAILABLE")
            serverless.snapshots[id] |= {"snapshotCreateTime": f"{at:%Y-%m-%dT%H:%M:%S}Z", "status": status.upper()}
            return {}
        backend = self._backend()
        if asked.get("again"):
            backend.snapshots[id].create_time = at.replace(tzinfo=None)
            return {}
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        snapshot = backend.create_cluster_snapshot(source, id, REGION, pairs, kind)
        _until(lambda: snapshot.status == "available")
        snapshot.create_time, snapshot.status = at.replace(tzinfo=None), status
        return {}


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        if time.monotonic() > end:
            raise RuntimeError("the snapshot did not become available")
        time.sleep(0.02)


def _secret(name: str) -> str:
    from moto.secretsmanager.exceptions import SecretNotFoundException
    from moto.secretsmanager.models import secretsmanager_backends

    try:
        found = secretsmanager_backends[ACCOUNT][REGION].get_secret_value(name, "", "")
    except SecretNotFoundException:
        raise KeyError(name) from None
    return str(found["SecretString"])


def _cluster(name: str, database: str) -> dict[str, Any]:
    """What `create_cluster` of moto's backend wants."""
    return {
        "cluster_identifier": name, "node_type": "ra3.large", "master_username": "awsuser", "master_user_password": "",
        "db_name": database, "cluster_type": "multi-node", "cluster_security_groups": [], "vpc_security_group_ids": [],
        "cluster_subnet_group_name": None, "availability_zone": None, "preferred_maintenance_window": None,
        "cluster_parameter_group_name": None, "automated_snapshot_retention_period": None, "port": 5439,
        "cluster_version": "1.0", "allow_version_upgrade": True, "number_of_nodes": 2, "publicly_accessible": False,
        "encrypted": True, "region_name": REGION,
    }  # fmt: skip


def _answer(
    work: Callable[[dict[str, Any]], dict[str, Any]] | None, environ: dict[str, Any], start_response: Callable[..., Any]
) -> list[bytes]:
    from dbops_lab.redshift_api.json_service import ServiceError

    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    status = "200 OK"
    try:
        if work is None:
            raise ServiceError("UnknownOperationException", "the lab does not know this operation")
        answer: dict[str, Any] = work(json.loads(body or b"{}"))
    except ServiceError as problem:
        status, answer = "400 Bad Request", {"__type": problem.code, "message": problem.message}
    except Exception as problem:
        status = "500 Internal Server Error"
        answer = {"__type": "InternalServerException", "message": f"{type(problem).__name__}: {problem}"}
    text = json.dumps(answer).encode()
    start_response(status, [("Content-Type", JSON), ("Content-Length", str(len(text)))])
    return [text]


# ---------------------------------------------------------------------------------------------- for those who start it


def register(port: int, name: str, place: Place, *, workgroup: str | None = None, **settings: Any) -> None:
    """Tell the server on that port of a warehouse: a cluster of that name, or a namespace with a workgroup.

    A cluster is there with its first automated snapshot, as on AWS. Telling it twice changes nothing.

    :param settings: of the cluster as moto's backend takes them, or of the workgroup as the API does.
    """
    _post(port, PATH, {"name": name, "workgroup": workgroup, "place": asdict(place), "settings": settings})


def plant(port: int, source: str, id: str, **words: Any) -> None:
    """A snapshot of a warehouse with the data of now: `age` seconds old, `status`, `kind`, `tags`."""
    _post(port, f"{PATH}/plant", {"source": source, "id": id, **words})


def take(port: int, **seconds: float) -> None:
    """How much longer than the copying a `snapshot` or `restore` takes from now on."""
    _post(port, f"{PATH}/seconds", seconds)


def _post(port: int, path: str, body: Any) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=json.dumps(body).encode(), method="POST")
    direct.open(request, timeout=60).close()
