"""The errors llmyard raises: each says what happened, the value, and the remedy.

Exit codes follow the class: a wrong request is 2, a job that failed in mid-run is 1.
"""

from __future__ import annotations


class LlmyardError(Exception):
    """A job failed; the command exits with 1.

    Args:
        what: What happened, with the value in question.
        remedy: What the user can do about it; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)  # both in args, so that the error pickles across Ray
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n  remedy: {self.remedy}" if self.remedy else self.what


class RequestError(LlmyardError):
    """The request was wrong (arguments, missing file or artifact); the command exits with 2."""

    exit_code = 2


class ConfigError(RequestError):
    """A job file or an override does not validate."""


class MissingArtifact(RequestError):
    """No committed artifact has this kind and name."""


class Busy(RequestError):
    """A live run holds what this run wants to write."""


class CorruptArtifact(LlmyardError):
    """A file of an artifact does not match the checksum it was committed with."""


class DataError(LlmyardError):
    """The data cannot be used: empty, corrupt beyond the threshold, or of the wrong kind."""


class TrainingError(LlmyardError):
    """Training cannot go on: the loss is not finite, or the workers failed too often."""


class Pruned(LlmyardError):
    """A trial of a sweep ended early because others do better; it leaves no artifact."""
