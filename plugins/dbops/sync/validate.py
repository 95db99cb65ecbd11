"""Comparing a pair: one pass over both sides, another over the buckets that differ, and a second look after the lag.

1. Both sides are added up in buckets at the same time. Equal buckets are equal rows; nothing of them is read again.
2. Of buckets that differ, rows are collected on both sides and compared one by one.
3. What differed is looked at again after the synchronisation lag. It is drift when it still differs and both sides are
   as they were: then the change had its time to arrive. What has changed meanwhile is in flight, and is looked at twice
   more; what differed at every look is drift then when one side never moved: a record that no change of a busy row
   reached, or a row whose record somebody else keeps changing.

Memory is that of the buckets (8 MiB a side), of the places of rows (32 MiB at most) and of a batch of rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbops.aerospike.cluster import Access, ClusterNotReady
from dbops.aerospike.wire import PARTITIONS
from dbops.connections import ConnectionInfo
from dbops.errors import RetryableError
from dbops.platform import duration_text
from dbops.platform.sync import SyncPair
from dbops.sync import kernel
from dbops.sync.plan import Longs, identities
from dbops.sync.postgres import MOST_PLACES, Snapshot
from dbops.sync.records import Records, batches, mask_of, shown

log = logging.getLogger(__name__)

BATCH = 1 << 18  # rows of both sides that are compared one by one at once; 300 bytes each
FEW = 20_000  # differences that are looked at again by themselves; with more, the whole is compared again
LOOKS = 4  # at a row that keeps changing
MASK = "***"
LONGEST = 300  # characters of a value that is shown
_ROW = np.dtype([("low", "<u8"), ("high", "<u8"), ("rest", "<u8"), ("hash", "<u8"), ("place", "<u8")])


class ClusterChanged(RetryableError):
    """The cluster lost or gained a node while it was read."""


@dataclass(frozen=True)
class FieldDifference:
    """A column whose value and bin do not mean the same. None: NULL, or no bin."""

    column: str
    bin: str
    postgres: str | None
    aerospike: str | None


@dataclass(frozen=True)
class Difference:
    """A record that is not as its row says.

    :param kind: missing, extra, different or duplicate (rows of PostgreSQL with the same key).
    :param key: the user key; None when the cluster does not store it and no row has it.
    :param fields: of a different one.
    """

    kind: str
    key: str | None
    digest: str
    fields: tuple[FieldDifference, ...] = ()
    row_key: tuple[str, ...] | None = None
    """Values of the key columns, where there is a row."""


@dataclass(frozen=True)
class PairResult:
    """What was found of a pair in one cluster, or of a slice of it."""

    pair: str
    cluster: str
    target: str
    at: datetime
    seconds: float
    rows: int
    """Of PostgreSQL that have a record."""
    records: int
    missing: int = 0
    extra: int = 0
    different: int = 0
    duplicates: int = 0
    in_flight: int = 0
    """Differed, and do not any more, or keep changing."""
    unmapped: tuple[str, ...] = ()
    """Columns of the table that the pair does not speak of."""
    differences: tuple[Difference, ...] = ()
    """Those that are listed."""
    since: datetime | None = None
    """Of a window of changes: only rows that changed since then were compared, and no extra ones looked for."""
    slices: int = 1

    @property
    def drift(self) -> int:
        return self.missing + self.extra + self.different + self.duplicates

    @property
    def ok(self) -> bool:
        return self.drift == 0

    @property
    def message(self) -> str:
        """One line."""
        seen = f"{self.rows:,} rows, {self.records:,} records"
        if self.since is not None:
            seen += f" of changes since {self.since:%FT%TZ}"
        found = [f"{count:,} {name}" for name, count in self._counts() if count]
        flight = f"; {self.in_flight:,} in flight" if self.in_flight else ""
        return f"{seen}: {', '.join(found) or 'all the same'}{flight}"

    def _counts(self) -> list[tuple[str, int]]:
        return [(name, getattr(self, name)) for name in ("missing", "extra", "different", "duplicates")]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        made = asdict(self) | {"drift": self.drift, "ok": self.ok, "message": self.message}
        made["at"] = self.at.isoformat()
        made["since"] = self.since.isoformat() if self.since else None
        return made


@dataclass
class _State:
    """What is known of a digest that differed: hashes of both sides (None: not there) and its row's key."""

    row: int | None
    record: int | None
    key: str | None = None
    row_key: tuple[str, ...] | None = None
    copies: int = 1
    """Rows with that key."""
    several: bool = False
    """It had several rows: they are found by the key itself, since other columns may make the same one."""
    row_still: bool = True
    """The row is as it was at the first look."""
    record_still: bool = True

    def follow(self, past: _State) -> None:
        """Note what moved since another look."""
        self.row_still = past.row_still and self.row == past.row
        self.record_still = past.record_still and self.record == past.record

    def is_as(self, past: _State) -> bool:
        return (self.row, self.record) == (past.row, past.record)

    @property
    def differs(self) -> bool:
        return self.row != self.record or self.copies > 1

    @property
    def kind(self) -> str:
        if self.row is None:
            return "extra"
        if self.record is None:
            return "missing"
        return "different" if self.row != self.record else "duplicate"


