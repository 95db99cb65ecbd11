"""The orders of the lab, beside moto's WSGI application."""

from __future__ import annotations

import json
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbops.errors import FinalError
from dbops_lab.supervisor import direct

if TYPE_CHECKING:
    from dbops_lab.postgres import Postgres
    from dbops_lab.rds_api.instances import LabInstance
    from dbops_lab.rds_api.servers import Room

ACCOUNT, REGION = "123456789012", "eu-west-1"
PATH = "/lab/rds"


class OrderRefused(FinalError):
    """The lab's AWS could not do what it was told."""


class RdsApi:
    """Passes everything on but the lab's orders; imports nothing of its own until an instance is told of."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._room: Room | None = None
        self._nameserver: Any = None
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path != PATH and not path.startswith(f"{PATH}/"):
            return self._app(environ, start_response)
        work = {
            PATH: self._register,
            f"{PATH}/seconds": self._take,
            f"{PATH}/orders": self._order,
            f"{PATH}/plant": self._plant,
            f"{PATH}/settle": self._settle,
            f"{PATH}/clean": self._clean,
            f"{PATH}/name": self._name,
            f"{PATH}/secrets": self._keep_secrets,
        }[path]
        status = "200 OK"
        try:
            answer = work(json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"{}"))
        except Exception as problem:
            traceback.print_exc()
            status, answer = "500 Internal Server Error", {"error": f"{type(problem).__name__}: {problem}"}
        text = json.dumps(answer).encode()
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
        return [text]

    def close(self) -> None:
        """End every server that was started here."""
        if self._nameserver is not None:
            self._nameserver.close()
        if self._room is not None:
            self._room.close()

    # ------------------------------------------------------------------ orders

    def _register(self, asked: dict[str, Any]) -> dict[str, Any]:
        from dbops_lab.rds_api import instances
        from dbops_lab.rds_api.servers import Server, instance_server

        with self._lock:
            if self._room is None:
                self._room = self._start(asked)
            backend = self._backend()
            if asked["name"] not in backend.databases:
                if self._room.port != asked["port"]:
                    raise ValueError(f"all instances of a lab listen on port {self._room.port}")
                server = instance_server(
                    Path(asked["state"]), asked["part"], asked["port"], asked["passwords"], host=asked["host"],
                    binaries=Path(asked["binaries"]), databases=asked["databases"],
                )  # fmt: skip
                major = asked["version"].partition(".")[0]
                words = _instance(asked) | instances.surroundings(backend, asked["name"], f"postgres{major}")
                made = backend.adopt(words, Server(server, self._room))
                while made.server.keep() < made.earliest_restorable_time:
                    time.sleep(0.05)
        return {"nameserver": f"127.0.0.1:{self._nameserver.port}"}

    def _start(self, asked: dict[str, Any]) -> Room:
        from dbops_lab.dns import Nameserver
        from dbops_lab.rds_api import instances, names
        from dbops_lab.rds_api.servers import Room

        room = Room(Path(asked["folder"]), asked["port"])
        instances.install(room)
        names.install()
        self._nameserver = Nameserver(names.names.lookup, names.names.knows, asked["nameserver_port"])
        return room

    def _backend(self, region: str = REGION) -> Any:
        from moto.rds.models import rds_backends

        return rds_backends[ACCOUNT][region]

    def _take(self, asked: dict[str, Any]) -> dict[str, Any]:
        from dbops_lab.rds_api import instances, names

        for name, seconds in asked.items():
            owner = names.names if name in names.names.seconds else instances.orders
            owner.seconds[name] = seconds
        return {}

    def _order(self, asked: dict[str, Any]) -> dict[str, Any]:
        from dbops_lab.rds_api import instances

        for name, value in asked.items():
            if name == "silent":
                self._nameserver.silent = value
            elif name == "encrypted":
                for instance in instances.real_instances():
                    instance.storage_encrypted = value
                    instance.kms_key_id = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/lab" if value else None
            else:
                setattr(instances.orders, name, value)
        return {}

    def _plant(self, asked: dict[str, Any]) -> dict[str, Any]:
        backend, name = self._backend(asked.get("region", REGION)), asked["id"]
        instance: LabInstance = self._backend().databases[asked["source"]]
        tags = [{"Key": key, "Value": value} for key, value in asked.get("tags", {}).items()]
        made = backend.database_snapshots.get(name)
        if made is None:
            made = backend._snapshot(instance, name, kind=asked.get("kind", "manual"), tags=tags)
            made.base = instance.server.bases[-1] if instance.server else None
        made.at = (datetime.now(UTC) - timedelta(seconds=asked.get("age", 0))).replace(tzinfo=None)
        made.original_snapshot_create_time = made.at
        made.status = asked.get("status", "available")
        return {}

    def _settle(self, asked: dict[str, Any]) -> dict[str, Any]:
        instance: LabInstance = self._backend().databases[asked["name"]]
        assert instance.server is not None
        return {"latest": instance.server.keep().isoformat()}

    def _name(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The hosted zone is made if there is none, the record only if it is not there or `again`."""
        from dbops_lab.rds_api.names import names
        from moto.route53.models import route53_backends

        backend, cname = route53_backends[ACCOUNT]["aws"], f"{asked['cname']}."
        with names.lock:
            zones = [zone for zone in backend.zones.values() if zone.name == f"{asked['zone']}."]
            zone = zones[0] if zones else backend.create_hosted_zone(
                f"{asked['zone']}.", private_zone=True, caller_reference=asked["zone"], vpcid=None, vpcregion=None,
                comment=None, delegation_set_id=None,
            )  # fmt: skip
            if asked["again"] or cname not in {record.name for record in zone.rrsets}:
                address = self._backend().databases[asked["instance"]].address
                record = {"Name": cname, "Type": "CNAME", "TTL": asked["ttl"], "ResourceRecords": [address]}
                zone.upsert_rrset(record)
                names.changed(zone, at_once=True)
        return {"zone_id": zone.resource_id}

    def _keep_secrets(self, asked: dict[str, str]) -> dict[str, Any]:
        from moto.secretsmanager.models import secretsmanager_backends

        backend = secretsmanager_backends[ACCOUNT][REGION]
        for name, text in asked.items():
            if name in backend.secrets:
                backend.put_secret_value(name, text, None, None, ["AWSCURRENT"])
            else:
                backend.create_secret(name, text, None, None, None, None, None, [], False)
        return {}

    def _clean(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Only the registered instances and their automated snapshots stay, as they were, without orders."""
        from dbops_lab.rds_api import instances, names

        for instance in instances.real_instances():
            if instance.registered is not None:
                instance.reset()
            else:
                instance.status = "deleting"
                if instance.work is not None:
                    instance.work.join()
                instance.backend.forget(instance)
        for region in _regions():
            for name, snapshot in list(region.database_snapshots.items()):
                if getattr(snapshot, "is_real", False) and not name.startswith("rds:"):
                    del region.database_snapshots[name]
        fresh = instances.Orders()
        instances.orders.seconds |= fresh.seconds
        instances.orders.restores.clear()
        instances.orders.instances, instances.orders.snapshots = fresh.instances, fresh.snapshots
        names.names.seconds |= names.Names().seconds
        self._nameserver.silent = False
        return {}


def _regions() -> list[Any]:
    from moto.rds.models import rds_backends

    return [region for account in list(rds_backends.values()) for region in list(account.values())]


def _instance(asked: dict[str, Any]) -> dict[str, Any]:
    """As the guide has it: small, in several zones, a week of backups, protected."""
    words = {
        "db_instance_identifier": asked["name"], "db_instance_class": "db.t4g.medium", "engine": "postgres",
        "engine_version": asked["version"], "port": asked["port"], "allocated_storage": 20, "storage_type": "gp3",
        "db_name": asked["databases"][0], "master_username": asked["databases"][0], "multi_az": True,
        "storage_encrypted": False, "kms_key_id": None,
        "backup_retention_period": 7, "preferred_backup_window": "23:00-00:00", "deletion_protection": True,
        "preferred_maintenance_window": "sun:01:00-sun:02:00", "license_model": "postgresql-license",
        "copy_tags_to_snapshot": True, "publicly_accessible": False, "auto_minor_version_upgrade": True,
        "tags": [{"Key": "service", "Value": "exchange"}, {"Key": "environment", "Value": "lab"}],
    }  # fmt: skip
    return words | asked.get("settings", {})


# ---------------------------------------------------------------------------------------------- for those who start it


def register(port: int, name: str, server: Postgres, folder: Path, *, nameserver_port: int = 0, **settings: Any) -> str:
    """Tell the AWS on that port that a server that runs is an instance; the nameserver's address (host:port).

    Any moment from this call's end on can be restored. Telling it twice changes nothing.

    :param server: made by `instance_server`; all instances of one AWS have the same port.
    :param folder: where backups and restored servers lie, of this AWS alone.
    :param settings: of the instance, as moto's backend takes them.
    """
    from dbops_lab.postgres import ADMIN

    connection = server.connect(ADMIN)
    version = connection.server_version
    connection.close()
    asked = {
        "name": name,
        "state": str(server.data.parent),
        "part": server.data.name,
        "port": server.port,
        "host": server.host,
        "passwords": dict(server.passwords),
        "binaries": str(server.binaries),
        "databases": list(server.databases),
        "version": f"{version // 10_000}.{version % 10_000}",
        "folder": str(folder),
        "nameserver_port": nameserver_port,
        "settings": settings,
    }
    return str(_post(port, "", asked)["nameserver"])


def name(port: int, instance: str, zone: str, cname: str, *, ttl: int = 5, again: bool = False) -> str:
    """Give an instance the name that its clients know, in a hosted zone; the zone's id.

    A name that is there stays what it is (a recovery may have changed it), unless `again`.
    """
    asked = {"instance": instance, "zone": zone, "cname": cname, "ttl": ttl, "again": again}
    return str(_post(port, "/name", asked)["zone_id"])


def keep_secrets(port: int, secrets: Mapping[str, str]) -> None:
    """Put texts into Secrets Manager, by name."""
    _post(port, "/secrets", dict(secrets))


def take(port: int, **seconds: float) -> None:
    """How much longer than its work a `snapshot`, `copy`, `restore` or `delete` takes from now on.

    `archive`: between two rounds, so old may LatestRestorableTime be. `day`: between automated backups. `route53`: a
    change is PENDING so long. `dns`: how much longer nameservers answer with what was before.
    """
    _post(port, "/seconds", seconds)


def order(port: int, **orders: Any) -> None:
    """`restores`: states in which the next ones end. `instances`, `snapshots`: quotas. `silent`: no answers of DNS.

    `encrypted`: whether all instances, and snapshots of them from now on, are.
    """
    _post(port, "/orders", orders)


def plant(port: int, source: str, id: str, **words: Any) -> None:
    """A snapshot with the data of the newest backup: `age` seconds old, `status`, `kind`, `tags`, `region`.

    One that is there becomes as old and of that state.
    """
    _post(port, "/plant", {"source": source, "id": id, **words})


def settle(port: int, name: str) -> datetime:
    """Archive what is committed by now; the LatestRestorableTime that makes."""
    return datetime.fromisoformat(_post(port, "/settle", {"name": name})["latest"])


def clean(port: int) -> None:
    """End what was restored, forget manual snapshots and all orders; what was registered is as it was then."""
    _post(port, "/clean", {})


def _post(port: int, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{PATH}{path}", data=json.dumps(body).encode(), method="POST"
    )
    try:
        with direct.open(request, timeout=90) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as problem:
        raise OrderRefused(f"lab AWS: {PATH}{path} failed: {problem.read().decode()[-500:]}") from None
