"""`starloop`: the root command. Finds the groups of all packages by entry point and loads only the one that runs."""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import click

from feedback.commands.text import harmless
from feedback.errors import SettingsError, StarloopError

_GROUP = "starloop.commands"
_INTERRUPTED = 130  # 128 + SIGINT, as shells count


class Commands(click.Group):
    """Commands that stay unimported until one of them is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(entry_points(group=_GROUP).names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entry in entry_points(group=_GROUP, name=cmd_name):
            return cast(click.Command, entry.load())
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = sorted(entry_points(group=_GROUP), key=lambda entry: entry.name)
        with formatter.section("Commands"):
            formatter.write_dl([(entry.name, short_help(entry)) for entry in found])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a `StarloopError` is one message on stderr, never a traceback."""
        try:
            return super().invoke(ctx)
        except StarloopError as error:
            click.echo(f"Error: {harmless(str(error))}", err=True)
            ctx.exit(2 if isinstance(error, SettingsError) else 1)
        except KeyboardInterrupt:
            ctx.exit(_INTERRUPTED)


def short_help(entry: EntryPoint) -> str:
    """What a command says of itself in one line, read from its source: importing all of them would take seconds."""
    spec = find_spec(entry.module)
    if spec is None or spec.origin is None:
        return ""
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == entry.attr:
            for decorator in node.decorator_list:
                for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
                    if keyword.arg == "short_help" and isinstance(keyword.value, ast.Constant):
                        return str(keyword.value.value)
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="starloop", prog_name="starloop")
def main() -> None:
    """Serve a fine-tuned language model, and let it get better from what its users say.

    `starloop up` starts everything on this machine; `starloop demo` shows the whole loop with simulated users.
    """


if __name__ == "__main__":
    main(prog_name="starloop")
