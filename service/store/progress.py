"""The progress of a run, in a version that changes whenever one of its files does."""

import hashlib

from pipeline.errors import InputError, MissingError, StoreError
from service.event_schemas import RunProgress
from service.store.catalog import Catalog


def progress(catalog: Catalog, name: str) -> RunProgress:
    """Return the progress of a run. Raises MissingError, StoreError.

    The version rests on the metadata of run.json, epochs.arrow and the newest plan, and on the
    names of plans and scores.
    """
    try:
        run = catalog.run(name)
    except (MissingError, StoreError):
        raise
    except InputError as error:
        return RunProgress(status="damaged", version=_digest(str(error)))
    reader = catalog.reader
    newest = rf"epoch-{run.plans[-1]:04d}\.arrow" if run.plans else "(?!)"
    files = [
        *reader.artifacts("runs", name, pattern=r"(run\.json|epochs\.arrow)"),
        *reader.artifacts("runs", name, "plans", pattern=newest),
    ]
    return RunProgress(
        status=run.status,
        updated=run.updated,
        num_epochs=run.num_epochs,
        num_plans=len(run.plans),
        num_scores=len(run.scores),
        version=_digest([file.version for file in files], run.plans, run.scores),
    )


def missing() -> RunProgress:
    """The progress of a run that was deleted."""
    return RunProgress(status="missing", version=_digest("missing"))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode(errors="replace")).hexdigest()[:32]
