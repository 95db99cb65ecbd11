"""A hundred seeded trials with traffic running: drift of every kind is found exactly, and nothing else is."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from dbops_lab.application.drift import HARMLESS, KINDS, plant, plant_harmless
from dbops_lab.testing import LabApp
from sync_world import named, of, pairs, traffic, validate

TRIALS = 100


@pytest.mark.slow
def test_planted_drift_is_found_exactly_in_a_hundred_trials_with_traffic(lab_app: LabApp) -> None:
    seen: Counter[str] = Counter()
    all_pairs = pairs()
    tables = list(all_pairs)
    with traffic(lab_app) as changes:
        for seed in range(TRIALS):
            table = tables[seed % len(tables)]
            kinds = [kind for kind in KINDS if kind != "resurrected" or all_pairs[table].deleted]
            planted = plant(lab_app.database, lab_app.cluster, seed, tables=[table], kinds=kinds)
            harmless = plant_harmless(lab_app.database, lab_app.cluster, seed, tables=[table], count=3, besides=planted)
            result = validate(lab_app, all_pairs[table])
            assert named(result) == {(one.side, one.key) for one in planted}, (seed, table, result.message)
            assert result.drift == len(planted), (seed, table, result.message)
            for one in planted:
                if one.side == "different":
                    found = {field.column for field in of(result, one.key).fields}
                    assert found == set(one.fields), (seed, one, found)
            seen.update(one.kind for one in planted)
            seen.update(kind for kind, _, _ in harmless)
            keys = defaultdict(list)
            for one in planted:
                keys[one.table].append(one.key)
            for name, those in keys.items():
                lab_app.syncer.publish(name, those)
        assert changes[0] > TRIALS
    assert set(seen) == {*KINDS, *HARMLESS}
    for table, pair in all_pairs.items():
        assert validate(lab_app, pair).ok, table
