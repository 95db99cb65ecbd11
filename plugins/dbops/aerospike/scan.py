"""A whole `.asb` text through the kernel's strict reader, in bounded memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from dbops.aerospike import asb, kernel

_BUFFER = 1 << 20


class Records:
    """The records of a text on their way through `kernel.scan` or `kernel.decode`: `data[pos:end]` is to be read next.

    The caller moves `pos`, and asks for `more` when the kernel has not ended.
    """

    def __init__(self, text: BinaryIO, preamble: asb.Preamble) -> None:
        """:param preamble: what `asb.read_header` took from `text`."""
        self._text = cast(io.BufferedReader, text)
        self.state = np.zeros(kernel.STATE_SIZE, np.int64)
        self.state[kernel.LEGACY] = preamble.header.version == "3.0"
        self.pos, self.end, self.final = 0, len(preamble.rest), False
        self._before = preamble.size  # of the text, before the buffer
        self.data: NDArray[np.uint8] = np.zeros(max(_BUFFER, self.end) + kernel.SLACK, np.uint8)
        self.data[: self.end] = np.frombuffer(preamble.rest, np.uint8)

    @property
    def offset(self) -> int:
        """Of `pos` in the text."""
        return self._before + self.pos

    def more(self, status: int) -> None:
        """Read on in the text behind what the kernel has left.

        :raises AsbError: the kernel has found what may not be there; names record and offset.
        """
        if status == kernel.BROKEN:
            raise asb.AsbError(
                f"record {int(self.state[kernel.RECORDS]) + 1}, text byte "
                f"{self._before + int(self.state[kernel.OFFSET])}: found {kernel.reason(int(self.state[kernel.WHY]))}"
            )
        left, needed = self.end - self.pos, int(self.state[kernel.SOURCE_NEEDED]) + kernel.SLACK
        if needed > self.data.size:  # one record larger than the buffer
            larger = np.zeros(max(needed, 2 * self.data.size), np.uint8)
            larger[:left] = self.data[self.pos : self.end]
            self.data = larger
        else:
            self.data[:left] = self.data[self.pos : self.end].copy()
        self._before, self.end, self.pos = self._before + self.pos, left, 0
        room = memoryview(self.data.data)[: self.data.size - kernel.SLACK]
        while self.end < len(room) and (size := self._text.readinto(room[self.end :])):
            self.end += size
        self.final = self.end < len(room)


def scan_records(
    text: BinaryIO,
    preamble: asb.Preamble,
    counts: NDArray[np.int64],
    fingerprints: NDArray[np.uint64],
    on_records: Callable[[int], None] = lambda records: None,
) -> tuple[int, int]:
    """Check all records strictly; how many bytes of text there are, and how many records that expire some day.

    :param preamble: what `asb.read_header` took from `text`.
    :param counts: per partition, added to.
    :param fingerprints: per partition, added to.
    :param on_records: called with the number of each block's records.
    :raises AsbError: with the offset in the text.
    """
    records, seen = Records(text, preamble), 0
    while True:
        records.pos, status = kernel.scan(
            records.data, records.pos, records.end, records.final, records.state, counts, fingerprints
        )
        on_records(int(records.state[kernel.RECORDS]) - seen)
        seen = int(records.state[kernel.RECORDS])
        if status == kernel.DONE:
            return records.offset, int(records.state[kernel.EXPIRING])
        records.more(status)
