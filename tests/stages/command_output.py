"""What a command may print on standard error: lines of our own, its workers' among them."""

from __future__ import annotations

import re


def foreign_lines(text: str, *own: str) -> list[str]:
    """Lines that begin with none of the patterns; Ray puts a worker's name and process before its lines, in colour."""
    line_of_ours = re.compile(rf"(\x1b\[\d+m)?(\(\S+ [^)]*\))?(\x1b\[0m)? ?(?:{'|'.join(own)})")
    return [line for line in text.splitlines() if not line_of_ours.match(line)]
