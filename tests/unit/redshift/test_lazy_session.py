"""A session that waits for its first statement."""

from __future__ import annotations

from typing import Any, cast

import pytest
from dbops.redshift.session import LazySession, RedshiftUnreachable, Session


class Opened:
    is_closed = False

    def rows(self, sql: str, *values: Any) -> list[Any]:
        return [(sql, *values)]

    def close(self) -> None:
        self.is_closed = True


def test_it_is_opened_once_by_the_first_statement_and_closed_with_it() -> None:
    made: list[Opened] = []

    def opened() -> Session:
        made.append(Opened())
        return cast(Session, made[-1])

    session = LazySession(opened)
    session.close()
    assert made == []
    assert session.rows("select %s", 1) + session.rows("select %s", 2) == [("select %s", 1), ("select %s", 2)]
    session.close()
    assert [one.is_closed for one in made] == [True]


def test_what_cannot_be_opened_is_tried_once_and_said_by_each_statement() -> None:
    tried = []

    def opened() -> Session:
        tried.append(1)
        raise RedshiftUnreachable("connect to Redshift at x: refused")

    session = LazySession(opened)
    for _ in range(2):
        with pytest.raises(RedshiftUnreachable, match="connect to Redshift"):
            session.rows("select 1")
    session.close()
    assert tried == [1]
