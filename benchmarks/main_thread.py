"""How long a segmentation of a large CT keeps Slicer's main thread at a time, stage by stage.

    python benchmarks/main_thread.py

On the project's headless Slicer (`Testing/bench`), with a real worker and a small model of random weights. Measured is
the processor time of the main thread in one turn of its event loop, so that other programs do not disturb the figures.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from headless_slicer import Turns, segmentation_logic  # isort: split

import numpy as np
import slicer

from rwkv_core.vocabulary import Region, Slices
from RWKVUNetSegmentLib.Scene.RegionOfInterest import RegionOfInterest
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart

from core.worker_helpers import write_small

SHAPE = (300, 512, 512)
SLICES = Region(k=(0, 16))
"""What the network sees; the volume goes to the worker whole."""


def main() -> None:
    """Print the table."""
    with TemporaryDirectory() as folder:
        place = Path(folder)
        model = write_small(place / "model", lively=True, intensity={"method": "window", "low": 0, "high": 200})
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        voxels = np.random.default_rng(0).integers(0, 200, SHAPE, dtype=np.int16)
        slicer.util.updateVolumeFromArray(volume, voxels)
        logic = segmentation_logic(place)
        turns = Turns(5)
        for run in ("first run (the worker starts)", "second run"):
            turns.begin("begin")
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
