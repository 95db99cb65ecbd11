"""The warehouse's part of the demonstration: old days are archived, then the weekly maintenance takes place.

It runs beside the parts of Aerospike, in a thread of its own.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from dbops.connections import from_env
from dbops.errors import DbopsError
from dbops.platform import Platform
from dbops.redshift.archive_parts import open_place, parts_of
from dbops.redshift.session import open_session
from dbops.redshift.views import table_figures
from dbops.sql import quoted
from dbops_lab.airflow import Client
from dbops_lab.application.lab import seed_old_days
from dbops_lab.lab import Lab
from rich.table import Table

ARCHIVE = "redshift_archive"
WEEKLY = "redshift_maintenance_weekly"
DAYS = 2
TABLES = ("bidstream_v2", "impressions", "users")
"""Those whose rows stay 30 days: both seeded days are older, so nothing of them is left."""
SHOWN = (*TABLES, "wins")
"""Rows of wins stay 90 days: the maintenance sorts them."""
SECONDS = 600.0


@dataclass
class Run:
    """One run of a workflow."""

    workflow: str
    id: str
    state: str
    seconds: float
    rows: int = 0
    bytes: int = 0


@dataclass
class Warehouse:
    """The warehouse of a lab while it is demonstrated."""

    lab: Lab
    platform: Platform
    loaded: dict[str, int] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    figures: dict[str, dict[str, tuple[Any, ...]]] = field(default_factory=dict)

    def fill(self) -> None:
        self.loaded = seed_old_days(self.lab, timedelta(days=30), DAYS)

    def begin(self, client: Client) -> None:
        """Archive and maintain, without waiting for it: see `end`."""
        client.start_without_missed_runs([ARCHIVE, WEEKLY])
        self._thread = threading.Thread(target=self._work, args=[client], name="warehouse")
        self._thread.start()

    def end(self) -> None:
        """Wait, then count: each row that was loaded is in the table or in the archive, once."""
        self._thread.join()
        if self.problems:
            return
        place = open_place(self.platform, from_env(self.platform.storage.connection))
        with open_session(from_env("dbops_redshift")) as session:
            for table in TABLES:
                left = int(session.rows(f"select count(*) from {quoted('public', table)}")[0][0])
                archived = sum(part.rows for part in parts_of(place.store, f"public.{table}"))
                if left or archived != self.loaded[table]:
                    self.problems.append(
                        f"public.{table}: of {self.loaded[table]:,} rows {archived:,} are archived, {left:,} left"
                    )

    def table(self) -> Table:
        """Figures of the tables at the start, after the archival and after the maintenance."""
        made = Table(title="the warehouse", title_justify="left", title_style="bold")
        for column in ("table", "when"):
            made.add_column(column)
        for column in ("stored rows", "deleted of them", "unsorted %", "statistics off %"):
            made.add_column(column, justify="right")
        for table in SHOWN:
            for when, found in self.figures.items():
                made.add_row(table, when, *(("-" if value is None else f"{value:,g}") for value in found[table]))
        return made

    def _work(self, client: Client) -> None:
        try:
            self._look("loaded")
            tables = self._run(client, ARCHIVE, "report").get("tables", {})
            self.runs[-1].rows = sum(one["rows"] for one in tables.values())
            self.runs[-1].bytes = sum(one["bytes"] for one in tables.values())
            self._look("archived")
            self._run(client, WEEKLY, "maintain")
            self._look("maintained")
        except DbopsError as problem:
            self.problems.append(str(problem))
        except Exception as problem:
            self.problems.append(f"the warehouse's part ended with {type(problem).__name__}: {problem}")

    def _run(self, client: Client, dag_id: str, task_id: str) -> dict[str, Any]:
        began = time.monotonic()
        run_id = client.trigger(dag_id)
        run = client.wait(dag_id, run_id, seconds=SECONDS)
        self.runs.append(Run(dag_id, run_id, run["state"], run.get("duration") or time.monotonic() - began))
        if run["state"] != "success":
            self.problems.append(f"{dag_id}: the run is {run['state']}")
        return client.result(dag_id, run_id, task_id) or {}

    def _look(self, when: str) -> None:
        with open_session(from_env("dbops_redshift")) as session:
            found = {figures.table: figures for figures in table_figures(session)}
        empty = (0, 0, None, None)  # the system view shows no table without rows
        self.figures[when] = {
            table: (one.rows, one.deleted_rows, one.unsorted, one.stats_off) if (one := found.get(table)) else empty
            for table in SHOWN
        }
