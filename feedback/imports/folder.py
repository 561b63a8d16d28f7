"""A dataset as a folder, in the layouts of the `datasets` library: which files hold the rows of one split.

dataset_dict.json, <split>/state.json, <split>/data-00000-of-00002.arrow     DatasetDict.save_to_disk
state.json, data-00000-of-00001.arrow                                        Dataset.save_to_disk
data/<split>-00000-of-00002.parquet                                          as on the Hub
<split>.jsonl, <split>/….csv                                                 files by hand
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from feedback.errors import BadFieldError, BadInputError

TRAIN = "train"
_ROWS = (".parquet", ".arrow", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_PACKED = (".gz", ".gzip", ".zst", ".zstd")
_ABOUT = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json")
_NUMBERED = re.compile(r"(.+)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def files_of(path: Path, split: str, name: str) -> list[Path]:
    """The files with the rows of a split, in their order; of what is no folder, itself.

    Without a `split`, it is `train`, or the only one there. Raises `BadFieldError` for a split that is not there,
    `BadInputError` for a folder without rows or one whose files are of several kinds.
    """
    if not path.is_dir():
        if split:
            raise BadFieldError("split", f"{name} is a file; splits are those of a dataset's folder")
        return [path]
    found = _splits(path, name)
    if not found:
        raise BadInputError(f"{name}: holds no files of rows ({', '.join(_ROWS)})")
    chosen = split or (TRAIN if TRAIN in found else "")
    if not chosen and len(found) == 1:
        (chosen,) = found
    if chosen not in found:
        there = ", ".join(sorted(found)[:12])
        raise BadFieldError(
            "split",
            f"{name} has no split {chosen[:60]!r}; there are: {there}"
            if chosen
            else f"{name} has several splits and none is called {TRAIN}; name one with --split: {there}",
        )
    kinds = sorted({_kind(file) for file in found[chosen]})
    if len(kinds) > 1:
        raise BadInputError(
            f"{name}: holds {' and '.join(kinds)} files of the split {chosen}; leave one kind, or name a file"
        )
    return found[chosen]


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; of a folder, of its files' places and digests."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = [(file.relative_to(path).as_posix(), digest_of(file)) for file in _files(path, lambda _: True)]
    return joint_digest(parts)


def joint_digest(parts: list[tuple[str, str]]) -> str:
    """SHA-256 (hex) of files that belong together, each given by its place and its digest."""
    lines = sorted(f"{place}\0{digest}\n" for place, digest in parts)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _splits(folder: Path, name: str) -> dict[str, list[Path]]:
    listed = folder / "dataset_dict.json"
    saved = {split: folder / split for split in _named(listed, "splits", name)} if listed.is_file() else {}
    if (folder / "state.json").is_file():
        saved = {TRAIN: folder}
    if saved:
        return {split: _saved(place, name) for split, place in saved.items()}
    found: dict[str, list[Path]] = {}
    for file in _files(folder, _has_rows):
        found.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    return found


def _saved(place: Path, name: str) -> list[Path]:
    """The Arrow files of what `save_to_disk` wrote, in the order that its state names."""
    files = [place / Path(one).name for one in _named(place / "state.json", "_data_files", name)]
    if missing := next((file for file in files if not file.is_file()), None):
        raise BadInputError(f"{name}: {missing.name} of it is missing; copy the folder again")
    return files


def _named(file: Path, key: str, name: str) -> list[str]:
    """Names in one of the library's own JSON files."""
    try:
        found = [
            one["filename"] if isinstance(one, dict) else one for one in json.loads(file.read_bytes())[key]
        ]
        if all(isinstance(one, str) and Path(one).name == one for one in found):
            return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise BadInputError(f"{name}: its {file.name} names no {key.lstrip('_')}; save the dataset again")


def _files(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and wanted(file.relative_to(folder)))


def _has_rows(file: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.parts)
    return not hidden and file.name not in _ABOUT and _kind(file) in _ROWS


def _kind(file: Path) -> str:
    """The last of a name's endings that says what is in the file."""
    endings = [one.lower() for one in file.suffixes if one.lower() not in _PACKED]
    return endings[-1] if endings else ""


def _split_of(file: Path) -> str:
    """As the Hub's names say it: the part before the numbers, else a word of the name, else of a folder, else train."""
    stem = file.name.partition(".")[0]
    if (numbered := _NUMBERED.fullmatch(stem)) and numbered[1] != "data":
        return numbered[1]
    for part in (stem, *reversed(file.parent.parts)):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _WORDS:
                return _WORDS[word]
    return TRAIN
