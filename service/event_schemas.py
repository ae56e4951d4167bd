"""Response models of the events of a run."""

from datetime import datetime
from typing import Literal

from service.schemas import Schema


class RunProgress(Schema):
    """The data of an event: what a client reads to decide what to read again."""

    status: Literal["created", "running", "finished", "interrupted", "failed", "damaged", "missing"]
    """The state of the run; `damaged` if it cannot be read, `missing` if it was deleted."""
    updated: datetime | None = None
    """When the run last wrote its status or an epoch; null if it cannot be read."""
    num_epochs: int = 0
    """The number of completed epochs."""
    num_plans: int = 0
    """The number of epochs that have a plan."""
    num_scores: int = 0
    """The number of epochs that have scores."""
    version: str
    """A hash that changes whenever one of the run's files does; also the `id` of the event."""
