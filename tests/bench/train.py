"""`make bench-train`: a training on this machine's cores beside TRL's `SFTTrainer`, and its estimates beside what was measured.

On the starter model and the starter's own kind of rows, with other answers than it knows, so that there is something to learn.
TRL stands in `.bench/`, with the very torch, transformers and peft of `.venv`. Each measurement is a process of its own, in
turns with the others; CPU seconds are counted beside wall seconds, for machines that are shared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

from feedback import starter
from feedback.registry.bases import resolve_base
from feedback.settings import Training
from feedback.storage.tables import ModelVersion
from tests.bench import peers
from tests.bench.report import machine
from tests.bench.train_rows import turns, write_version
from tests.bench.train_serving import serving
from tests.bench.train_serving import table as serving_table
from trainer.machine import find_machine
from trainer.preflight import compared, plan
from trainer.process import _environment, default_threads
from trainer.training import Progress, TrainingSpec, train

TRL = (
    "trl==1.16.0",
    "datasets==5.2.0",
    "multiprocess==0.70.19",
    "pandas==3.1.1",
    "python-dateutil==4.0.0",
    "tzdata==2026.6",
    "xxhash==4.1.0",
)
"""TRL and what it needs beside what is in `.venv`."""
CONTENDERS = {"equal": ("ours", "trl"), "mixed": ("ours", "trl, grouped", "trl, packing")}
ROWS, HELD_OUT, LENGTH = 208, 96, 192
"""Rows that are trained on (13 steps) and judged by; tokens of each of the equal ones."""
SCALES = {"sft": (1_000, 100_000, 1_000_000), "dpo": (1_000, 100_000), "kto": (1_000, 100_000)}
FAMILIES = {
    "Llama": "llama",
    "Mistral": "mistral",
    "Phi": "phi",
    "MPT": "mpt",
    "Qwen": "qwen3",
    "Gemma": "gemma2",
}
SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
_SECONDS = 900.0
PARTS = ("serving", "start", "speed", "estimates", "memory")


def talks(kind: str) -> list[tuple[list[int], list[int]]]:
    """Conversations as token ids and labels: `equal` ones of `LENGTH` tokens, `mixed` ones of one to twelve questions."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(starter.model_directory(), local_files_only=True)
    rng, made = random.Random(0), list[tuple[list[int], list[int]]]()
    source = turns()
    while len(made) < ROWS + HELD_OUT:
        count = 9 if kind == "equal" else 1 + int(12 * rng.random() ** 2)
        talk = [message for _ in range(count) for message in next(source)]
        out = words.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
        most = LENGTH if kind == "equal" else 1024
        ids, mask = list(out["input_ids"])[:most], out["assistant_masks"]
        if kind == "mixed" or len(ids) == LENGTH:
            labels = [token if on else -100 for token, on in zip(ids, mask, strict=False)]
            made.append((ids, labels))
    return made


