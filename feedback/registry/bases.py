"""Base models: from what the settings say to what the engine is started with.

An engine loads only adapters whose `base_model_name_or_path` is its own `--model` to the letter. A base that is a
directory is therefore named by a link inside the data directory, from which the engine runs: that name survives the
data directory's moving, and it carries the weights' revision, so an adapter never meets other weights than its own.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feedback import starter
from feedback.errors import NotFoundError, StorageError

STARTER = "starter"
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w.-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_RENDERING = ("*token*", "chat_template*", "vocab*", "merges.txt")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


@dataclass(frozen=True)
class Base:
    """One base model."""

    name: str
    """As the settings name it: `starter`, a directory or a hub id, with `@` and a commit where it is pinned."""
    engine_model: str
    """The engine's `--model`, and every adapter's `base_model_name_or_path`."""
    path: str
    """What the weights are loaded from outside the engine: an absolute directory, or the hub id with its commit (`from_hub`)."""
    revision: str
    """SHA-256 of configuration and weights; of a hub id, the id with its commit."""

    @property
    def local(self) -> bool:
        """Whether it is a directory here."""
        return Path(self.path).is_absolute()


def from_hub(path: str) -> tuple[str, dict[str, str]]:
    """What transformers' `from_pretrained` takes for a base's `path`: the name, and `revision` where a commit is pinned."""
    found = None if Path(path).is_dir() else _HUB_ID.fullmatch(path)
    if found is None or found[2] is None:
        return path, {}
    return found[1], {"revision": found[2]}


def resolve_base(base: str, directory: Path) -> Base:
    """The base of that name, linked into the data directory where it is a directory itself.

    Raises `NotFoundError` when it is neither the starter, a model's directory nor a hub id.
    """
    if base == STARTER:
        path = starter.model_directory().resolve()
    else:
        path = Path(base).expanduser()
        if not path.is_dir():
            if found := _HUB_ID.fullmatch(base):
                if found[2] is not None and not _COMMIT.fullmatch(found[2]):
                    raise NotFoundError(
                        f"base {base!r}: {found[2]!r} may mean other weights tomorrow; write the commit's 40 hexadecimal digits "
                        "after the @, as the model's page on the hub shows them"
                    )
                return Base(base, found[1], base, base)
            raise NotFoundError(
                f"base {base!r}: there is no such directory, and it is not a hub id (owner/name) either; "
                "write 'starter', a directory with config.json and weights, or an id such as Qwen/Qwen3-0.6B, with @ and a commit to pin it"
            )
        path = path.resolve()
    if not (path / "config.json").is_file():
        raise NotFoundError(
            f"base {base!r}: {path} holds no config.json, so it is no model in Hugging Face's form"
        )
    try:
        links = directory / "bases"
        links.mkdir(parents=True, exist_ok=True)
        revision = _revision(path, links)
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", base if base == STARTER else path.name).strip("-.") or "base"
        name = f"{slug}-{revision[:12]}"
        _link(links / name, path)
    except OSError as error:
        raise StorageError(
            f"{error.filename or directory}: the base {base!r} could not be read or linked ({error.strerror})"
        ) from error
    return Base(base, f"bases/{name}", str(path), revision)


def rendering_of(base: Base) -> str:
    """SHA-256 of the tokenizer's files and the chat template; empty for a base that is no directory. Raises `StorageError`."""
    directory, digest = Path(base.path), hashlib.sha256()
    if not directory.is_dir():
        return ""
    try:
        for file in sorted({file for kind in _RENDERING for file in directory.glob(kind) if file.is_file()}):
            digest.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    except OSError as error:
        raise StorageError(
            f"{directory}: the base's tokenizer could not be read ({error.strerror}); make it readable"
        ) from error
    return digest.hexdigest()


def _revision(path: Path, cache: Path) -> str:
    """SHA-256 over configuration and weights, kept beside the links: weights of many gigabytes are read once."""
    files = sorted({path / "config.json", *(file for kind in _WEIGHTS for file in path.glob(kind))})
    stats = [(file.name, file.stat()) for file in files]
    seen = "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats)
    kept = cache / f".revision-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    try:
        revision, _, known = kept.read_text(encoding="utf-8").partition("\n")
        if known == seen:
            return revision
    except (OSError, UnicodeDecodeError):
        pass  # not read yet, or not readable: it is computed again
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    revision = digest.hexdigest()
    _replace(kept, lambda partial: partial.write_text(f"{revision}\n{seen}", encoding="utf-8"))
    return revision


def _link(link: Path, target: Path) -> None:
    """Let `link` lead to `target`, whatever it was before; no moment without it."""
    if not (link.is_symlink() and link.readlink() == target):
        _replace(link, lambda partial: partial.symlink_to(target))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write under another name, then rename: processes that start at once do not see each other's half work."""
    partial = path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(4)}")
    write(partial)
    partial.replace(path)
