"""What was done, seen and broken, in a PostgreSQL database of its own."""

from dbops.ledger.incidents import (
    Resolution,
    Sighting,
    open_incidents,
    record_delivery,
    resolve_incident,
    see_incident,
)
from dbops.ledger.read import PastAction, PastCheck, actions_of, checks_since, find_action
from dbops.ledger.record import (
    failures_of,
    known_since,
    never_drilled,
    newest_check,
    record_action,
    record_check,
    record_expired,
    record_expiry,
    record_restore_point,
    record_verification,
)
from dbops.ledger.session import (
    LedgerNotReady,
    LedgerStatus,
    LedgerUnavailable,
    connect,
    migrate,
    status,
    transaction,
)

__all__ = [
    "LedgerNotReady",
    "LedgerStatus",
    "LedgerUnavailable",
    "PastAction",
    "PastCheck",
    "Resolution",
    "Sighting",
    "actions_of",
    "checks_since",
    "connect",
    "failures_of",
    "find_action",
    "known_since",
    "migrate",
    "never_drilled",
    "newest_check",
    "open_incidents",
    "record_action",
    "record_check",
    "record_delivery",
    "record_expired",
    "record_expiry",
    "record_restore_point",
    "record_verification",
    "resolve_incident",
    "see_incident",
    "status",
    "transaction",
]
