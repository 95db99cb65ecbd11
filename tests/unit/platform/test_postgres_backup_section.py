"""The sections `postgres.rds` and `postgres.exports` of a platform file: what is refused, and what is filled in."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dbops.platform import Postgres, load_platform
from pydantic import ValidationError

PROJECT = Path(__file__).parents[3]
SETS = [{"name": "all", "database": "exchange"}]


def section(**words: Any) -> Postgres:
    return Postgres.model_validate({"name": "exchange", "databases": ["exchange"], "region": "eu-west-1", **words})


def test_production_says_what_the_guide_says_in_the_terms_of_rds() -> None:
    platform = load_platform(PROJECT / "include/platform/production.yaml")
    assert platform.postgres is not None
    rds = platform.postgres.rds
    assert rds is not None
    assert (rds.backup_window, rds.backup_retention) == ("23:00-00:00", timedelta(days=7))
    assert platform.postgres.region == platform.storage.region
    assert platform.postgres.aws_connection == platform.storage.connection
    assert platform.objectives.postgres.rpo == timedelta(minutes=5)
    assert platform.postgres.exports is not None
    assert platform.postgres.exports.export("campaigns").tables == ("public.campaigns", "public.line_items")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"rds": {"backup_window": "01:00-02:00 UTC+2"}}, "write hh:mm-hh:mm in UTC"),
        ({"rds": {"backup_window": "01:00-01:00"}}, "write hh:mm-hh:mm in UTC"),
        ({"rds": {"copy_region": "eu-west-1"}}, "is the region of the instance"),
        ({"rds": {"copy_kms_key": "alias/copies"}}, "without copy_region"),
        ({"exports": {"sets": []}}, "at least 1"),
        ({"exports": {"sets": SETS * 2}}, "all"),
        ({"exports": {"sets": [{"name": "a", "database": "b", "tables": ["campaigns"]}]}}, "write schema.table"),
        ({"exports": {"sets": SETS, "programs": "bin"}}, "match"),
        ({"exports": {"sets": SETS, "scratch": {"connection": "dbops_postgres_export"}}}, "must not be able to write"),
        ({"exports": {"sets": SETS, "scratch": {"connection": "dbops_postgres"}}}, "drills need one of their own"),
        (
            {"exports": {"sets": SETS, "scratch": {"connection": "dbops_postgres_maintenance"}}},
            "drills need one of their own",
        ),
    ],
)
def test_what_would_not_do_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        section(**words)


def test_an_export_that_is_not_there_is_named_with_those_that_are() -> None:
    exports = section(exports={"sets": SETS}).exports
    assert exports is not None
    with pytest.raises(Exception, match="'some' is no export; there are all"):
        exports.export("some")
