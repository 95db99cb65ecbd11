"""A world for the tests of COPY and UNLOAD: one database, emptied for each test, and a prefix of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dbops_lab.testing import LabPostgres, LabS3
from redshift_world import World


@pytest.fixture(scope="module")
def _world(lab_postgres: LabPostgres, lab_s3: LabS3) -> Iterator[World]:
    made = World(lab_postgres, lab_s3)
    yield made
    made.close()


@pytest.fixture
def world(_world: World) -> World:
    _world.renew()
    return _world
