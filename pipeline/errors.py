"""The exceptions that Remix raises on purpose.

RemixError              exit code 1, HTTP 500: the work was asked for rightly and failed
├── BudgetError         too many samples rejected
└── InputError          exit code 2, HTTP 422: what was given cannot be worked on
    ├── ConfigError     a field of a configuration
    ├── DataError       HTTP 500: a file or table whose content is wrong
    ├── MismatchError   HTTP 409: artifacts that do not belong together
    ├── MissingError    HTTP 404: a thing that is not there
    └── StoreError      HTTP 503: a place that cannot be read or written
        └── FullError   exit code 1: its disk is full

SampleError stands apart: it rejects one sample, becomes a row of rejected.arrow, and never ends a job.
"""

from typing import ClassVar


class RemixError(Exception):
    """A failure with a message that names the thing and the value, and the cure."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(f"{message}; {cure}" if cure else message)


class BudgetError(RemixError):
    """More samples were rejected than the configuration allows."""


class InputError(RemixError):
    """What was given cannot be worked on."""

    exit_code = 2
    http_status = 422


class ConfigError(InputError):
    """A field of a configuration is unknown, missing or out of range."""


class DataError(InputError):
    """The content of a file or table is wrong; over HTTP that is the store's fault, not the client's."""

    http_status = 500


class MismatchError(InputError):
    """Two artifacts do not belong together."""

    http_status = 409


class MissingError(InputError):
    """A named thing does not exist."""

    http_status = 404


class StoreError(InputError):
    """A place cannot be read or written."""

    http_status = 503


class FullError(StoreError):
    """There is no space left to write to; the work that has been done stays, and goes on when there is."""

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


class SampleError(Exception):
    """One sample cannot be used: `reason` is one of REASONS, `detail` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
