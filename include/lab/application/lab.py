"""The application in a lab of `dbops lab up`: its database, the clusters that follow it, its ETL."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dbops_lab import connections, rds
from dbops_lab.application.database import CONN_ID, Database
from dbops_lab.application.etl import Etl
from dbops_lab.application.events import TABLES
from dbops_lab.application.publish import Cluster, publish_all
from dbops_lab.application.world import World
from dbops_lab.postgres import APPLICATION

if TYPE_CHECKING:
    from dbops_lab.lab import Lab


def database(lab: Lab) -> Database:
    password = lab.settings.secrets[f"postgres/{APPLICATION}"]
    made = connections.postgres(lab.settings.rds, APPLICATION, password, host=rds.ADDRESS)
    return Database(connections.info(CONN_ID, made))


def clusters(lab: Lab) -> list[Cluster]:
    """Those that follow the database: all but the scratch cluster."""
    from dbops_lab.lab import AEROSPIKE_USER, WITH_LOGIN

    known = lab.settings
    return [
        Cluster(
            name, tuple(ports), known.aerospike_control[name], AEROSPIKE_USER if name == WITH_LOGIN else None,
            known.secrets["aerospike"] if name == WITH_LOGIN else None,
        )
        for name, ports in known.aerospike.items()
    ]  # fmt: skip


def etl(lab: Lab, world: World) -> Etl:
    info = connections.info("dbops_redshift", lab.connections()["dbops_redshift"])
    keys = (connections.ACCESS_KEY, connections.SECRET_KEY)
    return Etl(world, f"http://127.0.0.1:{lab.settings.s3}", info, lab.settings.redshift_control, keys=keys)


def seed(lab: Lab, world: World, *, days: int | None = None, hourly: int = 24) -> dict[str, int]:
    """Fill all three systems with the world; rows and records by table and set.

    The four synchronised sets are emptied first, as `dbops_lab.seed` fills them with records that no row implies.
    What the warehouse remembers of loads stays when this is done again.

    :param days: of events (None: those of spend), of which the last `hourly` hours are run one by one.
    """
    home = database(lab)
    home.create()
    done = home.seed(world) | publish_all(world, clusters(lab))
    pipelines = etl(lab, world)
    pipelines.create()
    pipelines.tell_glue([{"job": pipelines.job(table), "remove": True} for table in TABLES])
    with closing(pipelines.connect()) as connection, closing(connection.cursor()) as cursor:
        for table in pipelines.tables():
            cursor.execute(f"truncate {table}")
    return done | pipelines.seed(days or world.days, hourly=hourly)


def seed_old_days(lab: Lab, age: timedelta, days: int, requests_per_hour: int = 100) -> dict[str, int]:
    """Events of so many whole days that ended `age` before this day began, for the warehouse alone; rows by table."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    pipelines = etl(lab, World(days=days, requests_per_hour=requests_per_hour, now=today - age))
    pipelines.create()
    return pipelines.seed(days)
