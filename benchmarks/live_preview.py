"""From scrolling a slice view to the labels in the scene: python benchmarks/live_preview.py [--model default]

On the project's headless Slicer (`Testing/bench`), with the real panel logic and a real worker, on the sample head, in
axial, coronal, sagittal and oblique slices. The first slice of each kind is counted apart: the worker starts for the
first of all, and the network is compiled for each size that it has not seen before, once on every machine.
"""

import argparse
import os
import statistics
import time
from tempfile import TemporaryDirectory

from headless_slicer import ROOT, bench  # isort: split

import slicer
from rich.console import Console
from rich.table import Table

from rwkv_core.vocabulary import SegmentOptions, SliceIndex
from RWKVUNetSegmentLib.Interactive.SliceRequests import PreviewParameters
from RWKVUNetSegmentLib.Scene.SliceViews import goTo

MODULE = ROOT / "RWKVUNetSegment" / "RWKVUNetSegment.py"
SAMPLE = ROOT / "rwkv_core" / "data" / "sample" / "ch2.nii.gz"
PATIENCE = 120.0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--slices", type=int, default=10, help="of each kind")
    options = parser.parse_args()
    table = Table("Slices", "first, nothing compiled: s", "then: median s", "slowest s", "target", title="Live preview")
    with TemporaryDirectory() as cache:
        os.environ["RWKV_UNET_CACHE"] = cache
        opened = bench.open_module(MODULE)
        preview = opened.logic.interactive.preview
        volume = slicer.util.loadVolume(str(SAMPLE))
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        bench.process_events()
        view = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()

        def tilt(n: int) -> None:
            view.SetSliceToRASByNTP(0.0, -0.6, 0.8, 1.0, 0.0, 0.0, 0.0, -20.0, float(n), 0)

        looks = {
            "axial": lambda n: goTo(volume, SliceIndex("K", 70 + n)),
            "coronal": lambda n: goTo(volume, SliceIndex("J", 90 + n)),
            "sagittal": lambda n: goTo(volume, SliceIndex("I", 70 + n)),
            "oblique": tilt,
        }
        preview.start(PreviewParameters(volume, SegmentOptions(model=options.model)))
        bench.wait_until(lambda: preview.previewed and not preview.busy, PATIENCE, lambda: preview.message)
        for kind, look in looks.items():
            seconds = []
            for n in range(options.slices + 1):
                seen = preview.previewed

                def shown(seen: object = seen) -> bool:
                    return preview.previewed != seen and not preview.busy

                start = time.perf_counter()
                look(n)
                bench.wait_until(shown, PATIENCE, lambda: preview.message)
                seconds.append(time.perf_counter() - start)
            rest = seconds[1:]
            table.add_row(kind, f"{seconds[0]:.2f}", f"{statistics.median(rest):.2f}", f"{max(rest):.2f}", "0.4")
        opened.close()
        bench.process_events()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
