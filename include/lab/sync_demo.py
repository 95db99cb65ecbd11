"""The demonstration's part about the data: does Aerospike hold what PostgreSQL says, the warehouse what was loaded?

A clean validation; then records are broken, and a load takes one of two files only. Both are found, named, put right,
and looked at again, by the commands that a person would type. The application has a database, a cluster and a syncer of
its own, as the demonstration's clusters are filled, emptied and restored meanwhile; the pipeline loads the lab's
warehouse. It runs beside the other parts, in a thread of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import yaml
from dbops_lab import connections
from dbops_lab.aerospike.process import StandIn
from dbops_lab.application import lab as application
from dbops_lab.application.database import Database
from dbops_lab.application.drift import Planted, plant
from dbops_lab.application.etl import Etl
from dbops_lab.application.events import HOUR, floor_hour
from dbops_lab.application.publish import Cluster, publish_all
from dbops_lab.application.world import World
from dbops_lab.lab import PROJECT, Lab
from dbops_lab.postgres import ADMIN, WAREHOUSE
from dbops_lab.syncer import Control, Syncer
from psycopg2 import sql
from rich.table import Table

DATABASE = "sync_demo"
CLUSTER = "eu"
PIPELINE, FAULT = "dmp_events", "partial"
"""A table that the warehouse's part of the demonstration neither archives nor counts."""
DRIFT = 6
SECONDS = 240.0


@dataclass(frozen=True)
class Step:
    """A command, how it ended, and what it said."""

    command: str
    code: int
    seconds: float
    said: str


class NotAsExpected(Exception):
    """A command said something else than what was done."""


