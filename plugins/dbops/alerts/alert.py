"""What is wrong, and what a channel is handed when it has to say so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from dbops.platform import Severity
from dbops.redact import redact

if TYPE_CHECKING:
    from dbops.ledger.trends import Trend

LONGEST_DEDUP_KEY = 255
"""https://developer.pagerduty.com/docs/send-alert-event"""


@dataclass(frozen=True)
class Alert:
    """One problem.

    :param key: names the problem, not its occurrence: the same for as long as the problem lasts.
    :param title: one line, without figures that change.
    :param what: what is broken and what that means, a few lines.
    :param since: when it began, aware; None: when it was seen first.
    :param value: what was measured, with its unit; `limit` is what it should have kept.
    :param run_url: where it was seen; the same place again is not counted as another time.
    :param runbook: name of a page in include/runbooks, without `.md`.
    :param trends: checks whose last weeks a mail shows as charts; other channels leave them out.
    """

    severity: Severity
    key: str
    title: str
    what: str
    since: datetime | None = None
    value: str | None = None
    limit: str | None = None
    run_url: str | None = None
    runbook: str | None = None
    trends: tuple[Trend, ...] = ()

    def redacted(self, secrets: Iterable[str]) -> Alert:
        """The same alert without any secret in a text that leaves this process."""
        secrets = tuple(secrets)
        texts = {"title": self.title, "what": self.what, "value": self.value, "limit": self.limit}
        clean = {name: redact(text, secrets) for name, text in texts.items() if text is not None}
        return replace(self, **clean)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Notice:
    """What a channel tells: that a problem began, or that it ended. Holds no secret."""

    state: Literal["problem", "resolved"]
    platform: str
    alert: Alert
    since: datetime
    runbook_url: str | None
    until: datetime | None = None
    times_seen: int = 1
    remark: str = ""
    """What the reader must know about the alert itself, such as that the ledger does not remember it."""

    @property
    def dedup_key(self) -> str:
        """The same for every notice of a problem; needs no ledger. At most 255 characters."""
        key = f"dbops/{self.platform}/{self.alert.key}"
        if len(key) <= LONGEST_DEDUP_KEY:
            return key
        return f"{key[: LONGEST_DEDUP_KEY - 65]}#{hashlib.sha256(key.encode()).hexdigest()}"


class Channel(Protocol):
    """A way to reach people. What `send` raises is logged and remembered; it stops nobody else."""

    def send(self, notice: Notice) -> None: ...
