"""python Testing/bench [--sample | --volume FILE]: the panel beside live views in a window; --help says what else."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), str(HERE.parents[1]), *(p for p in sys.path if Path(p).resolve() != HERE)]

from bench import display  # noqa: E402

platform = os.environ.get("QT_QPA_PLATFORM") or display.platform()
if platform == "xcb" and display.missing():
    sys.exit(display.missing())
if platform:
    os.environ["QT_QPA_PLATFORM"] = platform

from bench.command import main  # noqa: E402

sys.exit(main())
