"""PostgreSQL 14, 17 and 18, started when a test first asks for them."""

from __future__ import annotations

from functools import cache

import pytest
from dbops_lab.supervisor import Supervisor
from postgres_world import World, start


@pytest.fixture(scope="session")
def _worlds(lab_supervisor: Supervisor):  # type: ignore[no-untyped-def]
    return cache(lambda major: start(lab_supervisor, major))


@pytest.fixture(params=[14, 17])
def world(request: pytest.FixtureRequest, _worlds) -> World:  # type: ignore[no-untyped-def]
    """The oldest version that is promised, and the one of the lab."""
    found: World = _worlds(request.param)
    return found


@pytest.fixture(params=[14, 17, 18])
def every_world(request: pytest.FixtureRequest, _worlds) -> World:  # type: ignore[no-untyped-def]
    """The oldest version that is promised, that of the lab, and the newest."""
    found: World = _worlds(request.param)
    return found


@pytest.fixture
def world17(_worlds) -> World:  # type: ignore[no-untyped-def]
    found: World = _worlds(17)
    return found
