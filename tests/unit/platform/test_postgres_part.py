"""The postgres section of a platform file: what is refused, and with which words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from dbops.platform import Postgres
from pydantic import ValidationError


def made(**more: Any) -> Postgres:
    return Postgres.model_validate({"name": "exchange", "databases": ["exchange"], **more})


def test_a_section_of_two_lines_has_all_that_is_needed() -> None:
    postgres = made()
    assert postgres.maintenance.window.last_start == timedelta(hours=2)
    assert postgres.health.wraparound.warn == 50
    assert postgres.storage_gb is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"databases": []}, "at least one database"),
        ({"databases": ["a", "a"]}, "was named before"),
        ({"databases": ["a/b"]}, "pattern"),
        ({"health": {"wraparound": {"warn": 80, "critical": 75}}}, "must be more than warn, which is 80"),
        ({"health": {"blocked": {"warn": "5m", "critical": "5m"}}}, "must be more than warn, which is 5 min"),
        ({"health": {"sequences": {"warn": 90, "critical": 101}}}, "100"),
        ({"maintenance": {"reindex_tables": ["orders"]}}, "schema.table"),
        ({"maintenance": {"window": {"last_start": "3h", "hard_end": "2h"}}}, "must be later than last_start"),
        ({"maintenance": {"lock_timeout": "0s"}}, "more than zero"),
        ({"schedules": {"report": "every day"}}, "five fields"),
        ({"storage_gb": 0}, "greater than 0"),
        ({"migrations": [{"name": "other", "version": 1}]}, "other is not among databases"),
        ({"migrations": [{"name": "exchange", "version": -1}]}, "greater than or equal to 0"),
        ({"guard": {"staging": "exchange"}}, "exchange is not among migrations"),
        ({"audit": {"log": "rds"}}, "there is no section `rds`"),
        ({"audit": {"settings": {"log statement": "ddl"}}}, "pattern"),
        ({"access": [{"name": "a", "databases": ["other"]}]}, "other is not among databases"),
        ({"access": [{"name": "a"}, {"name": "a"}]}, "was named before"),
        ({"access": [{"name": "a", "privileges": ["all"]}]}, "Input should be 'select'"),
        ({"access": [{"name": "a", "tables": {"orders": ["select"]}}]}, "schema.table"),
        ({"typo": 1}, "Extra inputs"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        made(**more)
