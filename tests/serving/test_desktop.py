"""The page opens by itself on a desktop alone; the desktop's browser is a program that notes its argument."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

URL = "http://127.0.0.1:8000"
_PROGRAM = f"from geoloc.serving.desktop import open_page; print(open_page({URL!r}))"


def _opened(folder: Path, browser: str, *, terminal: bool = True, **variables: str) -> tuple[str, str]:
    """(what `open_page` returned, what the browser was asked to open) in a process with these variables alone."""
    noted = folder / "noted"
    program = folder / browser
    program.write_text(f'#!/bin/sh\necho "$@" > {noted}.part && mv {noted}.part {noted}\n')
    program.chmod(0o755)
    environment = {"PATH": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    # Other browsers of this machine must not be found; sh, mv and echo must.
    for name in ("sh", "mv"):
        (folder / name).symlink_to(f"/bin/{name}")
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=theirs if terminal else subprocess.DEVNULL,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    until = time.monotonic() + 20  # the browser is not waited for
    while done.stdout == "True\n" and not noted.exists() and time.monotonic() < until:
        time.sleep(0.02)
    return done.stdout.strip(), noted.read_text().strip() if noted.exists() else ""


@pytest.mark.parametrize("variable", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_the_page_opens_on_a_desktop(tmp_path: Path, variable: str) -> None:
    assert _opened(tmp_path, "xdg-open", **{variable: ":1"}) == ("True", URL)


def test_nothing_opens_elsewhere(tmp_path: Path) -> None:
    folders = iter(tmp_path / str(number) for number in range(4))

    def opened(browser: str, *, terminal: bool = True, **variables: str) -> tuple[str, str]:
        folder = next(folders)
        folder.mkdir()
        return _opened(folder, browser, terminal=terminal, **variables)

    assert opened("xdg-open") == ("False", "")  # no display
    assert opened("xdg-open", terminal=False, DISPLAY=":1") == ("False", "")
    assert opened("xdg-open", DISPLAY=":1", SSH_CONNECTION="10.0.0.1 1 10.0.0.2 22") == ("False", "")
    assert opened("lynx", DISPLAY=":1") == ("False", "")  # it would take the terminal
