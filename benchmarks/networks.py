"""Seconds per volume beside other networks: python benchmarks/networks.py [--device auto] [--repeats 3] [--only T B]

The volume is a CT of 512 x 512 x 150 voxels of 0.8 x 0.8 x 2 mm. Counted is what the networks compute, and neither
resizing nor putting patches together, for all. Weights are random, so this says nothing about accuracy. Each network
is timed on a few inputs of its own size, in turn with the others, and the time is multiplied by the number of inputs
that the volume takes: the others would take minutes to hours on a CPU. No mirroring for anyone.

- RWKV-UNet T, S, B: slices of 224 x 224, as the published Synapse models take them.
- nnU-Net 2-D and 3-D full resolution: MONAI's DynUNet with the topology and patch that nnU-Net plans for abdominal CT
  (2-D: 512 x 512, eight stages; 3-D: 48 x 192 x 192, six stages; both 32 features at first), windows half overlapping.
- SwinUNETR: MONAI's, 48 features, patches of 96 x 96 x 96 at 1.5 x 1.5 x 2 mm, windows half overlapping.

"torch" is eager torch as a user would run it (float16 autocast on a GPU); "fastest" is this project's engine for
RWKV-UNet and, on a CPU, OpenVINO for the others.
"""

import argparse
import gc
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from monai.networks.nets import DynUNet
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from untrained_models import in_openvino, swin_unetr

from rwkv_core import build_network, make_engine

VOLUME = (150, 512, 512)
CLASSES = 9


def windows(volume: tuple[int, ...], patch: tuple[int, ...]) -> int:
    """Positions of half overlapping windows, as nnU-Net and MONAI place them."""
    return math.prod(1 + max(0, math.ceil((n - p) / (p // 2))) for n, p in zip(volume, patch, strict=True))


def dynamic(strides: list[tuple[int, ...]], features: list[int], kernels: list[tuple[int, ...]]) -> nn.Module:
    return DynUNet(
        spatial_dims=len(strides[0]), in_channels=1, out_channels=CLASSES, kernel_size=kernels, strides=strides,
        upsample_kernel_size=strides[1:], filters=features, trans_bias=True,
    )  # fmt: skip


def nnunet_2d() -> nn.Module:
    return dynamic([(1, 1)] + [(2, 2)] * 7, [32, 64, 128, 256, 512, 512, 512, 512], [(3, 3)] * 8)


def nnunet_3d() -> nn.Module:
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)]
    return dynamic(strides, [32, 64, 128, 256, 320, 320], [(1, 3, 3)] + [(3, 3, 3)] * 5)


@dataclass(frozen=True)
class Candidate:
    """A network, its input, and how many of these a volume takes."""

    title: str
    make: Callable[[], nn.Module]
    patch: tuple[int, ...]
    inputs: int
    ours: bool = False


def candidates() -> list[Candidate]:
    found = [
        Candidate(
            f"RWKV-UNet {variant}",
            lambda variant=variant: build_network("rwkv-unet", variant=variant, num_classes=CLASSES),
            (224, 224),
            VOLUME[0],
            ours=True,
        )
        for variant in "TSB"
    ]
    volume_3d, volume_swin = (48, 192, 192), (96, 96, 96)
    resampled = (VOLUME[0], *(round(n * 0.8 / 1.5) for n in VOLUME[1:]))
    return [
        *found,
        Candidate("nnU-Net 2-D", nnunet_2d, VOLUME[1:], VOLUME[0]),
        Candidate("nnU-Net 3-D full resolution", nnunet_3d, volume_3d, windows(VOLUME, volume_3d)),
        Candidate("SwinUNETR", lambda: swin_unetr(CLASSES), volume_swin, windows(resampled, volume_swin)),
    ]


def eager(network: nn.Module, device: torch.device) -> Callable[[Tensor], object]:
    """The network in torch; a batch of one on a CPU, of several on a GPU."""
    network = network.to(device)

    def run(batch: Tensor) -> None:
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            network(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def runs_of(
    candidate: Candidate, device: torch.device, image: Tensor
) -> tuple[dict[str, Callable[[Tensor], object]], float]:
    """Ways to run a network, and its parameters in millions."""
    torch.manual_seed(0)
    network = candidate.make().eval()
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    runs: dict[str, Callable[[Tensor], object]] = {}
    if candidate.ours:
        engine = make_engine(candidate.make().eval(), str(device), candidate.patch)

        def run(batch: Tensor) -> None:
            engine(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        runs["fastest"] = run
    elif device.type == "cpu":
        try:
            runs["fastest"] = in_openvino(network, image)
        except Exception as error:
            print(f"{candidate.title} does not run in OpenVINO: {error}")
    return {"torch": eager(network, device), **runs}, parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="parts of the networks' names")
    options = parser.parse_args()
    name = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    chosen = [
        candidate
        for candidate in candidates()
        if not options.only or any(part in candidate.title for part in options.only)
    ]
    for candidate in chosen:
        candidate.make()  # what cannot be made is told before others are timed
    seconds: dict[tuple[str, str], list[float]] = {}
    parameters = {}
    with torch.inference_mode():
        for _ in range(options.repeats):  # all networks in turn; only one is in memory
            for candidate in chosen:
                batch = (32 if len(candidate.patch) == 2 else 2) if device.type == "cuda" else 1
                image = torch.rand(batch, 1, *candidate.patch, device=device)
                runs, parameters[candidate.title] = runs_of(candidate, device, image)
                for way, run in runs.items():
                    print(f"{candidate.title}, {way}", file=sys.stderr)
                    for _ in range(3 if candidate.ours or device.type == "cuda" else 1):  # warm
                        run(image)
                    start = time.perf_counter()
                    run(image)
                    seconds.setdefault((candidate.title, way), []).append((time.perf_counter() - start) / batch)
                del runs
                gc.collect()
    where = torch.cuda.get_device_name(device) if name == "cuda" else platform.processor() or platform.machine()
    table = Table(
        "Network", "million parameters", "input", "inputs per volume", "torch: s per volume", "fastest: s per volume",
        "of RWKV-UNet B",
        title=f"512 x 512 x 150 on {where}, {torch.get_num_threads()} threads; extrapolated from {options.repeats} "
        "inputs each, networks only, random weights",
    )  # fmt: skip
    volumes = {key: statistics.median(found) * _inputs(chosen, key[0]) for key, found in seconds.items()}

    def best(title: str) -> float:
        return min(found for (of, _), found in volumes.items() if of == title)

    for candidate in chosen:
        ways = [volumes.get((candidate.title, way)) for way in ("torch", "fastest")]
        ratio = best(candidate.title) / best("RWKV-UNet B") if ("RWKV-UNet B", "torch") in volumes else math.nan
        table.add_row(
            candidate.title, f"{parameters[candidate.title]:.1f}", " x ".join(map(str, candidate.patch)),
            str(candidate.inputs),
            *("" if found is None else f"{found:.1f}" for found in ways), "" if math.isnan(ratio) else f"{ratio:.2f}x",
        )  # fmt: skip
    Console(width=140).print(table)


def _inputs(chosen: list[Candidate], title: str) -> int:
    return next(candidate.inputs for candidate in chosen if candidate.title == title)


if __name__ == "__main__":
    main()
