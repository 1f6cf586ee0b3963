"""How long a preview takes: python benchmarks/preview.py [--models synapse-t synapse-b] [--repeats 10]

With real worker processes, as 3D Slicer has them: from the start of the process to the first slice's labels (cold, with
an empty and with a filled cache of compiled networks), and from request to labels for one slice of a 512 x 512 x 150
volume when the model is warm. Weights are random: this is about speed only. `cpu` is the processor time that the worker
spent, all cores together; where it is far below the seconds, other programs had the machine.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from untrained_models import write_untrained

from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.worker.arrays import geometry_of
from rwkv_core.worker.protocol import SegmentRequest, Slices, VolumeFile

sys.path.insert(0, str(Path(__file__).parent.parent / "Testing"))
from core.worker_client import WorkerClient

TARGETS = {"synapse-t": "0.25", "synapse-b": "0.40"}
SHAPE = (150, 512, 512)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process; Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def first_answer(bundle: str, folder: Path, array: np.ndarray, repeats: int) -> tuple[float, float, list[float], float]:
    """Seconds from a worker's start to its first answer, their processor time; those of warm previews; likewise."""
    start = time.perf_counter()
    with WorkerClient(folder / "worker.log", temporary=folder) as worker:
        file = worker.folder.put(array)
        volume = VolumeFile(file=file, ijk_to_ras=geometry_of(np.diag([-0.8, -0.8, 2.0, 1.0])))

        def ask(k: int) -> None:
            request = SegmentRequest(
                volume=volume, options=SegmentOptions(model=bundle, device="cpu"), slices=Slices(axis="K", indices=(k,))
            )
            worker.folder.take(worker.request(request).labelmap or "")

        ask(75)
        cold, cold_cpu = time.perf_counter() - start, cpu_seconds(worker.pid)
        warm = []
        for k in range(repeats):
            begun = time.perf_counter()
            ask(k)
            warm.append(time.perf_counter() - begun)
        return cold, cold_cpu, warm, (cpu_seconds(worker.pid) - cold_cpu) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["synapse-t", "synapse-b"])
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    table = Table(
        "Model", "cold, nothing compiled", "cold", "(cpu)", "target", "warm: median", "fastest", "(cpu)", "target",
        title=f"Seconds to the labels of one slice of {' x '.join(map(str, SHAPE[::-1]))}: "
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
    )  # fmt: skip
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE, np.int16)
    for model in options.models:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ["RWKV_UNET_CACHE"] = str(folder / "cache")
            bundle = str(write_untrained(model, folder / "bundle").folder)
            compiling, *_ = first_answer(bundle, folder, array, 1)
            cold, cold_cpu, warm, warm_cpu = first_answer(bundle, folder, array, options.repeats)
        table.add_row(
            model, f"{compiling:.1f}", f"{cold:.1f}", f"{cold_cpu:.1f}", "6", f"{statistics.median(warm):.2f}",
            f"{min(warm):.2f}", f"{warm_cpu:.2f}", TARGETS.get(model, ""),
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
