"""A small line chart as PNG, as mail programs show it. It has no letters: what it means stands beside it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALE = 2
"""Pixels for each point of the page, so that it is sharp on dense screens."""
WIDTH, HEIGHT = 160, 32
"""Points."""
LINE, FILL, FAILED, LIMIT = (31, 111, 168), (221, 234, 244), (200, 38, 38), (150, 150, 150)
_MARGIN = 3.5 * SCALE


def chart(
    values: Sequence[float | None], failed: Sequence[bool], limit: float | None = None, *, width: int = WIDTH,
    height: int = HEIGHT,
) -> bytes:  # fmt: skip
    """Values from left to right, evenly spaced, with a gap where there is none, and a red dot where a check failed.

    :param limit: drawn as a dashed line when it is not far beyond the values. The lower edge is 0, or the lowest value.
    """
    wide, high = width * SCALE, height * SCALE
    picture = np.full((high, wide, 3), 255.0)
    known = [value for value in values if value is not None]
    top, low = max([*known, 0.0]), min([*known, 0.0])
    if limit is not None and limit <= max(top, 0.0) * 3:
        top = max(top, limit)
    spread = (top - low) or 1.0
    step = (wide - 2 * _MARGIN) / max(1, len(values) - 1)

    def place(number: int, value: float) -> tuple[float, float]:
        return _MARGIN + number * step, high - _MARGIN - (value - low) / spread * (high - 2 * _MARGIN)

    y, x = np.mgrid[0:high, 0:wide] + 0.5
    base = place(0, max(low, 0.0))[1]
    for first, value in enumerate(values):
        following = values[first + 1] if first + 1 < len(values) else None
        if value is not None and following is not None:
            _area(picture, x, y, place(first, value), place(first + 1, following), base)
    if limit is not None and low <= limit <= top:
        level = place(0, limit)[1]
        dashes = (np.abs(y - level) <= SCALE / 2) & (x.astype(int) // (4 * SCALE) % 2 == 0)
        picture[dashes] = LIMIT
    for first, value in enumerate(values):
        if value is None:
            continue
        here = place(first, value)
        following = values[first + 1] if first + 1 < len(values) else None
        if following is not None:
            _paint(picture, _distance(x, y, here, place(first + 1, following)), 0.75 * SCALE, LINE)
        elif first == len(values) - 1 or values[first - 1] is None:
            _paint(picture, _distance(x, y, here, here), 1.25 * SCALE, LINE)
    for number, is_failed in enumerate(failed):
        if is_failed:
            here = place(number, values[number] or 0.0)
            _paint(picture, _distance(x, y, here, here), 2.5 * SCALE, FAILED)
    return _png(np.clip(np.rint(picture), 0, 255).astype(np.uint8))


Plane = NDArray[Any]
Point = tuple[float, float]


def _distance(x: Plane, y: Plane, one: Point, other: Point) -> Plane:
    """Of each pixel from the line between two points."""
    dx, dy = other[0] - one[0], other[1] - one[1]
    length = dx * dx + dy * dy
    along = np.clip(((x - one[0]) * dx + (y - one[1]) * dy) / length, 0, 1) if length else np.zeros_like(x)
    found: Plane = np.hypot(x - one[0] - along * dx, y - one[1] - along * dy)
    return found


def _paint(picture: Plane, distance: Plane, radius: float, colour: tuple[int, int, int]) -> None:
    """Everything within the radius, its edge smooth."""
    share = np.clip(radius + 0.5 - distance, 0, 1)[..., None]
    picture += (np.array(colour, float) - picture) * share


def _area(picture: Plane, x: Plane, y: Plane, one: Point, other: Point, base: float) -> None:
    """Between a line and the base."""
    inside = (x >= one[0]) & (x < other[0])
    line = one[1] + (x - one[0]) / ((other[0] - one[0]) or 1) * (other[1] - one[1])
    inside &= (y - line) * (y - base) <= 0
    picture[inside] = FILL


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """https://www.w3.org/TR/png-3/: a header, the compressed lines (each with filter 0), the end."""
    high, wide, _ = pixels.shape
    lines = np.concatenate([np.zeros((high, 1), np.uint8), pixels.reshape(high, -1)], axis=1)
    header = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
