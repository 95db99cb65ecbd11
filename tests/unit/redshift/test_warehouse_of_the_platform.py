"""What the platform file says of snapshots and rights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops.platform import Platform, PlatformError, load_platform
from dbops.platform.load import DIRECTORY


def loaded(folder: Path, **redshift: Any) -> Platform:
    """The lab's file with other words in its section `redshift`."""
    text = yaml.safe_load((DIRECTORY / "lab.yaml").read_text())
    text["redshift"] |= redshift
    (folder / "lab.yaml").write_text(yaml.safe_dump(text))
    return load_platform(folder / "lab.yaml")


def test_aws_is_reached_as_the_storage_is_unless_it_says_otherwise(tmp_path: Path) -> None:
    redshift = loaded(tmp_path).redshift
    assert redshift is not None
    assert (redshift.aws_connection, redshift.region) == ("dbops_s3", "eu-west-1")
    redshift = loaded(tmp_path, aws_connection="dbops_aws", region="us-east-1").redshift
    assert redshift is not None
    assert (redshift.aws_connection, redshift.region) == ("dbops_aws", "us-east-1")


def test_an_alert_that_would_come_after_the_promise_is_broken_is_refused(tmp_path: Path) -> None:
    assert loaded(tmp_path, snapshots={"max_age": "24h"}).redshift
    with pytest.raises(PlatformError, match=r"redshift\.snapshots\.max_age.*more than the RPO of 1 d"):
        loaded(tmp_path, snapshots={"max_age": "25h"})


def test_what_a_role_may_on_the_whole_database_is_read_in_any_case(tmp_path: Path) -> None:
    access = [{"name": "cleaner", "kind": "role", "system": ["VACUUM", "access system table"]}]
    redshift = loaded(tmp_path, access=access).redshift
    assert redshift is not None
    assert redshift.access[0].system == ("vacuum", "access system table")
    with pytest.raises(PlatformError, match="system"):
        loaded(tmp_path, access=[{"name": "cleaner", "kind": "role", "system": ["vacuum; drop"]}])
