"""What the checks of a pipeline found, and how bad it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from dbops.errors import DbopsError


class Outcome(StrEnum):
    PASS = "pass"  # noqa: S105
    WARN = "warn"
    ERROR = "error"
    BLIND = "could-not-look"
    """Counts as an error: nothing is known, which is never well."""


class Family(StrEnum):
    """What goes wrong together is one incident of a pipeline, with one runbook."""

    LATE = "etl_late"
    FAILED = "etl_failed"
    LOAD = "etl_load_errors"
    DATA = "etl_data"


RUN, FILES, LOAD, TWICE = "etl_run", "etl_files", "etl_load", "etl_loaded_twice"
RECONCILIATION, ROWS, KEYS = "etl_reconciliation", "etl_rows", "etl_keys"
NULLS, RANGES, REFERENCES = "etl_nulls", "etl_ranges", "etl_references"
FRESHNESS, SCHEDULE, SUCCESS = "etl_freshness", "etl_schedule", "etl_success"
OF_AN_HOUR = (RUN, FILES, LOAD, TWICE, RECONCILIATION, ROWS, KEYS, NULLS, RANGES, REFERENCES)
"""In the order of cause and effect."""
OF_NOW = (SCHEDULE, FRESHNESS, SUCCESS)
CHECKS = (*OF_AN_HOUR, *OF_NOW)
"""Names of the checks in the ledger."""


@dataclass(frozen=True)
class Finding:
    """One result: a row `check_result` of the ledger."""

    check: str
    pipeline: str
    outcome: Outcome
    message: str
    family: Family
    hour: datetime | None = None
    """None: it is about now."""
    value: float | None = None
    limit: float | None = None
    unit: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    error: DbopsError | None = None
    """Why it could not be looked at."""

    @property
    def ok(self) -> bool:
        return self.outcome == Outcome.PASS

    @property
    def target(self) -> str:
        """In the ledger: `wins/2026-11-22T13`, or `wins`."""
        return target_of(self.pipeline, self.hour)

    def document(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "check": self.check, "pipeline": self.pipeline, "hour": self.hour.isoformat() if self.hour else None,
            "outcome": str(self.outcome), "family": str(self.family), "message": self.message, "value": self.value,
            "limit": self.limit, "unit": self.unit, "details": dict(self.details),
        }  # fmt: skip


def target_of(pipeline: str, hour: datetime | None) -> str:
    return pipeline if hour is None else f"{pipeline}/{hour:%Y-%m-%dT%H}"


def in_words(findings: list[Finding]) -> list[str]:
    return [f"{one.outcome}: {one.target}: {one.check}: {one.message}" for one in findings]
