"""A process that writes records until it is killed, and prints the id of each one that was acknowledged.

Run as `python crashing_writer.py DIRECTORY SYNC URL`; with a URL it also drains, as a gateway worker does.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

from feedback.storage.database import Database
from feedback.storage.drain import Drainer
from feedback.storage.journal import Journal
from tests.feedback.records import feedback, inference


async def one(journal: Journal, number: int) -> None:
    """An inference, acknowledged, and sometimes a feedback about it."""
    said = inference(number, request="x" * random.randrange(2000))
    await journal.write(said)
    os.write(1, f"{said.id}\n".encode())
    if number % 3 == 0:
        rating = feedback(said.id, number + 1)
        await journal.write(rating)
        os.write(1, f"{rating.id}\n".encode())


async def write_for_ever(journal: Journal) -> None:
    number = 0
    while True:
        size = random.randrange(1, 20)
        await asyncio.gather(*(one(journal, number + n) for n in range(size)))
        number += size
        await asyncio.sleep(0.002)


def main() -> None:
    directory, sync, url = sys.argv[1:]
    journal = Journal.open(Path(directory), cast(Literal["os", "disk"], sync), datetime.now(UTC))
    if url:
        Drainer(journal, Database(url), Path(directory)).start()
    asyncio.run(write_for_ever(journal))


if __name__ == "__main__":
    main()
