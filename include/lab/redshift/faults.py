"""What the stand-in breaks on purpose; `control` documents how."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Any

BEFORE, DURING, AFTER = "before", "during", "after"


@dataclass
class Order:
    """One order: the next `times` statements that match, after `skip` of them, go wrong so."""

    match: str = ""
    times: int = 1
    skip: int = 0
    error: str = ""  # code, or 1023
    message: str = ""
    drop: str = ""  # before, during, after: the connection ends there
    delay: float = 0.0  # seconds that the statement takes longer
    slice: int | None = None  # of an UNLOAD, that fails when it writes

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except re.error as problem:
            raise ValueError(f"match is {self.match!r}: {problem}") from None
        if self.drop not in ("", BEFORE, DURING, AFTER):
            raise ValueError(f"drop is {self.drop!r}: it is before, during or after")


class Faults:
    def __init__(self) -> None:
        self._orders: list[Order] = []
        self._lock = threading.Lock()

    def order(self, orders: list[dict[str, Any]]) -> None:
        """Replace all orders."""
        made = [Order(**order) for order in orders]
        with self._lock:
            self._orders = made

    def take(self, statement: str) -> Order | None:
        """The order that this statement fulfils."""
        if not self._orders:
            return None
        with self._lock:
            for order in self._orders:
                if order.times > 0 and re.search(order.match, statement, re.IGNORECASE | re.DOTALL):
                    if order.skip > 0:
                        order.skip -= 1
                        continue
                    order.times -= 1
                    return order
        return None
