"""One lab: PostgreSQL, an RDS instance, Redshift, AWS, Kubernetes, receivers, Aerospike clusters, all in one folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dbops.errors import FinalError
from dbops_lab import connections, rds, rds_api
from dbops_lab.certificates import certificate
from dbops_lab.parts import (
    ReceiverPorts,
    aerospike_part,
    kubernetes_part,
    receivers_part,
    redshift_part,
    s3_part,
    syncer_part,
)
from dbops_lab.postgres import ADMIN, APPLICATION, DATABASES, WAREHOUSE, Postgres, find_binaries
from dbops_lab.receivers import INBOX, read_inbox
from dbops_lab.s3 import REGION
from dbops_lab.supervisor import Part, StartFailed, Supervisor, free_port, write_private

PROJECT = Path(__file__).resolve().parents[2]
VARIABLE = "DBOPS_LAB"
NAMESPACES = ("bidder", "dmp", "spend")
NODES = {"eu": 3, "apac": 1}
SCRATCH = "scratch"  # the cluster of one node that drills restore to
SCRATCH_NAMESPACES = ("drill",)
WITH_LOGIN = "eu"  # the cluster that asks for user and password
AEROSPIKE_USER = "dbops"
SETTINGS = "lab.json"
CONTENT = frozenset({SETTINGS, "env", "run", "logs", "postgres", "postgres.new", "postgres.password", "rds", INBOX,
                     "loopback.pem", "loopback.key", "airflow", ".lock"})  # fmt: skip

Progress = Callable[[str, str], None]
"""Told (part, what happened): "starting", "ready", "running" (it was so already)."""


def _is_ours(path: Path) -> bool:
    """Whether a lab makes a file of that name, or leaves it when it is killed while it writes (`.env.4711`)."""
    return path.name in CONTENT or (path.name.startswith(".") and path.name[1:].rpartition(".")[0] in CONTENT)


class NoLab(FinalError):
    """The folder holds no lab."""


@dataclass(frozen=True)
class Settings:
    """What stays the same while a lab lives, so that a part that died comes back at its address."""

    postgres: int
    s3: int
    receivers: ReceiverPorts
    aerospike: dict[str, list[int]]
    aerospike_control: dict[str, int]
    scratch: int
    scratch_control: int
    redshift: int
    redshift_control: int
    syncer: int
    rds: int
    nameserver: int
    kubernetes: int
    airflow: int
    secrets: dict[str, str] = field(repr=False)

    @classmethod
    def new(cls) -> Settings:
        passwords = {f"postgres/{name}": secrets.token_urlsafe(18) for name in (ADMIN, *DATABASES)}
        others = {
            "aerospike": secrets.token_urlsafe(18),
            "slack": secrets.token_hex(12),
            "pagerduty": secrets.token_hex(16),
            "smtp": secrets.token_urlsafe(18),
            "syncer": secrets.token_urlsafe(18),
            f"rds/{ADMIN}": secrets.token_urlsafe(18),
            "kubernetes": secrets.token_urlsafe(24),
        }
        return cls(
            postgres=free_port(),
            s3=free_port(),
            receivers=ReceiverPorts.free(),
            aerospike={name: [free_port() for _ in range(count)] for name, count in NODES.items()},
            aerospike_control={name: free_port() for name in NODES},
            scratch=free_port(),
            scratch_control=free_port(),
            redshift=free_port(),
            redshift_control=free_port(),
            syncer=free_port(),
            rds=free_port(),
            nameserver=free_port(),
            kubernetes=free_port(),
            airflow=free_port(),
            secrets=passwords | others,
        )

    @classmethod
    def load(cls, path: Path) -> Settings:
        values = json.loads(path.read_text())
        return cls(**{**values, "receivers": ReceiverPorts(**values["receivers"])})


@dataclass(frozen=True)
class PartStatus:
    name: str
    running: bool
    pid: int | None
    address: str
    memory: int


class Lab:
    """A lab in a folder: the one given, that of `DBOPS_LAB`, or `.lab` in the project.

    :param guarded: its processes end with the thread that starts them (for tests and the demonstration).
    """

    def __init__(self, state: Path | None = None, *, guarded: bool = False) -> None:
        self.state = (state or Path(os.environ.get(VARIABLE) or PROJECT / ".lab")).absolute()
        self._guarded = guarded
        self._settings: Settings | None = None
        self._supervisor: Supervisor | None = None

    @property
    def exists(self) -> bool:
        return (self.state / SETTINGS).exists()

    @property
    def settings(self) -> Settings:
        """:raises NoLab: there is none in the folder."""
        if self._settings is None:
            try:
                self._settings = Settings.load(self.state / SETTINGS)
            except FileNotFoundError:
                raise NoLab(f"no lab in {self.state}: start one with `dbops lab up`") from None
            except (ValueError, TypeError, KeyError):
                raise NoLab(f"{self.state / SETTINGS} is damaged: remove it with `dbops lab down`") from None
        return self._settings

    def supervisor(self) -> Supervisor:
        if self._supervisor is None or not self.state.is_dir():
            self._supervisor = Supervisor(self.state, guarded=self._guarded)
        return self._supervisor

    def postgres(self) -> Postgres:
        """The server of all databases but the application's."""
        databases = tuple(name for name in DATABASES if name != APPLICATION)
        passwords = {name: self.settings.secrets[f"postgres/{name}"] for name in (ADMIN, *databases)}
        return Postgres(self.state, self.settings.postgres, passwords, guarded=self._guarded, databases=databases)

    def instance(self) -> Postgres:
        """The server of the application's database, an RDS instance: a recovery concerns it as a whole."""
        known = self.settings
        passwords = {ADMIN: known.secrets[f"rds/{ADMIN}"], APPLICATION: known.secrets[f"postgres/{APPLICATION}"]}
        return rds_api.instance_server(
            self.state / "rds", rds.PART, known.rds, passwords, host=rds.ADDRESS, guarded=self._guarded
        )

    def kubernetes(self) -> Part:
        known = self.settings
        return kubernetes_part(
            self.state,
            known.kubernetes,
            known.secrets["kubernetes"],
            nameserver=f"127.0.0.1:{known.nameserver}",
            login=APPLICATION,
            password=known.secrets[f"postgres/{APPLICATION}"],
            database=APPLICATION,
        )

    def redshift(self) -> Part:
        """Starts when PostgreSQL has its databases: it is a proxy before one of them."""
        known = self.settings
        password = known.secrets[f"postgres/{ADMIN}"]
        return redshift_part(known.redshift, known.redshift_control, known.postgres, password, known.s3)

    def syncer(self) -> Part:
        """Makes the tables of the application's database, and carries what changes in them to Aerospike."""
        known = self.settings
        return syncer_part(
            known.syncer,
            known.secrets["syncer"],
            postgres_port=known.rds,
            postgres_host=rds.ADDRESS,
            login=APPLICATION,
            password=known.secrets[f"postgres/{APPLICATION}"],
            database=APPLICATION,
            clusters=known.aerospike,
            users={WITH_LOGIN: AEROSPIKE_USER},
            aerospike_password=known.secrets["aerospike"],
        )

    def parts(self) -> list[Part]:
        """All but PostgreSQL and what needs it."""
        known = self.settings
        receivers = receivers_part(
            self.state,
            known.receivers,
            slack_token=known.secrets["slack"],
            mail_password=known.secrets["smtp"],
        )
        clusters = [
            aerospike_part(
                name,
                ports,
                known.aerospike_control[name],
                NAMESPACES,
                login=(AEROSPIKE_USER, known.secrets["aerospike"]) if name == WITH_LOGIN else None,
            )
            for name, ports in known.aerospike.items()
        ]
        scratch = aerospike_part(SCRATCH, [known.scratch], known.scratch_control, SCRATCH_NAMESPACES)
        return [s3_part(known.s3), receivers, *clusters, scratch]

    def up(self, progress: Progress = lambda part, what: None) -> None:
        """Start what does not run, wait until all answers, and write `env`. Interrupted, it ends what it started.

        :raises StartFailed: a part did not come up; those that this call started are ended again.
        """
        if self.state.is_dir() and not self.exists and not all(map(_is_ours, self.state.iterdir())):
            raise NoLab(f"{self.state} holds other things than a lab: name an empty folder in {VARIABLE}")
        with self._alone():
            if not self.exists:
                write_private(self.state / SETTINGS, json.dumps(asdict(Settings.new())))
            supervisor, postgres, redshift = self.supervisor(), self.postgres(), self.redshift()
            instance, syncer, parts = self.instance(), self.syncer(), [*self.parts(), self.kubernetes()]
            every = [postgres.part, instance.part, redshift, syncer, *parts]
            running = {part.name for part in every if supervisor.alive(part.name)}
            for part in every:
                progress(part.name, "running" if part.name in running else "starting")
            try:
                certificate(self.state)
                for part in parts:
                    supervisor.start(part)
                (self.state / "rds").mkdir(exist_ok=True, mode=0o711)
                for server in (postgres, instance):
                    server.create()
                rds_api.folders(instance)
                for server in (postgres, instance):
                    supervisor.start(server.part)
                for server in (postgres, instance):
                    supervisor.wait([server.part])
                    server.create_databases()
                supervisor.start(redshift)
                supervisor.start(syncer)
                self._migrate_ledger()
                supervisor.wait(every, tick=lambda name: progress(name, "ready"))
                self._register_warehouse()
                self._register_instance(instance)
                self._write_environment()
            except BaseException:
                supervisor.stop(part.name for part in every if part.name not in running)
                raise

    def _register_warehouse(self) -> None:
        """Tell the AWS API of the lab that its Redshift is a cluster, of which snapshots can be taken."""
        from dbops_lab import redshift_api
        from dbops_lab.redshift_api.data import Place

        known = self.settings
        place = Place(
            port=known.redshift,
            database=WAREHOUSE,
            postgres_port=known.postgres,
            postgres_database=WAREHOUSE,
            admin=(ADMIN, known.secrets[f"postgres/{ADMIN}"]),
            owner=WAREHOUSE,
            s3_endpoint=f"http://127.0.0.1:{known.s3}",
        )
        redshift_api.register(known.s3, "bedrock", place)

    def _register_instance(self, instance: Postgres) -> None:
        """Tell the AWS API of the application's database, give it its name, and let its programs run."""
        known = self.settings
        room = self.state / "rds" / "room"
        rds_api.register(known.s3, rds.INSTANCE, instance, room, nameserver_port=known.nameserver)
        rds.introduce(known.s3, self.connections())
        rds.deploy(known.kubernetes, certificate(self.state)[0], known.rds)

    def down(self, *, keep: bool = False) -> list[str]:
        """End all processes of the lab and, unless `keep`, remove its folder; returns what was running.

        What S3 and Aerospike held ends with their processes, so what refers to it should not stay.
        """
        if not self.state.is_dir():
            return []
        with self._alone():
            stopped = self.supervisor().stop()
            if not keep:
                self._remove()
        return stopped

    def _remove(self) -> None:
        """Remove what a lab makes, and the folder if nothing else lies in it."""
        for path in filter(_is_ours, list(self.state.iterdir())):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.state.rmdir()
        self._settings = self._supervisor = None

    def status(self) -> list[PartStatus]:
        known, supervisor = self.settings, self.supervisor()
        ports = {
            "postgres": [known.postgres],
            rds.PART: [known.rds],
            "redshift": [known.redshift],
            "syncer": [known.syncer],
            "kubernetes": [known.kubernetes],
            "s3": [known.s3],
            "receivers": [known.receivers.http, known.receivers.https, known.receivers.smtp],
            **{f"aerospike-{name}": ports for name, ports in known.aerospike.items()},
            f"aerospike-{SCRATCH}": [known.scratch],
            "airflow-api": [self.airflow_port],
        }
        addresses = {rds.PART: rds.ADDRESS}
        names = [part for part in ports if part != "airflow-api"]
        names += [name for name in supervisor.names() if name not in names]
        return [
            PartStatus(
                name,
                supervisor.alive(name),
                supervisor.pid(name),
                ", ".join(f"{addresses.get(name, '127.0.0.1')}:{port}" for port in ports.get(name, ())),
                supervisor.memory(name),
            )
            for name in names
        ]

    @property
    def airflow_port(self) -> int:
        """Of UI and API: the one that was chosen when Airflow started, else the lab's own."""
        chosen = self.state / "airflow" / "port"
        return int(chosen.read_text()) if chosen.exists() else self.settings.airflow

    def connections(self) -> dict[str, connections.Connection]:
        """The connections of the platform, by id, leading to this lab."""
        known, secret = self.settings, self.settings.secrets
        application = connections.postgres(
            known.rds, APPLICATION, secret[f"postgres/{APPLICATION}"], APPLICATION, host=rds.ADDRESS
        )
        clusters = {
            f"aerospike_{name}": connections.aerospike(ports, AEROSPIKE_USER, secret["aerospike"])
            if name == WITH_LOGIN
            else connections.aerospike(ports)
            for name, ports in known.aerospike.items()
        }
        return {
            **clusters,
            f"aerospike_{SCRATCH}": connections.aerospike([known.scratch]),
            "dbops_s3": connections.s3(known.s3),
            "dbops_ledger": connections.postgres(known.postgres, "dbops_ledger", secret["postgres/dbops_ledger"]),
            "dbops_redshift": connections.redshift(
                known.redshift, WAREHOUSE, secret[f"postgres/{WAREHOUSE}"], WAREHOUSE
            ),
            "dbops_app": application,
            "dbops_postgres": application,
            "dbops_postgres_maintenance": application,
            "dbops_postgres_export": application,
            # Another server than the one that is exported, as a drill wants it.
            "dbops_postgres_scratch": connections.postgres(
                known.postgres, WAREHOUSE, secret[f"postgres/{WAREHOUSE}"], "postgres"
            ),
            "dbops_nameserver": connections.nameserver(known.nameserver),
            "dbops_kubernetes": connections.kubernetes(
                known.kubernetes, secret["kubernetes"], self.state / "loopback.pem"
            ),
            "dbops_syncer": connections.syncer(known.syncer, secret["syncer"]),
            "dbops_slack": connections.slack(known.receivers.http, secret["slack"]),
            "dbops_pagerduty": connections.pagerduty(
                known.receivers.https, secret["pagerduty"], self.state / "loopback.pem"
            ),
            "dbops_smtp": connections.smtp(known.receivers.smtp, secret["smtp"]),
        }

    def environment(self) -> dict[str, str]:
        """What a process needs to use this lab in place of the real systems."""
        return {
            VARIABLE: str(self.state),
            "DBOPS_PLATFORM": "lab",
            **connections.variables(self.connections()),
            # pg_dump and pg_restore of the servers' version.
            "PATH": os.pathsep.join(dict.fromkeys([str(find_binaries()), *os.get_exec_path()])),
            "AWS_ACCESS_KEY_ID": connections.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": connections.SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.settings.s3}",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def inbox(self) -> list[dict[str, Any]]:
        """What the receivers got, oldest first."""
        self.settings  # noqa: B018 - says so when there is no lab
        return read_inbox(self.state / INBOX)

    def _write_environment(self) -> None:
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in self.environment().items())
        write_private(self.state / "env", "".join(lines))

    def _migrate_ledger(self) -> None:
        from dbops import ledger

        engine = ledger.connect(connections.info("dbops_ledger", self.connections()["dbops_ledger"]))
        ledger.migrate(engine)
        engine.dispose()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One `up` or `down` of a folder at a time; the second waits."""
        path = self.state / ".lock"
        while True:
            self.state.mkdir(parents=True, exist_ok=True, mode=0o711)
            with path.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if path.exists() and os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
                    yield
                    return
            # whoever held it removed the folder: ask again for the lock of the new one


__all__ = ["Lab", "NoLab", "PartStatus", "Progress", "Settings", "StartFailed"]
