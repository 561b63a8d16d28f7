"""How fast a training is taken to go: as an earlier one went, and before there is one by the device."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.settings import Training
from feedback.storage.tables import ModelVersion
from trainer.machine import Gpu, Machine
from trainer.pace import Earlier, Kind, Speed, earlier_of, pace_of
from trainer.preflight import Rows, preflight

CPU = Machine(cores=4, memory=1 << 34, free=1 << 33)


def version(number: str, **facts: Any) -> ModelVersion:
    return ModelVersion(
        id=number, model="m", number=number, base="b", base_revision="r", adapter_hash="h", note="", facts=facts,
        created=0.0,
    )  # fmt: skip


HERE = Kind(7, "cpu", threads=3)


def trained(number: str, tokens_per_second: float = 5.0, **facts: Any) -> ModelVersion:
    plain: dict[str, Any] = {"base_parameters": 7, "device": "cpu", "threads": 3, "seconds_loading": 1.0}
    return version(number, **(plain | {"tokens_per_second": tokens_per_second} | facts))


@pytest.mark.parametrize(
    "otherwise",
    [
        {"base_parameters": 8},
        {"device": "cuda", "gpu": "NVIDIA L4"},
        {"threads": 1},
        {"quantisation": "nf4"},
        {"gradient_checkpointing": True},
        {"method": "kto"},
        {"ray": {"address": "http://head:8265"}},
        {"tokens_per_second": 0.0},
    ],
)
def test_a_training_that_was_otherwise_says_nothing_of_the_speed(otherwise: dict[str, Any]) -> None:
    versions = [trained("1.1", **otherwise), trained("1.0", 2.0)]
    assert earlier_of(versions, HERE).speed == Speed(2.0, 1.0, "m@1.0")
    assert earlier_of(versions[:1], HERE).speed is None


def test_of_trainings_that_were_alike_the_median_of_the_newest_five_counts() -> None:
    speeds = [9.0, 3.0, 4.0, 50.0, 5.0, 1000.0, 1000.0]
    versions = [trained(f"1.{9 - n}", each) for n, each in enumerate(speeds)]
    assert earlier_of([version("2.0"), *versions], HERE).speed == Speed(5.0, 1.0, "m@1.9", 5)
    told = preflight(
        None, 7, Rows(10, 1000, 20, 0.5), Training(epochs=1), "cpu", "sft", earlier_of(versions, HERE)
    )
    assert told.rests_on == "5 tokens/s as with m@1.9, the median of 5 trainings"


def test_one_slow_start_moves_the_estimate_little() -> None:
    """The same training takes a quarter more one time than the other: one such run is no estimate of the next."""
    seconds = [(11.1, 8.0), (9.0, 6.1), (9.2, 6.3)]
    versions = [
        trained(f"1.{n}", 6000 / steps, seconds=whole, seconds_training=steps)
        for n, (whole, steps) in enumerate(seconds)
    ]
    for newest in range(3):
        found = earlier_of(versions[newest:] + versions[:newest], HERE).speed
        assert found is not None
        assert found.seconds_beside + 6000 / found.tokens_per_second == pytest.approx(9.2, rel=0.01)


def test_gpus_are_alike_by_their_name_whatever_their_cores_do() -> None:
    machine = Machine(4, 1 << 34, 1 << 33, [Gpu("NVIDIA L4", 1 << 34, 1 << 34)])
    kind = Kind.of(7, machine, Training(threads=2), "sft")
    assert kind == Kind(7, "cuda", "NVIDIA L4")
    other = trained("1.1", device="cuda", gpu="NVIDIA H200")
    same = trained("1.0", 6.0, device="cuda", gpu="NVIDIA L4", threads=9, processes=2)
    assert earlier_of([other, same], kind).speed == Speed(3.0, 1.0, "m@1.0")


def test_where_none_was_alike_the_estimate_says_what_was_otherwise() -> None:
    kind = Kind.of(7, CPU, Training(), "kto")
    assert kind == Kind(7, "cpu", threads=3, method="kto")
    earlier = earlier_of([version("1.2"), trained("1.1", threads=1), trained("1.0")], kind)
    assert earlier == Earlier(None, "m@1.1 was trained otherwise: threads 1, method sft")
    told = preflight(None, 7, Rows(10, 1000, 20, 0.5), Training(), "cpu", "kto", earlier).told()
    assert "the first training will tell (m@1.1 was trained otherwise: threads 1, method sft)" in told


def test_tokens_are_counted_as_they_turned_out_to_be_in_the_training_before() -> None:
    facts = {"tokens_per_epoch": 900, "estimate": {"tokens": 1000}}
    earlier = earlier_of([trained("1.0", 10.0, **facts)], HERE)
    assert earlier.speed == Speed(10.0, 1.0, "m@1.0", counted=0.9)
    wanted = preflight(None, 7, Rows(10, 1000, 20, 0.5), Training(epochs=2), "cpu", "sft", earlier)
    assert wanted.seconds == pytest.approx(1 + 2 * 90)


def test_what_a_training_takes_besides_its_steps_is_what_it_took() -> None:
    facts = {"seconds": 30.0, "seconds_training": 24.0}
    assert earlier_of([trained("1.0", **facts)], HERE).speed == Speed(5.0, 6.0, "m@1.0")
    resumed = facts | {"resumed_at": [12]}
    assert earlier_of([trained("1.0", **resumed)], HERE).speed == Speed(5.0, 1.0, "m@1.0")


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [("NVIDIA H100 80GB HBM3", 445), ("NVIDIA H100 PCIe", 340), ("NVIDIA L4", 54), ("NVIDIA L40S", 163), ("NVIDIA GH200 480GB", 445),
     ("NVIDIA A100-SXM4-80GB", 140)],
)  # fmt: skip
def test_a_gpu_is_known_by_its_name(name: str, teraflops: float) -> None:
    pace = pace_of(Machine(4, 1 << 34, 1 << 33, [Gpu(name, 1 << 34, 1 << 34)]), Training())
    assert pace is not None and pace.teraflops == pytest.approx(teraflops, rel=0.01) and name in pace.rests_on


def test_a_gpu_that_nobody_knows_has_no_pace_but_the_one_that_is_set() -> None:
    for name in ("Another", "NVIDIA RTX A1000", "NVIDIA RTX A4000", "NVIDIA T400"):
        machine = Machine(4, 1 << 34, 1 << 33, [Gpu(name, 1 << 34, 1 << 34)])
        assert pace_of(machine, Training()) is None
    pace = pace_of(machine, Training(teraflops=50.0))
    assert pace is not None and pace.teraflops == 50.0 and "[training] teraflops" in pace.rests_on


def test_a_cpu_is_tried_for_a_moment_and_the_estimate_says_so() -> None:
    one, two = (pace_of(CPU, Training(threads=threads)) for threads in (1, 2))
    assert one is not None and two is not None
    assert 0.0001 < one.teraflops < 100 and 1.2 < two.teraflops / one.teraflops < 3.3
    wanted = preflight(None, 1_000_000, Rows(10, 1_000_000, 20, 0.5), Training(epochs=1), "cpu", pace=one)
    assert wanted.seconds == pytest.approx(3.5 + 6 / one.teraflops)
    assert wanted.rests_on.endswith("gigaflop/s by a trial of this CPU; the first training will tell")
