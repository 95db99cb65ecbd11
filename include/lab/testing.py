"""pytest fixtures for the lab's parts: real servers on free loopback ports, one set per session.

`pytest_plugins = ["dbops_lab.testing"]` in `tests/conftest.py`. All of it ends with the test process, even if
that is killed.
"""

from __future__ import annotations

import json
import secrets
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import pytest
from botocore.config import Config
from dbops.connections import ConnectionInfo
from dbops_lab import connections, dns, rds, rds_api, redshift_api
from dbops_lab.aerospike.process import StandIn as AerospikeStandIn
from dbops_lab.application.database import CONN_ID, Database
from dbops_lab.application.etl import Etl
from dbops_lab.application.publish import Cluster, publish_all
from dbops_lab.application.world import World
from dbops_lab.certificates import certificate
from dbops_lab.kubernetes.api import Kubernetes
from dbops_lab.parts import ReceiverPorts, receivers_part, s3_part
from dbops_lab.postgres import ADMIN, APPLICATION, DATABASES, WAREHOUSE, Postgres
from dbops_lab.postgres_versions import binaries
from dbops_lab.receivers import read_inbox
from dbops_lab.redshift.process import StandIn as RedshiftStandIn
from dbops_lab.redshift_api.data import Place
from dbops_lab.s3 import BUCKET, REGION
from dbops_lab.supervisor import Supervisor, direct, free_port
from dbops_lab.syncer import Control, Syncer
from psycopg2 import sql

__all__ = [
    "lab_app", "lab_etl", "lab_kubernetes", "lab_postgres", "lab_rds", "lab_rds_of", "lab_redshift",
    "lab_redshift_api", "lab_s3", "lab_supervisor", "receivers",
]  # fmt: skip


