"""A record as large as a busy year's: a million inferences, a fifth of them rated, in SQLite.

Measured in processes of their own, for all of it and for a tenth: triage, curation and freezing of the first dataset
version, with the most memory that took; and pages of inferences under filters, those that hardly anything meets too.
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from feedback.datasets.failures import triage_in_steps
from feedback.datasets.freeze import build_dataset
from feedback.ids import new_id
from feedback.registry.models import ensure_models
from feedback.settings import Settings, Storage
from feedback.starter.grammar import DRIFT, KNOWN, Message, draw
from feedback.storage.database import opened
from feedback.storage.inferences import InferenceFilter, search
from feedback.storage.records import FeedbackRecord, InferenceRecord, Record
from feedback.storage.upsert import store

START = datetime(2026, 1, 1, tzinfo=UTC)
_SECONDS_APART = 30.0
_BATCH = 2000
_USERS = 20
"""One user for so many inferences."""
_encoder = msgspec.json.Encoder()
_FILTERS: dict[str, InferenceFilter] = {
    "all": InferenceFilter(),
    "model": InferenceFilter(model="assistant"),
    "model and version": InferenceFilter(model="assistant", version="base"),
    "a version that never answered": InferenceFilter(model="assistant", version="9.9"),
    "rating_lte=1": InferenceFilter(rating_lte=1),
    "reason=low_rating": InferenceFilter(reason="low_rating"),
    "a reason that there is not": InferenceFilter(reason="repetition"),
    "one user": InferenceFilter(user="user-7"),
    "a user who never asked": InferenceFilter(user="nobody"),
    "metadata": InferenceFilter(metadata={"channel": "mail"}),
    "metadata that there is not": InferenceFilter(metadata={"channel": "fax"}),
    "a day in the middle": InferenceFilter(
        since=(START + timedelta(days=10)).timestamp(), until=(START + timedelta(days=11)).timestamp()
    ),
    "text": InferenceFilter(q="order 4711"),
    "text that stands nowhere": InferenceFilter(q="xylophone"),
    "text, user and rating": InferenceFilter(q="order", user="user-7", rating_lte=2),
}


def scale(inferences: int) -> list[str]:
    """Lines of the report."""
    measured = []
    for count in (inferences // 10, inferences):
        with TemporaryDirectory(prefix="starloop-bench-") as folder:
            for step in ("fill", "loop", "pages"):
                command = [sys.executable, "-m", "tests.bench.data_scale", step, folder, str(count)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                measured.append(json.loads(done.stdout))
    fills, loops, pages = measured[::3], measured[1::3], measured[2::3]
    lines = [
        "## A large record",
        "",
        f"SQLite; {_SECONDS_APART:.0f} s between two inferences, a fifth rated, one rating in four low, four low ones in ten corrected.",
        "",
        "| inferences | rated | filled in | triage | curation and freezing | in all | CPU | most memory | dataset rows |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for count, fill, loop in zip((inferences // 10, inferences), fills, loops, strict=True):
        lines.append(
            f"| {count:,} | {fill['rated']:,} | {fill['seconds']:.0f} s | {loop['triage']:.1f} s | {loop['build']:.1f} s | "
            f"**{loop['triage'] + loop['build']:.1f} s** | {loop['cpu']:.1f} s | {loop['mb']:,.0f} MB | {loop['rows']:,} |"
        )
    small, large = (loop["triage"] + loop["build"] for loop in loops)
    lines += [
        "",
        f"Ten times the record takes **{large / small:.1f} times** as long.",
        "",
        f"Pages of 50 at {inferences:,} inferences, the median and the longest of nine from the newest on:",
        "",
        "| filter | median | longest |",
        "|---|--:|--:|",
        *(f"| {name} | {median:.1f} ms | {longest:.1f} ms |" for name, (median, longest) in pages[1].items()),
        "",
    ]
    return lines


def settings_of(folder: Path) -> Settings:
    return Settings(storage=Storage(directory=str(folder / "data")))


def fill(folder: Path, count: int, apart: float = _SECONDS_APART) -> dict[str, Any]:
    """A record of so many inferences, as many seconds apart."""
    started, rated = time.perf_counter(), 0
    settings = settings_of(folder)
    with opened(settings) as database:
        with database.session() as session:
            ensure_models(session, settings, START)
            session.commit()
        batch: list[Record] = []
        for record in _records(count, apart):
            batch.append(record)
            rated += isinstance(record, FeedbackRecord)
            if len(batch) >= _BATCH:
                with database.session() as session:
                    store(session, batch, 0)
                    session.commit()
                batch = []
        with database.session() as session:
            store(session, batch, 0)
            session.commit()
    return {"seconds": time.perf_counter() - started, "rated": rated}


def _records(count: int, apart: float) -> Iterator[Record]:
    rng = random.Random(4)
    known, new = list(KNOWN), [*DRIFT[0], *DRIFT[1]]
    drawn = [draw(rng, known if rng.random() < 0.8 else new, "live") for _ in range(min(count, 50_000))]
    for number in range(count):
        moment = START + timedelta(seconds=apart * number)
        message = rng.choice(drawn)
        right = rng.random() < (0.97 if message.intent in KNOWN else 0.1)
        user = f"user-{rng.randrange(max(1, count // _USERS))}"
        record = _inference(message, right, user, number, moment, rng)
        yield record
        if rng.random() < 0.2:
            low = not right if rng.random() < 0.97 else right
            yield FeedbackRecord(
                id=new_id(moment + timedelta(seconds=5)),
                inference_id=record.id,
                created=(moment + timedelta(seconds=5)).timestamp(),
                rater=user,
                rating=rng.choice((1, 2)) if low else rng.choice((4, 5)),
                correction=message.answer if low and rng.random() < 0.4 else None,
            )


def _inference(
    message: Message, right: bool, user: str, number: int, moment: datetime, rng: random.Random
) -> InferenceRecord:
    prompt = f"{message.text} Order {number}." if rng.random() < 0.7 else message.text
    output = message.answer if right else json.dumps({"intent": "other", "urgency": message.urgency})
    identifier, milliseconds = new_id(moment), rng.uniform(80, 400)
    request = {
        "model": "assistant",
        "messages": [{"role": "user", "content": prompt}],
        "user": user,
        "temperature": 0,
    }
    choice = {"index": 0, "message": {"role": "assistant", "content": output}, "finish_reason": "stop"}
    response = {
        "id": f"chatcmpl-{identifier}",
        "object": "chat.completion",
        "created": int(moment.timestamp()),
        "model": "assistant",
        "choices": [choice],
        "usage": {"prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60},
    }
    return InferenceRecord(
        id=identifier,
        created=moment.timestamp(),
        model="assistant",
        version="base",
        status=200,
        latency_ms=milliseconds,
        user=user,
        finish_reason="stop",
        request=_encoder.encode(request).decode(),
        response=_encoder.encode(response).decode(),
        prompt=prompt,
        output=output,
        prompt_tokens=40,
        completion_tokens=20,
        metadata={"channel": "mail" if rng.random() < 0.05 else "web"},
    )


def _loop(folder: Path, _count: int) -> dict[str, Any]:
    settings, now = settings_of(folder), datetime.now(UTC)
    with opened(settings) as database:
        worked = time.process_time()
        started = time.perf_counter()
        triage_in_steps(database, "assistant", settings, now)
        triaged = time.perf_counter()
        version = build_dataset(database, settings, "assistant", new_id(now), (), now)
        built = time.perf_counter()
        return {
            "triage": triaged - started,
            "build": built - triaged,
            "cpu": time.process_time() - worked,
            "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
            "rows": version.manifest["counts"]["rows"],
        }


def _pages(folder: Path, _count: int) -> dict[str, Any]:
    found = {}
    with opened(settings_of(folder)) as database:
        for name, wanted in _FILTERS.items():
            times, cursor = [], None
            for _ in range(9):
                started = time.perf_counter()
                with database.reading() as session:
                    page = search(session, wanted, 50, cursor)
                times.append((time.perf_counter() - started) * 1000)
                cursor = page.next_cursor
                if cursor is None:
                    break
            found[name] = (statistics.median(times), max(times))
    return found


_STEPS: dict[str, Callable[[Path, int], dict[str, Any]]] = {"fill": fill, "loop": _loop, "pages": _pages}

if __name__ == "__main__":
    if sys.argv[1] in _STEPS:
        print(json.dumps(_STEPS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        print("\n".join(scale(int(sys.argv[1]))))
