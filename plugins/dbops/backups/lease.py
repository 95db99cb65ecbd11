"""A lease: one small object that lets one backup of a namespace run at a time, kept in the store itself."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, ValidationError

from dbops.backups.manifest import Utc
from dbops.backups.store import AlreadyExists, NotFound, PreconditionFailed, Store
from dbops.errors import DbopsError, FinalError, RetryableError

log = logging.getLogger(__name__)

_ATTEMPTS = 20


class LeaseHeld(RetryableError):
    """Somebody else holds the lease; it ends by itself."""


class LeaseLost(RetryableError):
    """The lease ran out and somebody else took it."""


class LeaseState(BaseModel):
    """What the object holds. Times are of the clock of the holder."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    holder: str
    acquired_at: Utc
    renewed_at: Utc
    expires_at: Utc


@dataclass(frozen=True)
class Lease:
    """A lease that is held by `holder` until `ttl` after its last renewal.

    Every write carries the version that was read (If-None-Match, If-Match), so that of any number of
    contenders one wins. `ttl` must exceed the time between renewals by more than the clocks of the contenders
    can differ.
    """

    store: Store
    key: str
    holder: str
    ttl: timedelta

    @classmethod
    def acquire(cls, store: Store, key: str, holder: str, ttl: timedelta) -> Lease:
        """Take a lease that is free or has run out; whoever holds it already, renews it.

        :param holder: the same text in every task and retry of one run.
        :raises LeaseHeld: says who holds it, since when, and until when.
        """
        lease = cls(store, key, holder, ttl)
        for _ in range(_ATTEMPTS):
            found, etag = _read(store, key)
            now = datetime.now(UTC)
            free = found is None or found.expires_at <= now
            if found is not None and not free and found.holder != holder:
                raise LeaseHeld(
                    f"lease {store.url}/{key}: held by {found.holder} since {found.acquired_at:%FT%TZ}, "
                    f"until {found.expires_at:%FT%TZ} unless renewed; wait for that run to end, or stop it"
                )
            if found is not None and not free and found.expires_at - now > ttl * 0.9:
                return lease  # another task of the same run renewed it a moment ago
            if lease._write(now if free or found is None else found.acquired_at, now, etag):
                return lease
            time.sleep(random.uniform(0.01, 0.1))
        raise LeaseHeld(f"lease {store.url}/{key}: {_ATTEMPTS} others were faster each time; try again")

    def renew(self) -> None:
        """Hold it for another `ttl`.

        :raises LeaseLost: it ran out and somebody else has it; stop writing.
        """
        for _ in range(_ATTEMPTS):
            found, etag = _read(self.store, self.key)
            if found is None or found.holder != self.holder:
                taker = "nobody" if found is None else f"{found.holder} since {found.acquired_at:%FT%TZ}"
                raise LeaseLost(
                    f"lease {self.store.url}/{self.key}: {self.holder} was late to renew it and it is now "
                    f"held by {taker}; run the backup again"
                )
            if self._write(found.acquired_at, datetime.now(UTC), etag):
                return
            time.sleep(random.uniform(0.01, 0.1))
        raise LeaseLost(f"lease {self.store.url}/{self.key}: could not be renewed by {self.holder}; try again")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renewed in the background while the block runs, then given back.

        A renewal that fails is logged; whoever must not go on without the lease calls `renew` before.
        """
        over = threading.Event()

        def keep() -> None:
            while not over.wait(self.ttl.total_seconds() / 4):
                try:
                    self.renew()
                except DbopsError as error:
                    log.warning("%s", error)

        keeper = threading.Thread(target=keep, name="lease", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join()
            try:
                self.release()
            except DbopsError as error:  # it ends by itself, and what ended the block is worth more
                log.warning("%s", error)

    def release(self) -> None:
        """Give it back, if it is still ours."""
        self.release_holder(self.store, self.key, self.holder)

    @staticmethod
    def release_holder(store: Store, key: str, holder: str) -> None:
        """Give back what `holder` holds; does nothing when another holds it.

        The object stays and says that the lease has ended: unlike a deletion, which S3-compatible stores do
        without a condition, this cannot hit the lease of whoever took it over in the meantime.
        """
        for _ in range(_ATTEMPTS):
            found, etag = _read(store, key)
            now = datetime.now(UTC)
            if found is None or found.holder != holder or found.expires_at <= now:
                return
            if _put(store, key, found.model_copy(update={"renewed_at": now, "expires_at": now}), etag):
                return
            time.sleep(random.uniform(0.01, 0.1))

    def _write(self, acquired_at: datetime, now: datetime, etag: str | None) -> bool:
        state = LeaseState(holder=self.holder, acquired_at=acquired_at, renewed_at=now, expires_at=now + self.ttl)
        # Read again: a store that ignores conditions lets two write, and the later one has it.
        return _put(self.store, self.key, state, etag) and _read(self.store, self.key)[0] == state


def current(store: Store, key: str) -> LeaseState | None:
    """Who holds a lease now; None when it is free."""
    found, _ = _read(store, key)
    return found if found is not None and found.expires_at > datetime.now(UTC) else None


def _read(store: Store, key: str) -> tuple[LeaseState | None, str | None]:
    """The state and an etag that is not newer: then a write with that etag fails if the state has changed."""
    found = store.head(key)
    if found is None:
        return None, None
    try:
        return LeaseState.model_validate_json(store.get(key)), found.etag
    except NotFound:
        return None, None
    except ValidationError:
        raise FinalError(
            f"lease {store.url}/{key}: is no lease document; delete it when no backup of this namespace runs"
        ) from None


def _put(store: Store, key: str, state: LeaseState, etag: str | None) -> bool:
    try:
        store.put(key, state.model_dump_json().encode(), if_absent=etag is None, if_match=etag)
    except (AlreadyExists, PreconditionFailed):
        return False
    return True
