"""Turns a training row into token ids and labels: loss on the tokens of the row's answer and on nothing else.

The conversation goes through the base's own chat template, as the engine renders it when it serves. Assistant turns
before the answer are context: they are what a model once said, not what it should have said, so they carry no loss.
The module knows tokenizers only by what they do; it imports neither torch nor transformers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from feedback.datasets.tool_calls import Tools, turn_of, with_objects
from feedback.errors import DataRefusedError
from trainer.examples import IGNORED, Encoded, Numbers, StoredExamples

TOO_LONG = "longer than the context"
WEIGHTLESS = "of no weight"
TEMPLATE = "not maskable through the chat template"
NO_TOOLS = "with tools, which the chat template does not render"

_HEAVIEST = 1e6
"""Largest weight of an example: sums of weighted losses stay finite."""
_PROBE_WORDS = ("starloop_probe", "probe_argument", "probe_value", "probe_returned")
_PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "starloop_probe",
        "description": "Looks something up.",
        "parameters": {"type": "object", "properties": {"probe_argument": {"type": "string"}}},
    },
}
_PROBE_CALL = {"name": "starloop_probe", "arguments": {"probe_argument": "probe_value"}}
_PROBE: list[dict[str, Any]] = [
    {"role": "user", "content": "Look it up."},
    {
        "role": "assistant",
        "content": "",
        # Nine letters and digits: some templates insist on it.
        "tool_calls": [{"id": "call00001", "type": "function", "function": _PROBE_CALL}],
    },
    {"role": "tool", "tool_call_id": "call00001", "name": "starloop_probe", "content": "probe_returned"},
]

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(slots=True)
class EncodedRows:
    """A split ready to train on, and how many rows were left out for which reason."""

    examples: StoredExamples = field(default_factory=StoredExamples)
    rows: Numbers = field(default_factory=Numbers)
    """Which of its split's rows, from 0, each example is of."""
    left_out: Counter[str] = field(default_factory=Counter)
    problem: str = ""
    """The first row that was left out, in words."""

    @property
    def trained_share(self) -> float:
        """Share of all tokens that carry loss."""
        tokens = self.examples.lengths.total
        return self.examples.trained / tokens if tokens else 0.0


