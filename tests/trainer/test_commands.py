"""`starloop cycle` and `starloop evaluate` as they are typed, and what the loop's process must never load."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from sqlmodel import select

from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, ModelVersion
from tests.trainer.test_praised_cases import knowing, users_praise
from tests.trainer.world import MODEL, World, talented
from trainer.commands.cycle import cycle
from trainer.commands.evaluate import evaluate
from trainer.commands.propose import propose
from trainer.lease import LoopLease
from trainer.schedule import Loop
from trainer.training import Progress
from trainer.workshop import Workshop

_CONFIGURATION = """\
[storage]
directory = "{directory}"
[[engine]]
base = "{directory}/tiny-base"
[[model]]
name = "assistant"
base = "{directory}/tiny-base"
"""


class Shell:
    """A terminal in a world: commands with its configuration, against its fake server."""

    def __init__(self, world: World, configuration: Path) -> None:
        self.world = world
        self._configuration = configuration

    def run(self, command: click.Command, *arguments: str) -> Result:
        return CliRunner().invoke(command, [*arguments, "--config", str(self._configuration)])

    def json(self, command: click.Command, *arguments: str) -> Any:
        result = self.run(command, *arguments, "--json")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.stderr
        return json.loads(result.stdout)


@pytest.fixture
def shell(sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    world = World(sqlite_database, tmp_path)

    @contextmanager
    def open_workshop(_: Settings, *, existing: bool) -> Iterator[Workshop]:
        yield world.workshop()

    monkeypatch.setattr("trainer.opening.open_workshop", open_workshop)
    configuration = tmp_path / "starloop.toml"
    configuration.write_text(_CONFIGURATION.format(directory=tmp_path), encoding="utf-8")
    return Shell(world, configuration)


def test_a_cycle_runs_here_where_no_loop_does_and_its_reason_is_told(shell: Shell) -> None:
    shell.world.users_correct(120)
    shell.world.people_confirm(50, 50)
    result = shell.run(cycle, "run", "--model", MODEL)
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "promoted assistant@1.0: golden set: 50 fixes and 0 regressions in 100 cases"
    )
    document = shell.json(cycle, "show", _only(shell)["id"])
    assert (document["decision"], document["requested_by"]) == ("promoted", "command line")
    assert document["result"]["gate"]["decision"] == "promoted"
    right = document["comparison"][0]
    assert [right[name] for name in ("suite", "metric", "cases")] == ["golden", "right", 100]
    assert [right[name] for name in ("base", "champion", "challenger", "improvement")] == [0.5, 0.5, 1.0, 0.5]
    assert right["interval"] == document["result"]["gate"]["suites"]["golden"]["interval"]
    assert any(one["metric"] == "similarity" and one["interval"] for one in document["comparison"])
    shown = shell.run(cycle, "show", document["id"]).stdout
    assert "  gate: promoted\n    golden set: 50 fixes" in shown
    heads, first = shown.split("  side by side:\n")[1].splitlines()[:2]
    assert heads.endswith(" 95 %") and "base (champion)" in heads and "1.0 (new)" in heads
    assert re.search(r"golden: right, of 100 +50\.0 % +100\.0 % +\+50\.0 points +\+\d", first)
    assert shown.count("golden set: ") == 1 and shown.endswith("promoted assistant@1.0\n")


def test_a_report_says_that_nothing_was_moved(shell: Shell) -> None:
    shell.world.users_correct(120)
    shell.world.people_confirm(50, 50)
    result = shell.run(cycle, "run", "--model", MODEL, "--mode", "report")
    assert result.stdout.startswith(
        "reported assistant@1.0: nothing was moved; the gate said promoted: golden"
    )
    shown = shell.run(cycle, "show", _only(shell)["id"]).stdout
    assert shown.endswith("reported assistant@1.0: nothing was moved; the gate said promoted\n")
    assert shown.count("golden set: ") == 1


def test_why_a_cycle_was_skipped_is_told_once(shell: Shell) -> None:
    shell.run(cycle, "run", "--model", MODEL)
    document = _only(shell)
    assert document["decision"] == "skipped"
    assert shell.run(cycle, "show", document["id"]).stdout.count(document["reason"]) == 1


def test_a_rejected_challenger_is_exit_status_1_and_a_skipped_cycle_is_0(shell: Shell) -> None:
    assert shell.run(cycle, "run", "--model", MODEL).exit_code == 0
    assert _only(shell)["decision"] == "skipped"
    shell.world.users_correct(120)
    shell.world.learns = lambda _: "nonsense"
    shell.world.people_confirm(50, 50)
    assert shell.run(cycle, "run", "--model", MODEL, "--mode", "propose").exit_code == 1


def test_guards_are_switched_off_by_name_only(shell: Shell) -> None:
    shell.run(cycle, "run", "--model", MODEL, "--without-guard", "raters", "--without-guard", "size")
    assert _only(shell)["guards_off"] == ["raters", "size"]
    assert shell.run(cycle, "run", "--model", MODEL, "--without-guard", "everything").exit_code == 2


def test_an_unknown_model_is_refused_and_nothing_is_queued(shell: Shell) -> None:
    result = shell.run(cycle, "run", "--model", "nobody")
    assert result.exit_code == 1
    assert "there is no [[model]] 'nobody' in the configuration; it has: assistant" in result.stderr
    assert "it has: assistant" in shell.run(evaluate, "--model", "nobody", "--versions", "base").stderr
    assert shell.json(cycle, "list") == {"items": [], "next_cursor": None}
    listed = shell.run(cycle, "list", "--model", "nobody")
    assert listed.exit_code == 1
    assert "there is no model 'nobody'; there are: assistant" in listed.stderr


def test_an_interrupted_cycle_is_gone_on_with_rather_than_run_anew(shell: Shell) -> None:
    world = shell.world
    interrupted = world.request()
    record = world.record(interrupted)
    record.begin("triage")
    LoopLease.release(record._lease)
    result = shell.run(cycle, "run", "--model", MODEL)
    assert f"going on with cycle {interrupted}" in result.stderr
    assert _only(shell)["id"] == interrupted


def test_where_a_loop_leads_it_does_the_work_and_the_command_waits(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, echo = threading.Event(), click.echo

    def hear(text: str, err: bool = False) -> None:
        echo(text, err=err)
        waits.set()

    monkeypatch.setattr("trainer.commands.cycle.click.echo", hear)
    with _leading(shell.world, waits):
        result = shell.run(cycle, "run", "--model", MODEL)
    assert result.exit_code == 0 and result.stdout.startswith("skipped: ")
    assert "queued" in result.stderr


def test_where_the_loop_that_led_is_gone_the_command_waits_for_nobody_and_goes_on_here(shell: Shell) -> None:
    gone = LoopLease(shell.world.database, 1, shell.world.clock)
    assert gone.acquire()

    def end() -> None:
        while not _asked(shell.world):  # the command has found it leading
            time.sleep(0.02)
        gone.release()

    threading.Thread(target=end, daemon=True).start()
    result = shell.run(cycle, "run", "--model", MODEL)
    assert result.exit_code == 0 and result.stdout.startswith("skipped: ")
    assert "the loop that led is gone; the cycle goes on here" in result.stderr
    assert _only(shell)["requested_by"] == "command line"


def test_a_training_tells_how_far_it_is_where_it_runs_here(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trainer")
    shell.world.users_correct(120)
    shell.run(cycle, "run", "--model", MODEL)
    assert "step 1 of 2, epoch 0/0, loss 1.000" in caplog.messages


def test_a_training_tells_how_far_it_is_where_a_loop_runs_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = shell.world
    world.users_correct(120)
    told = threading.Event()

    def train(row: Cycle, on_progress: Callable[[Progress], None]) -> ModelVersion:
        on_progress(Progress(step=7, steps=9, loss=0.5))
        told.wait(60)  # the command looks twice a second
        return World.make_version(world, row, lambda _: None)

    def hear(text: str, err: bool = False) -> None:
        heard.append(text)
        if text.startswith("step"):
            told.set()

    heard: list[str] = []
    monkeypatch.setattr(world, "make_version", train)
    monkeypatch.setattr("trainer.commands.cycle.click.echo", hear)
    with _leading(world):
        assert shell.run(cycle, "run", "--model", MODEL).exit_code == 0
    assert "step 7 of 9, epoch 0/0, loss 0.500" in heard


def test_a_queued_cycle_is_cancelled_and_listed_as_such(shell: Shell) -> None:
    identifier = shell.world.request()
    assert shell.json(cycle, "cancel", identifier)["state"] == "cancelled"
    assert shell.run(cycle, "cancel", identifier).exit_code == 1
    assert identifier in shell.run(cycle, "list", "--model", MODEL).stdout
    assert shell.run(cycle, "show", "no-such-cycle").exit_code == 1


def test_versions_are_compared_on_all_suites_with_the_first(shell: Shell) -> None:
    shell.world.users_correct(120)
    shell.world.people_confirm(50, 50)
    shell.run(cycle, "run", "--model", MODEL)
    report = shell.json(evaluate, "--model", MODEL, "--versions", "base, 1.0")
    base, first = report["versions"]
    assert (base["version"], base["suites"]["golden"]["accuracy"]) == ("base", 0.5)
    against = first["suites"]["golden"]["against"]
    assert (against["version"], against["fixes"], against["difference"]) == ("base", 50, 0.5)
    table = shell.run(evaluate, "--model", MODEL, "--versions", "base,1.0").stdout
    assert "+50.0" in table and "regression" in table


def test_versions_are_compared_on_cases_that_neither_was_praised_for(shell: Shell) -> None:
    world = shell.world
    world.users_correct(200)
    world.people_confirm(old=50, new=50)
    world.server.versions["base"] = lambda text: (
        "yes" if text.startswith("whether") else talented("old")(text)
    )
    users_praise(world)
    world.learns = knowing("no")
    shell.run(cycle, "run", "--model", MODEL)
    report = shell.json(evaluate, "--model", MODEL, "--versions", "base,1.0")
    first = report["versions"][1]["suites"]["regression"]
    assert first["n"] > 125 and first["against"]["n"] < first["n"] - 100
    assert first["against"]["regressions"] == 0, "it lost what the base was praised for, and nothing else"


def test_versions_that_there_are_not_and_models_without_cases_are_refused(shell: Shell) -> None:
    assert "1.7" in shell.run(evaluate, "--model", MODEL, "--versions", "base,1.7").stderr
    assert "no cases" in shell.run(evaluate, "--model", MODEL, "--versions", "base").stderr
    assert shell.run(evaluate, "--model", MODEL, "--versions", " , ").exit_code == 1


def test_the_loops_process_never_loads_torch() -> None:
    code = (
        "import sys, trainer.opening, trainer.schedule, trainer.commands.loop, trainer.commands.cycle, "
        "trainer.commands.evaluate, trainer.commands.compare\n"
        "heavy = {'torch', 'transformers', 'peft', 'litestar', 'vllm'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {sorted(heavy)}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def _asked(world: World) -> bool:
    with world.database.reading() as session:
        return session.exec(select(Cycle)).first() is not None


@contextmanager
def _leading(world: World, begin: threading.Event | None = None) -> Iterator[None]:
    """A loop that leads and works, in a thread; from `begin` on, where one is given."""
    loop = Loop(world.workshop(), LoopLease(world.database, 3600, world.clock), world.stopping)
    loop.poll()

    def work() -> None:
        if begin is not None:
            begin.wait(30)
        while not world.stopping.wait(0.05):
            loop.poll()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        world.stopping.set()
        thread.join()


def _only(shell: Shell) -> dict[str, Any]:
    (document,) = shell.json(cycle, "list")["items"]
    found: dict[str, Any] = document
    return found


def test_the_loop_logs_in_the_form_that_is_set(tmp_path: Path) -> None:
    file = tmp_path / "starloop.toml"
    file.write_text(
        f'[storage]\ndirectory = "{tmp_path / "data"}"\n[server]\nlog = "json"\n[schedule]\npoll_seconds = 0.1\n'
    )
    command = [sys.executable, "-m", "server.command", "loop", "--config", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.terminate()
        lines = [first, *process.stderr]
    assert process.returncode == 0
    assert all({"time", "level", "message"} <= json.loads(line).keys() for line in lines)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(evaluate, ["--versions", "base"]), (cycle, ["run"]), (propose, [])],
    ids=["evaluate", "cycle run", "propose"],
)
def test_where_there_is_no_record_a_command_says_so_and_makes_none(
    tmp_path: Path, command: click.Command, arguments: list[str]
) -> None:
    config = tmp_path / "starloop.toml"
    config.write_text(f'[storage]\ndirectory = "{tmp_path / "data"}"\n', encoding="utf-8")
    result = CliRunner().invoke(command, [*arguments, "--model", MODEL, "--config", str(config)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is no record in {tmp_path / 'data'};" in result.stderr
    assert not (tmp_path / "data").exists()
