"""Slices that `asrestore` writes: the text goes through our strict reader on its way to the program, and is counted.

So what the target must hold afterwards is known by our own count, and the check at the end is that of every restore.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import chain

import numpy as np

from dbops.aerospike import asb, kernel, official
from dbops.aerospike.batches import EXPIRES_SOON, Writer
from dbops.aerospike.cluster import Access
from dbops.backups.restores import RestorePlan

log = logging.getLogger(__name__)


class ProgramWriter(Writer):
    """A writer that counts and sends nothing itself."""

    def __init__(self, access: Access, plan: RestorePlan, first: int, last: int) -> None:
        """:raises ProgramUnusable: the program is not on this worker, or too old."""
        super().__init__(access, plan, first, last, 0)
        self._program = official.find_program("asrestore", plan.engine_path)
        if self._program.version != plan.engine_version:
            log.warning("this worker has %s, the plan was made with %s", self._program, plan.engine_version)
        self._done = dict.fromkeys(("inserted", "existing", "left_out"), 0)

    def submit(self) -> None:
        """Count the batch as written."""
        batch = self.batch
        kernel.add_present(
            batch.out, batch.rows, np.zeros(batch.count, np.uint8), batch.count, self.now() + EXPIRES_SOON,
            self.counts, self.fingerprints, self.expiring,
        )  # fmt: skip
        super().submit()

    def write(
        self, preamble: asb.Preamble, records: int, text: Iterator[memoryview], on_tick: Callable[[], None]
    ) -> None:
        """Have the program write one text.

        :param records: how many the text holds.
        :param text: what stands behind the preamble; whole, sound records only.
        :raises ProgramFailed: it ended badly, or did not write every record.
        """
        plan = self.plan
        if not records:
            for _ in text:
                pass
            return
        # Without indexes and UDFs, which are made apart; so never of version 3.2, which asrestore does not read.
        version = "3.0" if preamble.header.version == "3.0" else "3.1"
        result = official.restore_text(
            self._program,
            self.access,
            plan.target.namespace,
            chain([asb.header(plan.namespace, first_file=True, version=version)], text),
            policy=plan.policy.value,
            source=plan.namespace,
            records=records,
            indexes=False,
            sets=plan.sets,
            bins=plan.bins,
            extra_ttl=timedelta(seconds=plan.extra_ttl),
            on_tick=on_tick,
        )
        self._done["inserted"] += result.inserted
        self._done["existing"] += result.existed + result.fresher
        self._done["left_out"] += result.expired + result.skipped

    def settle(self, counted: dict[str, int]) -> None:
        """Put what the program did in the place of what was counted; it does not tell updated from inserted.

        :param counted: what became of the records that are not to be written. More may expire while the program writes.
        :raises ProgramFailed: it has left out others than those.
        """
        known = counted["other_set"] + counted["no_bin"] + counted["expired"]
        late = self._done["left_out"] - known
        if not 0 <= late <= int(self.expiring.sum()):
            raise official.ProgramFailed(
                f"{self._program}, restoring into {self.plan.target.text}: left out {self._done['left_out']} records; "
                f"{known} are of other sets, lack the chosen bins or have expired"
            )
        counted["expired"] += late
        self.outcomes |= {"planned": 0, "inserted": self._done["inserted"], "existing": self._done["existing"]}
