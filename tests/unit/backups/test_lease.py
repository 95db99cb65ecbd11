"""One holder at a time, in threads and processes, on S3 and on a disk."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dbops.backups.lease import Lease, LeaseHeld, LeaseLost, current
from dbops.backups.store import LocalStore, S3Store, Store
from dbops.errors import FinalError, RetryableError

KEY = "aerospike/eu/bidder/_lease.json"
TTL = timedelta(minutes=15)
SHORT = timedelta(seconds=0.3)


def test_a_free_lease_is_taken(store: Store) -> None:
    assert current(store, KEY) is None
    Lease.acquire(store, KEY, "a", TTL)
    held = current(store, KEY)
    assert held is not None
    assert held.holder == "a"
    assert timedelta(minutes=14) < held.expires_at - datetime.now(UTC) <= TTL


def test_another_is_told_who_since_when_and_until_when(store: Store) -> None:
    Lease.acquire(store, KEY, "dag/run 1", TTL)
    held = current(store, KEY)
    assert held is not None
    with pytest.raises(LeaseHeld) as caught:
        Lease.acquire(store, KEY, "dag/run 2", TTL)
    assert isinstance(caught.value, RetryableError)
    for part in ("dag/run 1", f"{held.acquired_at:%FT%TZ}", f"{held.expires_at:%FT%TZ}", KEY, "wait for"):
        assert part in str(caught.value)
    assert current(store, KEY) == held


def test_the_same_holder_takes_it_again(store: Store) -> None:
    Lease.acquire(store, KEY, "a", SHORT)
    first = current(store, KEY)
    time.sleep(0.1)
    Lease.acquire(store, KEY, "a", TTL)
    second = current(store, KEY)
    assert first is not None
    assert second is not None
    assert second.acquired_at == first.acquired_at
    assert second.expires_at > first.expires_at


def test_an_expired_lease_is_taken_over_and_the_late_one_learns_it(store: Store) -> None:
    late = Lease.acquire(store, KEY, "late", SHORT)
    time.sleep(0.4)
    assert current(store, KEY) is None
    Lease.acquire(store, KEY, "next", TTL)
    with pytest.raises(LeaseLost, match=r"late was late to renew it and it is now held by next since"):
        late.renew()
    late.release()
    held = current(store, KEY)
    assert held is not None
    assert held.holder == "next"


def test_renewal_keeps_it_beyond_its_first_end(store: Store) -> None:
    lease = Lease.acquire(store, KEY, "a", timedelta(seconds=1))
    for _ in range(5):
        time.sleep(0.3)
        lease.renew()
        with pytest.raises(LeaseHeld):
            Lease.acquire(store, KEY, "b", TTL)


def test_a_released_lease_is_free_at_once(store: Store) -> None:
    lease = Lease.acquire(store, KEY, "a", TTL)
    lease.release()
    assert current(store, KEY) is None
    lease.release()
    Lease.acquire(store, KEY, "b", TTL)
    Lease.release_holder(store, KEY, "a")
    held = current(store, KEY)
    assert held is not None
    assert held.holder == "b"
    Lease.release_holder(store, KEY, "b")
    assert current(store, KEY) is None
    Lease.release_holder(store, "never/there", "b")


def test_many_tasks_of_one_run_renew_together(store: Store) -> None:
    errors: list[Exception] = []

    def renew() -> None:
        try:
            for _ in range(5):
                Lease.acquire(store, KEY, "run", SHORT * 10)
                time.sleep(0.1)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=renew) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("expired", [False, True])
def test_of_many_threads_one_wins(store: Store, expired: bool) -> None:
    for number in range(8):
        key = f"l{number}"
        if expired:
            Lease.acquire(store, key, "dead", timedelta(seconds=-1))
        won: list[str] = []
        barrier = threading.Barrier(4)

        def contend(name: str, key: str = key, won: list[str] = won, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                Lease.acquire(store, key, name, TTL)
            except LeaseHeld:
                return
            won.append(name)

        threads = [threading.Thread(target=contend, args=(f"t{name}",)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        held = current(store, key)
        assert held is not None
        assert held.holder == won[0]


CONTENDER = """
import sys, time
from datetime import timedelta
from pathlib import Path
from backup_samples import s3_connection
from dbops.backups.lease import Lease, LeaseHeld
from dbops.backups.store import LocalStore, S3Store
place, endpoint, name = sys.argv[1:]
store = S3Store(place, "", s3_connection(endpoint)) if endpoint else LocalStore(Path(place))
store.head("warm up")
print("ready", flush=True)
sys.stdin.readline()
for number in range(10):
    try:
        Lease.acquire(store, f"l{number}", name, timedelta(minutes=15))
    except LeaseHeld:
        continue
    print(number, flush=True)
"""


def test_of_two_processes_one_wins(store: Store, moto_endpoint: str) -> None:
    place, endpoint = (store.bucket, moto_endpoint) if isinstance(store, S3Store) else (store.url, "")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, place, endpoint, name],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    won = [process.communicate(timeout=60)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(won[0] + won[1], key=int) == [str(number) for number in range(10)]


def test_what_is_no_lease_stops_everybody_and_says_what_to_do(local: LocalStore) -> None:
    local.put(KEY, b"{}")
    with pytest.raises(FinalError, match="is no lease document; delete it when no backup"):
        Lease.acquire(local, KEY, "a", TTL)


def test_a_kept_lease_outlives_its_time_and_is_given_back(store: Store) -> None:
    with Lease.acquire(store, KEY, "a", SHORT).kept():
        time.sleep(2 * SHORT.total_seconds())
        with pytest.raises(LeaseHeld):
            Lease.acquire(store, KEY, "b", SHORT)
    assert current(store, KEY) is None


def test_what_ends_the_block_of_a_kept_lease_is_raised_and_the_lease_given_back(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), Lease.acquire(store, KEY, "a", TTL).kept():
        _ = 1 / 0
    assert current(store, KEY) is None
