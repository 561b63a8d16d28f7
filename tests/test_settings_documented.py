"""`deploy/starloop.toml` is the reference for operators: it must say all that can be set, and only what is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from feedback.settings import Settings
from feedback.settings_file import load

FILE = Path(__file__).parents[1] / "deploy" / "starloop.toml"
SELF_EXPLAINING = {"port", "name", "seed"}


def test_the_file_names_every_setting_with_its_default_and_nothing_else() -> None:
    assert tomllib.loads(FILE.read_text(encoding="utf-8")) == msgspec.to_builtins(Settings())


def test_the_file_is_read_without_a_complaint_and_changes_nothing() -> None:
    assert load(FILE, {}) == Settings()


def test_sections_and_keys_stand_in_the_order_of_the_code() -> None:
    written = tomllib.loads(FILE.read_text(encoding="utf-8"))
    default = msgspec.to_builtins(Settings())

    assert list(written) == list(default)
    for section, content in default.items():
        one, other = (x[0] if isinstance(x, list) else x for x in (written[section], content))
        assert list(one) == list(other), section


def test_every_key_has_a_comment_beside_it() -> None:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    keys = [line for line in lines if re.match(r"\w+ = ", line)]
    bare = {line.split(" = ")[0] for line in keys if not re.search(r"\s# .+$", line)}

    assert len(keys) > 40
    assert bare <= SELF_EXPLAINING