@dataclass
class _Look:
    """A comparison of everything."""

    at: datetime
    rows: int
    records: int
    found: dict[bytes, _State] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """By kind, of all; `found` may hold fewer."""
    unmapped: tuple[str, ...] = ()


class Validation:
    """One pair in one cluster.

    :param partitions: of the set that are compared; the table is read whole.
    :param sleep: for tests.
    """

    def __init__(
        self,
        pair: SyncPair,
        cluster: str,
        postgres: ConnectionInfo,
        access: Access,
        *,
        lag: timedelta | None = None,
        max_replica_lag: timedelta = timedelta(seconds=60),
        listed: int = 100,
        partitions: range = range(PARTITIONS),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.pair, self.cluster, self.listed, self.partitions = pair, cluster, listed, partitions
        self.lag = pair.lag if lag is None else lag
        self._postgres, self._access, self._max_replica_lag = postgres, access, max_replica_lag
        self._sleep = sleep
        self._is_replica = False
        self._target = f"{cluster}/{pair.namespace}.{pair.set}"

    def run(self, since: datetime | None = None) -> PairResult:
        """Compare; drift is what still differs after the lag.

        :param since: only rows that changed since then (aware).
        :raises RetryableError: a side was lost, or the cluster changed while it was read.
        :raises FinalError: the pair does not fit the table.
        """
        began = time.monotonic()
        first = self._everything() if since is None else self._window(since)
        result = PairResult(
            self.pair.name, self.cluster, self._target, first.at, 0.0, first.rows, first.records,
            unmapped=first.unmapped, since=since,
            slices=PARTITIONS // len(self.partitions),
        )  # fmt: skip
        if first.counts:
            result = self._second_look(first, result, since)
        return replace(result, seconds=round(time.monotonic() - began, 3))

    # ------------------------------------------------------------------ first look

    def _snapshot(self) -> Snapshot:
        snapshot = Snapshot(self._postgres, self.pair, self._max_replica_lag)
        self._is_replica = snapshot.is_replica
        return snapshot

    @property
    def _pause(self) -> timedelta:
        """How long a change may take to be seen on both sides."""
        return self.lag + (self._max_replica_lag if self._is_replica else timedelta(0))

    def _everything(self) -> _Look:
        per = kernel.BUCKETS // PARTITIONS
        mask = np.zeros(kernel.BUCKETS, np.uint8)
        mask[self.partitions.start * per : self.partitions.stop * per] = 1
        tables = np.zeros((2, kernel.BUCKETS * kernel.CELL), np.uint64)
        places: Longs = np.empty(MOST_PLACES, np.uint64)
        with self._snapshot() as snapshot, Records(self._access, snapshot.plan) as records:
            before = self._stable(records)
            with ThreadPoolExecutor(1, thread_name_prefix="sync") as pool:
                there = pool.submit(records.add_up, mask, tables[1])
                rows, known = snapshot.add_up(mask, tables[0], places)
                there.result()
            ours, theirs = tables.reshape(2, -1, kernel.CELL)
            differ = (ours[:, :3] != theirs[:, :3]).any(axis=1).astype(np.uint8)
            look = _Look(snapshot.at, rows, int(theirs[differ == 0, 0].sum()), unmapped=tuple(snapshot.unmapped))
            sizes = (ours[:, 0] + theirs[:, 0]).astype(np.int64)
            for part in batches(differ, sizes, BATCH):
                self._compare(snapshot, records, part, ours, places[:known] if known >= 0 else None, look)
            self._require(records, before)
            if len(look.found) <= FEW:
                self._name(snapshot, look)
        return look

    def _require(self, records: Records, before: str) -> None:
        if self._stable(records) != before:
            raise ClusterChanged(
                f"compare {self.pair.table} with {self._target}: the cluster changed while it was read; run it again"
            )

    def _stable(self, records: Records) -> str:
        try:
            return records.state()
        except ClusterNotReady as error:
            raise ClusterChanged(f"compare {self.pair.table} with {self._target}: {error}") from None

    def _compare(
        self, snapshot: Snapshot, records: Records, mask: NDArray[np.uint8], ours: Longs, places: Longs | None,
        look: _Look,
    ) -> None:  # fmt: skip
        """The rows of a mask one by one."""
        wanted = int(ours[mask != 0, 0].sum())
        at = None
        if places is not None and wanted * 3 < look.rows:
            chosen = places[mask[(places >> np.uint64(43)).astype(np.int64)] != 0]
            at = chosen & np.uint64((1 << 43) - 1)
        with ThreadPoolExecutor(1, thread_name_prefix="sync") as pool:
            there = pool.submit(records.collect, mask)
            mine = snapshot.collect(mask, at)
            theirs = there.result()
        look.records += len(theirs)
        found = _differing(mine, theirs)
        for kind, part in found.items():
            if not len(part):
                continue
            look.counts[kind] = look.counts.get(kind, 0) + len(part)
            for row in part:
                if len(look.found) > 10 * FEW:
                    break
                low, high, rest, own, other, place, copies = (int(word) for word in row)
                digest = identities([low], [high], [rest])[0]
                state = _State(None if kind == "extra" else own, None if kind == "missing" else other, copies=copies)
                state.row_key = (str(place),) if kind != "extra" else None  # until `_name`
                look.found[digest] = state

    def _name(self, snapshot: Snapshot, look: _Look) -> None:
        """Give what was found the keys of its rows; while the snapshot lasts, a place leads to one row."""
        placed = [state for state in look.found.values() if state.row_key is not None]
        places = np.array([int(state.row_key[0]) for state in placed if state.row_key], np.uint64)
        keys = snapshot.keys_at(places)
        named = dict(zip(snapshot.plan.digests(key for key, _ in keys), keys, strict=True))
        for digest, state in look.found.items():
            if state.row_key is not None:
                state.key, state.row_key = named[digest]

    def _window(self, since: datetime) -> _Look:
        """The rows that changed since then, against their records."""
        with self._snapshot() as snapshot, Records(self._access, snapshot.plan) as records:
            before = self._stable(records)
            keys = snapshot.changed_since(since)
            digests = snapshot.plan.digests(key for key, _ in keys)
            here = {
                digest: _State(None, None, key, row_key)
                for digest, (key, row_key) in zip(digests, keys, strict=True)
                if _partition(digest) in self.partitions
            }
            look = _Look(snapshot.at, 0, 0, unmapped=tuple(snapshot.unmapped))
            self._fill(snapshot, records, here)
            self._require(records, before)
            look.rows = sum(state.row is not None for state in here.values())
            look.records = sum(state.record is not None for state in here.values())
            look.found = {digest: state for digest, state in here.items() if state.differs}
            for state in look.found.values():
                look.counts[state.kind] = look.counts.get(state.kind, 0) + 1
        return look

    # ------------------------------------------------------------------ second look

    def _second_look(self, first: _Look, result: PairResult, since: datetime | None) -> PairResult:
        total = sum(first.counts.values())
        log.info("%s: %d differ; a second look in %s", self._target, total, duration_text(self._pause))
        if total > FEW:
            return self._all_again(first, result, since)
        return self._settle(first.found, {}, result, total)

    def _settle(
        self, known: dict[bytes, _State], confirmed: dict[bytes, _State], result: PairResult, total: int
    ) -> PairResult:
        """Look at what is known until it is the same, or drift.

        :param confirmed: what is drift already.
        :param total: how many differed at the first look.
        """
        listed: tuple[Difference, ...] = ()
        for look in range(1, LOOKS):
            if known:
                self._sleep(self._pause.total_seconds())
            with self._snapshot() as snapshot, Records(self._access, snapshot.plan) as records:
                before = self._stable(records)
                now = {
                    digest: _State(None, None, one.key, one.row_key, several=one.several or one.copies > 1)
                    for digest, one in known.items()
                }
                self._fill(snapshot, records, now)
                self._require(records, before)
                changing: dict[bytes, _State] = {}
                for digest, state in now.items():
                    state.follow(known[digest])
                    is_last = look == LOOKS - 1 and (state.row_still or state.record_still)
                    if state.differs:
                        which = confirmed if state.is_as(known[digest]) or is_last else changing
                        which[digest] = state
                known = changing
                if not changing or look == LOOKS - 1:
                    listed = self._listed(snapshot, records, confirmed)
                    break
        counts: dict[str, int] = {}
        for state in confirmed.values():
            counts[state.kind] = counts.get(state.kind, 0) + 1
            if state.copies > 1 and state.kind != "duplicate":
                counts["duplicate"] = counts.get("duplicate", 0) + 1
        return _counted(result, counts, max(0, total - len(confirmed)), listed)

    def _all_again(self, first: _Look, result: PairResult, since: datetime | None) -> PairResult:
        """So many differ that all is compared again; what has moved since is looked at by itself, if that is few."""
        self._sleep(self._pause.total_seconds())
        again = self._everything() if since is None else self._window(since)
        total, left = sum(first.counts.values()), sum(again.counts.values())
        result = replace(result, at=again.at, rows=again.rows, records=again.records)
        changing: dict[bytes, _State] = {}
        for digest, state in again.found.items():
            past = first.found.get(digest)
            if past is not None:
                state.follow(past)
            if past is None or not state.is_as(past):
                changing[digest] = state
        unnamed = since is None and len(again.found) > FEW  # by place only while that snapshot lasted
        if left == len(again.found) and len(changing) <= FEW:
            still = {digest: state for digest, state in again.found.items() if digest not in changing}
            if unnamed:
                some = dict(list(still.items())[: self.listed])
                with self._snapshot() as snapshot:
                    self._keys_by_scan(snapshot, some | changing)
                for digest in still.keys() - some.keys():
                    still[digest].key, still[digest].row_key = None, None
            return self._settle(changing, still, result, total)
        chosen = dict(list(again.found.items())[: self.listed])
        with self._snapshot() as snapshot, Records(self._access, snapshot.plan) as records:
            if unnamed:
                self._keys_by_scan(snapshot, chosen)
            listed = self._listed(snapshot, records, chosen)
        return _counted(result, again.counts, max(0, total - left), listed)

    def _keys_by_scan(self, snapshot: Snapshot, chosen: dict[bytes, _State]) -> None:
        for state in chosen.values():  # a row may be gone by now, and its place is nobody's
            state.key, state.row_key = None, None
        found = snapshot.keys_of(mask_of(chosen))
        keys = snapshot.keys_at(found[:, 4])
        for digest, (key, row_key) in zip(snapshot.plan.digests(key for key, _ in keys), keys, strict=True):
            if digest in chosen:
                chosen[digest].key, chosen[digest].row_key = key, row_key

    def _fill(self, snapshot: Snapshot, records: Records, states: dict[bytes, _State]) -> None:
        """What both sides have of these digests now."""
        if not states:
            return
        mask = mask_of(states)
        with ThreadPoolExecutor(1, thread_name_prefix="sync") as pool:
            there = pool.submit(records.collect, mask)
            unknown = [digest for digest, state in states.items() if state.row_key is None]
            theirs = there.result()  # before the cluster is asked for keys
            if unknown:
                self._find_rows(snapshot, records, states, unknown)
            several = [one.key for one in states.values() if one.several and one.key is not None]
            others = [one.row_key for one in states.values() if not one.several and one.row_key is not None]
            mine = np.concatenate([snapshot.at_keys(others), snapshot.at_user_keys(several)])
        for digest, row in zip(identities(mine[:, 0], mine[:, 1], mine[:, 2]), mine[:, 3].tolist(), strict=True):
            if (state := states.get(digest)) is not None:
                state.copies += state.row is not None
                state.row = int(row)
        for digest, row in zip(
            identities(theirs[:, 0], theirs[:, 1], theirs[:, 2]), theirs[:, 3].tolist(), strict=True
        ):
            if (state := states.get(digest)) is not None:
                state.record = int(row)

    def _find_rows(
        self, snapshot: Snapshot, records: Records, states: dict[bytes, _State], unknown: list[bytes]
    ) -> None:
        """Of records too many no row was known: is there one now? Those that have one are given its key.

        The key of a record leads to its row, where the cluster stores keys and the key is one column; else the table is
        gone through.
        """
        there = records.pick(unknown, no_bins=True)
        user_keys = [there[digest].key if digest in there else states[digest].key for digest in unknown]
        for digest, key in zip(unknown, user_keys, strict=True):
            states[digest].key = key
        gone = [digest not in there for digest in unknown]  # nothing is left to compare with a row
        row_keys = snapshot.row_keys(["" if one else key for one, key in zip(gone, user_keys, strict=True)])
        if row_keys is not None:
            for digest, row_key in zip(unknown, row_keys, strict=True):
                states[digest].row_key = row_key
            return
        seen, wanted = snapshot.keys_of(mask_of(unknown)), set(unknown)
        is_new = [one in wanted for one in identities(seen[:, 0], seen[:, 1], seen[:, 2])]
        places = seen[np.array(is_new, bool), 4]
        named = snapshot.keys_at(places)
        for digest, (key, row_key) in zip(snapshot.plan.digests(key for key, _ in named), named, strict=True):
            states[digest].key, states[digest].row_key = key, row_key

    # ------------------------------------------------------------------ words

    def _listed(self, snapshot: Snapshot, records: Records, confirmed: dict[bytes, _State]) -> tuple[Difference, ...]:
        """The first differences, with fields and values of both sides. Rows whose key was looked up come first."""

        def order(item: tuple[bytes, _State]) -> tuple[bool, str, str]:
            state = item[1]
            return state.row is not None and state.key is None, state.kind, state.key or ""

        chosen = dict(sorted(confirmed.items(), key=order)[: self.listed])
        there = records.pick(chosen)
        row_keys = [state.row_key for state in chosen.values() if state.kind == "different" and state.row_key]
        values = snapshot.values(row_keys)
        hashed = snapshot.at_keys(row_keys, columns=True)
        hashes = dict(
            zip(identities(hashed[:, 0], hashed[:, 1], hashed[:, 2]), hashed[:, kernel.ROW :].tolist(), strict=True)
        )
        made = []
        for digest, state in chosen.items():
            record = there.get(digest)
            fields: list[FieldDifference] = []
            if state.kind == "different" and record is not None and digest in hashes:
                of_row = values.get(state.key or "", {})
                for one, own, other in zip(self.pair.columns, hashes[digest], record.hashes, strict=True):
                    if int(own) != other:
                        mine, theirs = of_row.get(one.column), shown(record.bins.get(one.bin))
                        fields.append(
                            FieldDifference(one.column, one.bin, _cut(mine, one.masked), _cut(theirs, one.masked))
                        )
            key = state.key if state.key is not None else record.key if record is not None else None
            made.append(Difference(state.kind, key, digest.hex(), tuple(fields), state.row_key))
        return tuple(made)


def _partition(digest: bytes) -> int:
    return digest[0] | (digest[1] & 15) << 8


def _cut(value: str | None, masked: bool) -> str | None:
    if value is None or masked:
        return MASK if masked and value is not None else value
    return value if len(value) <= LONGEST else value[:LONGEST] + " …"


def _counted(result: PairResult, counts: dict[str, int], in_flight: int, listed: Sequence[Difference]) -> PairResult:
    return replace(
        result, missing=counts.get("missing", 0), extra=counts.get("extra", 0), different=counts.get("different", 0),
        duplicates=counts.get("duplicate", 0), in_flight=in_flight, differences=tuple(listed),
    )  # fmt: skip


def _sorted(rows: Longs) -> NDArray[Any]:
    """Collected rows as records, by digest."""
    made = np.ascontiguousarray(rows[:, : kernel.ROW]).view(_ROW).reshape(-1)
    return made[np.lexsort((made["high"], made["low"]))]


def _differing(mine: Longs, theirs: Longs) -> dict[str, Longs]:
    """By kind: digest (3 words), hashes of both sides, place, and how many rows have the key."""
    ours, others = _sorted(mine), _sorted(theirs)
    first = np.ones(len(ours), bool)
    first[1:] = (ours["low"][1:] != ours["low"][:-1]) | (ours["high"][1:] != ours["high"][:-1])
    starts = np.flatnonzero(first)
    copies = np.diff(np.append(starts, len(ours))).astype(np.uint64)
    ours = ours[starts]
    both = np.dtype([("low", "<u8"), ("high", "<u8")])
    a = np.rec.fromarrays([ours["low"], ours["high"]], dtype=both)
    b = np.rec.fromarrays([others["low"], others["high"]], dtype=both)
    _, at_a, at_b = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    only_a, only_b = np.ones(len(a), bool), np.ones(len(b), bool)
    only_a[at_a], only_b[at_b] = False, False

    def made(rows: NDArray[Any], own: Longs, other: Longs, count: Longs) -> Longs:
        return np.stack([rows["low"], rows["high"], rows["rest"], own, other, rows["place"], count], axis=1)

    none_a, none_b = np.zeros(len(a), np.uint64), np.zeros(len(b), np.uint64)
    changed = ours["hash"][at_a] != others["hash"][at_b]
    again = ~changed & (copies[at_a] > 1)
    one, two = at_a[changed], at_b[changed]
    same = at_a[again]
    return {
        "missing": made(ours[only_a], ours["hash"][only_a], none_a[only_a], copies[only_a]),
        "extra": made(others[only_b], none_b[only_b], others["hash"][only_b], none_b[only_b] + np.uint64(1)),
        "different": made(ours[one], ours["hash"][one], others["hash"][two], copies[one]),
        "duplicate": made(ours[same], ours["hash"][same], ours["hash"][same], copies[same]),
    }
