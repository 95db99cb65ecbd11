"""What the services that speak JSON share."""

from __future__ import annotations


class ServiceError(Exception):
    """An error as the service answers it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message
