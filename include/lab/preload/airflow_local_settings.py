"""Imported by the lab's scheduler at start: its workers and tasks are forks of it and find the engine loaded.

A task of the demonstration lives for a second or two, most of which it would spend importing Numba and boto3.
"""

from __future__ import annotations

import boto3  # noqa: F401
import dbops.aerospike.backup  # noqa: F401
import dbops.backups.verify  # noqa: F401
import dbops.ledger  # noqa: F401
import dbops.platform  # noqa: F401
