from __future__ import annotations

import pytest
from archive_world import World, world
from dbops_lab.testing import LabRedshift, LabS3


@pytest.fixture
def lab(lab_redshift: LabRedshift, lab_s3: LabS3) -> World:
    made = world(lab_redshift, lab_s3)
    made.create()
    return made


def test_a_day_goes(lab: World) -> None:
    import time

    lab.load(1000)
    a = time.time()
    done = lab.archive()
    print(time.time() - a)
    print(done.parts[0].model_dump_json(indent=1))
    print([i.key for i in lab.place.store.list("")])
    print(lab.dataset().schema)
    lab.check()
    assert lab.in_table() == []
    a = time.time()
    lab.archive()
    print(time.time() - a)
    lab.load(10)
    lab.archive()
    lab.check()
    print(lab.marks())
