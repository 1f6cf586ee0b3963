"""Slices per second of training: python benchmarks/training.py [--device cuda] [--batch 8] [--rounds 8]

A step (forward, the paper's loss, backward, AdamW) of RWKV-UNet T and B beside a plain U-Net and nnU-Net's 2-D network
(both MONAI's, nine classes, 224 x 224), and the loader with the augmentation of the paper's ACDC preset. All take turns
in one run; the message is the ratios. Intensities are random: this is about speed only.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.dynunet import DynUNet
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from untrained_models import median_seconds

from rwkv_core import build_network
from rwkv_core.training.batches import EpochOrder, TrainingSlices, make_loader
from rwkv_core.training.devices import choose_precision
from rwkv_core.training.losses import SegmentationLoss
from rwkv_core.training.recipe import load_recipe
from rwkv_core.training.slice_cache import CachedSlice, SliceCache

CLASSES, SIZE, CHANNELS_LAST = 9, 224, torch.channels_last
REFERENCE = "plain U-Net"
_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def plain_u_net() -> nn.Module:
    """Ronneberger's widths: 64 to 1024, two 3x3 convolutions a level."""
    return BasicUNet(2, 1, CLASSES, features=(64, 128, 256, 512, 1024, 64))


class NNUNet2D(DynUNet):
    """What nnU-Net plans for 2-D slices of this size (PlainConvUNet), from its public description.

    Levels down to 7 x 7 pixels, 32 to 512 features, two 3x3 convolutions with instance norm and leaky ReLU a level,
    strided and transposed convolutions between levels, deep supervision at every resolution but the lowest two.
    """

    def __init__(self) -> None:
        levels = 6
        steps = [1, *[2] * (levels - 1)]
        features = [min(32 * 2**n, 512) for n in range(levels)]
        super().__init__(
            2, 1, CLASSES, [3] * levels, steps, steps[1:], features, norm_name=("INSTANCE", {"affine": True}),
            deep_supervision=True, deep_supr_num=levels - 3,
        )  # fmt: skip

    def forward(self, image: Tensor) -> list[Tensor]:
        """Logits at every supervised resolution, the finest first (MONAI's own enlarges them, nnU-Net does not)."""
        return [self.output_block(self.skip_layers(image)), *self.heads]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "RWKV-UNet-T": lambda: build_network("rwkv-unet", variant="T", num_classes=CLASSES),
    "RWKV-UNet-B": lambda: build_network("rwkv-unet", variant="B", num_classes=CLASSES),
    REFERENCE: plain_u_net,
    "nnU-Net 2-D": NNUNet2D,
}


def make_step(network: nn.Module, device: torch.device, batch: int, precision: str) -> Callable[[], None]:
    """One change of the weights."""
    network.train().to(device)
    if device.type == "cuda":
        network.to(memory_format=CHANNELS_LAST)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    loss = SegmentationLoss(load_recipe("synapse").loss)
    image = torch.rand(batch, 1, SIZE, SIZE, device=device)
    label = torch.randint(0, CLASSES, (batch, SIZE, SIZE), device=device)
    dtype = _DTYPES.get(precision)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = network(image)
        total = torch.zeros((), device=device)
        for n, head in enumerate(logits if isinstance(logits, list) else [logits]):
            there = F.interpolate(label[:, None].float(), head.shape[2:], mode="nearest")[:, 0].long() if n else label
            total = total + loss(head, there).total / 2**n
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def loader_rate(folder: Path, batch: int, workers: int, batches: int) -> float:
    """Slices per second that the loader gives from a cache on disk, when nobody else needs the cores."""
    count = max(4 * batch, 64)
    random = np.random.default_rng(0)
    random.random((count, SIZE, SIZE), np.float32).tofile(folder / "images.bin")
    random.integers(0, CLASSES, (count, SIZE, SIZE), np.uint8).tofile(folder / "labels.bin")
    pixels = SIZE * SIZE
    slices = tuple(CachedSlice("c", n, "train", (1, SIZE, SIZE), n * pixels, n * pixels, ()) for n in range(count))
    order = EpochOrder(list(range(count)), batch, seed=0)
    loader = make_loader(
        TrainingSlices(SliceCache(folder, slices), load_recipe("acdc").augmentation, (SIZE, SIZE)),
        order,
        workers,
        False,
    )
    done, start = 0, 0.0
    while done < batches:
        order.start_at(done)
        for _ in loader:
            if done == 0:  # the workers have started
                start = time.perf_counter()
            done += 1
            if done > batches:
                break
    return (done - 1) * batch / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=0, help="slices in a step (default: 24 on a GPU, 2 on a CPU)")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--workers", type=int, default=min(8, max(1, (os.cpu_count() or 2) - 1)))
    options = parser.parse_args()
    device = torch.device(options.device)
    batch = options.batch or (24 if device.type == "cuda" else 2)
    precision = choose_precision("auto", device)
    torch.manual_seed(0)
    networks = {name: make() for name, make in NETWORKS.items()}
    millions = {name: sum(p.numel() for p in network.parameters()) / 1e6 for name, network in networks.items()}
    steps = {name: make_step(network, device, batch, precision) for name, network in networks.items()}
    for step in steps.values():
        step()
    rates = {name: batch / seconds for name, seconds in median_seconds(steps, options.rounds).items()}
    with tempfile.TemporaryDirectory() as folder:
        loader = loader_rate(Path(folder), batch, options.workers, 12 if device.type == "cpu" else 60)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    table = Table(
        "Network", "parameters", "slices/s", f"x {REFERENCE}", "loader / network",
        title=f"A training step of {batch} slices, {SIZE} x {SIZE}, {precision}, on {where}; torch {torch.__version__}",
    )  # fmt: skip
    for name, rate in rates.items():
        ratio, ahead = f"{rate / rates[REFERENCE]:.2f}", f"{loader / rate:.1f}"
        table.add_row(name, f"{millions[name]:.1f} M", f"{rate:.1f}", ratio, ahead)
    console = Console(width=140)
    console.print(table)
    console.print(f"Loader, {options.workers} worker(s), ACDC augmentation: {loader:.0f} slices/s.")


if __name__ == "__main__":
    main()
