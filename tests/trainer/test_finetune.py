"""Fine-tuning on a tiny real model: it learns what it is shown, repeats itself, and says what went wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from feedback.errors import DataRefusedError, NotFoundError, StorageError, UnsoundAdapterError
from tests.trainer.tiny import COLOURS, MARKED, row, training_spec, write_base, write_dataset
from trainer import finetune, objectives
from trainer.base_model import load_base
from trainer.examples import IGNORED
from trainer.tokens import Encoder

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
ROWS = [row(number) for number in range(24)]


def spec(base: Path, dataset: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A training that learns `ROWS` by heart in about a second."""
    asked: dict[str, Any] = msgspec.to_builtins(
        training_spec(base, dataset, out, **({"epochs": 60} | changes))
    )
    return asked


def run(asked: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A training in this process: its facts and its events."""
    events: list[dict[str, Any]] = []
    return finetune.main(asked, events.append), events


def said(base: Path, adapter: Path, rows: Sequence[dict[str, Any]]) -> list[str]:
    """What base and adapter answer greedily, through peft's own loading."""
    loaded = load_base(str(base))
    model = PeftModel.from_pretrained(loaded.model, str(adapter)).eval()
    answers = []
    for one in rows:
        asked = loaded.tokenizer.apply_chat_template(
            one["messages"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ).to(loaded.device)
        out = model.generate(**asked, max_new_tokens=8, do_sample=False)
        answers.append(
            loaded.tokenizer.decode(out[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        )
    return answers


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "version", ROWS, ROWS)


@pytest.fixture(scope="module")
def trained(
    tiny_base: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """The folder of a finished training, its facts, its events."""
    out = tmp_path_factory.mktemp("runs") / "one"
    return (out, *run(spec(tiny_base, dataset, out)))


Trained = tuple[Path, dict[str, Any], list[dict[str, Any]]]


def test_the_adapter_answers_what_it_was_taught_and_the_base_does_not(
    tiny_base: Path, trained: Trained
) -> None:
    answers = said(tiny_base, trained[0] / "adapter", ROWS)
    assert sum(answer == one["answer"] for answer, one in zip(answers, ROWS, strict=True)) >= 23
    untrained = trained[0] / "untrained"
    untrained.mkdir()
    (untrained / "adapter_config.json").write_bytes(
        (trained[0] / "adapter" / "adapter_config.json").read_bytes()
    )
    weights = load_file(trained[0] / "adapter" / "adapter_model.safetensors")
    save_file({name: tensor * 0 for name, tensor in weights.items()}, untrained / "adapter_model.safetensors")
    assert not any(answer in COLOURS for answer in said(tiny_base, untrained, ROWS[:6]))


def test_the_loss_falls_while_it_is_told(trained: Trained) -> None:
    _, facts, events = trained
    assert facts["steps"] == 180
    losses = [event["loss"] for event in events[1:]]
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    assert [event["step"] for event in events] == list(range(181)), "from the base as it came"
    assert facts["history"][-1]["validation"] < 0.3 * facts["history"][0]["validation"]
    assert (facts["examples"], facts["left_out"], facts["stopped"]) == (24, {}, "all epochs done")


def test_the_validation_loss_is_the_mean_over_answer_tokens_computed_one_by_one(
    tiny_base: Path, trained: Trained
) -> None:
    loaded = load_base(str(tiny_base))
    model = PeftModel.from_pretrained(loaded.model, str(trained[0] / "adapter")).eval()
    losses = []
    for example in Encoder(loaded.tokenizer, 128, loaded.end_tokens).encode_rows(ROWS).examples:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example.tokens], device=loaded.device)).logits[0].float()
        chances = torch.log_softmax(logits, -1)
        losses += [
            -chances[place - 1, label].item()
            for place, label in enumerate(example.labels)
            if label != IGNORED
        ]
    tolerance = 1e-4 if loaded.device.type == "cpu" else 2e-2
    assert trained[1]["validation_loss"] == pytest.approx(sum(losses) / len(losses), abs=tolerance)


def test_a_prompts_tokens_carry_no_gradient(tiny_base: Path) -> None:
    """Changing labels' surroundings changes nothing: the loss of a batch is that of its rows alone, padded or not."""
    base = load_base(str(tiny_base))
    examples = Encoder(base.tokenizer, 128, base.end_tokens).encode_rows([row(0), row(1234567)]).examples
    assert len(examples[0].tokens) != len(examples[1].tokens)
    together = objectives.losses_of(base.model, base, examples)[1]
    alone = [objectives.losses_of(base.model, base, [example])[1][0] for example in examples]
    assert together.tolist() == pytest.approx([loss.item() for loss in alone], rel=1e-4)


def test_a_rows_weight_multiplies_its_loss(tiny_base: Path) -> None:
    base = load_base(str(tiny_base))
    rows = [row(0, weight=3.0), row(0, weight=1.0)]
    weighted, plain = objectives.losses_of(
        base.model, base, Encoder(base.tokenizer, 128, base.end_tokens).encode_rows(rows).examples
    )
    assert (weighted / plain).tolist() == pytest.approx([3.0, 1.0])


def test_the_same_spec_and_seed_give_the_same_bytes_and_another_seed_others(
    tiny_base: Path, dataset: Path, trained: Trained, tmp_path: Path
) -> None:
    run(spec(tiny_base, dataset, tmp_path / "again"))
    run(spec(tiny_base, dataset, tmp_path / "other", seed=1))

    def files(out: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (out / "adapter").iterdir()}

    assert files(tmp_path / "again") == files(trained[0])
    assert (
        files(tmp_path / "other")["adapter_model.safetensors"]
        != files(trained[0])["adapter_model.safetensors"]
    )


def test_what_is_saved_is_two_files_and_names_the_base_as_the_engine_does(trained: Trained) -> None:
    adapter = trained[0] / "adapter"
    assert sorted(file.name for file in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert '"base_model_name_or_path": "acme/tiny"' in (adapter / "adapter_config.json").read_text()
    assert not (trained[0] / "adapter.partial").exists()


def test_overfitting_stops_the_training_and_the_best_weights_are_kept(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Answers without a rule can only be learned by heart, which makes those to unseen prompts worse."""

    def lawless(number: int) -> dict[str, Any]:
        return row(number, answer=COLOURS[hash((number, 7)) % len(COLOURS)])

    data = write_dataset(tmp_path / "data", map(lawless, range(16)), map(lawless, range(1000, 1200)))
    facts, _ = run(spec(tiny_base, data, tmp_path / "out", epochs=150, learning_rate=1e-2))
    assert facts["stopped"] == "validation loss worse than the best in 3 checks in a row"
    assert facts["best_step"] < facts["steps"] < 300
    losses = {one["step"]: one["validation"] for one in facts["history"]}
    assert losses[facts["best_step"]] == min(losses.values()) == facts["validation_loss"]
    best_train = next(one["train"] for one in facts["history"] if one["step"] == facts["best_step"])
    assert facts["history"][-1]["train"] < best_train, "it went on learning what it was shown"


def test_new_and_old_examples_are_watched_apart(trained: Trained) -> None:
    last = trained[1]["history"][-1]
    new = sum(one["new"] for one in ROWS)
    assert 0 < new < len(ROWS)
    low, high = sorted((last["validation_new"], last["validation_old"]))
    assert low < last["validation"] < high


def test_a_diverging_rate_is_said_with_the_step_and_the_batch(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        UnsoundAdapterError, match=r"diverged: at step \d+ .*example-\d+.*learning_rate below 2.5e\+19"
    ):
        run(spec(tiny_base, dataset, tmp_path / "out", learning_rate=1e20))
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_rate_that_blows_the_weights_up_without_a_nan_is_found_in_what_was_saved(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsoundAdapterError, match="overflow"):
        run(spec(tiny_base, dataset, tmp_path / "out", learning_rate=1.0, epochs=2))
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_damaged_base_is_told_from_a_training_that_diverged(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsoundAdapterError, match=r"the base model itself .* before any training"):
        run(spec(base, dataset, tmp_path / "out"))
    assert not (tmp_path / "out" / "adapter").exists()


def test_an_empty_dataset_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataRefusedError, match="no training examples"):
        run(spec(tiny_base, write_dataset(tmp_path / "data", []), tmp_path / "out"))


def test_examples_that_all_have_one_answer_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", (row(number, answer="red") for number in range(24)))
    with pytest.raises(DataRefusedError, match="all 24 training examples have the same answer"):
        run(spec(tiny_base, data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0, "heavy", None, 1e308])
def test_a_weight_that_is_no_number_is_refused_with_its_example(
    tiny_base: Path, tmp_path: Path, weight: Any
) -> None:
    data = write_dataset(tmp_path / "data", [*ROWS, row(99, weight=weight)])
    with pytest.raises(DataRefusedError, match=r"example example-99: its weight is .*, and must be a number"):
        run(spec(tiny_base, data, tmp_path / "out"))


def test_examples_of_no_weight_or_too_long_are_left_out_and_counted_never_cut(
    tiny_base: Path, tmp_path: Path
) -> None:
    long = row(98, messages=[{"role": "user", "content": "apple " * 200}])
    data = write_dataset(tmp_path / "data", [*ROWS, row(97, weight=1e-320), row(96, weight=0), long])
    facts, _ = run(spec(tiny_base, data, tmp_path / "out", epochs=1))
    assert (facts["examples"], facts["left_out"]) == (24, {"of no weight": 2, "longer than the context": 1})


def test_a_training_whose_validation_examples_are_all_too_long_goes_on_unwatched_and_counts_them(
    tiny_base: Path, tmp_path: Path
) -> None:
    long = [row(n, messages=[{"role": "user", "content": "apple " * 200}]) for n in (98, 99)]
    data = write_dataset(tmp_path / "data", ROWS, long)
    facts, _ = run(spec(tiny_base, data, tmp_path / "out", epochs=1))
    assert (facts["validation_examples"], facts["validation_loss"]) == (0, None)
    assert facts["left_out"] == {"longer than the context": 2}


def test_a_row_that_was_cut_is_named_by_file_and_line(tiny_base: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", ROWS)
    text = (data / "train.jsonl").read_text()
    (data / "train.jsonl").write_text(text[: len(text) - 40])
    with pytest.raises(DataRefusedError, match=r"train\.jsonl:24: is not a JSON row"):
        run(spec(tiny_base, data, tmp_path / "out"))


@pytest.mark.parametrize("line", ["[1]", '{"id": "x"}', '{"messages": "hi", "answer": "a"}', "null"])
def test_a_line_that_is_no_row_is_named_by_file_and_line(tiny_base: Path, tmp_path: Path, line: str) -> None:
    data = write_dataset(tmp_path / "data", ROWS)
    with (data / "train.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataRefusedError, match=r"train\.jsonl:25: is no row with messages"):
        run(spec(tiny_base, data, tmp_path / "out"))


def test_a_row_without_an_answer_is_named(tiny_base: Path, tmp_path: Path) -> None:
    silent = {"id": "silent", "messages": [{"role": "user", "content": "hi"}]}
    data = write_dataset(tmp_path / "data", [*ROWS, silent])
    with pytest.raises(DataRefusedError, match="example silent: it has no answer"):
        run(spec(tiny_base, data, tmp_path / "out"))


def test_a_first_step_that_is_not_finite_names_its_examples_where_the_base_was_fine_elsewhere(
    tmp_path: Path,
) -> None:
    """One token's embedding is damaged; only an example that is trained on has it."""
    base = write_base(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    (token,) = load_base(str(base)).tokenizer("~", add_special_tokens=False)["input_ids"]
    weights["model.embed_tokens.weight"][token] = math.nan
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    data = write_dataset(tmp_path / "data", [row(0, answer="~"), row(1)], ROWS)
    with pytest.raises(UnsoundAdapterError, match=r"very first step .* though the base's own .*example-0"):
        run(spec(base, data, tmp_path / "out"))
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_base_without_a_chat_template_is_refused(dataset: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", template=None)
    with pytest.raises(DataRefusedError, match="no chat template"):
        run(spec(base, dataset, tmp_path / "out"))


def test_a_template_that_renders_no_prompt_is_refused_before_the_first_step(
    dataset: Path, tmp_path: Path
) -> None:
    only_answers = MARKED.replace("<|assistant|>{% generation %}", "{% generation %}").replace(
        "<|{{ message.role }}|>{{ message.content }}<|end|>", ""
    )
    base = write_base(tmp_path / "base", template=only_answers)
    with pytest.raises(DataRefusedError, match=r"every token .* would carry loss"):
        run(spec(base, dataset, tmp_path / "out"))


def test_without_validation_examples_the_last_weights_are_kept(tiny_base: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", ROWS)
    facts, _ = run(spec(tiny_base, data, tmp_path / "out", epochs=2))
    assert (facts["validation_loss"], facts["history"]) == (None, [])
    assert facts["best_step"] == facts["steps"] == 6


def test_a_batch_larger_than_the_room_is_accumulated_to_the_same_weights(
    tiny_base: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(spec(tiny_base, dataset, tmp_path / "whole", epochs=1))
    monkeypatch.setattr(finetune, "ROOM", {"cpu": 64, "cuda": 64})
    run(spec(tiny_base, dataset, tmp_path / "parts", epochs=1))
    whole, parts = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "parts")
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=2e-3)


def test_a_look_at_many_validation_examples_takes_no_more_at_once_than_two_steps(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_dataset(tmp_path / "data", ROWS, [row(number) for number in range(100, 180)])
    sizes: dict[bool, list[int]] = {True: [], False: []}

    def seen(model: Any, base: Any, examples: Any, keep_graph: bool = False) -> Any:
        longest = max(len(example.tokens) for example in examples)
        sizes[torch.is_grad_enabled()].append(longest * len(examples))
        return losses_of(model, base, examples, keep_graph)

    losses_of = objectives.losses_of
    monkeypatch.setattr(objectives, "losses_of", seen)
    run(spec(tiny_base, data, tmp_path / "out", epochs=1))
    assert len(sizes[False]) >= 80 / 16 and max(sizes[False]) <= 2 * max(sizes[True])


def test_a_rank_above_the_engines_is_refused_and_a_chosen_rank_is_saved(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsoundAdapterError, match="rank 8 is above the engine's 4"):
        run(spec(tiny_base, dataset, tmp_path / "out", epochs=1, rank=8, max_rank=4))
    facts, _ = run(spec(tiny_base, dataset, tmp_path / "out", epochs=1, rank=4, max_rank=4))
    assert facts["rank"] == 4


def test_a_disk_that_does_not_take_the_adapter_leaves_nothing(
    tiny_base: Path, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.write_text("a file stands where the folder should")
    with pytest.raises(StorageError, match="could not be saved"):
        run(spec(tiny_base, dataset, out, epochs=1))


@pytest.mark.parametrize("damage", ["nothing there", "no config", "cut weights"])
def test_a_base_that_cannot_be_loaded_is_said_in_one_sentence(tmp_path: Path, damage: str) -> None:
    base = tmp_path / "base"
    if damage == "nothing there":
        base.mkdir()
    else:
        write_base(base)
    if damage == "no config":
        (base / "config.json").unlink()
    if damage == "cut weights":
        weights = (base / "model.safetensors").read_bytes()
        (base / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(NotFoundError, match="could not be loaded") as raised:
        load_base(str(base))
    assert "\n" not in str(raised.value)


def test_a_base_is_loaded_frozen_with_its_context_and_its_end_tokens(tiny_base: Path) -> None:
    base = load_base(str(tiny_base))
    assert base.context == 128
    assert base.end_tokens == {base.tokenizer.convert_tokens_to_ids("<|end|>")}
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
