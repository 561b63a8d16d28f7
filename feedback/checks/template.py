"""A base's chat template, as far as it can be told without running it."""

from __future__ import annotations

import json
import re
from pathlib import Path

_TOOLS = re.compile(r"\btools\b")


def renders_tools(directory: Path) -> bool:
    """Whether the chat template in a base's folder speaks of tools at all; true where none can be read.

    A training asks the template itself, and is the judge.
    """
    try:
        if (file := directory / "chat_template.jinja").is_file():
            template = file.read_text(encoding="utf-8")
        else:
            config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
            template = json.dumps(config["chat_template"])
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return _TOOLS.search(template) is not None
