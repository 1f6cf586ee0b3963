"""Cost of volumetric networks: python benchmarks/volumetric.py [--sizes 32 64 96 128 160] [--device cuda]

One forward pass over a cube of voxels, each in a process of its own: U-RWKV T and S beside nnU-Net's 3d_fullres network
and SwinUNETR (both MONAI's, random weights, 15 classes). Prints parameters, seconds, seconds per million voxels and the
memory that the pass needed beyond the weights. Linear cost shows as equal figures in a row of the second table.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from untrained_models import swin_unetr

CLASSES = 15


def u_rwkv(variant: str) -> nn.Module:
    from rwkv_core import build_network

    return build_network("u-rwkv", variant=variant, num_classes=CLASSES)


def nnu_net() -> nn.Module:
    """What nnU-Net plans for 128^3 patches: six levels, 32 to 320 features, two 3x3x3 convolutions a level."""
    from monai.networks.nets.dynunet import DynUNet

    steps = [1, 2, 2, 2, 2, 2]
    return DynUNet(
        3, 1, CLASSES, [3] * 6, steps, steps[1:], [32, 64, 128, 256, 320, 320], norm_name=("INSTANCE", {"affine": True})
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "U-RWKV-T": lambda: u_rwkv("T"),
    "U-RWKV-S": lambda: u_rwkv("S"),
    "nnU-Net 3d_fullres": nnu_net,
    "SwinUNETR": lambda: swin_unetr(CLASSES),
}


def measure(name: str, size: int, device: str) -> dict[str, float]:
    """One network and size, in this process."""
    network = NETWORKS[name]().eval().to(device)
    volume = torch.zeros(1, 1, size, size, size, device=device)

    def seconds(x: torch.Tensor) -> float:
        start = time.perf_counter()
        network(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    with torch.inference_mode():
        if volume.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() / 2**20
        else:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        taken = min(seconds(volume) for _ in range(2))
        if volume.is_cuda:
            after = torch.cuda.max_memory_allocated() / 2**20
        else:
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parameters = sum(p.numel() for p in network.parameters())
    return {"parameters": parameters, "seconds": taken, "megabytes": after - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 96, 128, 160])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--child", nargs=2, metavar=("NETWORK", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child[0], int(options.child[1]), options.device)))
        return
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in options.networks}
    for size in options.sizes:
        for name in options.networks:
            child = subprocess.run(
                [sys.executable, __file__, "--device", options.device, "--child", name, str(size)],
                capture_output=True,
                text=True,
                check=False,
            )
            if child.returncode == 0:
                found[name][size] = json.loads(child.stdout.splitlines()[-1])
            else:
                said = child.stderr.strip().splitlines() or ["no word; out of memory?"]
                print(f"{name} at {size}^3: {said[-1]}", file=sys.stderr)
    console = Console(width=140)
    titles = {
        "seconds": f"Seconds of a forward pass ({options.device}, {os.cpu_count()} cores)",
        "cost": "Seconds per million voxels",
        "megabytes": "Memory beyond the weights, MB",
    }
    for what, title in titles.items():
        table = Table("network", "parameters", *(f"{size}^3" for size in options.sizes), title=title)
        for name, by_size in found.items():
            cells = []
            for size in options.sizes:
                figures = by_size.get(size)
                value = figures and (figures["seconds"] / size**3 * 1e6 if what == "cost" else figures[what])
                cells.append("-" if value is None else f"{value:.0f}" if what == "megabytes" else f"{value:.2f}")
            parameters = next((f"{figures['parameters'] / 1e6:.2f} M" for figures in by_size.values()), "-")
            table.add_row(name, parameters, *cells)
        console.print(table)


if __name__ == "__main__":
    main()
