"""The section `etl` of a platform file: what is wrong with it is said with its path."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops.platform import PlatformFileError, load_platform
from dbops.platform.load import DIRECTORY


def section(change: Callable[[dict[str, Any]], object], folder: Path) -> Any:
    made = yaml.safe_load((DIRECTORY / "production.yaml").read_text())
    change(made)
    file = folder / "some.yaml"
    file.write_text(yaml.safe_dump(made))
    return load_platform(file).etl


def test_files_of_an_hour_are_named_by_it(tmp_path: Path) -> None:
    etl = section(lambda made: None, tmp_path)
    url = etl.pipeline("wins").url_of(datetime(2026, 11, 2, 7, tzinfo=UTC))
    assert url == "s3://bedrock-events/events/wins/dt=2026-11-02/hr=07/"
    assert (etl.region, etl.aws_connection) == ("eu-west-1", "dbops_s3")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda e: e.update(schedule="30 4 * * *"), "once an hour"),
        (lambda e: e.update(due="40m"), "hours would be judged before they are due"),
        (lambda e: e["pipelines"][0].update(prefix="wins/"), "names no hour"),
        (lambda e: e["pipelines"][0].update(prefix="wins/{hour:%Y}/"), "names no hour"),
        (lambda e: e["pipelines"][0].update(prefix="wins/{hour.year}/{x}"), "names no hour"),
        (lambda e: e["pipelines"][0].update(prefix=e["pipelines"][1]["prefix"]), "is that of pipeline bidstream too"),
        (lambda e: e["pipelines"][0].update(name="wins"), "was named before"),
        (lambda e: e["pipelines"][0].update(rows={"warn": 1, "error": 5}), "must not be above warn"),
        (lambda e: e["pipelines"][0].update(freshness={"warn": "4h", "error": "2h"}), "must not be less than warn"),
        (lambda e: e["pipelines"][0].update(lost={"warn": 2, "error": 1}), "must not be below warn"),
    ],
)
def test_what_is_wrong_is_said(change: Callable[[dict[str, Any]], object], told: str, tmp_path: Path) -> None:
    with pytest.raises(PlatformFileError) as failed:
        section(lambda made: change(made["etl"]), tmp_path)
    assert told in str(failed.value)
    assert "etl" in str(failed.value)


def test_pipelines_need_the_warehouse_that_they_load(tmp_path: Path) -> None:
    with pytest.raises(PlatformFileError, match="needs a section `redshift`"):
        section(lambda made: made.pop("redshift"), tmp_path)
