"""Loss stands on the answer's tokens and on nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from feedback.errors import DataRefusedError
from tests.trainer.tiny import ENDLESS, MARKED, MUTE, PLAIN, SHIFTING, row, tokenizer
from trainer.examples import IGNORED, Encoded
from trainer.tokens import NO_TOOLS, TEMPLATE, TOO_LONG, Encoder

OUTSIDE = MARKED.replace("<|end|>{% endgeneration %}", "{% endgeneration %}<|end|>")
GRUMPY = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}" + MARKED
)


def encoder(template: str | None = MARKED, limit: int = 128) -> Encoder:
    words = tokenizer(template)
    return Encoder(words, limit, [words.eos_token_id])


def encode(template: str, *rows: dict[str, Any], limit: int = 128) -> list[Encoded]:
    return encoder(template, limit).encode_rows(rows).examples


def learned(example: Encoded) -> str:
    """What carries loss, as text."""
    text = tokenizer().decode([label for label in example.labels if label != IGNORED])
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize(
    "template", [MARKED, PLAIN, OUTSIDE], ids=["marked", "plain", "end outside the mark"]
)
def test_loss_stands_on_the_answer_and_the_token_that_ends_it(template: str) -> None:
    (example,) = encode(template, row(4, answer="amber"))
    assert learned(example) == "amber<|end|>"
    assert all(label in (token, IGNORED) for token, label in zip(example.tokens, example.labels, strict=True))
    assert example.trained == sum(label != IGNORED for label in example.labels) < len(example.tokens)


@pytest.mark.parametrize("template", [MARKED, PLAIN])
def test_what_comes_before_the_answer_is_what_the_engine_will_send(template: str) -> None:
    (example,) = encode(template, row(7))
    start = next(index for index, label in enumerate(example.labels) if label != IGNORED)
    asked = tokenizer(template).apply_chat_template(
        row(7)["messages"], add_generation_prompt=True, return_dict=True
    )
    assert example.tokens[:start] == asked["input_ids"]


@pytest.mark.parametrize("template", [MARKED, PLAIN])
def test_earlier_answers_are_context_and_carry_no_loss(template: str) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "the plum?"},
        {"role": "assistant", "content": "a wrong answer"},
        {"role": "user", "content": "no, the fig?"},
        {"role": "assistant", "content": "green"},
        {"role": "user", "content": "and the plum now?"},
    ]
    (example,) = encode(template, row(1, messages=messages, answer="green"))
    assert learned(example) == "green<|end|>"
    assert example.labels[-3:] != [IGNORED] * 3, "the last turn, not an earlier one with the same words"


def test_an_answer_may_be_a_whole_message() -> None:
    (example,) = encode(MARKED, row(1, answer={"role": "assistant", "content": "blue"}))
    assert learned(example) == "blue<|end|>"


def test_a_row_keeps_its_id_its_weight_and_whether_it_is_new() -> None:
    (example,) = encode(MARKED, row(3, weight=2.5, new=True))
    assert (example.id, example.weight, example.new) == ("example-3", 2.5, True)


def test_a_row_longer_than_the_context_is_counted_and_left_out_never_cut() -> None:
    long = row(1, messages=[{"role": "user", "content": "the plum is red " * 20}])
    rows = encoder(MARKED, 60).encode_rows([row(0), long, row(2)])
    assert [example.id for example in rows.examples] == ["example-0", "example-2"]
    assert rows.left_out == {TOO_LONG: 1}
    assert (
        "example-1" in rows.problem
        and "60 is the lower of the base's context and [training] max_tokens" in rows.problem
    )


def test_a_row_that_just_fits_is_kept_whole() -> None:
    (example,) = encode(MARKED, row(1))
    length = len(example.tokens)
    assert list(encode(MARKED, row(1), limit=length)) == [example]
    with pytest.raises(DataRefusedError, match="none of 1 examples can be trained on"):
        encode(MARKED, row(1), limit=length - 1)


def test_a_template_that_refuses_some_rows_costs_only_those() -> None:
    system = row(1, messages=[{"role": "system", "content": "hm"}, *row(1)["messages"]])
    rows = encoder(GRUMPY).encode_rows([system, row(2)])
    assert [example.id for example in rows.examples] == ["example-2"]
    assert rows.left_out == {TEMPLATE: 1} and "no system turns here" in rows.problem


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (ENDLESS, "writes no end-of-turn token after the answer"),
        (SHIFTING, "renders a prompt differently once the answer follows"),
        (MUTE, "no assistant turn|no end-of-turn token"),
    ],
)
def test_a_template_that_cannot_be_masked_is_refused_with_the_first_rows_problem(
    template: str, problem: str
) -> None:
    with pytest.raises(
        DataRefusedError, match=f"none of 2 examples can be trained on; example example-5.*({problem})"
    ):
        encode(template, row(5), row(6))


def test_a_base_without_a_chat_template_is_refused_with_what_to_do() -> None:
    with pytest.raises(DataRefusedError, match=r"no chat template.*chat_template\.jinja"):
        encoder(None)


def test_the_share_of_tokens_that_carry_loss_is_counted_over_all_rows() -> None:
    rows = encoder().encode_rows([row(0), row(1)])
    tokens = sum(len(example.tokens) for example in rows.examples)
    assert rows.trained_share == pytest.approx(sum(example.trained for example in rows.examples) / tokens)
    assert encoder().encode_rows([]).trained_share == 0.0


TOOLED = (
    "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{% for message in messages %}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% for call in message.tool_calls or [] %}"
    "{{ call.function.name }}{% for value in call.function.arguments.values() %} {{ value }}{% endfor %}{% endfor %}"
    "<|end|>{% endgeneration %}{% else %}{{ message.content }}<|end|>{% endif %}{% endfor %}"
)
TOOLS = [{"type": "function", "function": {"name": "plum", "parameters": {"type": "object"}}}]
CALLS = [
    {"id": "1", "type": "function", "function": {"name": "plum", "arguments": json.dumps({"is": "amber"})}}
]


def test_a_call_of_a_tool_carries_loss_and_an_earlier_one_does_not() -> None:
    asked = row(4)["messages"]
    returned = {"role": "tool", "tool_call_id": "1", "content": "green"}
    called = row(4, messages=asked, answer=json.dumps(CALLS), tools=TOOLS)
    earlier = [*asked, {"role": "assistant", "content": "", "tool_calls": CALLS}, returned]
    after = row(4, messages=earlier, answer="green", tools=TOOLS)
    first, second = encode(TOOLED, called, after, limit=4096)
    assert (learned(first), learned(second)) == ("plum amber<|end|>", "green<|end|>")
    (without,) = encode(TOOLED, row(4, messages=asked, answer="green"), limit=4096)
    assert len(without.tokens) < len(second.tokens), "tools, call and return are rendered"


@pytest.mark.parametrize("template", [MARKED, PLAIN])
def test_rows_with_tools_are_left_out_where_the_template_knows_none(template: str) -> None:
    rows = encoder(template).encode_rows([row(4, answer="amber"), row(5, answer="amber", tools=TOOLS)])
    assert len(rows.examples) == 1 and rows.left_out == {NO_TOOLS: 1}
    assert "use a base whose template renders them" in rows.problem
