"""Whether a window can be shown here, and by which of Qt's platforms; nothing of Qt is imported for it."""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

INSTALL = "apt install libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxkbcommon-x11-0 (Debian, Ubuntu)"


def platform():
    """Qt's platform for a window that people see; None where there is no display."""
    if not sys.platform.startswith("linux"):
        return {"darwin": "cocoa", "win32": "windows"}.get(sys.platform)
    if os.environ.get("DISPLAY"):
        return "xcb"
    return "wayland" if os.environ.get("WAYLAND_DISPLAY") else None


def missing():
    """Why no window can be shown on an X display, in words; None where it can. Qt would end the process instead."""
    package = importlib.util.find_spec("PySide6")
    if package is None:
        return "PySide6 is not installed: pip install PySide6-Essentials"
    if not sys.platform.startswith("linux"):
        return None
    plugin = Path(package.submodule_search_locations[0]) / "Qt" / "plugins" / "platforms" / "libqxcb.so"
    try:
        ctypes.CDLL(str(plugin))
    except OSError as error:
        return f"Qt's window system for X11 cannot be loaded: {error}. {INSTALL}"
    return None
