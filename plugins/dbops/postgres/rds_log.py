"""The log of an instance on RDS, which its API gives out in portions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from dbops.postgres.log_sources import LogFile, Piece
from dbops.postgres.rds import calls


class RdsLog:
    """Files error/postgresql.log.<day>-<hour>: a name is never used again.

    :param client: of `rds`.
    :param is_csv: entries are in the files whose names end with .csv.
    """

    def __init__(self, client: Any, instance: str, *, is_csv: bool) -> None:
        self.client, self._instance, self._is_csv = client, instance, is_csv

    def files(self) -> list[LogFile]:
        with calls(f"list the logs of {self._instance}"):
            pages = self.client.get_paginator("describe_db_log_files").paginate(
                DBInstanceIdentifier=self._instance, FilenameContains="postgresql"
            )
            found = [item for page in pages for item in page["DescribeDBLogFiles"]]
        files = [
            LogFile(item["LogFileName"], int(item.get("Size", 0)), _moment(item.get("LastWritten", 0)))
            for item in found
            if item["LogFileName"].endswith(".csv") == self._is_csv
        ]
        return sorted(files, key=lambda file: (file.modified, file.name))

    def identity(self, file: LogFile) -> str:
        return file.name

    def read(self, file: LogFile, marker: str) -> Piece:
        """At most 1 MB or 10,000 lines, as RDS gives."""
        with calls(f"read log {file.name} of {self._instance}"):
            found = self.client.download_db_log_file_portion(
                DBInstanceIdentifier=self._instance, LogFileName=file.name, Marker=marker
            )
        data = (found.get("LogFileData") or "").encode()
        is_last = not data or not found.get("AdditionalDataPending")
        return Piece(data, str(found.get("Marker") or marker), is_last)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
