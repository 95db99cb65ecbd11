"""What tests of the ETL checks share: the lab's ETL as pipelines of a platform, and its hours judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from dbops.etl.check import Look, check_hour, open_look
from dbops.etl.findings import Finding
from dbops.platform import Platform, load_platform
from dbops.platform.load import DIRECTORY
from dbops.redshift.session import ConnectorSession
from dbops_lab.testing import LabEtl, LabRedshift

TABLE = {"bidstream": "bidstream_v2"}
PIPELINES = ("bidstream", "impressions", "wins", "clicks", "users", "dmp_events")


def table_of(pipeline: str) -> str:
    return TABLE.get(pipeline, pipeline)


def document(etl: LabEtl) -> dict[str, Any]:
    """lab.yaml, whose pipelines are this ETL's: its names and its schema instead of `events` and `public`."""
    made: dict[str, Any] = yaml.safe_load((DIRECTORY / "lab.yaml").read_text())
    for one in made["etl"]["pipelines"]:
        one["job"] = one["job"].replace("events_", f"{etl.name}_", 1)
        one["rule"] = etl.rule
        one["prefix"] = one["prefix"].replace("events/", f"{etl.name}/", 1)
        one["table"] = one["table"].replace("public.", f"{etl.schema}.")
        for reference in one.get("references", ()):
            reference["table"] = reference["table"].replace("public.", f"{etl.schema}.")
    made["etl"]["files_kept"] = "100d"
    return made


def platform_of(folder: Path, made: dict[str, Any]) -> Platform:
    file = folder / "lab.yaml"
    file.write_text(yaml.safe_dump(made))
    return load_platform(file)


@contextmanager
def look_with(platform: Platform, redshift: LabRedshift, now: datetime | None = None) -> Iterator[Look]:
    with ConnectorSession(redshift.info()) as session:
        look = open_look(platform, session, lambda conn_id: redshift.s3.connection)
        if now is not None:
            look.now = now
        yield look


def judged(look: Look, pipeline: str, hour: datetime) -> dict[str, Finding]:
    """The findings of an hour by check."""
    return {one.check: one for one in check_hour(look, look.etl.pipeline(pipeline), hour)}
