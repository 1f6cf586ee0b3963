"""How long it takes from a click in a slice view to the labels in the segment, and how long the main thread is held.

    python benchmarks/pointing.py [--size 512] [--slices 300] [--repeats 10]

On the project's headless Slicer (`Testing/bench`), with a real worker and the shipped model on the processor. Clicks
are the logic's own, without the mouse. Seconds are by the clock; of the main thread, the longest turn of its event loop
counts, in processor time, so that other programs do not disturb it.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from headless_slicer import Turns, bench, segmentation_logic  # isort: split

import numpy as np
import slicer

from rwkv_core.vocabulary import SliceIndex
from RWKVUNetSegmentLib.Interactive.InteractiveLogic import InteractiveLogic
from RWKVUNetSegmentLib.Scene.SliceViews import goTo

PATIENCE = 300.0


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
        segmentation = segmentation_logic(Path(folder))
        interactive = InteractiveLogic(segmentation)
        pointing = interactive.pointing
        pointing.requests.device = "cpu"
        pointing.follow(volume, None)
        turns = Turns(1)

        def done() -> float:
            start = time.perf_counter()
            bench.wait_until(lambda: not pointing.busy and not pointing.propagating, PATIENCE, lambda: pointing.message)
            turns.turn()
            if pointing.failed:
                raise SystemExit(pointing.message)
            return time.perf_counter() - start

        def click(row: float, column: float, k: int, positive: bool = True) -> tuple[float, float]:
            turns.begin("")
            place = column * options.size * spacing, row * options.size * spacing, float(k)
            pointing.point(place, view, positive)
            return done(), turns.longest[""]

        view = goTo(volume, SliceIndex("K", options.slices // 2))
        manager = slicer.app.layoutManager()
        for name in manager.sliceViewNames():
            manager.sliceWidget(name).sliceView().interactor()  # a Slicer that is looked at has its views already
        turns.begin("")
        start = time.perf_counter()
        pointing.arm()
        done()
        print(
            f"{options.size} x {options.size} x {options.slices}: scan to the worker and model ready "
            f"{time.perf_counter() - start:.1f} s, longest turn {1000 * turns.longest['']:.0f} ms"
        )
        first, further = [], []
        for n in range(options.repeats):
            k = options.slices // 2 + n
            goTo(volume, SliceIndex("K", k), view)
            bench.process_events()
            first.append(click(0.35, 0.35, k))
            further.append(click(0.37, 0.33, k))
            further.append(click(0.35, 0.50, k, False))
        turns.begin("")
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
        turns.begin("")
        start = time.perf_counter()
        pointing.propagate("both", to=options.slices // 2 + options.repeats + 19)
        done()
        print(
            f"{'propagation, 20 slices':<24} {time.perf_counter() - start:.1f} s, "
            f"longest turn {1000 * turns.longest['']:.0f} ms ({pointing.message})"
        )
        turns.stop()
        interactive.cleanup()
        segmentation.cleanup()


if __name__ == "__main__":
    main()
