"""How fast a training is taken to go: as an earlier one went, and before there is one by the device."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.settings import Training
from feedback.storage.tables import ModelVersion
from trainer.machine import Gpu, Machine
from trainer.pace import Speed, pace_of, speed_of
from trainer.preflight import Rows, preflight

CPU = Machine(cores=4, memory=1 << 34, free=1 << 33)


def version(number: str, **facts: Any) -> ModelVersion:
    return ModelVersion(
        id=number, model="m", number=number, base="b", base_revision="r", adapter_hash="h", note="", facts=facts,
        created=0.0,
    )  # fmt: skip


def test_the_newest_version_of_the_same_base_and_device_gives_the_speed() -> None:
    versions = [
        version("1.4", base_parameters=7, device="cpu", tokens_per_second=99.0, ray={"job": "starloop-1"}),
        version("1.3"),
        version("1.2", base_parameters=7, device="cuda", tokens_per_second=9.0),
        version("1.1", base_parameters=7, device="cpu", tokens_per_second=5.0, seconds_loading=1.0),
        version("1.0", base_parameters=7, device="cpu", tokens_per_second=1.0),
    ]
    assert speed_of(versions, 7, "cpu") == Speed(5.0, 1.0, "m@1.1")
    assert speed_of(versions, 8, "cpu") is None


def test_what_a_training_takes_besides_its_steps_is_what_it_took() -> None:
    facts = {"base_parameters": 7, "device": "cpu", "tokens_per_second": 5.0, "seconds_loading": 1.0}
    facts |= {"seconds": 30.0, "seconds_training": 24.0}
    assert speed_of([version("1.0", **facts)], 7, "cpu") == Speed(5.0, 6.0, "m@1.0")
    resumed = facts | {"resumed_at": [12]}
    assert speed_of([version("1.0", **resumed)], 7, "cpu") == Speed(5.0, 1.0, "m@1.0")


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