class UnusableRowError(Exception):
    """One row that cannot be trained on as it is."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Encoder:
    """A tokenizer with its chat template, the longest context and the tokens that end a turn."""

    def __init__(self, tokenizer: Any, limit: int, end_tokens: Iterable[int]) -> None:
        if not tokenizer.chat_template:
            raise DataRefusedError(
                "the base model has no chat template, so its answers cannot be told from its prompts; "
                "use a chat (instruct) model, or add chat_template.jinja to the base's directory"
            )
        self._tokenizer = tokenizer
        self.limit = limit
        self._end_tokens = frozenset(end_tokens)
        self._marked = bool(_MARKER.search(tokenizer.chat_template))

    def encode_rows(
        self, rows: Iterable[Mapping[str, Any]], folder: Path | None = None, watching: bool = False
    ) -> EncodedRows:
        """Encode a split into a file in `folder`. A row that does not fit or cannot be masked is counted and left out, never cut.

        Raises `DataRefusedError` when no row is left, with the first row's problem, unless they only watch a training.
        """
        result = EncodedRows(StoredExamples(folder), Numbers(folder))
        for number, row in enumerate(rows):
            try:
                result.examples.append(self.encode(row))
                result.rows.append(number)
            except UnusableRowError as error:
                result.left_out[error.reason] += 1
                result.problem = result.problem or f"example {row.get('id')}: {error}"
        if not result.examples and result.left_out and not watching:
            raise DataRefusedError(
                f"none of {result.left_out.total()} examples can be trained on; {result.problem}"
            )
        return result

    def encode(self, row: Mapping[str, Any]) -> Encoded:
        """One row. Raises `UnusableRowError` for what cannot be trained on, `DataRefusedError` for a weight that is no number."""
        weight = row.get("weight", 1.0)
        if not isinstance(weight, int | float) or not math.isfinite(weight) or not 0 <= weight <= _HEAVIEST:
            raise DataRefusedError(
                f"example {row.get('id')}: its weight is {weight!r}, and must be a number from 0 to {_HEAVIEST:,.0f}; the "
                "file was changed after it was frozen"
            )
        if weight < 1 / _HEAVIEST:  # its share of a step's loss would be lost in rounding
            raise UnusableRowError(WEIGHTLESS, "its weight is 0: nobody who stands for it is believed")
        tools = row.get("tools") or None
        if tools and not self.renders_tools:
            raise UnusableRowError(
                NO_TOOLS,
                "it has tools, and the base's chat template leaves out tools, calls or what they return; use a base whose "
                "template renders them",
            )
        if "answer" not in row:
            raise DataRefusedError(
                f"example {row.get('id')}: it has no answer; the file was changed after it was frozen"
            )
        answer = row["answer"]
        (turn,) = with_objects([answer if isinstance(answer, dict) else turn_of(answer, tools)])
        prompt, mark = with_objects(row["messages"]), self._marked
        tokens, mask = (self._marked_turn if mark else self._last_turn)(prompt, turn, tools)
        if len(tokens) > self.limit:
            raise UnusableRowError(
                TOO_LONG,
                f"it has {len(tokens)} tokens, and {self.limit} is the lower of the base's context and [training] max_tokens; shorten "
                "it, or raise max_tokens where the base's context allows",
            )
        _close(tokens, mask, self._end_tokens)
        labels = [token if on else IGNORED for token, on in zip(tokens, mask, strict=True)]
        return Encoded(
            id=str(row.get("id", "")),
            tokens=tokens,
            labels=labels,
            weight=float(weight),
            new=bool(row.get("new", False)),
        )

    @cached_property
    def renders_tools(self) -> bool:
        """Whether the chat template writes tools, calls and what they return: asked by rendering one of each."""
        try:
            text = self._tokenizer.apply_chat_template(_PROBE, tools=[_PROBE_TOOL], tokenize=False)
        except Exception:  # a template is a program: it may raise anything
            return False
        return all(word in text for word in _PROBE_WORDS)

    def _marked_turn(
        self, prompt: Sequence[Mapping[str, Any]], turn: Mapping[str, Any], tools: Tools
    ) -> tuple[list[int], list[bool]]:
        """Mask from the template's `{% generation %}` blocks, less those of the turns before the answer."""
        tokens, mask = self._render([*prompt, turn], tools)
        if any(message.get("role") == "assistant" for message in prompt):
            earlier = sum(self._render(prompt, tools)[1])
            for index, on in enumerate(mask):
                if not earlier:
                    break
                if on:
                    mask[index] = False
                    earlier -= 1
        return tokens, mask

    def _last_turn(
        self, prompt: Sequence[Mapping[str, Any]], turn: Mapping[str, Any], tools: Tools
    ) -> tuple[list[int], list[bool]]:
        """Mask of what follows the prompt that the engine would send, for a template without markers."""
        whole = self._apply([*prompt, turn], tools=tools)["input_ids"]
        start = self._apply(prompt, tools=tools, add_generation_prompt=True)["input_ids"]
        if whole[: len(start)] != start:
            raise UnusableRowError(
                TEMPLATE,
                "the base's chat template renders a prompt differently once the answer follows, so the answer's tokens "
                "cannot be found; put {% generation %} … {% endgeneration %} around the assistant's turn in the template",
            )
        return whole, [index >= len(start) for index in range(len(whole))]

    def _render(self, messages: Sequence[Mapping[str, Any]], tools: Tools) -> tuple[list[int], list[bool]]:
        out = self._apply(messages, tools=tools, return_assistant_tokens_mask=True)
        return out["input_ids"], [bool(on) for on in out["assistant_masks"]]

    def _apply(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Tools, **options: bool
    ) -> dict[str, list[int]]:
        if tools:  # a tokenizer with a template of its own kind need not know of tools
            options = {**options, "tools": tools}  # type: ignore[dict-item]
        try:
            out = self._tokenizer.apply_chat_template(
                list(messages), tokenize=True, return_dict=True, **options
            )
        except Exception as error:  # a template is a program: it may raise anything
            raise UnusableRowError(TEMPLATE, f"the base's chat template refuses it: {error}") from error
        return {name: list(out[name]) for name in out}


def _close(tokens: Sequence[int], mask: list[bool], end_tokens: frozenset[int]) -> None:
    """Make sure that the mask holds the token that ends the turn: a model learns to stop only from that one."""
    last = next((index for index in range(len(mask) - 1, -1, -1) if mask[index]), None)
    if last is None:
        raise UnusableRowError(
            TEMPLATE, "the base's chat template renders no assistant turn, so there is no token to learn from"
        )
    if any(token in end_tokens for token, on in zip(tokens, mask, strict=True) if on):
        return
    if last + 1 < len(tokens) and tokens[last + 1] in end_tokens:
        mask[last + 1] = True
        return
    raise UnusableRowError(
        TEMPLATE,
        "the base's chat template writes no end-of-turn token after the answer, so a model trained on it would never stop",
    )
