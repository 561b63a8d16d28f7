"""`starloop loop`: the loop alone."""

from __future__ import annotations

import logging
import signal
import threading

import click

from feedback.commands.options import settings_option
from feedback.logs import configure
from feedback.settings import Settings


@click.command(short_help="one process of it: the loop")
@settings_option
def loop(settings: Settings) -> None:
    """Run cycles: by the schedule for every model, and at once for those that were asked for.

    Of several loops on one database one leads and the others stand by. On SIGTERM the cycle under way stops where it
    stands; the next start goes on with it.

    Example: starloop loop --config starloop.toml
    """
    from feedback.datasets.model_files import check_model_files
    from trainer.lease import LoopLease
    from trainer.opening import open_workshop
    from trainer.schedule import Loop

    configure(settings.server.log)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every case would hide the rest
    logging.getLogger("trainer.steps").setLevel(
        logging.WARNING
    )  # so would one every ten seconds of a training
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    check_model_files(settings)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with open_workshop(settings) as workshop:
        lease = LoopLease(workshop.database, settings.schedule.lease_seconds, workshop.clock)
        Loop(workshop, lease, stopping).run()
