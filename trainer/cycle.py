"""Runs one cycle from wherever it stands to its end: the state machine around the steps.

What a step does stands in `trainer.steps`; here is only what happens before, between and after them, and when one
fails. Every end is written with a reason that says what to do, except one: a loop that must stop, or can no longer
write, leaves the cycle `running`, and whoever leads next goes on with it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from itertools import dropwhile

from feedback.errors import DataRefusedError, StarloopError, UnavailableError
from feedback.storage.tables import Cycle
from trainer.attempts import PAUSES, attempt
from trainer.lease import LeaseLostError
from trainer.leftovers import leave, run_folder
from trainer.record import CycleCancelledError, CycleRecord, LoopStoppedError
from trainer.settling import ended_by_its_move
from trainer.steps import STEPS
from trainer.turns import WindowClosedError
from trainer.workshop import Workshop

_log = logging.getLogger(__name__)


def run_cycle(workshop: Workshop, record: CycleRecord, pauses: Sequence[float] = PAUSES) -> Cycle:
    """Run the cycle's remaining steps and return its row as it ended.

    One that has to wait for the training window comes back `running`. Raises `LoopStoppedError` or `LeaseLostError`, or what the database raises, with the cycle left to be resumed.
    """
    first = record.row.step if record.row.step in STEPS else next(iter(STEPS))
    try:
        for name, step in dropwhile(lambda item: item[0] != first, STEPS.items()):
            record.check()
            record.begin(name)
            _log.info("cycle %s of %s: %s", record.row.id, record.row.model, name)
            about = f"cycle {record.row.id}, {name}"
            attempt(partial(step, workshop, record), pauses, record.pause, about)
            if record.row.state != "running":
                break
    except (LoopStoppedError, LeaseLostError):
        raise
    except WindowClosedError as error:
        record.save(reason=str(error))
        leave(run_folder(workshop, record.row.id), ended=False)
        _log.info("cycle %s %s", record.row.id, error)
        return record.row
    except CycleCancelledError as error:
        if not ended_by_its_move(workshop, record):
            record.stop("cancelled", str(error))
    except DataRefusedError as error:
        record.finish("skipped", str(error))
    except StarloopError as error:
        # the server may have moved the champion though its answer did not come
        if not (isinstance(error, UnavailableError) and ended_by_its_move(workshop, record)):
            record.stop("failed", f"{record.row.step}: {error}")
    except Exception as error:  # the loop's own boundary: one cycle's defect must not end the loop
        _log.exception("cycle %s failed", record.row.id)
        record.stop(
            "failed", f"{record.row.step}: unexpected {type(error).__name__}: {error}; the log says where"
        )
    leave(run_folder(workshop, record.row.id), ended=True)
    _log.info("cycle %s: %s, %s", record.row.id, record.row.decision or record.row.state, record.row.reason)
    return record.row
