"""Old days of a table go to S3 and are then deleted: planned in one statement, done day by day.

What makes each step safe to repeat, and to kill, lies in S3 and in the warehouse; nothing is believed that one of them
does not say. A day goes like this, under its lease:

1. `<attempt>.json` in `_attempts/` says that somebody works on the day: a plan finds it, however this ends.
2. In one transaction the day is counted and unloaded, to a prefix that nothing was ever written to. A day without
   rows is written down as an empty part.
3. The manifest, the number of rows that UNLOAD told, the count and the objects must agree; each file is read whole.
4. The files are copied into the dataset.
5. In one transaction: `lock` the table of marks; ask the day of the table for the same figures as the files gave,
   column by column; **only when all of them are equal** write `<attempt>.json` in `_parts/`, delete the day, count
   what was deleted, and mark the attempt as deleted. The comparison is made here and once, since here it is about
   exactly the rows that go: rows that arrived or changed since UNLOAD are a difference, and so is a file that is not
   what the table had.
6. The part's document gets `deleted_at`, the ledger its row, and `_attempts/` of the day is emptied.

The mark decides. A part without one is still in the table, whatever its document says: when the figures are equal it
is deleted now; when they are not, it is discarded and the day unloaded again. To discard is to mark as discarded, under
the same lock, before any file is removed: a process that was thought to be dead, and comes to step 5 after that, finds
the mark and deletes nothing; one that was there before it is found to have deleted. So no row is ever deleted whose
archive somebody removes. Not discarded is a part that was the only copy once (it was deleted, and brought back, or the
warehouse itself was restored): when the table differs from it, a person decides (`replace`).

Rows that arrive for a day that is gone are the next part of it. Days under a legal hold stay as they are: neither
copied nor deleted. Rows without a date in the column are never archived.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final, TypeVar

from dbops.backups.lease import Lease
from dbops.backups.store import AlreadyExists, NotFound, StoredObject
from dbops.errors import ConfigurationError, FinalError, RetryableError
from dbops.platform import ArchiveTable
from dbops.redshift.archive_checks import Checks, differences, merged
from dbops.redshift.archive_marks import (
    ATTACHED,
    DELETED,
    DISCARDED,
    Mark,
    TableGone,
    locked,
    make_marks,
    mark,
    naive,
    read_marks,
)
from dbops.redshift.archive_parts import (
    ATTEMPTS,
    ArchivedFile,
    ArchivedPart,
    ArchivePlace,
    Attempt,
    attempt_key,
    attempt_of,
    attempt_prefix,
    day_prefix,
    file_key,
    lease_key,
    manifest_key,
    new_attempt,
    part_key,
    parts_of_day,
    update_part,
)
from dbops.redshift.archive_source import Source, check_rows, read_columns, source_of
from dbops.redshift.session import RedshiftUnreachable, Session, StatementRefused
from dbops.sql import literal, statement

log = logging.getLogger(__name__)

_T = TypeVar("_T")
LEASE: Final = timedelta(minutes=10)
ROUNDS: Final = 3
_COPIES: Final = 8
_WRONG_NUMBER: Final = "{name}: {what}; nothing was deleted, unload again"


class UnloadFailed(RetryableError):
    """UNLOAD ended half way. What it wrote is removed by the next try."""


class RowsMoving(RetryableError):
    """Rows of the day arrive or change faster than they are archived."""


class PartChanged(FinalError):
    """The table holds other rows of a day than the only archive of them."""


class NotExpired(FinalError):
    """A day that the platform file wants to stay."""


@dataclass
class DayDone:
    """What became of a day."""

    dataset: str
    day: date
    parts: list[ArchivedPart] = field(default_factory=list)
    """All of the day that were archived, those of earlier runs too."""
    archived: int = 0
    """Rows that this call archived."""
    deleted: int = 0
    """Rows that this call deleted from the warehouse; those of a part that an earlier run archived are among them."""
    gone: int = 0
    """Rows that are gone and of which no call has told before: what an earlier one deleted and then broke off, too."""
    bytes: int = 0
    kept: str | None = None
    """Why the day was left as it is."""


OnPart = Callable[[ArchivedPart], None]


def nobody(part: ArchivedPart) -> None:
    """Nobody is watching."""


def archive_day(
    session: Session,
    place: ArchivePlace,
    table: ArchiveTable,
    day: date,
    *,
    holder: str,
    now: datetime | None = None,
    replace: bool = False,
    on_part: OnPart = nobody,
    reconnect: Callable[[], Session] | None = None,
) -> DayDone:
    """Archive a day and delete it from its table. Safe to repeat, and to kill; a day that is done costs a look.

    :param holder: who takes the day's lease: the same text in a retry.
    :param replace: let go of the day's archive when the table, where it was brought back, has other rows now.
    :param on_part: called with each part of the day once its rows are gone; when it raises, the day is not done.
    :param reconnect: opens another session where the first one did not outlive the reading of files.
    :raises NotExpired: the platform file wants the day to stay.
    :raises LeaseHeld: somebody else works on the day.
    """
    now = now or datetime.now(UTC)
    if day >= now.astimezone(UTC).date() - table.keep:
        raise NotExpired(
            f"archive of {table.dataset} {day}: the table keeps {table.keep.days} days, so this day stays; "
            "change redshift.archive.tables, or name older days"
        )
    done = DayDone(table.dataset, day)
    hold = place.settings.hold(table, day)
    if hold is not None:
        done.kept = f"legal hold, {hold.reason}"
        return done
    lease = Lease.acquire(place.store, lease_key(table.dataset, day), holder, LEASE)
    with lease.kept(), ExitStack() as stack:
        work = _Day(session, place, table, day, lease, now, replace, done)
        work.reconnect = reconnect
        stack.callback(work.close)
        if not work.settle():
            return done
        for _ in range(ROUNDS):
            if work.archive_rows():
                break
        else:
            raise RowsMoving(
                f"archive of {table.dataset} {day}: rows of it arrived or changed {ROUNDS} times between UNLOAD and "
                "DELETE; nothing was lost, find out who writes to a day so old, and run it again"
            )
        work.finish(on_part)
    return done


class _Day:
    """The work on one day, while its lease is held."""

    def __init__(
        self,
        session: Session,
        place: ArchivePlace,
        table: ArchiveTable,
        day: date,
        lease: Lease,
        now: datetime,
        replace: bool,
        done: DayDone,
    ) -> None:
        self.session, self.place, self.table, self.day = session, place, table, day
        self.lease, self.now, self.replace, self.done = lease, now, replace, done
        self.store, self.dataset = place.store, table.dataset
        self.what = f"archive of {self.dataset} {day}"
        self.parts: list[ArchivedPart] = []
        self.staged: list[StoredObject] = []
        self.reconnect: Callable[[], Session] | None = None
        self.own: Session | None = None

    # ------------------------------------------------------------------ what earlier runs left

    def settle(self) -> bool:
        """End what earlier runs began; False when the day must be left alone."""
        make_marks(self.session, self.place)
        marks = read_marks(self.session, self.place, self.dataset, self.day)
        until = [mark.keep_until for mark in marks.values() if mark.outcome == ATTACHED and mark.keep_until]
        if until and max(until) > naive(self.now):
            self.done.kept = f"it was brought back, until {max(until):%Y-%m-%d %H:%M} UTC"
            return False
        parts = parts_of_day(self.store, self.dataset, self.day)
        known = {part.attempt for part in parts}
        overtaken = [attempt for attempt in sorted(self._attempts() - known) if not self._discard(attempt)]
        if overtaken:  # by a process that was thought to be dead: it wrote its document after we looked
            parts = parts_of_day(self.store, self.dataset, self.day)
            marks = read_marks(self.session, self.place, self.dataset, self.day)
        for attempt in set(overtaken) - {part.attempt for part in parts}:
            raise FinalError(
                f"{self.what}: attempt {attempt} is marked as deleted in {self.place.settings.marks}, but "
                f"{self.place.url}/{part_key(self.dataset, self.day, attempt)} is not there: somebody removed it; "
                "bring it back from an older version of the bucket"
            )
        open_parts = []
        for part in parts:
            outcome = marks[part.attempt].outcome if part.attempt in marks else None
            if outcome == DISCARDED:
                self._remove(part.attempt, [file.name for file in part.files])
            elif outcome == DELETED or not part.rows:
                self.parts.append(part)
            else:
                open_parts.append(part)
        if open_parts:
            self._settle_open(open_parts)
        return True

    def _settle_open(self, parts: list[ArchivedPart]) -> None:
        """Parts that the table has still, or has again."""
        for part in parts:
            self._note(part.attempt, part.table)
        why = self._delete(parts)
        if not why:
            self.parts += parts
            return
        was_gone = [part.name for part in parts if part.deleted_at is not None]
        if was_gone and not self.replace:
            raise PartChanged(
                f"{self.what}: {', '.join(was_gone)} was deleted from {self.table.table} before and is there again, "
                f"but not the same: {'; '.join(why[:3])}. When the table is right, archive it with `dbops archive run "
                f"--table {self.dataset} --first {self.day} --last {self.day} --replace`; when the archive is right, "
                "delete the day's rows from the table"
            )
        for part in parts:
            log.warning("%s: part %d is discarded: %s", self.what, part.part, "; ".join(why[:3]))
            if not self._discard(part.attempt):
                self.parts.append(part)

    def _note(self, attempt: str, table: str) -> Attempt:
        """Leave word that somebody works on the day, until `finish`."""
        begun = Attempt(
            dataset=self.dataset,
            day=self.day,
            table=table,
            attempt=attempt,
            started_at=datetime.now(UTC),
            holder=self.lease.holder,
        )
        self.store.put(attempt_key(self.dataset, self.day, attempt), begun.to_json())
        return begun

    def _attempts(self) -> set[str]:
        """Every attempt that left anything in the bucket."""
        below = (f"{ATTEMPTS}/{day_prefix(self.dataset, self.day)}", day_prefix(self.dataset, self.day))
        return {attempt_of(item.key[len(prefix) :]) for prefix in below for item in self.store.list(prefix)}

    # ------------------------------------------------------------------ rows that are in the table

    def archive_rows(self) -> bool:
        """Archive and delete what the table has of the day; False when it changed meanwhile."""
        source = self._source()
        if source is None:
            return True
        attempt = new_attempt(datetime.now(UTC))
        begun, rows = self._unload(source, attempt)
        if begun is None:
            if not self.parts:
                self._commit_empty(source, attempt)
            return True
        part = self._verified(source, begun, rows)
        self._publish(part)
        self.lease.renew()
        self._wake()
        try:
            why = self._delete([part], is_new=True)
        except FinalError:  # it will be refused again: what is still in the table is not left in the dataset too
            self._discard(attempt)
            raise
        if why:
            log.warning("%s: attempt %s is discarded: %s", self.what, attempt, "; ".join(why[:3]))
            self._discard(attempt)
            return False
        self.parts.append(part)
        self.done.archived += part.rows
        self.done.bytes += part.bytes
        return True

    def _wake(self) -> None:
        """Nothing was asked of the session while files were read: it may have ended."""
        try:
            read_marks(self.session, self.place, self.dataset, self.day)
        except RedshiftUnreachable:
            if self.reconnect is None:
                raise
            self.close()
            self.session = self.own = self.reconnect()

    def close(self) -> None:
        """End the session that was opened here, if one was."""
        if self.own is not None:
            self.own.close()

    def _source(self) -> Source | None:
        """The table of the day, as it is now; None when the day has none."""
        name = self.table.source(self.day)
        columns = read_columns(self.session, [name]).get(name)
        if columns is None and self.table.days == "tables":
            return None
        if columns is None:
            raise ConfigurationError(f"{self.what}: the warehouse has no table {name}")
        return source_of(self.table, name, columns)

    def _count(self, source: Source) -> int:
        sql = statement("redshift/archive_count").format(table=source.sql, range=source.of_day(self.day))
        ((rows,),) = self.session.rows(sql)
        return int(rows)

    def _unload(self, source: Source, attempt: str) -> tuple[Attempt | None, int]:
        """UNLOAD of the day; how many rows it has, which UNLOAD has written all. None: it has none."""
        prefix = attempt_prefix(self.dataset, self.day, attempt)
        role = self.place.settings.iam_role
        query = statement("redshift/archive_rows").format(table=source.sql, range=source.of_day(self.day))
        sql = statement("redshift/archive_unload").format(
            query=literal(query),
            destination=literal(f"s3://{self.store.bucket}/{self.store.prefix}{prefix}"),
            role=role if role == "default" else literal(role),
            region=literal(self.place.region),
        )
        with self.session.transaction():  # one snapshot for all three
            rows = self._count(source)
            if not rows:
                return None, 0
            begun = self._note(attempt, source.name)
            warm = threading.Thread(target=_warm, name="warm", daemon=True)
            warm.start()
            try:
                self.session.run(sql)
            except StatementRefused as error:
                if error.code.startswith("XX") and "AccessDenied" not in str(error):
                    raise UnloadFailed(
                        f"{self.what}: {error}; nothing was deleted, and what was written is removed by the next try"
                    ) from None
                raise
            ((unloaded,),) = self.session.rows(statement("redshift/archive_unloaded"))
        warm.join()
        if int(unloaded) != rows:
            what = f"UNLOAD wrote {int(unloaded):,} rows, the table had {rows:,}"
            raise UnloadFailed(_WRONG_NUMBER.format(name=self.what, what=what))
        return begun, rows

    def _verified(self, source: Source, begun: Attempt, rows: int) -> ArchivedPart:
        """Read back what UNLOAD wrote, and describe it.

        :raises UnloadDamaged: it is not all there, or not what the manifest says.
        """
        from dbops.redshift.archived_files import (
            FileDamaged,
            UnloadDamaged,
            check_files,
            read_unload_manifest,
            total_checks,
        )

        prefix = attempt_prefix(self.dataset, self.day, begun.attempt)
        name = f"{self.store.url}/{prefix}manifest"
        try:
            data = self.store.get(f"{prefix}manifest")
        except NotFound:
            raise UnloadDamaged(f"{self.what}: UNLOAD left no manifest at {name}; unload again") from None
        told = {
            file.url.removeprefix(f"s3://{self.store.bucket}/{self.store.prefix}"): file
            for file in read_unload_manifest(data, name)
        }
        found = {item.key: item for item in self.store.list(prefix) if item.key != f"{prefix}manifest"}
        problem = None
        if told.keys() != found.keys():
            odd = sorted(told.keys() ^ found.keys())
            problem = f"{odd[0]} is {'not there' if odd[0] in told else 'not in the manifest'}"
        elif sum(file.rows for file in told.values()) != rows:
            problem = f"its files have {sum(file.rows for file in told.values()):,} rows, the table had {rows:,}"
        for key, file in told.items():
            if problem is None and found[key].size != file.size:
                problem = f"{key} has {found[key].size:,} bytes, the manifest says {file.size:,}"
        if problem:
            raise UnloadDamaged(_WRONG_NUMBER.format(name=f"{self.what}, {name}", what=problem))
        keys = sorted(told)
        try:
            facts = check_files(self.store, [(key, told[key].size) for key in keys], source.columns)
        except FileDamaged as error:
            raise UnloadDamaged(f"{self.what}: {error}; nothing was deleted, unload again") from None
        for key, fact in zip(keys, facts, strict=True):
            if fact.rows != told[key].rows:
                what = f"{key} has {fact.rows:,} rows, the manifest says {told[key].rows:,}"
                raise UnloadDamaged(_WRONG_NUMBER.format(name=self.what, what=what))
        self.staged = [found[key] for key in keys]
        files = [
            ArchivedFile(
                name=f"{begun.attempt}_{key.rpartition('/')[2]}",
                size=told[key].size,
                rows=fact.rows,
                sha256=fact.sha256,
            )
            for key, fact in zip(keys, facts, strict=True)
        ]
        return self._part(source, begun, files, total_checks(source.columns, facts), hashlib.sha256(data).hexdigest())

    def _part(
        self, source: Source, begun: Attempt, files: list[ArchivedFile], checks: Checks, manifest_sha256: str | None
    ) -> ArchivedPart:
        return ArchivedPart(
            warehouse=self.place.warehouse,
            dataset=self.dataset,
            table=source.name,
            column=self.table.column,
            day=self.day,
            part=max((part.part for part in self.parts), default=0) + 1,
            attempt=begun.attempt,
            started_at=begun.started_at,
            archived_at=datetime.now(UTC),
            columns=source.columns,
            files=tuple(files),
            rows=checks.rows,
            bytes=sum(file.size for file in files),
            checks=checks,
            manifest_sha256=manifest_sha256,
        )

    def _publish(self, part: ArchivedPart) -> None:
        """Let S3 copy exactly the bytes that were read into the dataset, and write a manifest of them for COPY."""
        from dbops.redshift.archived_files import UnloadDamaged, copy_manifest

        def copy(staged: StoredObject) -> None:
            key = file_key(self.dataset, self.day, _name(part.attempt, staged.key))
            self.store.copy(staged.key, key, if_match=staged.etag or "")

        with ThreadPoolExecutor(_COPIES, thread_name_prefix="publish") as pool:
            list(pool.map(copy, self.staged))
        prefix = file_key(self.dataset, self.day, f"{part.attempt}_")
        there = {item.key: item.size for item in self.store.list(prefix)}
        wanted = {file_key(self.dataset, self.day, file.name): file.size for file in part.files}
        if there != wanted:
            odd = sorted(there.items() ^ wanted.items())
            raise UnloadDamaged(_WRONG_NUMBER.format(name=self.what, what=f"the copy {odd[0][0]} is not its original"))
        base = f"s3://{self.store.bucket}/{self.store.prefix}"
        manifest = copy_manifest([(base + key, size) for key, size in sorted(wanted.items())])
        self.store.put(manifest_key(self.dataset, self.day, part.attempt), manifest)

    def _commit_empty(self, source: Source, attempt: str) -> None:
        """Write down that the day has no rows, which is not the same as that nobody looked."""
        from dbops.redshift.archived_files import total_checks

        begun = self._note(attempt, source.name)
        part = self._part(source, begun, [], total_checks(source.columns, []), None)
        part = part.model_copy(update={"deleted_at": part.archived_at})
        self.store.put(part_key(self.dataset, self.day, part.attempt), part.to_json(), if_absent=True)
        self.parts.append(part)

    # ------------------------------------------------------------------ deleting

    def _delete(self, parts: list[ArchivedPart], *, is_new: bool = False) -> list[str]:
        """Delete the day's rows when they are exactly those of the parts; else say what differs, and delete nothing.

        :param is_new: the part has no document yet.
        """
        of_its_own = self._source() if self.table.days == "tables" else None
        try:
            why, deleted = self._locked(
                lambda marks: self._delete_locked(parts, marks, is_new=is_new, drops=of_its_own),
                of_its_own.sql if of_its_own is not None else None,
            )
        except TableGone:
            why, deleted = self._locked(lambda marks: self._delete_locked(parts, marks, is_new=is_new, drops=None))
        self.done.deleted += deleted
        return why

    def _locked(self, work: Callable[[dict[str, Mark]], _T], table: str | None = None) -> _T:
        return locked(self.session, self.place, self.dataset, self.day, work, table=table)

    def _delete_locked(
        self, parts: list[ArchivedPart], marks: dict[str, Mark], *, is_new: bool, drops: Source | None
    ) -> tuple[list[str], int]:
        """What differs, and how many rows were deleted.

        :param drops: the day's own table, which is locked.
        """
        for part in parts:
            if part.attempt in marks and marks[part.attempt].outcome != ATTACHED:
                return [f"attempt {part.attempt} was {marks[part.attempt].outcome} by somebody else"], 0
        source = self._source()  # of now: a column may have been added
        if source is not None and drops is None and self.table.days == "tables":
            return [f"{source.name} was not there a moment ago, and is there again"], 0
        table = (
            check_rows(self.session, source.sql, source.columns, source.of_day(self.day))
            if source is not None
            else None
        )
        if table is None or (not table.rows and not is_new):
            log.warning("%s: its rows are gone from the table, and not by us", self.what)
            table = None
            if is_new:  # the archive has the only copy
                self._commit(parts[0])
        else:
            assert source is not None
            try:
                why = differences(table, merged([part.checks for part in parts]))
            except ValueError as error:
                why = [str(error)]
            if why:
                return why, 0
            if is_new:
                self._commit(parts[0])
            self._delete_rows(source, table.rows)
        for part in parts:
            self._mark(part.attempt, DELETED, part.rows, was_marked=part.attempt in marks)
        return [], table.rows if table is not None else 0

    def _commit(self, part: ArchivedPart) -> None:
        key = part_key(self.dataset, self.day, part.attempt)
        with suppress(AlreadyExists):  # by this process, before a conflict
            self.store.put(key, part.to_json(), if_absent=True)

    def _delete_rows(self, source: Source, rows: int) -> None:
        if self.table.days == "tables":
            self.session.run(statement("redshift/archive_drop").format(table=source.sql))
            return
        sql = statement("redshift/archive_delete").format(table=source.sql, range=source.of_day(self.day))
        deleted = self.session.run(sql)
        if deleted != rows:
            raise RetryableError(
                f"{self.what}: DELETE took {deleted:,} rows where {rows:,} were compared; it was rolled back, try again"
            )

    # ------------------------------------------------------------------ discarding

    def _discard(self, attempt: str) -> bool:
        """Mark an attempt as discarded, then remove what it left; False when it has deleted its rows by now."""
        if not self._locked(lambda marks: self._discard_locked(attempt, marks.get(attempt))):
            return False
        prefix = day_prefix(self.dataset, self.day)
        found = [item.key for item in self.store.list(f"{prefix}{attempt}_")]
        self._remove(attempt, [key.removeprefix(prefix) for key in found])
        return True

    def _mark(self, attempt: str, outcome: str, rows: int, *, was_marked: bool) -> None:
        mark(self.session, self.place, self.dataset, self.day, attempt, outcome, rows, was_marked=was_marked)

    def _discard_locked(self, attempt: str, mark: Mark | None) -> bool:
        if mark is not None and mark.outcome == DELETED:
            return False
        if mark is None or mark.outcome != DISCARDED:
            self._mark(attempt, DISCARDED, 0, was_marked=mark is not None)
        return True

    def _remove(self, attempt: str, names: Iterable[str]) -> None:
        """The document first: what it describes goes next. The note that somebody works on it goes last."""
        self.store.delete([part_key(self.dataset, self.day, attempt)])
        self.store.delete(file_key(self.dataset, self.day, name) for name in names)
        self.store.delete([manifest_key(self.dataset, self.day, attempt)])
        self._clear(attempt)

    def _clear(self, attempt: str) -> None:
        prefix = attempt_prefix(self.dataset, self.day, attempt)
        self.store.delete([item.key for item in self.store.list(prefix)])
        self.store.delete([attempt_key(self.dataset, self.day, attempt)])

    # ------------------------------------------------------------------ the end

    def finish(self, on_part: OnPart) -> None:
        """Say in each document that its rows are gone, tell whoever remembers it, and only then end the attempt."""
        below = f"{ATTEMPTS}/{day_prefix(self.dataset, self.day)}"
        not_ended = {attempt_of(item.key[len(below) :]) for item in self.store.list(below)}
        for part in self.parts:
            if part.attempt in not_ended:
                self.done.gone += part.rows
            if part.deleted_at is None or part.attached_at is not None:
                part = update_part(self.store, part, deleted_at=datetime.now(UTC), attached_at=None)
            on_part(part)
            self.done.parts.append(part)
        for attempt in {part.attempt for part in self.parts}:
            self._clear(attempt)


def _name(attempt: str, staged_key: str) -> str:
    """What a file that UNLOAD wrote is called in the dataset."""
    return f"{attempt}_{staged_key.rpartition('/')[2]}"


def _warm() -> None:
    """Load what reads files while the warehouse writes them."""
    import pyarrow as pa

    from dbops.redshift.text_hash import sum_of_md5

    sum_of_md5(pa.array(["warm"]))
