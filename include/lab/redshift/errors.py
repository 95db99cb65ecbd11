"""What the stand-in answers in place of a result."""

from __future__ import annotations


class BackendError(Exception):
    """An error that the client gets: its code (SQLSTATE), message, and what Redshift says besides."""

    def __init__(self, code: str, message: str, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail
        self.hint = hint


def syntax_error(near: str) -> BackendError:
    return BackendError("42601", f'syntax error at or near "{near}"' if near else "syntax error at end of input")


def unsupported(what: str) -> BackendError:
    """Something that Redshift has or might have, and this stand-in does not."""
    return BackendError("0A000", f"the lab's Redshift does not support {what}")