def one(*words: str) -> dict[str, Any]:
    """A measurement in a process of its own, with the threads of a training and TRL within reach."""
    environment = {**os.environ, **_environment(default_threads())}
    environment |= {"PYTHONPATH": str(peers.packages("trl", TRL)), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.bench.train_one", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_SECONDS)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(result), file=sys.stderr)
    return result


def speeds(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """All contenders in turns, each turn with another seed; who begins changes from turn to turn."""
    results = []
    files = {}
    for kind in CONTENDERS:
        rows = talks(kind)
        given: dict[str, Any] = {"kind": kind, "base": str(starter.model_directory())}
        given |= {"train": rows[:ROWS], "validation": rows[ROWS:]}
        files[kind] = folder / f"{kind}.json"
        files[kind].write_text(json.dumps(given))
    for seed in range(rounds):
        for kind, contenders in CONTENDERS.items():
            for who in contenders if seed % 2 == 0 else contenders[::-1]:
                results.append(one("speed", str(files[kind]), who, str(seed)))
    return results


def starts(folder: Path, times: int) -> list[dict[str, float]]:
    """From asking for a training of the starter on 1,000 rows to its first step: wall and CPU seconds."""

    class FirstStepError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step:
            raise FirstStepError

    dataset = write_version(folder / "thousand", 1000)
    results = []
    for number in range(times):
        before, began = _cpu_of_children(), time.monotonic()
        try:
            train(_spec(folder, starter.model_directory(), dataset, f"start-{number}"), stop)
        except FirstStepError:
            results.append({"wall": time.monotonic() - began, "cpu": _cpu_of_children() - before})
    return results


def memories(folder: Path, scales: dict[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """What encoded examples take of memory, by their number; two at a time, as it is no matter of time."""
    wanted = sorted({(count, method) for method, counts in scales.items() for count in counts}, reverse=True)
    for count in {count for count, _ in wanted}:
        write_version(folder / str(count), count, pairs=count in scales.get("dpo", ()))
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda each: one("memory", str(folder / str(each[0])), each[1]), wanted))


def estimates(folder: Path, families: dict[str, str]) -> list[dict[str, Any]]:
    """A first training of each architecture and a second one: what was estimated and what was measured."""
    from transformers import AutoTokenizer

    from tests.trainer.architectures import write_architecture

    words = AutoTokenizer.from_pretrained(starter.model_directory(), local_files_only=True)
    dataset = write_version(folder / "talks", 96, several=10)
    settings = Training(epochs=1, batch=8, threads=default_threads())
    results = []
    for name, architecture in families.items():
        base = write_architecture(folder / architecture, architecture, words, SIZES)
        versions: list[ModelVersion] = []
        for turn in ("first", "second"):
            spec = _spec(folder, base, dataset, f"{architecture}-{turn}", epochs=1, batch=8)
            wanted = plan(base, dataset, settings, find_machine(), "sft", versions)
            assert wanted is not None and wanted.memory is not None, (
                "the base's configuration tells its shape"
            )
            facts = train(spec, lambda progress: None).facts
            errors = compared(wanted, facts)
            made: dict[str, Any] = {
                "base": name,
                "base_revision": "",
                "adapter_hash": "",
                "note": "",
                "created": 0.0,
            }
            known = {**facts, "method": "sft", "estimate": errors}
            versions = [ModelVersion(id=turn, model=architecture, number=turn, facts=known, **made)]
            results.append(
                {
                    "architecture": name,
                    "turn": turn,
                    "memory": facts["peak_memory_bytes"],
                    "memory_estimate": wanted.memory.total,
                    "memory_error": errors["memory_error"],
                    "seconds": facts["seconds"],
                    "seconds_estimate": wanted.seconds,
                    "time_error": errors["time_error"],
                }
            )
            print(json.dumps(results[-1]), file=sys.stderr)
    return results


def _spec(folder: Path, base: Path, dataset: Path, out: str, **changes: Any) -> TrainingSpec:
    found = resolve_base(str(base), folder)
    return TrainingSpec(
        base_path=found.path,
        base_revision=found.revision,
        engine_model=found.engine_model,
        dataset=str(dataset),
        out=str(folder / out),
        max_rank=16,
        **changes,
    )


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _again(results: dict[str, Any]) -> str:
    again = results.get("again")
    return (
        f'; of these, `ARGS="--only {again.split()[0]} …"` again {again.partition(" ")[2]}' if again else ""
    )


def page(results: dict[str, Any]) -> list[str]:
    """What is written: the machine, the command and the tables."""
    names = ("torch", "transformers", "peft")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    lines = [
        "# A training on CPU cores, beside TRL's",
        "",
        f"`make bench-train{results.get('arguments', '')}`, {results['minutes']:.1f} minutes{_again(results)}. Machine: {machine()}{_company(results)}. {versions}, {TRL[0].replace('==', ' ')} "
        f"with the same ones; {default_threads()} thread. The starter model, LoRA of rank {16} on every linear layer but the head, 16 rows "
        "a step, AdamW at one rate, one pass over the same token ids, loss on the answers' tokens.",
        "",
        "## Speed and result",
        "",
        "| rows | who | steps | tokens per CPU second | against | tokens per second | against | validation loss, mean (lowest to highest) | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, contenders in CONTENDERS.items():
        found = {
            who: [r for r in results["speed"] if (r["rows"], r["who"]) == (kind, who)] for who in contenders
        }
        ours = found["ours"]
        for who, runs in found.items():
            cells = [f"| {kind} | {who} | {median(run['steps'] for run in runs):.0f} "]
            for clock in ("cpu", "wall"):
                cells.append(f"| {_rate(runs, clock):,.0f} ")
                ratios = [
                    (a["tokens"] / a[clock]) / (b["tokens"] / b[clock])
                    for a, b in zip(ours, runs, strict=True)
                ]
                cells.append(
                    "| "
                    if who == "ours"
                    else f"| ours {median(ratios):.2f}× ({min(ratios):.2f} to {max(ratios):.2f}) "
                )
            after = [run["after"] for run in runs]
            cells.append(
                f"| {fmean(after):.4f} ({min(after):.4f} to {max(after):.4f}), before {runs[0]['before']:.4f} "
            )
            cells.append(f"| {median(run['peak_bytes'] for run in runs) / 1e6:,.0f} MB |")
            lines.append("".join(cells))
    lines += [
        "",
        f"Turns: {len(results['speed']) // sum(map(len, CONTENDERS.values()))}, each with another seed; medians, and ratios of runs of one turn. "
        f"`equal`: {ROWS} rows of {LENGTH} tokens. `mixed`: {ROWS} conversations of one to twelve questions; ours groups like lengths, TRL "
        f"either groups them too or packs them into rows of 512 tokens. Tokens are those of the rows, without padding; the first 3 steps are not timed. "
        f"Loss: nats per answer token on {HELD_OUT} held-out rows, by one function for all.",
        "",
        "## From the start of the process to the end of its first step",
        "",
        "| who | CPU seconds | wall seconds |",
        "|---|---|---|",
        f"| `train()` of the starter: 1,000 rows encoded, base looked at on 100 | {_span(results['start'], 'cpu')} | {_span(results['start'], 'wall')} |",
    ]
    trl = [run for run in results["speed"] if run["who"] == "trl"]
    lines += [
        f"| `SFTTrainer`, {ROWS} rows that were encoded before | {_span(trl, 'first_step_cpu')} | {_span(trl, 'first_step_wall')} |",
        "",
        *serving_table(results["serving"]),
        "## Memory of examples",
        "",
        "| method | examples | memory beyond process and base | bytes an example | the whole process, after its first steps | CPU seconds to read and encode |",
        "|---|---|---|---|---|---|",
    ]
    for run in sorted(
        results["memory"], key=lambda run: (run["method"] != "sft", run["method"], run["examples"])
    ):
        each = run["bytes"] / run["examples"] if run["examples"] > 1000 else None
        lines.append(
            f"| {run['method']} | {run['examples']:,} | {run['bytes'] / 1e6:.1f} MB | {'' if each is None else f'{each:.0f}'} | {run['peak_bytes'] / 1e6:,.0f} MB | {run['cpu']:.1f} |"
        )
    lines += [
        "",
        "For `dpo` and `kto` each example has a pair, so twice as many answers are encoded again.",
        "",
        "## Estimates before, and what was measured",
        "",
        "| architecture | memory estimated | measured | error | seconds estimated, no training yet | measured | error | seconds estimated, after the first | measured | error |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(run["architecture"] for run in results["estimates"]):
        first, second = (run for run in results["estimates"] if run["architecture"] == name)
        cells = [
            name,
            f"{second['memory_estimate'] / 1e6:,.0f} MB",
            f"{second['memory'] / 1e6:,.0f} MB",
            f"{second['memory_error']:+.0%}",
        ]
        for run in (first, second):
            cells += [f"{run['seconds_estimate']:.1f}", f"{run['seconds']:.1f}", f"{run['time_error']:+.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "Random weights: 3 layers of 256, vocabulary 2,048, 96 conversations of up to ten questions, one epoch. Before a model was ever "
        "trained its time rests on a moment's trial of the cores; from then on, on the training before.",
    ]


def _company(results: dict[str, Any]) -> str:
    others = results["others"]
    return "" if others < 0.1 else f" (other programs took {others:.0%} of it meanwhile)"


def _rate(runs: Sequence[dict[str, Any]], clock: str) -> float:
    return float(median(run["tokens"] / run[clock] for run in runs))


def _span(runs: Sequence[dict[str, Any]], name: str) -> str:
    found = [run[name] for run in runs]
    return f"{median(found):.1f} ({min(found):.1f} to {max(found):.1f})" if found else ""


class _Others:
    """Share of the machine's CPU time that went to other programs than this one and its children."""

    def __init__(self) -> None:
        self._begun, self._ours = self._busy(), self._mine()
        self._at = time.monotonic()

    def share(self) -> float:
        mine = self._mine() - self._ours
        all_of_it = (time.monotonic() - self._at) * (os.cpu_count() or 1)
        return max(0.0, (self._busy() - self._begun - mine) / all_of_it)

    @staticmethod
    def _busy() -> float:
        import psutil

        times = psutil.cpu_times()
        return float(times.user + times.nice + times.system)

    @staticmethod
    def _mine() -> float:
        own = resource.getrusage(resource.RUSAGE_SELF)
        return own.ru_utime + own.ru_stime + _cpu_of_children()


def main(arguments: Sequence[str] | None = None, show: Callable[[str], None] = print) -> None:
    """`--output FILE.md` writes the page, and the single results as JSON beside it; `--quick` only tries everything once."""
    parser = argparse.ArgumentParser(prog="make bench-train", description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--quick", action="store_true", help="one turn, 1,000 examples, two architectures; only shown"
    )
    parser.add_argument("--only", choices=PARTS, help="this part, the others as they stand beside --output")
    chosen = parser.parse_args(arguments)
    began, others = time.monotonic(), _Others()
    quick = chosen.quick
    results: dict[str, Any] = {"arguments": " ARGS=--quick" if quick else ""}
    if chosen.only:
        results = json.loads(chosen.output.with_suffix(".json").read_bytes())
        results["again"] = f"{chosen.only} on {datetime.now(UTC):%Y-%m-%d}"
    peers.FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=peers.FOLDER) as name:
        folder = Path(name)
        few = dict(list(FAMILIES.items())[2:4])
        parts: dict[str, Callable[[], Any]] = {
            "serving": lambda: serving(folder / "serving", *((1, 5.0) if quick else ())),
            "start": lambda: starts(folder, 1 if quick else 5),
            "speed": lambda: speeds(folder, 1 if quick else 3),
            "estimates": lambda: estimates(folder, few if quick else FAMILIES),
            "memory": lambda: memories(folder, dict.fromkeys(SCALES, (1000,)) if quick else SCALES),
        }
        for part in [chosen.only] if chosen.only else PARTS:
            results[part] = parts[part]()
    if not chosen.only:
        results["minutes"], results["others"] = (time.monotonic() - began) / 60, others.share()
    results["machine"] = machine()
    lines = page(results)
    for line in lines:
        show(line)
    if chosen.output:
        chosen.output.write_text("\n".join(lines) + "\n")
        chosen.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
