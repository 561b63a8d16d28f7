"""A secret in a file that only its owner reads, made once however many processes start together."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from feedback.errors import StorageError


def read_secret(path: Path) -> str | None:
    """The secret, or None when there is no such file. Raises `StorageError` when it cannot be read or is empty."""
    try:
        secret = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: cannot be read ({error}); make it readable to this user") from error
    if not secret:
        raise StorageError(f"{path}: is empty; delete it, and a new one is made at the next start")
    return secret


def read_or_create(path: Path, secret: str) -> str:
    """The secret that stands in the file; `secret` if this call is the one that made it (mode 600)."""
    present = read_secret(path)
    if present is not None:
        return present
    _place(path, secret, replace=False)
    return read_secret(path) or secret


def replace_secret(path: Path, secret: str) -> None:
    """Put another secret in the file's place, in one step."""
    _place(path, secret, replace=True)


def _place(path: Path, secret: str, replace: bool) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            with suppress(
                FileExistsError
            ):  # a link, unlike a rename, leaves alone what another process put there
                os.link(draft, path)
            draft.unlink()
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error}); check space and permissions") from error
