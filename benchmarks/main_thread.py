"""How long a segmentation of a large CT keeps Slicer's main thread at a time, stage by stage.

    python benchmarks/main_thread.py

On the project's headless Slicer (`Testing/bench`), with a real worker and a small model of random weights. Measured is
the processor time of the main thread in one turn of its event loop, so that other programs do not disturb the figures.
"""

import sys
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "RWKVUNetSegment"), str(ROOT)]

import bench  # noqa: E402 (needs the path)

bench.start()

import numpy as np  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402

from rwkv_core.vocabulary import Region, Slices  # noqa: E402
from RWKVUNetSegmentLib.Scene.RegionOfInterest import RegionOfInterest  # noqa: E402
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart  # noqa: E402
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import SegmentationLogic  # noqa: E402
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerClient  # noqa: E402

from core.worker_helpers import write_small  # noqa: E402

SHAPE = (300, 512, 512)
SLICES = Region(k=(0, 16))
"""What the network sees; the volume goes to the worker whole."""


class Turns:
    """The longest turn of the event loop in each stage, or a few together; `stage` is set by the run."""

    def __init__(self) -> None:
        self.stage, self.longest, self.count = "", defaultdict(float), defaultdict(int)
        self._last = time.thread_time()
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self.turn)
        self._timer.start(5)

    def turn(self) -> None:
        now = time.thread_time()
        self.longest[self.stage] = max(self.longest[self.stage], now - self._last)
        self.count[self.stage] += 1
        self._last = now

    def stop(self) -> None:
        self._timer.stop()


def main() -> None:
    """Print the table."""
    with TemporaryDirectory() as folder:
        place = Path(folder)
        model = write_small(place / "model", lively=True, intensity={"method": "window", "low": 0, "high": 200})
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        voxels = np.random.default_rng(0).integers(0, 200, SHAPE, dtype=np.int16)
        slicer.util.updateVolumeFromArray(volume, voxels)
        program = [sys.executable, "-m", "rwkv_core.worker"]
        logic = SegmentationLogic(WorkerClient("benchmark", program, logFolder=place, temporary=place))
        turns = Turns()
        for run in ("first run (the worker starts)", "second run"):
            turns.longest.clear()
            turns.count.clear()
            turns.stage = "begin"
            result = logic.process(
                volume,
                model=model,
                device="cpu",
                engine="torch",
                region=RegionOfInterest(box=SLICES),
                onProgress=lambda step: setattr(turns, "stage", step.stage),
            )
            turns.turn()  # the one in which it ended
            size = " x ".join(map(str, reversed(SHAPE)))
            print(f"{run}: {size} voxels, {len(result.classes)} classes, {result.timings['total']:.1f} s")
            for stage, longest in turns.longest.items():
                print(f"  {stage:<10} longest turn {1000 * longest:7.1f} ms   ({turns.count[stage]} turns)")
        turns.stop()
        logic.cleanup()
    print("Writing alone, in one turn each, because a node cannot be written in pieces:")
    node, writer = logic.writer.newNode(volume), logic.writer
    labels = np.zeros(SHAPE, np.uint8)
    labels[20:280, 60:450, 60:450] = 1 + voxels[20:280, 60:450, 60:450] % len(result.classes)
    whole = Region(i=(0, SHAPE[2]), j=(0, SHAPE[1]), k=(0, SHAPE[0]))
    one_slice = LabelledPart(labels[150:151], whole, result.classes, Slices(axis="K", indices=(150,)))
    for what, write, part in (
        ("whole labelmap, new node", writer.write, LabelledPart(labels, whole, result.classes)),
        ("whole labelmap, again", writer.write, LabelledPart(labels, whole, result.classes)),
        ("one slice, first preview", writer.writeSlice, one_slice),
        ("one slice, next preview", writer.writeSlice, one_slice),
    ):
        before = time.thread_time()
        write(node, volume, part)
        print(f"  {what:<26} {1000 * (time.thread_time() - before):7.1f} ms")


if __name__ == "__main__":
    main()
