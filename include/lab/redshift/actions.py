"""The statements that no single statement of PostgreSQL does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbops_lab.redshift import vacuum
from dbops_lab.redshift.backend import IDLE
from dbops_lab.redshift.errors import unsupported
from dbops_lab.redshift.faults import DURING, Order
from dbops_lab.redshift.statements import Plan
from dbops_lab.redshift.wire import Disconnected

if TYPE_CHECKING:
    from dbops_lab.redshift.session import Session


def run(made: Plan, session: Session, fault: Order | None) -> int:
    """Run it; how many rows it is counted with.

    :raises BackendError: it failed; what it did in the client's transaction is undone with that.
    """
    if made.special == "vacuum":
        vacuum.vacuum(made.text, session, is_cut=fault is not None and fault.drop == DURING)
        return 0
    if made.special == "analyze":
        vacuum.analyze(made.text, session)
        return 0
    raise unsupported(made.special.upper())


__all__ = ["IDLE", "Disconnected", "run"]
