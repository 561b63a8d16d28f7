"""The `starloop` command as a person meets it: help, errors and exit statuses."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from feedback.errors import SettingsError, StorageError
from server import command
from server.command import main, short_help
from server.commands.demo import _hint, _prepare

LIGHT = 0.5


def test_help_lists_every_command_with_its_short_help() -> None:
    shown = CliRunner().invoke(main, ["--help"], terminal_width=200)
    assert shown.exit_code == 0
    for entry in entry_points(group="starloop.commands"):
        assert short_help(entry), f"{entry.name} says nothing of itself"
        assert f"{entry.name} " in shown.output
        assert short_help(entry) in shown.output


def test_what_help_reads_from_the_source_is_what_the_command_says() -> None:
    for entry in entry_points(group="starloop.commands"):
        loaded: click.Command = entry.load()
        assert short_help(entry) in (loaded.short_help, (loaded.help or "").partition("\n")[0]), entry.name


@pytest.mark.alone
def test_help_comes_at_once_and_loads_neither_torch_nor_the_web_framework() -> None:
    code = (
        "import sys; from server.command import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'litestar', 'sqlmodel', 'httpx', 'rich') if name in sys.modules])"
    )
    times = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - started)
    assert done.stdout.splitlines()[-1] == "[]"
    assert min(times) < LIGHT


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Put a command `fail` beside the others that raises what it is given."""

    def install(error: BaseException) -> None:
        @click.command()
        def fail() -> None:
            raise error

        monkeypatch.setattr(command.Commands, "get_command", lambda *_: fail)

    return install


def test_what_a_message_quotes_does_not_steer_the_terminal(
    failing: Callable[[BaseException], None],
) -> None:
    failing(StorageError("a\x1b[2Jb\u202ec"))
    assert CliRunner().invoke(main, ["fail"]).output == "Error: a [2Jb c\n"


def test_an_error_of_ours_is_one_message_on_stderr_and_status_1(
    failing: Callable[[BaseException], None],
) -> None:
    failing(StorageError("the disk is full; free some space"))
    done = CliRunner().invoke(main, ["fail"])
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "Error: the disk is full; free some space\n")


def test_settings_that_cannot_be_used_are_wrong_usage(failing: Callable[[BaseException], None]) -> None:
    failing(SettingsError(["a.toml: server.port: is 0", "a.toml: model: the name 'x' is used twice"]))
    done = CliRunner().invoke(main, ["fail"])
    assert done.exit_code == 2
    assert done.stderr.count("a.toml") == 2


def test_ctrl_c_is_quiet(failing: Callable[[BaseException], None]) -> None:
    failing(KeyboardInterrupt())
    done = CliRunner().invoke(main, ["fail"])
    assert (done.exit_code, done.output) == (130, "")


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["up", "--port", "0"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_a_command_whose_module_is_missing_is_listed_without_help() -> None:
    assert short_help(EntryPoint("gone", "server.commands.gone:gone", "starloop.commands")) == ""


def test_only_commands_that_serve_take_a_port() -> None:
    takes = {
        name: "--port" in CliRunner().invoke(main, [name, "--help"]).output
        for name in ("engine", "up", "serve")
    }
    assert takes == {"engine": False, "up": True, "serve": True}


def test_the_demo_says_how_other_commands_find_it(tmp_path: Path) -> None:
    configuration = _prepare(tmp_path / "my demo", 8000)
    line = _hint(configuration)
    assert (
        line == f"Other commands find this demo with: export STARLOOP_CONFIG='{tmp_path}/my demo/demo.toml'"
    )