@dataclass
class SyncDemo:
    """Synchronisation and ETL of a lab while they are demonstrated."""

    lab: Lab
    steps: list[Step] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Without waiting for it: see `end`."""
        self._thread = threading.Thread(target=self._work, name="sync")
        self._thread.start()

    def end(self) -> list[str]:
        """Wait for it; what was not as expected."""
        self._thread.join()
        return self.problems

    def table(self) -> Table:
        """The commands, and what they said."""
        made = Table(title="synchronisation and ETL", title_justify="left", title_style="bold")
        for column, justify in (("command", "left"), ("exit", "right"), ("seconds", "right"), ("found", "left")):
            made.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for step in self.steps:
            made.add_row(step.command, str(step.code), f"{step.seconds:.1f}", step.said)
        return made

    # ------------------------------------------------------------------ the story

    def _work(self) -> None:
        try:
            with self._application() as (database, cluster, environment):
                self._tell(database, cluster, environment)
        except NotAsExpected as problem:
            self.problems.append(str(problem))
        except Exception as problem:
            self.problems.append(f"the part of synchronisation and ETL ended with {type(problem).__name__}: {problem}")

    def _tell(self, database: Database, cluster: Cluster, environment: Mapping[str, str]) -> None:
        found, _ = self._validate(environment)
        self._expect(not found, f"a clean validation found {sorted(found)}")

        planted = plant(database, cluster, 1, count=DRIFT)
        pipelines, hour = self._pipelines(), floor_hour(datetime.now(UTC)) - 2 * HOUR
        pipelines.run(hour, {PIPELINE: FAULT}, tables=[PIPELINE], is_aggregated=False)

        found, tables = self._validate(environment)
        wanted = {(one.table, one.key) for one in planted}
        self._expect(found == wanted, f"planted were {_names(planted)}; found were {sorted(found)}")
        self._check(environment, hour, is_well=False)

        names = [word for table in sorted(tables) for word in ("--pair", table)]
        plan = json.loads(self._run(environment, "sync", "repair", *names, "--json", said=_planned)[1])
        code, text = self._run(
            environment, "sync", "repair", *names, "--apply", str(plan["planned"]), "--json", said=_repaired
        )
        self._expect(code == 0, f"after the repair: {text[-500:]}")

        pipelines.forget(hour, [PIPELINE])
        pipelines.run(hour, tables=[PIPELINE], is_aggregated=False)
        self._check(environment, hour, is_well=True)

    def _validate(self, environment: Mapping[str, str]) -> tuple[set[tuple[str, str]], set[str]]:
        """Table and key of what differs, and the pairs that do."""
        code, text = self._run(environment, "sync", "validate", "--json", said=_validated)
        results = json.loads(text)["results"]
        self._expect(code == int(any(not one["ok"] for one in results)), f"sync validate ended with {code}: {text}")
        pairs = {pair["name"]: pair["table"] for pair in self._platform["sync"]["pairs"]}
        found = {(pairs[one["pair"]], item["key"]) for one in results for item in one["differences"]}
        return found, {one["pair"] for one in results if not one["ok"]}

    def _check(self, environment: Mapping[str, str], hour: datetime, *, is_well: bool) -> None:
        arguments = ["etl", "check", "--pipeline", PIPELINE, "--hour", f"{hour:%Y-%m-%dT%H:%M}", "--json"]
        code, text = self._run(environment, *arguments, said=_judged)
        bad = [one for one in json.loads(text) if one["outcome"] == "error"]
        self._expect(
            (code == 0) == is_well and bool(bad) != is_well,
            f"etl check of {PIPELINE} {hour:%H:%M}: {'expected well' if is_well else 'half of it is missing'}; {text}",
        )

    # ------------------------------------------------------------------ what it runs on

    @contextmanager
    def _application(self) -> Iterator[tuple[Database, Cluster, dict[str, str]]]:
        """A database and a cluster in step, a syncer that works, and what a command needs to find them."""
        with ExitStack() as stack:
            database = self._database()
            standin = stack.enter_context(StandIn(name="sync", namespaces=["bidder", "spend"]))
            cluster = Cluster(CLUSTER, tuple(standin.ports), standin.control)
            world = World(campaigns=800, line_items=2500, creatives=4000, days=3, requests_per_hour=150)
            database.create()
            database.seed(world)
            publish_all(world, [cluster])
            syncer = Syncer(database, [cluster], token=secrets.token_urlsafe(16))
            stack.callback(syncer.close)
            control = Control(syncer)
            stack.callback(control.close)
            syncer.start()
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sync-demo-")))
            own = {
                "dbops_app": self._app,
                "dbops_syncer": connections.syncer(control.port, syncer.token),
                f"aerospike_{CLUSTER}": connections.aerospike(standin.ports),
            }
            yield database, cluster, {**self.lab.environment(), **connections.variables(own),
                                      "DBOPS_PLATFORM": str(self._platform_file(folder))}  # fmt: skip

    def _platform_file(self, folder: Path) -> Path:
        """The lab's, with the one cluster, and changes that arrive within a second."""
        document: dict[str, Any] = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
        document["sync"]["lag"] = "2s"
        for pair in document["sync"]["pairs"]:
            pair["clusters"] = [CLUSTER]
        self._platform = document
        file = folder / "lab.yaml"
        file.write_text(yaml.safe_dump(document))
        return file

    def _database(self) -> Database:
        server, password = self.lab.postgres(), self.lab.settings.secrets[f"postgres/{WAREHOUSE}"]
        connection = server.connect(ADMIN)
        connection.autocommit = True
        with suppress(psycopg2.errors.DuplicateDatabase), connection.cursor() as cursor:
            cursor.execute(
                sql.SQL("create database {} owner {}").format(sql.Identifier(DATABASE), sql.Identifier(WAREHOUSE))
            )
        connection.close()
        self._app = connections.postgres(self.lab.settings.postgres, WAREHOUSE, password, DATABASE)
        return Database(connections.info("dbops_app", self._app))

    def _pipelines(self) -> Etl:
        made = application.etl(self.lab, World(requests_per_hour=2000))
        made.create()
        return made

    def _run(self, environment: Mapping[str, str], *arguments: str, said: Any) -> tuple[int, str]:
        began = time.monotonic()
        command = [str(Path(sys.executable).with_name("dbops")), *arguments]
        answer = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        shown = " ".join(["dbops", *(word for word in arguments if word != "--json")])
        if answer.returncode not in (0, 1) or not answer.stdout:
            raise NotAsExpected(f"{shown} ended with {answer.returncode}: {answer.stderr.strip()[-500:]}")
        took = time.monotonic() - began
        self.steps.append(Step(shown, answer.returncode, took, said(json.loads(answer.stdout))))
        return answer.returncode, answer.stdout

    def _expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            raise NotAsExpected(otherwise)


def _names(planted: list[Planted]) -> list[tuple[str, str]]:
    return sorted((one.table, one.key) for one in planted)


def _validated(document: Any) -> str:
    results = document["results"]
    lines = [f"{len(results)} sets, {sum(one['rows'] for one in results):,} rows"]
    for one in results:
        for item in one["differences"]:
            columns = ", ".join(part["column"] for part in item["fields"])
            lines.append(f"{one['pair']} {item['key']}: {item['kind']}{f' ({columns})' if columns else ''}")
    return "\n".join(lines if len(lines) > 1 else [f"{lines[0]}: all the same"])


def _planned(document: Any) -> str:
    return f"would put {document['planned']} records right"


def _repaired(document: Any) -> str:
    left = sum(one["drift"] for one in document["results"])
    return f"{document['published']} written, {document['removed']} removed; compared again: {left} differ"


def _judged(document: Any) -> str:
    bad = [f"{one['check']}: {one['message']}" for one in document if one["outcome"] != "pass"]
    return "\n".join(bad) or f"{len(document)} checks, all pass"
