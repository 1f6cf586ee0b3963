"""The headless Slicer of `Testing/bench`, started; import this before `qt`, `slicer` or the module's library."""

import sys
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "RWKVUNetSegment"), str(ROOT)]

import bench  # noqa: E402 (needs the path)

bench.start()

import qt  # noqa: E402

from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import SegmentationLogic  # noqa: E402
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerClient  # noqa: E402


def segmentation_logic(folder: Path) -> SegmentationLogic:
    """The module's logic with a real worker, whose log and arrays are in the folder."""
    program = [sys.executable, "-m", "rwkv_core.worker"]
    return SegmentationLogic(WorkerClient("benchmark", program, logFolder=folder, temporary=folder))


class Turns:
    """The longest turn of the event loop in each stage, seconds of the main thread's processor time.

    So other programs do not disturb the figures.

    Attributes:
        longest: by stage.
        count: of turns, a few together counted as one; by stage.
    """

    def __init__(self, milliseconds: int) -> None:
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self.turn)
        self.begin("")
        self._timer.start(milliseconds)

    def begin(self, stage: str) -> None:
        """Forget all stages, and begin with this."""
        self.stage, self.longest, self.count = stage, defaultdict(float), defaultdict(int)
        self._last = time.thread_time()

    def turn(self) -> None:
        now = time.thread_time()
        self.longest[self.stage] = max(self.longest[self.stage], now - self._last)
        self.count[self.stage] += 1
        self._last = now

    def stop(self) -> None:
        self._timer.stop()
