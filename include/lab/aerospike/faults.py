"""What the lab may break on purpose; `control` documents how."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Faults:
    delay: float = 0.0  # seconds before every answer to a data request
    drop_bytes: int | None = None  # a query's connection is cut after so many bytes of answer
    drop_records: int | None = None  # ... or records
    drops: int = 0  # for so many queries
    refuse_code: int = 0
    refusals: int = 0  # for so many queries

    def take_refusal(self) -> int:
        """The result code that the next query gets, 0 when it is served."""
        if not self.refusals:
            return 0
        self.refusals -= 1
        return self.refuse_code

    def take_drop(self) -> tuple[int | None, int | None]:
        """After how many bytes or records the next query is cut off."""
        if not self.drops:
            return None, None
        self.drops -= 1
        return self.drop_bytes, self.drop_records
