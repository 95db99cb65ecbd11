"""Instances, names and deployments of recovery's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dbops_lab.testing import LabKubernetes, LabRds
from recovery_world import RecoveryWorld


@pytest.fixture
def world(lab_rds: LabRds, lab_kubernetes: LabKubernetes, tmp_path: Path) -> Iterator[RecoveryWorld]:
    made = RecoveryWorld(lab_rds, lab_kubernetes, tmp_path)
    yield made
    lab_kubernetes.api.close()
