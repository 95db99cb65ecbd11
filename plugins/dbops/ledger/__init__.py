"""What was done, seen and broken, in a PostgreSQL database of its own."""

from dbops.ledger.incidents import Resolution, Sighting, record_delivery, resolve_incident, see_incident
from dbops.ledger.record import (
    archived_days,
    failures_of,
    record_action,
    record_archived_part,
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
    "Resolution",
    "Sighting",
    "archived_days",
    "connect",
    "failures_of",
    "migrate",
    "record_action",
    "record_archived_part",
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
