"""The files and the checks that `[[model]]` names, looked at before anything starts: a cycle would find them wrong much later."""

from __future__ import annotations

from feedback.datasets.chat import check_examples
from feedback.datasets.contract import TaskContract
from feedback.errors import BadInputError, SettingsError
from feedback.settings import Settings


def check_model_files(settings: Settings) -> None:
    """Read every schema and every file of base examples, load every check. Raises `SettingsError` with a line for each wrong one.

    Only what the configuration names is read, not what the starter brings; 100,000 examples take about a second.
    """
    problems: list[str] = []
    for model in settings.model:
        try:
            if model.schema or model.check:
                TaskContract.from_settings(model)
        except SettingsError as error:
            problems += error.problems
        try:
            if model.examples:
                check_examples(model)
        except BadInputError as error:
            problems.append(f"[[model]] {model.name!r}: examples = {model.examples!r}: {error}")
    if problems:
        raise SettingsError(problems)
