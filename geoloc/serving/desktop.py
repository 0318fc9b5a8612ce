"""Shows the service's page to the person who started it, where that person sits at this machine's desktop."""

from __future__ import annotations

import os
import sys
import webbrowser


def open_page(url: str) -> bool:
    """Open a page in the desktop's browser; returns whether one was asked to.

    Nothing happens without a terminal, without a display, in a session over ssh, and where the only browser is one
    that would take over the terminal (lynx, w3m).
    """
    if not (sys.stderr.isatty() and _has_display()):
        return False
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    # Browsers of a terminal are registered by this class, those of a desktop by classes derived from it or others.
    if type(browser) is webbrowser.GenericBrowser:
        return False
    browser.open(url)  # its own answer is False for a program such as xdg-open that has ended already
    return True


def _has_display() -> bool:
    if os.environ.get("SSH_CONNECTION"):
        return False
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
