"""`make bench-data`: what it costs to take data in and look at it, and what is found in data that nobody here wrote.

Each section is a function that measures and returns lines; another is added by naming it in `SECTIONS`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from feedback.access.audit import Actor
from feedback.checks.check import check_file
from feedback.datasets.chat import last_user_text
from feedback.datasets.groups import KnownPrompts, normalise, prompt_hash
from feedback.imports.reading import Reader, Reading
from feedback.imports.rows import Row
from feedback.imports.storing import Intake, import_file
from feedback.registry.models import ensure_models
from feedback.settings import Dataset, Settings, Storage
from feedback.starter.grammar import DRIFT, KNOWN, draw
from feedback.storage.database import opened
from tests.bench import data_kinds, data_liars, data_month, data_scale
from tests.bench.report import machine
from tests.bench.usage import machine_busy, own_work

BANKING = Path(__file__).parents[3] / "shared" / "data" / "banking77"
_COLUMNS = Reading(columns={"prompt": "text", "answer": "category"})


def importing(rows: int) -> list[str]:
    """Rows a second of `import_file`, from JSONL to the record, and the most memory its process took."""
    with TemporaryDirectory(prefix="starloop-bench-") as folder:
        file = Path(folder) / "rows.jsonl"
        _write_chats(file, rows)
        command = [sys.executable, "-m", "tests.bench.data", "--import", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        measured = json.loads(done.stdout)
        size = file.stat().st_size / 1e6
    return [
        "## Import",
        "",
        f"{rows:,} chats as JSONL ({size:,.0f} MB): {measured['seconds']:.1f} s, **{rows / measured['seconds']:,.0f} rows/s**, "
        f"copied, read, checked, written in canonical form and recorded; the process took {measured['mb']:,.0f} MB at most.",
        "",
    ]


def grouping(prompts: int) -> list[str]:
    """Near-duplicate groups of distinct prompts, in memory, as `data check` and the first dataset version make them."""
    lines = [
        "## Near-duplicate groups",
        "",
        "| prompts, distinct | s | of CPU | groups |",
        "|---|--:|--:|--:|",
    ]
    for name, wanted in (
        ("a help desk's", _help_desk_prompts(prompts)),
        ("one template, two numbers in it", _template_prompts(prompts)),
    ):
        started, worked = time.perf_counter(), time.process_time()
        placed = KnownPrompts(Dataset()).place(wanted)
        seconds, cpu = time.perf_counter() - started, time.process_time() - worked
        groups = len({row.group_key for row in placed})
        lines.append(f"| {len(wanted):,} of {name} | **{seconds:.1f}** | {cpu:.1f} | {groups:,} |")
    return [*lines, ""]


def leakage(_: int) -> list[str]:
    """Of Banking77's test rows, those whose prompt is like one of the training rows."""
    title = ["## Banking77's official split", ""]
    if not BANKING.is_dir():
        return [*title, f"Not run: {BANKING} is not there.", ""]
    started = time.perf_counter()
    report = check_file(BANKING / "test.csv", _COLUMNS, Settings(), None, against=BANKING / "train.csv")
    seconds = time.perf_counter() - started
    train, test = (_prompts(BANKING / f"{side}.csv") for side in ("train", "test"))
    exact = _pairwise(train, test, Dataset().near_duplicate)
    return [
        *title,
        f"`starloop data check test.csv --against train.csv` finds **{report.leaking} of {report.rows:,}** test rows near a "
        f"training row in {seconds:.1f} s (the whole check); comparing every pair exactly finds {exact} (Jaccard ≥ 0.8 over "
        f"4-character pieces, lower case). MinHash with LSH at 0.8 whose candidates are not verified (`datasketch`) names "
        f"{_unverified(train, test, 64)} with 64 permutations and {_unverified(train, test, 128)} with 128; a figure of 215 "
        "is such a count: pairs below 0.8 are in it.",
        "",
    ]


SECTIONS: dict[str, Callable[[int], list[str]]] = {
    "import": importing,
    "groups": grouping,
    "banking77": leakage,
    "kinds": data_kinds.section,
    "liars": data_liars.section,
    "scale": data_scale.scale,
    "month": data_month.section,
}
_SIZES = {"import": 1_000_000, "groups": 100_000, "liars": 3, "scale": 1_000_000, "month": 1_000_000}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-data", description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="sections; without it all")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--import", dest="folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        print(json.dumps(_import(options.folder)))
        return
    lines: list[str] = []
    started, busy, own = time.monotonic(), machine_busy(), own_work()
    for name in options.only or SECTIONS:
        section = SECTIONS[name](round(_SIZES.get(name, 0) * options.scale))
        print("\n".join(section), flush=True)
        lines += section
    others = machine_busy() - busy - (own_work() - own)
    share = others / (time.monotonic() - started) / (os.cpu_count() or 1)
    head = [
        "# Data",
        "",
        f"`make bench-data`, {datetime.now(UTC):%Y-%m-%d}. Machine: {machine()}. Other programs took {share:.0%} of it meanwhile.",
        "",
    ]
    if options.output:
        options.output.write_text("\n".join([*head, *lines]), encoding="utf-8")