class LabPostgres:
    """A running PostgreSQL with the databases airflow, dbops_ledger and exchange."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.port = server.port

    def info(self, database: str = "dbops_ledger") -> ConnectionInfo:
        return connections.info(database, connections.postgres(self.port, database, self.server.passwords[database]))

    def new_database(self, conn_id: str = "dbops_ledger") -> ConnectionInfo:
        """An empty database that nobody else uses."""
        name = f"test_{secrets.token_hex(6)}"
        connection = self.server.connect(ADMIN)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("create database {} owner dbops_ledger").format(sql.Identifier(name)))
        connection.close()
        password = self.server.passwords["dbops_ledger"]
        return connections.info(conn_id, connections.postgres(self.port, "dbops_ledger", password, name))

    def connect(self, info: ConnectionInfo) -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host=info.host, port=info.port, user=info.login, password=info.password, dbname=info.schema
        )


class LabS3:
    """A running S3 with the bucket `bedrock-backups`."""

    bucket = BUCKET
    region = REGION

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.connection = connections.info("dbops_s3", connections.s3(port))
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=connections.ACCESS_KEY,
            aws_secret_access_key=connections.SECRET_KEY,
            region_name=REGION,
            config=Config(proxies={}, retries={"max_attempts": 1}),
        )

    def new_prefix(self) -> str:
        """A prefix in the bucket that nobody else uses."""
        return f"test-{secrets.token_hex(6)}"

    def faults(self, *orders: dict[str, Any]) -> None:
        """Make requests fail as ordered (see dbops_lab.s3); without an order, end all faults."""
        _post(f"{self.endpoint}/lab/faults", orders)


def small_world() -> World:
    """The world that the fixtures share: about 2,000 records, three days of spend."""
    return World(campaigns=120, line_items=400, creatives=600, days=3)


class LabApp:
    """The platform's application on stand-ins of its own: a seeded database, a cluster that follows it, and a syncer.

    `database`, `cluster` (a stand-in's address) and `world` go into the functions of `dbops_lab.application`. The
    syncer stands still: `syncer.start()`, or `syncer.step()` and `syncer.wait()`. `connections` holds `dbops_app`,
    `dbops_syncer` and `aerospike_app`.
    """

    def __init__(self, database: Database, standin: AerospikeStandIn, world: World) -> None:
        self.database, self.standin, self.world = database, standin, world
        self.cluster = Cluster("app", tuple(standin.ports), standin.control)
        self.syncer = Syncer(database, [self.cluster], token=secrets.token_urlsafe(16))
        self.control = Control(self.syncer)
        self.connections = {
            "dbops_app": postgres_connection(database.info),
            "dbops_syncer": connections.syncer(self.control.port, self.syncer.token),
            "aerospike_app": connections.aerospike(standin.ports),
        }
        database.create()
        self.reset()

    def info(self, conn_id: str = CONN_ID) -> ConnectionInfo:
        return connections.info(conn_id, self.connections[conn_id])

    def reset(self, world: World | None = None) -> None:
        """Both sides as the world says (another one, if given), no orders, no lag, nothing paused."""
        self.world = world or self.world
        self.syncer.close()
        self.syncer.order()
        self.syncer.resume()
        self.syncer.done.clear()
        self.syncer.lag = 0.0
        self.database.seed(self.world)
        publish_all(self.world, [self.cluster])

    def close(self) -> None:
        self.syncer.close()
        self.control.close()


def postgres_connection(info: ConnectionInfo) -> connections.Connection:
    return connections.postgres(info.port or 0, info.login or "", info.password or "", info.schema)


class LabEtl(Etl):
    """The ETL of a module's own: bucket prefix, Glue jobs, rule and schema of the warehouse have its `name`.

    Nothing has been run: `etl.run(hour)`, `etl.seed(days)`. `glue`, `events`, `s3` are clients of boto3.
    """

    def __init__(self, world: World, redshift: LabRedshift) -> None:
        name = f"etl_{secrets.token_hex(4)}"
        keys = (connections.ACCESS_KEY, connections.SECRET_KEY)
        super().__init__(
            world, redshift.s3.endpoint, redshift.info(), redshift.standin.control, keys=keys, name=name, schema=name
        )
        self.create()


class LabReceivers:
    """Running receivers of Slack, PagerDuty and mail, with the connections that lead there."""

    def __init__(self, state: Path, ports: ReceiverPorts, made: dict[str, connections.Connection]) -> None:
        self.url = f"http://127.0.0.1:{ports.http}"
        self.smtp_port = ports.smtp
        self.connections = made
        self.environment = connections.variables(made)
        self._inbox = state / "inbox.jsonl"

    def info(self, conn_id: str) -> ConnectionInfo:
        return connections.info(conn_id, self.connections[conn_id])

    def inbox(self, channel: str | None = None) -> list[dict[str, Any]]:
        """Deliveries so far, failed ones too (`answered` is the status that was given)."""
        return [entry for entry in read_inbox(self._inbox) if channel in (None, entry["channel"])]

    def incidents(self) -> list[dict[str, Any]]:
        """What PagerDuty would show: one entry per dedup key with its state."""
        found: list[dict[str, Any]] = json.load(direct.open(f"{self.url}/lab/incidents", timeout=5))
        return found

    def fail(self, channel: str, *, status: int, times: int = 1, delay: float = 0.0) -> None:
        """Let the next deliveries of slack, pagerduty or smtp fail with this status (0: only the delay)."""
        _post(f"{self.url}/lab/fail", {"channel": channel, "status": status, "times": times, "delay": delay})

    def clear(self) -> None:
        """Forget deliveries, incidents and ordered failures."""
        _post(f"{self.url}/lab/clear", {})


class LabRedshift:
    """A running Redshift stand-in with an empty database of its own, in front of the lab's PostgreSQL and S3.

    `standin` orders faults, plants history and switches to serverless (`dbops_lab.redshift.process.StandIn`).
    """

    host = "127.0.0.1"

    def __init__(self, standin: RedshiftStandIn, password: str, s3: LabS3) -> None:
        self.standin = standin
        self.port = standin.port
        self.database = self.user = standin.database
        self.password = password
        self.s3 = s3
        self.connection = connections.redshift(self.port, self.user, password, self.database)

    def info(self, conn_id: str = "dbops_redshift") -> ConnectionInfo:
        return connections.info(conn_id, self.connection)

    def connect(self, user: str | None = None, password: str | None = None, *, autocommit: bool = True) -> Any:
        """A connection of the real driver, as the superuser or another user."""
        import redshift_connector

        made = redshift_connector.connect(
            host=self.host, port=self.port, database=self.database, ssl=False, user=user or self.user,
            password=password or self.password,
        )  # fmt: skip
        made.autocommit = autocommit
        return made


def _post(url: str, body: Any) -> None:
    direct.open(urllib.request.Request(url, data=json.dumps(body).encode(), method="POST"), timeout=5).close()  # noqa: S310


@pytest.fixture(scope="session")
def lab_supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """Starts processes that end with this session."""
    supervisor = Supervisor(tmp_path_factory.mktemp("lab"), guarded=True)
    yield supervisor
    supervisor.stop()


@pytest.fixture(scope="session")
def lab_postgres(lab_supervisor: Supervisor) -> LabPostgres:
    passwords = {name: secrets.token_urlsafe(16) for name in (ADMIN, *DATABASES)}
    server = Postgres(lab_supervisor.state, free_port(), passwords, guarded=True)
    server.create()
    lab_supervisor.start(server.part)
    lab_supervisor.wait([server.part])
    server.create_databases()
    return LabPostgres(server)


@pytest.fixture(scope="session")
def lab_s3(lab_supervisor: Supervisor) -> LabS3:
    port = free_port()
    part = s3_part(port)
    lab_supervisor.start(part)
    lab_supervisor.wait([part])
    return LabS3(port)


@pytest.fixture(scope="session")
def _redshift(lab_postgres: LabPostgres, lab_s3: LabS3) -> Iterator[LabRedshift]:
    passwords = lab_postgres.server.passwords
    standin = RedshiftStandIn(
        postgres_port=lab_postgres.port,
        database=WAREHOUSE,
        admin=(ADMIN, passwords[ADMIN]),
        s3_endpoint=lab_s3.endpoint,
        s3_keys=(connections.ACCESS_KEY, connections.SECRET_KEY),
    )
    with standin:
        yield LabRedshift(standin, passwords[WAREHOUSE], lab_s3)


@pytest.fixture
def lab_redshift(_redshift: LabRedshift) -> Iterator[LabRedshift]:
    """The Redshift stand-in, provisioned and without ordered faults; its tables stay from test to test."""
    yield _redshift
    _redshift.standin.faults()
    _redshift.standin.serverless(False)


class LabRedshiftApi:
    """The AWS API of the lab's warehouses: cluster `bedrock`; workgroup `bedrock` of namespace `bedrock-serverless`.

    Both hold the data of the same stand-in.
    """

    cluster = workgroup = "bedrock"
    namespace = "bedrock-serverless"

    def __init__(self, warehouse: LabRedshift, postgres: LabPostgres, s3: LabS3) -> None:
        self.warehouse, self.s3, self.connection = warehouse, s3, s3.connection
        self._port = int(s3.endpoint.rpartition(":")[2])
        self.place = Place(
            port=warehouse.port,
            database=warehouse.database,
            postgres_port=postgres.port,
            postgres_database=warehouse.database,
            admin=(ADMIN, postgres.server.passwords[ADMIN]),
            owner=warehouse.user,
            s3_endpoint=s3.endpoint,
        )
        redshift_api.register(self._port, self.cluster, self.place)
        redshift_api.register(self._port, self.namespace, self.place, workgroup=self.workgroup)

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.s3.endpoint,
            aws_access_key_id=connections.ACCESS_KEY,
            aws_secret_access_key=connections.SECRET_KEY,
            region_name=REGION,
            config=Config(proxies={}, retries={"max_attempts": 1}),
        )

    def plant(self, id: str, *, source: str | None = None, **words: Any) -> None:
        """A snapshot with the data of now: `age` seconds old, `status`, `kind` automated or manual, `tags`."""
        redshift_api.plant(self._port, source or self.cluster, id, **words)

    def take(self, **seconds: float) -> None:
        """How much longer than the copying a `snapshot` or `restore` takes from now on."""
        redshift_api.take(self._port, **seconds)


@pytest.fixture(scope="session")
def _redshift_api(_redshift: LabRedshift, lab_postgres: LabPostgres, lab_s3: LabS3) -> LabRedshiftApi:
    return LabRedshiftApi(_redshift, lab_postgres, lab_s3)


@pytest.fixture
def lab_redshift_api(_redshift_api: LabRedshiftApi) -> Iterator[LabRedshiftApi]:
    """The AWS API of the lab's warehouses; snapshots and clusters stay from test to test."""
    yield _redshift_api
    _redshift_api.take(snapshot=0.0, restore=0.0)
    _redshift_api.s3.faults()


class LabRds:
    """An RDS instance with a real PostgreSQL of its own, its CNAME in a hosted zone, and who answers for both.

    `take`, `order` and `plant` are those of `dbops_lab.rds_api`. Errors of any call: `s3.faults({"key":
    "Action=CreateDBSnapshot", "status": 400, "code": "Throttling"})`.
    """

    zone = rds.ZONE
    region = REGION
    ttl = 1

    def __init__(self, name: str, server: Postgres, s3: LabS3, folder: Path) -> None:
        self.name, self.server, self.s3 = name, server, s3
        self.port, self.endpoint = server.port, s3.endpoint
        self.cname = f"{name}.db.{self.zone}"
        self._s3_port = int(s3.endpoint.rpartition(":")[2])
        self.nameserver = rds_api.register(self._s3_port, name, server, folder)
        self.zone_id = self.point_to(self.name)

    def client(self, service: str, region: str = REGION) -> Any:
        """boto3's, for `rds`, `route53` or `secretsmanager`."""
        return rds.client(self._s3_port, service, region)

    # ------------------------------------------------------------------ instances

    def describe(self, instance: str | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self.client("rds").describe_db_instances(DBInstanceIdentifier=instance or self.name)[
            "DBInstances"
        ][0]
        return found

    def wait(self, instance: str, status: str = "available", seconds: float = 60) -> dict[str, Any]:
        """The instance when it is in that state; `gone` is one that is deleted."""
        client, end = self.client("rds"), time.monotonic() + seconds
        while True:
            try:
                found: dict[str, Any] = self.describe(instance)
            except client.exceptions.DBInstanceNotFoundFault:
                found = {"DBInstanceStatus": "gone"}
            if found["DBInstanceStatus"] == status:
                return found
            if time.monotonic() > end or found["DBInstanceStatus"] in ("failed", "incompatible-restore"):
                raise TimeoutError(f"{instance} is {found['DBInstanceStatus']}, not {status}; waited {seconds:g} s")
            time.sleep(0.05)

    def wait_snapshot(self, snapshot: str, region: str = REGION, seconds: float = 60) -> dict[str, Any]:
        """The snapshot when it is available."""
        end = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = self.client("rds", region).describe_db_snapshots(DBSnapshotIdentifier=snapshot)[
                "DBSnapshots"
            ][0]
            if found["Status"] == "available":
                return found
            if time.monotonic() > end:
                raise TimeoutError(f"{snapshot} is {found['Status']} after {seconds:g} s")
            time.sleep(0.05)

    def settle(self, instance: str | None = None) -> datetime:
        """Let LatestRestorableTime be now, and tell it (a whole second, at most this one)."""
        return rds_api.settle(self._s3_port, instance or self.name)

    def past(self, moment: datetime) -> datetime:
        """Wait until LatestRestorableTime is after a moment; returns it."""
        while (latest := self.settle()) <= moment:
            time.sleep(0.1)
        return latest

    # ------------------------------------------------------------------ sessions

    def host(self, instance: str | None = None) -> str:
        """Its address, as the nameserver tells it."""
        return dns.resolve(self.nameserver, self.describe(instance)["Endpoint"]["Address"])

    def connect(
        self, instance: str | None = None, role: str = APPLICATION, database: str | None = None
    ) -> psycopg2.extensions.connection:
        """A session of the application's owner (or `postgres`) with an instance."""
        return psycopg2.connect(
            host=self.host(instance), port=self.port, user=role, password=self.server.passwords[role],
            dbname=database or APPLICATION, connect_timeout=5,
        )  # fmt: skip

    def rows(self, query: str, instance: str | None = None) -> list[Any]:
        """What the owner of the application's database gets; changes are committed."""
        with closing(self.connect(instance)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchall() if cursor.description else []

    def info(self, conn_id: str = CONN_ID, instance: str | None = None) -> ConnectionInfo:
        """The owner's connection to an instance."""
        password = self.server.passwords[APPLICATION]
        host = self.host(instance)
        return connections.info(conn_id, connections.postgres(self.port, APPLICATION, password, host=host))

    # ------------------------------------------------------------------ names

    def point_to(self, instance: str) -> str:
        """Let the CNAME be that instance, at once; the zone's id."""
        return rds_api.name(self._s3_port, instance, self.zone, self.cname, ttl=self.ttl, again=True)

    def target(self) -> str:
        """The host name that Route 53 holds for the CNAME."""
        found = self.client("route53").list_resource_record_sets(
            HostedZoneId=self.zone_id, StartRecordName=self.cname, StartRecordType="CNAME"
        )["ResourceRecordSets"]
        return next(
            str(item["ResourceRecords"][0]["Value"]) for item in found if item["Name"].rstrip(".") == self.cname
        )

    # ------------------------------------------------------------------ orders

    def take(self, **seconds: float) -> None:
        rds_api.take(self._s3_port, **seconds)

    def order(self, **orders: Any) -> None:
        rds_api.order(self._s3_port, **orders)

    def plant(self, id: str, **words: Any) -> None:
        rds_api.plant(self._s3_port, words.pop("source", self.name), id, **words)

    def clean(self) -> None:
        """As it was registered: nothing restored, no manual snapshots, no orders, the CNAME where it was."""
        self.s3.faults()
        rds_api.clean(self._s3_port)
        self.point_to(self.name)


@pytest.fixture(scope="session")
def lab_rds_of(lab_supervisor: Supervisor, lab_s3: LabS3) -> Callable[[int], LabRds]:
    """An instance of a major version of PostgreSQL (14, 17): one server for each, started when it is first wanted."""
    made: dict[int, LabRds] = {}
    port = free_port()
    state = lab_supervisor.state / "rds"

    def instance(major: int) -> LabRds:
        if major not in made:
            state.mkdir(exist_ok=True, mode=0o711)
            name = "bedrock-config" if major == 17 else f"bedrock-config-{major}"
            passwords = {role: secrets.token_urlsafe(16) for role in (ADMIN, APPLICATION)}
            server = rds_api.instance_server(
                state, name, port, passwords, host=f"127.0.0.{major}", guarded=True,
                binaries=None if major == 17 else binaries(major),
            )  # fmt: skip
            server.create()
            rds_api.folders(server)
            lab_supervisor.start(server.part)
            lab_supervisor.wait([server.part])
            server.create_databases()
            made[major] = LabRds(name, server, lab_s3, state / "room")
        return made[major]

    return instance


@pytest.fixture
def lab_rds(lab_rds_of: Callable[[int], LabRds]) -> Iterator[LabRds]:
    """An RDS instance of PostgreSQL 17, as it was registered; what tests write into its database stays."""
    instance = lab_rds_of(17)
    instance.clean()
    yield instance
    instance.clean()


class LabKubernetes:
    """A Kubernetes API on loopback, whose pods are sessions with the instance that `host` names when they start."""

    def __init__(self, instance: LabRds, state: Path) -> None:
        self.rds, self.token = instance, secrets.token_urlsafe(24)
        self.api = Kubernetes(
            state, self.token, nameserver=instance.nameserver, user=APPLICATION,
            password=instance.server.passwords[APPLICATION], database=APPLICATION,
        )  # fmt: skip
        self.ca_file = certificate(state)[0]
        self.url = f"https://127.0.0.1:{self.api.port}"
        self.connection = connections.kubernetes(self.api.port, self.token, self.ca_file)

    def info(self, conn_id: str = "dbops_kubernetes") -> ConnectionInfo:
        return connections.info(conn_id, self.connection)

    def deploy(
        self, namespace: str, name: str, *, replicas: int = 2, host: str | None = None, deadline: int = 2
    ) -> None:
        """A deployment; returns when its pods are ready. The one of that name is changed, if there is one."""
        target = host or self.rds.cname
        self.api.deploy(namespace, name, replicas=replicas, host=target, port=self.rds.port, deadline=deadline)
        self.settle(namespace, name)

    def settle(self, namespace: str, name: str, reason: str = "NewReplicaSetAvailable", seconds: float = 20) -> None:
        """Wait until the deployment's rollout has come to that end."""
        end = time.monotonic() + seconds
        while True:
            found = self.deployment(namespace, name)
            reached = {item["type"]: item["reason"] for item in found["status"]["conditions"]}["Progressing"]
            if reached == reason and found["status"].get("observedGeneration") == found["metadata"]["generation"]:
                return
            if time.monotonic() > end:
                raise TimeoutError(f"{namespace}/{name} is {reached}, not {reason}, after {seconds:g} s")
            time.sleep(0.05)

    def deployment(self, namespace: str, name: str) -> dict[str, Any]:
        with self.api.controller.lock:
            return json.loads(json.dumps(self.api.controller.deployments[namespace, name].document()))

    def pods(self, namespace: str, name: str) -> list[str]:
        """Names of its pods."""
        with self.api.controller.lock:
            return [pod.name for pod in self.api.controller.deployments[namespace, name].pods]

    def faults(self, *orders: dict[str, Any]) -> None:
        """See `dbops_lab.kubernetes`."""
        self.api.faults(*orders)

    def fail(self, namespace: str, name: str) -> None:
        """New pods of this deployment crash from now on."""
        self.api.faults({"deployment": f"{namespace}/{name}"})

    def step(self, seconds: float) -> None:
        """How long the controller waits between two steps of a rollout."""
        self.api.controller.seconds = seconds

    def sessions(self, instance: str | None = None) -> dict[str, int]:
        """Sessions of each deployment that an instance has."""
        found = self.rds.rows(
            "select split_part(application_name, '/', 1), count(*) from pg_stat_activity "
            "where application_name like '%/%' group by 1", instance,
        )  # fmt: skip
        return dict(found)


@pytest.fixture
def lab_kubernetes(lab_rds: LabRds, lab_supervisor: Supervisor) -> Iterator[LabKubernetes]:
    """Kubernetes beside `lab_rds`, without deployments at first."""
    made = LabKubernetes(lab_rds, lab_supervisor.state)
    yield made
    made.api.close()


@pytest.fixture(scope="module")
def lab_app(lab_postgres: LabPostgres) -> Iterator[LabApp]:
    """The application, its database and its cluster; tests of a module share it, and may `reset` it."""
    database = Database(lab_postgres.new_database(CONN_ID))
    with AerospikeStandIn(name="app", namespaces=["bidder", "spend"]) as standin:
        app = LabApp(database, standin, small_world())
        yield app
        app.close()


@pytest.fixture(scope="module")
def lab_etl(_redshift: LabRedshift) -> LabEtl:
    """The ETL over the same world as `lab_app`'s, in a schema of its own; tests of a module share it."""
    return LabEtl(small_world(), _redshift)


@pytest.fixture(scope="session")
def _receivers(lab_supervisor: Supervisor) -> LabReceivers:
    state, ports = lab_supervisor.state, ReceiverPorts.free()
    token, password = secrets.token_hex(12), secrets.token_urlsafe(16)
    part = receivers_part(state, ports, slack_token=token, mail_password=password)
    lab_supervisor.start(part)
    lab_supervisor.wait([part])
    made = {
        "dbops_slack": connections.slack(ports.http, token),
        "dbops_pagerduty": connections.pagerduty(ports.https, secrets.token_hex(16), certificate(state)[0]),
        "dbops_smtp": connections.smtp(ports.smtp, password),
    }
    return LabReceivers(state, ports, made)


@pytest.fixture
def receivers(_receivers: LabReceivers) -> Iterator[LabReceivers]:
    """The receivers, empty and without ordered failures at the start of each test."""
    _receivers.clear()
    yield _receivers
    _receivers.clear()
