"""A whole `.asb` text through the kernel's strict reader: counted and fingerprinted in bounded memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from dbops.aerospike import asb, kernel

_BUFFER = 1 << 20


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
    state = np.zeros(kernel.STATE_SIZE, np.int64)
    state[kernel.LEGACY] = preamble.header.version == "3.0"
    buffer = np.zeros(_BUFFER + kernel.SLACK, np.uint8)
    end = len(preamble.rest)
    if end > _BUFFER:
        buffer = np.zeros(end + kernel.SLACK, np.uint8)
    buffer[:end] = np.frombuffer(preamble.rest, np.uint8)
    before, final, seen = preamble.size, False, 0
    while True:
        pos, status = kernel.scan(buffer, 0, end, final, state, counts, fingerprints)
        on_records(int(state[kernel.RECORDS]) - seen)
        seen = int(state[kernel.RECORDS])
        if status == kernel.DONE:
            return before + end, int(state[kernel.EXPIRING])
        if status == kernel.BROKEN:
            raise asb.AsbError(
                f"record {seen + 1}, text byte {before + int(state[kernel.OFFSET])}: found "
                f"{kernel.reason(int(state[kernel.WHY]))}"
            )
        left, needed = end - pos, int(state[kernel.SOURCE_NEEDED]) + kernel.SLACK
        if needed > buffer.size:  # one record larger than the buffer
            larger = np.zeros(max(needed, 2 * buffer.size), np.uint8)
            larger[:left] = buffer[pos:end]
            buffer = larger
        else:
            buffer[:left] = buffer[pos:end].copy()
        before, end = before + pos, left
        room = memoryview(buffer.data)[: buffer.size - kernel.SLACK]
        while end < len(room) and (size := cast(io.BufferedReader, text).readinto(room[end:])):
            end += size
        final = end < len(room)
