"""python Testing/bench [--sample | --volume FILE] [--screenshot PNG]: the panel beside live views in a window."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), str(HERE.parents[1]), *(p for p in sys.path if Path(p).resolve() != HERE)]
if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or not sys.platform.startswith("linux"):
    os.environ.setdefault("QT_QPA_PLATFORM", {"darwin": "cocoa", "win32": "windows"}.get(sys.platform, "xcb"))

from bench.window import main  # noqa: E402

sys.exit(main())
