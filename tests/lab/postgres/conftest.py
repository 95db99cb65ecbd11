"""PostgreSQL 14, 17 and 18, started when a test first asks for them."""

from __future__ import annotations

import pytest
from dbops_lab.supervisor import Supervisor
from postgres_world import WHEEL, World, world_of


@pytest.fixture(params=[14, 17])
def world(request: pytest.FixtureRequest, lab_supervisor: Supervisor) -> World:
    """The oldest version that is promised, and the one of the lab."""
    return world_of(lab_supervisor, request.param)


@pytest.fixture(params=[14, 17, 18])
def every_world(request: pytest.FixtureRequest, lab_supervisor: Supervisor) -> World:
    """The oldest version that is promised, that of the lab, and the newest."""
    return world_of(lab_supervisor, request.param)


@pytest.fixture
def world17(lab_supervisor: Supervisor) -> World:
    return world_of(lab_supervisor, WHEEL)