def _import(folder: Path) -> dict[str, float]:
    """What the measured process does."""
    settings, now = Settings(storage=Storage(directory=str(folder / "data"))), datetime.now(UTC)
    with opened(settings) as database:
        with database.session() as session:
            ensure_models(session, settings, now)
            session.commit()
        started = time.perf_counter()
        import_file(database, settings, Intake(folder / "rows.jsonl", "assistant"), Actor("bench"), now)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


def _write_chats(file: Path, rows: int) -> None:
    rng, encoder = random.Random(1), msgspec.json.Encoder()
    kinds = [*KNOWN, *DRIFT[0]]
    drawn = [draw(rng, kinds, "live") for _ in range(20_000)]
    with file.open("wb") as opened_file:
        for number in range(rows):
            message = drawn[number % len(drawn)]
            chat = [
                {"role": "user", "content": f"{message.text} Order {number}."},
                {"role": "assistant", "content": message.answer},
            ]
            opened_file.write(encoder.encode({"messages": chat}) + b"\n")


def _help_desk_prompts(count: int) -> dict[str, str]:
    """Distinct prompts, normalised, by hash."""
    rng, found = random.Random(2), dict[str, str]()
    kinds = [*KNOWN, *DRIFT[0], *DRIFT[1]]
    while len(found) < count:
        prompt = normalise(draw(rng, kinds, "live").text)
        if rng.random() < 0.5:
            prompt += f" order {rng.randrange(10**6)}"
        found[prompt_hash(prompt)] = prompt
    return found


def _template_prompts(count: int) -> dict[str, str]:
    """What generated files hold: each like all others, hardly any a near duplicate."""
    rng = random.Random(3)
    prompts = (
        f"question {number}: where is the order {rng.randrange(10**9)} that i made last week? it was to come today."
        for number in range(count)
    )
    return {prompt_hash(prompt): prompt for prompt in prompts}


def _prompts(file: Path) -> list[str]:
    return list(_normalised(file))


def _normalised(file: Path) -> Iterator[str]:
    for row in Reader(file, file.name, _COLUMNS):
        if isinstance(row, Row):
            yield normalise(last_user_text(row.messages))


def _pairwise(train: list[str], test: list[str], threshold: float) -> int:
    """Test prompts with a training prompt at least as like as the threshold, by looking at every pair."""
    import numpy as np
    from scipy.sparse import csr_matrix

    vocabulary: dict[str, int] = {}

    def pieces(prompts: list[str]) -> csr_matrix:
        columns, ends = list[int](), [0]
        for prompt in prompts:
            found = {prompt[start : start + 4] for start in range(max(1, len(prompt) - 3))}
            columns += [vocabulary.setdefault(piece, len(vocabulary)) for piece in found]
            ends.append(len(columns))
        return csr_matrix(
            (np.ones(len(columns), dtype=np.int32), columns, ends), shape=(len(prompts), 1 << 20)
        )

    left, right = pieces(train), pieces(test)
    shared = (right @ left.T).tocoo()
    sizes = [np.asarray(matrix.sum(axis=1)).ravel() for matrix in (left, right)]
    likeness = shared.data / (sizes[1][shared.row] + sizes[0][shared.col] - shared.data)
    return len(set(shared.row[likeness >= threshold].tolist()))


def _unverified(train: list[str], test: list[str], permutations: int) -> int:
    """Test prompts for which plain MinHash LSH at 0.8 has any candidate."""
    from datasketch import MinHash, MinHashLSH

    def signed(prompt: str) -> MinHash:
        signature = MinHash(num_perm=permutations)
        pieces = {prompt[start : start + 4] for start in range(max(1, len(prompt) - 3))}
        signature.update_batch([piece.encode() for piece in pieces])
        return signature

    index = MinHashLSH(threshold=0.8, num_perm=permutations)
    for number, prompt in enumerate(train):
        index.insert(number, signed(prompt))
    return sum(bool(index.query(signed(prompt))) for prompt in test)


if __name__ == "__main__":
    main()
