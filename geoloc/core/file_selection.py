"""The files that a user names: a file, a folder or a glob, in any store; what is left out of them is counted.

Globs are the shell's: `*` and `?` stay within a folder, `**` is any number of folders, `[a-c]` and `[!a-c]` are
one character, names that begin with a dot have to be named so. A path that exists is that path, whatever
characters it has.
"""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from geoloc.core import storage
from geoloc.core.errors import ArtifactError
from geoloc.core.storage import StoredFile

_WILD = "*?["
_HIDDEN = "hidden (a name that begins with a dot)"
_MOST_ENDINGS = 4


@dataclass(frozen=True)
class Selection:
    """Files, sorted by URI, and how many others were left out: by reason, and by ending (in a folder)."""

    files: list[StoredFile]
    left_out: Counter[str] = field(default_factory=Counter)
    other_endings: Counter[str] = field(default_factory=Counter)

    def left_out_words(self) -> str:
        """One line about what was left out; empty when nothing was."""
        words = [f"{count:,} {reason}" for reason, count in sorted(self.left_out.items())]
        if self.other_endings:
            common = [
                f"{ending} {count:,}" for ending, count in self.other_endings.most_common(_MOST_ENDINGS)
            ]
            more = ", ..." if len(self.other_endings) > _MOST_ENDINGS else ""
            words.append(f"{self.other_endings.total():,} of other kinds ({', '.join(common)}{more})")
        total = self.left_out.total() + self.other_endings.total()
        return f"{total:,} files or links are left out: {'; '.join(words)}" if words else ""


def select(pattern: str, suffixes: tuple[str, ...] = (), *, beside: tuple[str, ...] = ()) -> Selection:
    """The files that a path, folder or glob names.

    Of a folder, and of all below it, those with one of the `suffixes` (any case) are chosen, and hidden ones are
    left out; files that end with `beside` belong to others and are not counted. A glob and the path of a file choose
    by name alone. Raises `ArtifactError` with the pattern when nothing is chosen.
    """
    pattern = storage.absolute(pattern)
    info_exists = storage.exists(pattern)
    if info_exists and storage.is_directory(pattern):
        chosen = _in_folder(pattern, suffixes, beside)
    elif info_exists:
        chosen = Selection([StoredFile(pattern, storage.size_bytes(pattern))])
    elif any(mark in pattern for mark in _WILD):
        chosen = _by_glob(pattern)
    else:
        raise ArtifactError(
            f"{pattern!r} does not exist; give a file, a directory or a glob such as 'dir/*.tif'."
        )
    if not chosen.files:
        kinds = f" with one of the endings {', '.join(suffixes)}" if suffixes else ""
        left_out = f"; {chosen.left_out_words()}" if chosen.left_out_words() else ""
        hint = " ([ ] stand for one character; write [[] for a bracket)" if "[" in pattern else ""
        raise ArtifactError(f"{pattern!r} matches no file{kinds}{left_out}; check the path{hint}.")
    return chosen


def _listing(folder: str) -> tuple[list[StoredFile], Counter[str]]:
    """All files below a folder, and counts of those that cannot be listed."""
    if not storage.is_local(folder):
        return storage.list_files(folder), Counter()
    return storage.list_local(folder)


def _in_folder(folder: str, suffixes: tuple[str, ...], beside: tuple[str, ...]) -> Selection:
    files, left_out = _listing(folder)
    chosen, others = [], Counter[str]()
    root = folder.rstrip("/") + "/"
    for file in files:
        if any(part.startswith(".") for part in file.uri.removeprefix(root).split("/")):
            left_out[_HIDDEN] += 1
        elif not suffixes or file.name.lower().endswith(suffixes):
            chosen.append(file)
        elif not file.name.lower().endswith(beside or ("\0",)):
            others[os.path.splitext(file.name)[1].lower() or "without an ending"] += 1
    return Selection(chosen, left_out, others)


def _by_glob(pattern: str) -> Selection:
    root, rest = _fixed_root(pattern)
    files, left_out = _listing(root)
    prefix, patterns = root.rstrip("/") + "/", rest.split("/")
    return Selection(
        [file for file in files if _matches(file.uri.removeprefix(prefix).split("/"), patterns)], left_out
    )


def _fixed_root(pattern: str) -> tuple[str, str]:
    """The folder that a glob begins in, and the pattern below it; brackets of a folder that exists are its name."""
    parts = pattern.split("/")
    root = parts[0]
    for index, part in enumerate(parts[1:], start=1):
        wild = any(mark in part for mark in _WILD)
        if wild and ("*" in part or "?" in part or not storage.is_directory(f"{root}/{part}")):
            return root or "/", "/".join(parts[index:])
        root = f"{root}/{part}"
    return root, ""


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the folders and the name of a path match a glob, part by part."""
    if not patterns:
        return not names
    first, rest = patterns[0], patterns[1:]
    if not names:
        return False
    visible = first.startswith(".") or not names[0].startswith(".")
    if first == "**":
        deeper = visible and _matches(names[1:], patterns if rest or len(names) > 1 else rest)
        return deeper or (bool(rest) and _matches(names, rest))
    return visible and fnmatch.fnmatchcase(names[0], first.replace("[^", "[!")) and _matches(names[1:], rest)
