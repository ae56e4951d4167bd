"""The exceptions that Remix raises on purpose.

RemixError              exit code 1, HTTP 500: valid input, but the run failed
├── BudgetError         exit code 1, HTTP 500: more samples rejected than the configuration allows
└── InputError          exit code 2, HTTP 422: the input cannot be used
    ├── ConfigError     exit code 2, HTTP 422: a configuration field is unknown, missing or invalid
    ├── DataError       exit code 2, HTTP 500: the content of a file or table is invalid
    ├── MismatchError   exit code 2, HTTP 409: artifacts that do not belong together
    ├── MissingError    exit code 2, HTTP 404: a file, folder or named object does not exist
    └── StoreError      exit code 2, HTTP 503: a path cannot be read or written
        └── FullError   exit code 1, HTTP 503: the disk is full

SampleError is not a RemixError: it rejects one sample, becomes a row of rejected.arrow, and never
ends a job.
"""

from typing import ClassVar


class RemixError(Exception):
    """Base class of all errors that end a command or a request.

    Args:
        message: what is wrong, with the name and the value.
        cure: how to fix it, an imperative; it becomes the second sentence of the text.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, cure: str = "") -> None:
        if cure:
            # a first word such as cache_dir or --out is a name, whose case matters
            is_name = not cure.split(maxsplit=1)[0].rstrip(",;:").isalpha()
            start = cure[0] if is_name else cure[0].upper()
            message = f"{_ended(message)} {_ended(start + cure[1:])}"
        super().__init__(message)


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


class BudgetError(RemixError):
    """More samples were rejected than the configuration allows."""


class InputError(RemixError):
    """The input cannot be used."""

    exit_code = 2
    http_status = 422


class ConfigError(InputError):
    """A configuration field is unknown, missing or invalid."""


class DataError(InputError):
    """The content of a file or table is invalid.

    Over HTTP this is a server error: the client did not write the store.
    """

    http_status = 500


class MismatchError(InputError):
    """Two artifacts do not belong together."""

    http_status = 409


class MissingError(InputError):
    """A file, folder or named object does not exist."""

    http_status = 404


class StoreError(InputError):
    """A path cannot be read or written."""

    http_status = 503


class FullError(StoreError):
    """The disk is full. Finished work is kept, and the next run continues from it."""

    exit_code = 1


REASONS = (
    "truncated",
    "bad_header",
    "missing_member",
    "undecodable",
    "no_such_stream",
    "oversize",
    "timeout",
    "crash",
    "duplicate",
    "lfs_pointer",
    "empty",
    "wrong_type",
    "non_finite",
)
"""The values of column `reason` of rejected.arrow."""


class SampleError(Exception):
    """One sample cannot be used.

    Args:
        reason: one of REASONS.
        detail: what is wrong, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
