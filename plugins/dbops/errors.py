"""The one exception hierarchy: a message says what was attempted on what, what was found, and what to do."""

from __future__ import annotations


class DbopsError(Exception):
    """Anything that this package raises on purpose."""


class RetryableError(DbopsError):
    """The same call may succeed later: a lost connection, a busy server, a lease that somebody holds."""


class FinalError(DbopsError):
    """Trying again cannot help: bad configuration, a refused request, damaged data."""


class ConfigurationError(FinalError):
    """What was asked for, or what this installation was told, is wrong: the command line exits with 2."""
