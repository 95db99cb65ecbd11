"""What is done once for a table when days of it were deleted: its space is given back, its statistics are renewed."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

from dbops.errors import RetryableError
from dbops.redshift.session import Session, StatementRefused
from dbops.sql import quoted, statement

log = logging.getLogger(__name__)

PATIENCE: Final = 600.0
OLD_PATIENCE: Final = 120.0  # other days of the same table may be at work, each in a transaction
PAUSE: Final = 5.0


class VacuumBusy(RetryableError):
    """Another VACUUM runs; the warehouse has one at a time."""


@dataclass(frozen=True)
class Reclaimed:
    """Rows that were deleted and still took space, and how far statistics were off; None: the login cannot see that."""

    table: str
    before: tuple[int, float] | None
    after: tuple[int, float] | None

    @property
    def problem(self) -> str | None:
        """Why VACUUM did nothing, though it said nothing."""
        if self.before and self.after and 0 < self.before[0] <= self.after[0]:
            return (
                f"VACUUM DELETE ONLY of {self.table} gave nothing back of {self.after[0]:,} deleted rows: "
                "a transaction older than their deletion is open (svv_transactions), or the login does not own the "
                "table"
            )
        return None

    @property
    def figures(self) -> dict[str, Any]:
        named = {"before": self.before, "after": self.after}
        return {
            when: None if found is None else {"deleted_rows": found[0], "stats_off": found[1]}
            for when, found in named.items()
        }


def reclaim(session: Session, table: str, *, patience: float = PATIENCE, pause: float = PAUSE) -> Reclaimed:
    """VACUUM DELETE ONLY and ANALYZE of a table. Safe to repeat.

    :param patience: seconds to wait for another VACUUM to end, or, `OLD_PATIENCE` at most, for older transactions.
    :raises VacuumBusy: the other VACUUM did not.
    """
    where = quoted(*table.split(".", 1))
    before = _figures(session, table)
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        try:
            session.run(statement("redshift/archive_vacuum").format(table=where))
            done = Reclaimed(table, before, _figures(session, table))
            if done.problem is None or waited > min(patience, OLD_PATIENCE):
                break
            problem = done.problem
        except StatementRefused as error:
            if "VACUUM is running" not in str(error):
                raise
            if waited > patience:
                raise VacuumBusy(f"{error}; it was waited for {patience:.0f} s, try again") from None
            problem = str(error)
        log.info("VACUUM of %s waits: %s", table, problem)
        time.sleep(pause)
    session.run(statement("redshift/archive_analyze").format(table=where))
    return Reclaimed(table, before, _figures(session, table))


def has_deleted_rows(session: Session, table: str) -> bool:
    """Whether the table still stores rows that were deleted; False also when the login cannot see that."""
    found = _figures(session, table)
    return found is not None and found[0] > 0


def _figures(session: Session, table: str) -> tuple[int, float] | None:
    schema, _, name = table.partition(".")
    try:
        found = session.rows(statement("redshift/archive_deleted"), schema, name)
    except StatementRefused as error:
        log.warning("how many deleted rows %s has cannot be seen: %s", table, error)
        return None
    return (int(found[0][0] or 0), float(found[0][1] or 0)) if found else (0, 0.0)
