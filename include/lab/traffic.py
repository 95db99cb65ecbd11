"""Traffic of a busy platform: line items change, spend grows, users come and go, through the official client."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aerospike
from aerospike import exception
from dbops_lab.lab import Lab
from dbops_lab.seed import RECORDS, SETS, connect, key_of

RATE = 400  # operations per second and cluster
SHORT_LIFE = (1, 5)  # seconds that an expiring record lives

Show = Callable[[Counter[str]], None]


def traffic(
    lab: Lab,
    *,
    seconds: float = 5.0,
    rate: int = RATE,
    seed: int = 2,
    records: int = RECORDS,
    show: Show = lambda done: None,
) -> dict[str, int]:
    """Change every cluster of a lab for a while; what was done, counted.

    Updates, inserts, deletes, and inserts of records that expire within seconds.

    :param rate: operations per second and cluster, at most; in the same order for the same seed.
    :param records: how many per namespace `seed` made.
    :param show: called about once a second with the counts so far.
    """
    done: Counter[str] = Counter(updates=0, inserts=0, deletes=0, expiring=0)
    clients = {cluster: connect(lab, cluster) for cluster in lab.settings.aerospike}
    picks = random.Random(seed)
    fresh = records
    try:
        began = shown = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            ahead = sum(done.values()) / (rate * len(clients)) - elapsed
            if ahead > 0:
                time.sleep(min(ahead, 0.1))
                continue
            for client in clients.values():
                fresh += 1
                done[_change(client, picks, fresh, records)] += 1
            if time.monotonic() - shown >= 1:
                shown = time.monotonic()
                show(done)
    finally:
        for client in clients.values():
            client.close()
    return dict(done)


def _change(client: aerospike.Client, picks: random.Random, fresh: int, records: int) -> str:
    """One change; what it was. A record that is gone already is written anew: an insert."""
    spec = picks.choice(SETS)
    known = key_of(spec.name, picks.randrange(max(1, round(records * spec.share))))
    what = picks.choices(("updates", "inserts", "deletes", "expiring"), (70, 15, 10, 5))[0]
    life = picks.randint(*SHORT_LIFE)
    bins: dict[str, Any] = {"touched": fresh, "spent": round(picks.uniform(0, 100), 2)}
    policy: dict[str, Any] = {"key": aerospike.POLICY_KEY_SEND}
    try:
        if what == "deletes":
            client.remove((spec.namespace, spec.name, known))
        elif what == "updates":
            client.put(
                (spec.namespace, spec.name, known), bins, policy={**policy, "exists": aerospike.POLICY_EXISTS_UPDATE}
            )
        else:
            if what == "expiring":
                policy["ttl"] = life
            client.put((spec.namespace, spec.name, key_of(spec.name, fresh)), bins, policy=policy)
    except exception.RecordNotFound:
        client.put((spec.namespace, spec.name, known), bins, policy=policy)
        return "inserts"
    return what
