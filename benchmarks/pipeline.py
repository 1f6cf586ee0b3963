"""Where the time and memory of a whole volume go: python benchmarks/pipeline.py [--slices 150] [--size 512]

`--slices 50 100 200 400` shows that time grows with the slices, and `--slices 1000` that memory does not: the process
stays below 2,500 MB, input and labelmap included, and below 600 MB beyond these. Each measurement runs in a process of
its own on one made-up CT, resized to 224 x 224 as the Synapse models ask. Weights are random: this is about speed only.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from untrained_models import write_untrained

from rwkv_core import Segmenter, Volume


def resident_mb() -> float:
    """Memory of this process now; Linux."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6


def child(bundle_id: str, slices: int, size: int, device: str) -> None:
    """One measurement, printed as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        segmenter = Segmenter(write_untrained(bundle_id, Path(folder) / "bundle"), device)
        random = np.random.default_rng(0)
        array = np.repeat(random.integers(-1000, 1000, (slices, size // 4, size // 4), np.int16), 4, 1).repeat(4, 2)
        volume = Volume(array, np.diag([-0.8, -0.8, 2.0, 1.0]))
        segmenter.segment(Volume(array[:8], volume.ijk_to_ras))  # warm
        before, peak, done = resident_mb(), 0.0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.01):
                peak = max(peak, resident_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        result = segmenter.segment(volume)
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    report = {
        **result.timings,
        "seconds": seconds,
        "slices": result.slices,
        "above_input_and_labelmap_mb": max(0.0, peak - before - result.labelmap.nbytes / 1e6),
        "process_mb": peak,
    }
    print(json.dumps(report))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[150])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="+", default=["synapse-t", "synapse-b"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.slices[0], options.size, options.device)
    table = Table(
        "Model", "slices", "total s", "ms a slice", "network s", "prepare s", "restore s", "measure s",
        "around network", "memory above input + labelmap, MB", "process, MB",
        title=f"{options.size} x {options.size}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}",
    )  # fmt: skip
    for model, slices in product(options.models, options.slices):
        command = [sys.executable, __file__, "--child", model, "--slices", str(slices)]
        command += ["--size", str(options.size), "--device", options.device]
        r = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        around = 1 - r["network"] / r["seconds"]
        table.add_row(
            model, str(r["slices"]), f"{r['seconds']:.1f}", f"{1000 * r['seconds'] / r['slices']:.0f}",
            f"{r['network']:.1f}", f"{r['prepare']:.1f}", f"{r['restore']:.1f}", f"{r['measure']:.2f}",
            f"{around:.0%}", f"{r['above_input_and_labelmap_mb']:.0f}", f"{r['process_mb']:.0f}",
        )  # fmt: skip
    Console(width=160).print(table)
    return None


if __name__ == "__main__":
    main()
