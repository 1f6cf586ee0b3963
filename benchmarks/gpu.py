"""The whole network on an NVIDIA GPU: python benchmarks/gpu.py [--repeats 20]

Slices per second of our engine and of eager torch, a CT of 512 x 512 x 150 from array to labelmap with a warm model,
and a training step (forward, loss, backward, AdamW, under autocast). Weights are random: this is about speed only. The
targets are for an H100.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from untrained_models import write_untrained

from rwkv_core import Segmenter, Volume, build_network, make_engine

SIZE, CLASSES = 224, 9
TARGETS = {"T": 8000, "B": 3000}
BATCHES = (1, 8, 32, 128)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median of `repeats`, each waited for."""
    found = []
    for turn in range(repeats + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if turn >= 3:
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def inference(repeats: int) -> Table:
    table = Table("Network", "batch", "eager torch, float32", "engine", "ratio", "target", title="Slices per second")
    for variant, target in TARGETS.items():
        torch.manual_seed(0)
        network = build_network("rwkv-unet", variant=variant, num_classes=CLASSES).eval()
        eager, engine = (make_engine(network, "cuda", (SIZE, SIZE), name) for name in ("torch", "auto"))
        for batch in BATCHES:
            images = torch.rand(batch, 1, SIZE, SIZE, device="cuda")
            slow, fast = (batch / seconds(partial(run, images), repeats) for run in (eager, engine))
            cells = [f"{slow:.0f}", f"{fast:.0f} ({engine.name})", f"{fast / slow:.1f}x", str(target)]
            table.add_row(f"{variant}, {SIZE} x {SIZE}", str(batch), *cells)
    return table


def whole_ct(repeats: int) -> Table:
    table = Table("Model", "first, s", "warm, s", "network, s", "target, s", title="CT of 512 x 512 x 150")
    random = np.random.default_rng(0)
    array = np.repeat(random.integers(-1000, 1000, (150, 128, 128), np.int16), 4, 1).repeat(4, 2)
    volume = Volume(array, np.diag([-0.8, -0.8, 2.0, 1.0]))
    for model in ("synapse-t", "synapse-b"):
        with tempfile.TemporaryDirectory() as folder:
            segmenter = Segmenter(write_untrained(model, Path(folder) / "bundle"), "cuda")
        found = [segmenter.segment(volume).timings for _ in range(repeats + 2)]
        warm = sorted(found[2:], key=lambda timings: timings["total"])[repeats // 2]
        cells = (f"{found[0]['total']:.2f}", f"{warm['total']:.2f}", f"{warm['network']:.2f}", "0.6")
        table.add_row(model, *cells)
    return table


def training(repeats: int) -> Table:
    table = Table("Network", "batch", "type", "slices/s", "target", title="Training step")
    for variant, batch, target in (("T", 24, ""), ("B", 24, "1000")):
        for dtype in (torch.bfloat16, torch.float32):
            torch.manual_seed(0)
            network = build_network("rwkv-unet", variant=variant, num_classes=CLASSES).cuda()
            network.to(memory_format=torch.channels_last)
            optimizer = torch.optim.AdamW(network.parameters(), fused=True)
            images = torch.rand(batch, 1, SIZE, SIZE, device="cuda").to(memory_format=torch.channels_last)
            labels = torch.randint(CLASSES, (batch, SIZE, SIZE), device="cuda")

            def step(
                network: torch.nn.Module = network,
                optimizer: torch.optim.Optimizer = optimizer,
                images: torch.Tensor = images,
                labels: torch.Tensor = labels,
                dtype: torch.dtype = dtype,
            ) -> None:
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                    loss = F.cross_entropy(network(images), labels)
                loss.backward()
                optimizer.step()

            torch.backends.cudnn.benchmark = True
            rate = batch / seconds(step, repeats)
            table.add_row(variant, str(batch), str(dtype).removeprefix("torch."), f"{rate:.0f}", target)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here, or this PyTorch was built without CUDA: nothing was measured.")
        return
    console = Console(width=120)
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    for part in (inference, whole_ct, training):
        console.print(part(options.repeats))


if __name__ == "__main__":
    main()
