"""Charts of a summary: pictures that can be read, of the values and failures that they are given; in the mail."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from dbops.alerts import Alert, Notice, Severity, texts
from dbops.alerts.airflow import MailChannel
from dbops.alerts.chart import FAILED, HEIGHT, LIMIT, LINE, SCALE, WIDTH, chart
from dbops.ledger.trends import Trend, TrendDay
from dbops_lab.testing import LabReceivers
from numpy.typing import NDArray

NOW = datetime(2026, 11, 20, 7, 30, tzinfo=UTC)


def pixels(png: bytes) -> NDArray[np.uint8]:
    """The picture of a PNG without filters, its checksums right."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(png):
        size, kind = struct.unpack_from(">I4s", png, at)
        body = png[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", png, at + 8 + size)[0] == zlib.crc32(kind + body)
        parts[kind], at = body, at + 12 + size
    wide, high = struct.unpack(">II", parts[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(high, 1 + 3 * wide)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(high, wide, 3)


def where(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.intp]:
    """Places (line, column) of a colour."""
    return np.argwhere((picture == colour).all(axis=2))


def test_the_line_follows_the_values_from_left_to_right() -> None:
    line = where(pixels(chart([0, 1, 2, 3, 4], [False] * 5)), LINE)
    first, last = line[line[:, 1] < 15], line[line[:, 1] > WIDTH * SCALE - 15]
    assert first[:, 0].min() > HEIGHT * SCALE - 15
    assert last[:, 0].max() < 15


def test_days_that_failed_have_a_dot_and_days_without_a_result_a_gap() -> None:
    picture = pixels(chart([1, None, 1, 5, 1], [False, False, False, True, False]))
    dots = where(picture, FAILED)
    assert 0.7 < dots[:, 1].mean() / (WIDTH * SCALE) < 0.8
    line = where(picture, LINE)[:, 1]
    assert not ((line > 0.1 * WIDTH * SCALE) & (line < 0.4 * WIDTH * SCALE)).any()


def test_a_limit_is_drawn_where_it_says_something() -> None:
    assert len(where(pixels(chart([1, 2], [False] * 2, 2.5)), LIMIT))
    assert not len(where(pixels(chart([1, 2], [False] * 2, 1000)), LIMIT))


@pytest.mark.parametrize("values", [[], [None], [0.0], [-3.0, None, 2.0], [1e300, -1e300], [5.0] * 400])
def test_anything_that_a_check_can_say_makes_a_picture(values: list[float | None]) -> None:
    assert pixels(chart(values, [True] * len(values), 0)).shape == (HEIGHT * SCALE, WIDTH * SCALE, 3)


def a_trend(target: str, worst: list[float], *, ok: bool = True) -> Trend:
    first = date(2026, 11, 20) - timedelta(days=len(worst) - 1)
    days = [TrendDay(first + timedelta(days=n), 24, int(value > 0), 0, value) for n, value in enumerate(worst)]
    return Trend("sync_validation", target, NOW, ok, worst[-1], 0, "rows", "12 rows differ", tuple(days))


def test_a_mail_carries_the_charts_that_its_text_names(
    receivers: LabReceivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in receivers.environment.items():
        monkeypatch.setenv(name, value)
    alert = Alert(
        Severity.SUMMARY, key="k", title="Data quality", what="all is <well>",
        trends=(a_trend("eu/<bidder>.orders", [0, 3, 12], ok=False), a_trend("eu/spend.spend", [0, 0, 0])),
    )  # fmt: skip
    MailChannel("dbops_smtp", ["a@example.com"]).send(Notice("problem", "lab", alert, NOW, None))
    (mail,) = receivers.inbox("smtp")
    assert set(mail["attached"]) == {"trend0.png", "trend1.png"}
    for number, name in enumerate(mail["attached"]):
        assert f'src="cid:trend{number}.png"' in mail["html"]
        pixels(base64.b64decode(mail["attached"][name]))
    assert "<bidder>" not in mail["html"]
    assert "2 of 72" in mail["html"]
    assert "12 rows" in mail["html"]
    plain = replace(alert, trends=())
    assert texts.images(Notice("problem", "lab", plain, NOW, None)) == {}
