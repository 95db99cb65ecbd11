"""PostgreSQL's part of the demonstration: an UPDATE without WHERE, a recovery to the second before it, and the proof.

It runs beside the other parts, in a thread of its own. The table that it damages is one that no other part reads.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from dbops.connections import from_env
from dbops.errors import DbopsError
from dbops.platform import Platform
from dbops.postgres.rds import rds_client
from dbops.postgres.recovery_compare import checksum
from dbops.postgres.recovery_state import PHASES
from dbops.postgres.recovery_time import read_window
from dbops.postgres.session import Session
from dbops_lab import dns
from dbops_lab.airflow import Client
from dbops_lab.application.lab import database
from dbops_lab.application.world import World
from dbops_lab.lab import Lab
from dbops_lab.rds import CNAME
from rich.table import Table

RECOVERY = "postgres_recovery"
TABLE = "public.targeting_rules"
DAMAGE = "update public.targeting_rules set is_exclusion = true"
SECONDS = 300.0
PATIENCE = 2.5
"""Airflow takes an answer of the first second for a task that was killed, and asks again."""


@dataclass
class Recovery:
    """The application's database of a lab while it is demonstrated."""

    lab: Lab
    platform: Platform
    run_id: str = ""
    state: str = ""
    seconds: float = 0.0
    rows: int = 0
    problems: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """What happened, in words."""
    report: dict[str, Any] = field(default_factory=dict)

    def fill(self) -> None:
        """Give the application's database the rows of a small world."""
        home = database(self.lab)
        home.create()
        home.seed(World(campaigns=400, line_items=1200, creatives=2000, days=2))

    def begin(self, client: Client) -> None:
        """Damage and recover, without waiting for it: see `end`."""
        client.unpause(RECOVERY)
        self._thread = threading.Thread(target=self._work, args=[client], name="recovery")
        self._thread.start()

    def end(self) -> None:
        self._thread.join()

    def table(self) -> Table:
        """The time to recovery, step by step, beside the RTO."""
        made = Table(title="the time to recovery", title_justify="left", title_style="bold")
        made.add_column("step")
        made.add_column("seconds", justify="right")
        took = self.report.get("phases", {})
        for name in (name for name in PHASES.values() if name in took):
            made.add_row("a person approves" if name == "approve" else name, f"{took[name]:.1f}")
        if self.report:
            colour = "green" if self.report["in_time"] else "red"
            made.add_row("all", f"[{colour}]{self.report['seconds']:.1f}[/] of {self.report['rto_seconds']:.0f}")
        return made

    # ------------------------------------------------------------------ the work

    def _work(self, client: Client) -> None:
        try:
            before, good = self._read(from_env("dbops_app").host), self._damage()
            self._recover(client, good)
            address = dns.resolve(f"127.0.0.1:{self.lab.settings.nameserver}", CNAME)
            after, damaged = self._read(address), self._read(from_env("dbops_app").host)
            self.rows = after[0]
            if after != before or damaged == before:
                self.problems.append(f"{TABLE}: before {before}, recovered {after}, damaged {damaged} (rows, checksum)")
            else:
                self.lines.append(
                    f"{CNAME} leads to {self.report.get('target')}: {after[0]:,} rows of {TABLE} are as they were at "
                    f"{good:%T} UTC (checksum {after[1]}); the damaged instance has {damaged[1]} and is kept"
                )
        except DbopsError as problem:
            self.problems.append(f"{RECOVERY}: {problem}")
        except Exception as problem:
            self.problems.append(f"{RECOVERY}: its part ended with {type(problem).__name__}: {problem}")

    def _damage(self) -> datetime:
        """The second before the damage, when RDS can bring the instance back to it."""
        assert self.platform.postgres is not None
        time.sleep(1)  # what was committed before lies before that second
        now = datetime.now(UTC)
        good = now.replace(microsecond=0)
        time.sleep(1.02 - now.microsecond / 1e6)
        with Session(from_env("dbops_app")) as session:
            session.run(DAMAGE)
        self.lines.append(f"at {datetime.now(UTC):%T} UTC somebody ran: {DAMAGE}")
        rds = rds_client(from_env(self.platform.postgres.aws_connection), self.platform.postgres.region)
        deadline = time.monotonic() + SECONDS
        while read_window(rds, self.platform.postgres.name).latest <= good and time.monotonic() < deadline:
            time.sleep(0.5)
        return good

    def _recover(self, client: Client, good: datetime) -> None:
        waiting: dict[int, float] = {}

        def approve(_: dict[str, Any], tasks: list[dict[str, Any]]) -> None:
            task = next((t for t in tasks if t["task_id"] == "approve" and t["state"] == "awaiting_input"), None)
            if task is None or time.monotonic() - waiting.setdefault(task["try_number"], time.monotonic()) < PATIENCE:
                return
            waiting[task["try_number"]] = time.monotonic() + SECONDS
            text = client.approve(RECOVERY, self.run_id, "approve")
            if len(waiting) == 1:
                found = next((line for line in text.splitlines() if TABLE in line), "")
                self.lines.append(f"approved: {found.removeprefix('- ')}")

        reason = "demonstration: an UPDATE without WHERE"
        self.run_id = client.trigger(RECOVERY, {"point_in_time": good.isoformat(), "reason": reason})
        run = client.wait(RECOVERY, self.run_id, seconds=SECONDS, tick=approve)
        self.state, self.seconds = run["state"], run.get("duration") or 0.0
        if self.state != "success":
            failed = [task["task_id"] for task in client.tasks(RECOVERY, self.run_id) if task["state"] == "failed"]
            self.problems.append(f"{RECOVERY}: the run is {self.state}, failed: {', '.join(failed) or 'nothing'}")
        self.report = client.result(RECOVERY, self.run_id, "report") or {}

    def _read(self, host: str | None) -> tuple[int, str]:
        """Rows and checksum of the table, at an address."""
        with Session(replace(from_env("dbops_app"), host=host), read_only=True) as session:
            return checksum(session, TABLE)
