"""Milliseconds per slice on the CPU, engine by engine: python benchmarks/cpu_engines.py [--repeats 15]

All in one run, in turn, so that the ratios hold on whatever machine this is; weights are random, since this is about
speed only. The floor is the time that the network's multiplications and additions take at the rate of a large float32
matrix product, measured in the same run.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from os import environ

import openvino
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from untrained_models import in_openvino, median_seconds

from rwkv_core import build_network, make_engine

CASES = (("T", 224), ("B", 224), ("T", 192))
GFLOP_AT_224 = {"T": 5.51, "B": 21.94}
"""Twice the multiply-adds of convolutions and linear maps in the network as published."""
ENGINES = ("network, torch", "graph, torch", "network, OpenVINO", "engine, OpenVINO")


def matrix_rate(repeats: int) -> float:
    """GFLOP/s of a float32 product of 2048 x 2048 matrices, the best of some."""
    a, b = torch.rand(2, 2048, 2048)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds) / 1e9


def measure(variant: str, size: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of each of `ENGINES`."""
    network = build_network("rwkv-unet", variant=variant, num_classes=9).eval()
    image = torch.rand(1, 1, size, size)
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "network, torch": network,
        "graph, torch": make_engine(network, "cpu", engine="torch"),
        "network, OpenVINO": in_openvino(network, image),
        "engine, OpenVINO": make_engine(network, "cpu", (size, size), "openvino"),
    }
    expected = network(image)
    for run in runs.values():
        for _ in range(2):
            logits = run(image)
        if not (logits - expected).abs().max() / expected.std() < 1e-3:
            raise SystemExit("The engines do not agree.")
    seconds = median_seconds({name: partial(run, image) for name, run in runs.items()}, repeats)
    return {name: 1000 * median for name, median in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    rate = matrix_rate(20)
    table = Table(
        "Network", *(f"{name}, ms" for name in ENGINES), "floor, ms", "engine / floor",
        title=f"A slice on {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"{rate:.0f} GFLOP/s; torch {torch.__version__}, OpenVINO {openvino.__version__.split('-')[0]}",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        environ["RWKV_UNET_CACHE"] = folder
        for variant, size in CASES:
            torch.manual_seed(0)
            found = measure(variant, size, options.repeats)
            plain = found[ENGINES[0]]
            floor = 1000 * GFLOP_AT_224[variant] * (size / 224) ** 2 / rate
            cells = [f"{ms:.1f} ({plain / ms:.2f}x)" for ms in found.values()]
            table.add_row(f"{variant}, {size} x {size}", *cells, f"{floor:.1f}", f"{found[ENGINES[3]] / floor:.2f}")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
