"""How many tokens a file of training rows has, from a sample of it: an estimate, quick however large the file is."""

from __future__ import annotations

from pathlib import Path

from feedback.checks.cost import TokenCount
from feedback.datasets.tool_calls import answer_text
from feedback.errors import BadInputError
from feedback.imports.reading import Reader, Reading, unpacked
from feedback.imports.rows import Row

_SAMPLED = 1000
_PIECE = 1 << 20


def estimated_tokens(path: Path, name: str, base: Path) -> int | None:
    """Tokens of the rows under the tokenizer in a base's folder, scaled up from the first thousand rows.

    None where the file has no row that could be learned, or the base no `tokenizer.json`.
    """
    if not (base / "tokenizer.json").is_file():
        return None
    counter = TokenCount(base / "tokenizer.json", limit=0)
    reader = Reader(path, name, Reading())
    good = seen = total = 0
    try:
        for row in reader:
            total += 1
            if good < _SAMPLED and isinstance(row, Row):
                good, seen = good + 1, total
                rejected = [] if row.rejected is None else [row.rejected]
                counter.add("\n".join(answer_text(message) for message in [*row.messages, *rejected]))
            elif good == _SAMPLED and reader.in_lines:
                total = _lines(path, name)
                break
    except BadInputError:
        return None
    counted = counter.result()
    return None if counted is None else round(counted.total * total / seen)


def _lines(path: Path, name: str) -> int:
    with unpacked(path, name) as stream:
        return sum(piece.endswith(b"\n") for piece in iter(lambda: stream.readline(_PIECE), b""))
