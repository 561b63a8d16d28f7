"""A training gets the devices and the memory that are its own, and waits where somebody else holds them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from feedback.errors import ConflictError, SettingsError, UnavailableError
from feedback.settings import Training
from feedback.settings_file import load
from trainer.machine import Gpu, Machine
from trainer.on_ray import gpus_of
from trainer.placement import place_on, place_on_ray, require_quantiser, wait_for_room
from trainer.preflight import Memory, Preflight
from trainer.training import Place, TrainingSpec

ENGINES = Gpu("NVIDIA L4", 24 << 30, 1 << 30, "GPU-a1b2")
OURS = Gpu("NVIDIA L4", 24 << 30, 20 << 30, "GPU-c3d4")
MACHINE = Machine(8, 64 << 30, 32 << 30, [ENGINES, OURS])


def wanting(gigabytes: int) -> Preflight:
    return Preflight(
        device="cuda",
        rows=1,
        tokens=1,
        epochs=1,
        memory=Memory(0, gigabytes << 30, 0, 0, 0),
        seconds=1.0,
        cost=None,
        rests_on="nothing",
    )


def test_a_training_sees_the_devices_that_it_is_given() -> None:
    assert MACHINE.limited_to("").gpus == [ENGINES]
    assert MACHINE.limited_to("1").gpus == [OURS]
    assert MACHINE.limited_to("1,0").gpus == [OURS, ENGINES]
    assert MACHINE.limited_to("GPU-c3").gpus == [OURS]
    assert MACHINE.limited_to("cpu").device == "cpu"
    for missing in ("2", "0,7", "GPU-e5"):
        with pytest.raises(ConflictError, match=r"the GPUs here are: 0 \(NVIDIA L4\), 1 \(NVIDIA L4\)"):
            MACHINE.limited_to(missing)


def test_a_gpu_that_is_named_twice_is_refused() -> None:
    for twice in ("0,0", "0,GPU-a1"):
        with pytest.raises(ConflictError, match="names a GPU twice"):
            MACHINE.limited_to(twice)


def test_of_several_gpus_the_fullest_is_waited_for() -> None:
    both = MACHINE.limited_to("1,0")
    assert both.device_free == 1 << 30
    with pytest.raises(UnavailableError, match=r"only 1\.1 GB are free"):
        wait_for_room(wanting(18), both)


def test_main_memory_is_bounded_where_the_cpu_trains() -> None:
    assert place_on(MACHINE.limited_to("1"), Training(devices="1")) == Place("1", 0)
    assert place_on(MACHINE.limited_to("cpu"), Training(devices="cpu")) == Place("cpu", 32 << 30)
    assert place_on(Machine(2, 8 << 30, 4 << 30), Training(memory_limit=1 << 30)) == Place("", 1 << 30)


def test_on_ray_a_training_asks_for_what_is_set_and_nothing_of_this_machine() -> None:
    settings = Training(ray="http://head:8265", devices="0,1", memory_limit=9, quantisation="nf4")
    assert place_on_ray(settings) == Place("0,1", 9, "http://head:8265")
    assert [gpus_of(devices) for devices in ("", "cpu", "0", "0,1")] == [1, 0, 1, 2]
    require_quantiser(settings)  # the node's libraries are not looked for here
    where = dict.fromkeys(("base_path", "base_revision", "engine_model", "dataset", "out"), "x")
    assert [
        TrainingSpec.of(msgspec.structs.replace(settings, threads=threads), **where, max_rank=16).threads
        for threads in (0, 3)
    ] == [1, 3]


def test_ray_is_named_by_its_dashboards_address_and_needs_no_engine_asleep(tmp_path: Path) -> None:
    file = tmp_path / "starloop.toml"
    file.write_text('[training]\nray = "http://head:8265"\n')
    assert load(file, {}).training.ray == "http://head:8265"
    file.write_text('[training]\nray = "ray://head:10001"\n')
    with pytest.raises(SettingsError, match=r"'ray://head:10001' is not an address such as"):
        load(file, {})
    file.write_text('[training]\nray = "http://head:8265"\nwindow = "02:00-05:00"\nengine_asleep = true\n')
    with pytest.raises(SettingsError, match="does not need the engines' memory; set either it or ray"):
        load(file, {})


def test_a_gpu_that_another_process_holds_is_waited_for() -> None:
    wait_for_room(wanting(18), MACHINE.limited_to("1"))
    with pytest.raises(UnavailableError, match=r"19\.3 GB on NVIDIA L4.*only 1\.1 GB are free.*who holds"):
        wait_for_room(wanting(18), MACHINE.limited_to("0"))
    wait_for_room(wanting(18), MACHINE.limited_to("cpu"))


def test_where_it_runs_makes_no_other_training() -> None:
    where = dict.fromkeys(("base_path", "base_revision", "engine_model", "dataset", "out"), "x")
    here = TrainingSpec.of(Training(threads=1), **where, max_rank=16)
    there = TrainingSpec.of(Training(threads=1, devices="1", memory_limit=9), **where, max_rank=16)
    assert here.digest == there.digest


@pytest.mark.parametrize(
    ("devices", "right"),
    [
        ("1", True),
        ("0,1", True),
        ("GPU-a1b2", True),
        ("cpu", True),
        ("cuda:1", False),
        ("1,", False),
        ("-1", False),
    ],
)
def test_devices_are_named_as_cuda_names_them(tmp_path: Path, devices: str, right: bool) -> None:
    file = tmp_path / "starloop.toml"
    file.write_text(f'[training]\ndevices = "{devices}"\n')
    if right:
        assert load(file, {}).training.devices == devices
    else:
        with pytest.raises(SettingsError, match="names no GPUs"):
            load(file, {})
