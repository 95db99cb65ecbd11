"""The lab's application, its ETL and its cluster as one platform whose three databases are compared."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from dbops.aerospike.cluster import Access
from dbops.connections import ConnectionInfo
from dbops.consistency.days import days_to_look_at
from dbops.consistency.spend import SpendCheck, SpendResult
from dbops.platform import Platform, load_platform
from dbops_lab.connections import Connection, variables
from dbops_lab.testing import LabApp, LabEtl, LabRedshift

PROJECT = Path(__file__).resolve().parents[1]


class World:
    """The tables of its platform file are those of the ETL's schema, and `eu` is the only cluster.

    :param folder: for that file.
    """

    def __init__(self, app: LabApp, etl: LabEtl, redshift: LabRedshift, folder: Path) -> None:
        self.app, self.etl = app, etl
        self.connections: dict[str, Connection] = {
            "dbops_app": app.connections["dbops_app"],
            "dbops_syncer": app.connections["dbops_syncer"],
            "aerospike_eu": app.connections["aerospike_app"],
            "dbops_redshift": redshift.connection,
        }
        self._infos = {"dbops_app": app.info(), "dbops_redshift": redshift.info()}
        self.file = folder / "lab.yaml"
        document: dict[str, Any] = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
        for pair in document["sync"]["pairs"]:
            pair["clusters"] = ["eu"]
        document["sync"]["lag"] = "0s"
        consistency = document["consistency"]
        consistency["settle"] = "0s"
        consistency["days"] = 1
        for table in (consistency["spend"]["warehouse"], *consistency["campaigns"]["events"]):
            table["table"] = table["table"].replace("public.", f"{etl.schema}.")
        self.file.write_text(yaml.safe_dump(document))
        self.platform: Platform = load_platform(self.file)

    @property
    def systems(self) -> Mapping[str, str]:
        """As `dbops_lab.application.drift` calls them, and as a check does."""
        return {
            "postgres": "postgres/spend_tracking", "aerospike": "eu/spend.spend",
            "warehouse": f"redshift/{self.etl.schema}.wins",
        }  # fmt: skip

    @property
    def days(self) -> list[date]:
        """Those that are over, of the world's."""
        first = self.etl.world.now.date() - timedelta(days=self.etl.world.days - 1)
        return [day for day in days_to_look_at(datetime.now(UTC), timedelta(0), 7) if day >= first]

    def connection(self, conn_id: str) -> ConnectionInfo:
        return self._infos[conn_id]

    def access(self, cluster: str) -> Access:
        return Access(cluster, tuple(("127.0.0.1", port) for port in self.app.standin.ports))

    def spend(self, days: list[date] | None = None, **more: Any) -> dict[str, SpendResult]:
        check = SpendCheck(self.platform, self.connection, self.access, **{"sleep": lambda seconds: None, **more})
        return {one.system: one for one in check.run(days or self.days)}

    def environment(self) -> dict[str, str]:
        return {**variables(self.connections), "DBOPS_PLATFORM": str(self.file)}

    def adopt(self) -> None:
        os.environ.update(self.environment())
