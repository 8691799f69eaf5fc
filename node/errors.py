"""The error tree.

OverreadError
+-- Refused         permanent: the input or the peer says no; the reason is shown to a technologist
|   +-- NoContext   a peer does not take objects of that class: another form of the result may do
+-- Retryable       passing: the task layer tries again, with back-off, a bounded number of times
|   +-- NoRoom      a full disk: tried again for as long as it takes, for nothing is wrong with the work
+-- Misconfigured   the administrator must change something; names the setting and what to do
"""

from __future__ import annotations


class OverreadError(Exception):
    """Root of all errors that are raised on purpose."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Refused(OverreadError):  # noqa: N818 -- the name is the verdict
    """Permanent; `reason` is written for a human and holds no patient data."""


class NoContext(Refused):
    """The peer accepts no presentation context for it, or says that it does not support the class."""


class Retryable(OverreadError):  # noqa: N818 -- the name is the verdict
    """Passing trouble; trying again may help."""


class NoRoom(Retryable):
    """The disk took no more; what was begun has been removed."""


class Misconfigured(OverreadError):  # noqa: N818 -- the name is the verdict
    """A setting, a model card or an installation is wrong."""
