"""How long it takes from a click in a slice view to the labels in the segment, and how long the main thread is held.

    python benchmarks/pointing.py [--size 512] [--slices 300] [--repeats 10]

On the project's headless Slicer (`Testing/bench`), with a real worker and the shipped model on the processor. Clicks
are the logic's own, without the mouse. Seconds are by the clock; of the main thread, the longest turn of its event loop
counts, in processor time, so that other programs do not disturb it.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "RWKVUNetSegment"), str(ROOT)]

import bench  # noqa: E402 (needs the path)

bench.start()

import numpy as np  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402

from rwkv_core.vocabulary import SliceIndex  # noqa: E402
from RWKVUNetSegmentLib.Interactive.InteractiveLogic import InteractiveLogic  # noqa: E402
from RWKVUNetSegmentLib.Scene.SliceViews import goTo  # noqa: E402
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import SegmentationLogic  # noqa: E402
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerClient  # noqa: E402

PATIENCE = 300.0


class Turns:
    """The longest turn of the event loop since `begin`, seconds of the main thread's processor time."""

    def __init__(self) -> None:
        self.longest, self._last = 0.0, time.thread_time()
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self.turn)
        self._timer.start(1)

    def begin(self) -> None:
        self.longest, self._last = 0.0, time.thread_time()

    def turn(self) -> None:
        now = time.thread_time()
        self.longest, self._last = max(self.longest, now - self._last), now

    def stop(self) -> None:
        self._timer.stop()


def scan(slices: int, size: int) -> np.ndarray:
    """Bright cylinders in noise, Hounsfield units, int16."""
    j, i = np.indices((size, size))
    picture = np.full((size, size), -80, np.int16)
    for row, column in ((0.35, 0.35), (0.35, 0.65), (0.65, 0.5)):
        picture[(j - row * size) ** 2 + (i - column * size) ** 2 < (0.09 * size) ** 2] = 60
    noise = np.random.default_rng(0).normal(0, 15, (size, size)).astype(np.int16)
    return np.stack([picture + np.roll(noise, 7 * k, axis=1) for k in range(slices)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    spacing = 360.0 / options.size
    with TemporaryDirectory() as folder:
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        slicer.util.updateVolumeFromArray(volume, scan(options.slices, options.size))
        volume.SetSpacing(spacing, spacing, 1.0)
        program = [sys.executable, "-m", "rwkv_core.worker"]
        segmentation = SegmentationLogic(
            WorkerClient("benchmark", program, logFolder=Path(folder), temporary=Path(folder))
        )
        interactive = InteractiveLogic(segmentation)
        pointing = interactive.pointing
        pointing.requests.device = "cpu"
        pointing.follow(volume, None)
        turns = Turns()

        def done() -> float:
            start = time.perf_counter()
            bench.wait_until(lambda: not pointing.busy and not pointing.propagating, PATIENCE, lambda: pointing.message)
            turns.turn()
            if pointing.failed:
                raise SystemExit(pointing.message)
            return time.perf_counter() - start

        def click(row: float, column: float, k: int, positive: bool = True) -> tuple[float, float]:
            turns.begin()
            place = column * options.size * spacing, row * options.size * spacing, float(k)
            pointing.point(place, view, positive)
            return done(), turns.longest

        view = goTo(volume, SliceIndex("K", options.slices // 2))
        manager = slicer.app.layoutManager()
        for name in manager.sliceViewNames():
            manager.sliceWidget(name).sliceView().interactor()  # a Slicer that is looked at has its views already
        turns.begin()
        start = time.perf_counter()
        pointing.arm()
        done()
        print(
            f"{options.size} x {options.size} x {options.slices}: scan to the worker and model ready "
            f"{time.perf_counter() - start:.1f} s, longest turn {1000 * turns.longest:.0f} ms"
        )
        first, further = [], []
        for n in range(options.repeats):
            k = options.slices // 2 + n
            goTo(volume, SliceIndex("K", k), view)
            bench.process_events()
            first.append(click(0.35, 0.35, k))
            further.append(click(0.37, 0.33, k))
            further.append(click(0.35, 0.50, k, False))
        turns.begin()
        start = time.perf_counter()
        pointing.undo()
        undone = time.perf_counter() - start
        turns.turn()
        for what, found in (("first click in a slice", first), ("each further click", further)):
            seconds, held = zip(*found, strict=True)
            print(
                f"{what:<24} click to labels {statistics.median(seconds):.2f} s (longest {max(seconds):.2f}), "
                f"longest turn {1000 * statistics.median(held):.0f} ms (longest {1000 * max(held):.0f})"
            )
        print(f"{'undo':<24} {1000 * undone:.0f} ms")
        turns.begin()
        start = time.perf_counter()
        pointing.propagate("both", to=options.slices // 2 + options.repeats + 19)
        done()
        print(
            f"{'propagation, 20 slices':<24} {time.perf_counter() - start:.1f} s, "
            f"longest turn {1000 * turns.longest:.0f} ms ({pointing.message})"
        )
        turns.stop()
        interactive.cleanup()
        segmentation.cleanup()


if __name__ == "__main__":
    main()
