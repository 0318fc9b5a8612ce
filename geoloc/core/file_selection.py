"""The files that a user names: a file, a folder or a glob, in any store; what is left out of them is counted.

Globs are the shell's: `*` and `?` stay within a folder, `**` is any number of folders, `[a-c]` and `[!a-c]` are
one character, `{jpg,png}` is one of the words, names that begin with a dot have to be named so. A path that exists is
that path, whatever characters it has.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from geoloc.core import storage
from geoloc.core.errors import ArtifactError
from geoloc.core.storage import StoredFile

_WILD = "*?["
_HIDDEN = "hidden (a name that begins with a dot)"
_MOST_ENDINGS, _MOST_SUFFIXES = 4, 8
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


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
    chosen = _plain(pattern, suffixes, beside)
    choices = [] if chosen else _expanded(pattern)
    if choices == [pattern] and not _is_wild(pattern):
        raise ArtifactError(
            f"{pattern!r} does not exist; give a file, a directory or a glob such as 'dir/*.tif'."
        )
    if chosen is None:
        chosen = _together([_plain(choice, suffixes, beside) or _by_glob(choice) for choice in choices])
        suffixes = ()  # globs choose by name alone
    if not chosen.files:
        more = ", ..." if len(suffixes) > _MOST_SUFFIXES else ""
        kinds = f" with one of the endings {', '.join(suffixes[:_MOST_SUFFIXES])}{more}" if suffixes else ""
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


def _is_wild(pattern: str) -> bool:
    return any(mark in pattern for mark in _WILD)


def _plain(path: str, suffixes: tuple[str, ...], beside: tuple[str, ...]) -> Selection | None:
    """The file or the files of the folder at a path; None where neither is there."""
    if not storage.exists(path):
        return None
    if storage.is_directory(path):
        return _in_folder(path, suffixes, beside)
    return Selection([StoredFile(path, storage.size_bytes(path))])


def _expanded(pattern: str) -> list[str]:
    """The patterns that one with `{a,b}` stands for, the innermost braces first."""
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [one for word in found[1].split(",") for one in _expanded(before + word + after)]


def _together(parts: Sequence[Selection]) -> Selection:
    """The files of all parts, each once; of what was left out, the largest counts, since parts share folders."""
    files = {file.uri: file for part in parts for file in part.files}
    together = Selection([files[uri] for uri in sorted(files)])
    for part in parts:
        together.left_out.update(part.left_out - together.left_out)
        together.other_endings.update(part.other_endings - together.other_endings)
    return together


def _by_glob(pattern: str) -> Selection:
    if not _is_wild(pattern):
        return Selection([])
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
