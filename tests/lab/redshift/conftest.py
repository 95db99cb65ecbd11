"""A world for each test of COPY and UNLOAD."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dbops_lab.testing import LabPostgres, LabS3
from redshift_world import World


@pytest.fixture
def world(lab_postgres: LabPostgres, lab_s3: LabS3) -> Iterator[World]:
    made = World(lab_postgres, lab_s3)
    yield made
    made.close()
