"""BiWKV on an NVIDIA GPU, our kernel beside the published way to cut the work: python benchmarks/wkv.py [--repeats 50]

The other column is a stand-in: wkv_split.cu, written by us from the description of the published kernel (a block takes
16 channels and cuts the sequence into 32 parts), not the published code. Both are compiled by NVRTC and timed in turn
on the same float32 tensors; ours is also timed in float16 and bfloat16. "off by": ours against the stand-in, float32.

A second table is about volumes (U-RWKV): voxels taken with another axis fastest, by our kernel in place and by copying
in that order first. What is read after a copy is a view of other strides, whose further cost is not counted.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rwkv_core.ops.biwkv import scan
from rwkv_core.ops.biwkv.cuda import GPU
from rwkv_core.ops.biwkv.scan_plan import order_pays

SHAPES = ((24, 784, 576), (8, 4096, 576), (24, 196, 960), (1, 196, 336), (24, 784, 288), (1, 784, 576), (2, 16384, 576))
"""Batch, tokens, channels; the first three are the ones that the targets name."""
VOLUMES = ((2, 24, 24, 24, 48), (2, 24, 24, 24, 64), (2, 12, 12, 12, 128), (2, 6, 6, 6, 216), (1, 40, 40, 40, 64))
"""Batch, depth, height, width, channels: U-RWKV's stages in blocks of 96 voxels, and at 1/4 of 160."""
ORDERS = {"depth": (2, 3, 1), "height": (3, 1, 2)}
"""Axes of the volumes, by the fastest."""
PARTS, WIDTH = 32, 16


class Split:
    """The stand-in's kernels on a GPU."""

    def __init__(self, device: torch.device):
        from rwkv_core.ops.biwkv import nvrtc
        from rwkv_core.ops.biwkv.gpu_driver import LoadedKernels

        source = Path(__file__).with_name("wkv_split.cu").read_text(encoding="utf-8")
        code = nvrtc.compiled(source, torch.cuda.get_device_capability(device), {})
        self._kernels = LoadedKernels(code, device, {"split_forward": 0, "split_backward": 0})

    def forward(self, decay: Tensor, first: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(value)
        self._launch("split_forward", key, [decay, first, key, value, output])
        return output

    def backward(
        self, decay: Tensor, first: Tensor, key: Tensor, value: Tensor, upstream: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        of_key, of_value = torch.empty_like(key), torch.empty_like(value)
        of_parameters = key.new_empty(len(key), 2, key.shape[2])
        self._launch("split_backward", key, [decay, first, key, value, upstream, of_key, of_value, of_parameters])
        of_decay, of_first = of_parameters.sum(0)
        return of_decay, of_first, of_key, of_value

    def _launch(self, name: str, key: Tensor, tensors: list[Tensor]) -> None:
        batch, tokens, channels = key.shape
        grid = (-(-channels // WIDTH) * batch, 1)
        self._kernels.launch(name, grid, PARTS * WIDTH, 0, [*tensors, tokens, channels])


def microseconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each on the GPU; they take turns, and the cache is emptied before each."""
    flush = torch.empty(64 * 2**20, dtype=torch.int32, device="cuda")
    events = {name: [] for name in runs}
    for turn in range(repeats + 3):
        for name, run in runs.items():
            flush.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            if turn >= 3:
                events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: 1000 * statistics.median(a.elapsed_time(b) for a, b in pairs) for name, pairs in events.items()}


def in_order(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """Volumes (B, D, H, W, C) copied as sequences (B, T, C)."""
    return x.permute(0, *order, 4).flatten(1, 3)


def forward_by_copying(
    gpu: GPU, decay: Tensor, first: Tensor, key: Tensor, value: Tensor, order: tuple[int, ...]
) -> Tensor:
    return scan.forward(gpu, decay, first, in_order(key, order), in_order(value, order))


def backward_by_copying(
    gpu: GPU, decay: Tensor, first: Tensor, key: Tensor, value: Tensor, upstream: Tensor, order: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`key` and `value` are the copies that autograd kept."""
    return scan.backward(gpu, decay, first, key, value, in_order(upstream, order))


def orders(gpu: GPU, repeats: int) -> Table:
    """Copying in an order beside taking voxels in it where they lie."""
    table = Table(
        "Batch, depth, height, width, channels", "fastest", "type", "pass", "by copying, us", "in place, us", "ratio",
        "chosen", "same bits", title="Voxels in another order",
    )  # fmt: skip
    for shape, (fastest, order), dtype in itertools.product(VOLUMES, ORDERS.items(), (torch.float32, torch.float16)):
        random = torch.Generator().manual_seed(0)
        constants = list((1e-3 * torch.randn(2, shape[-1], generator=random)).cuda())
        key, value, upstream = torch.randn(3, *shape, generator=random).to("cuda", dtype)
        copies = [in_order(x, order) for x in (key, value)]
        passes: dict[str, dict[str, Callable[[], Any]]] = {
            "forward": {
                "copying": partial(forward_by_copying, gpu, *constants, key, value, order),
                "in place": partial(scan.forward, gpu, *constants, key, value, order),
            },
            "backward": {
                "copying": partial(backward_by_copying, gpu, *constants, *copies, upstream, order),
                "in place": partial(scan.backward, gpu, *constants, key, value, upstream, order),
            },
        }
        output, copied = passes["forward"]["in place"](), passes["forward"]["copying"]()
        gradients, of_copies = passes["backward"]["in place"](), passes["backward"]["copying"]()
        same = {
            "forward": torch.equal(in_order(output, order), copied),
            "backward": all(map(torch.equal, (in_order(x, order) for x in gradients[2:]), of_copies[2:])),
        }
        for name, runs in passes.items():
            found = microseconds(runs, repeats)
            table.add_row(
                ", ".join(map(str, shape)), fastest, str(dtype).removeprefix("torch."), name,
                f"{found['copying']:.0f}", f"{found['in place']:.0f}", f"{found['copying'] / found['in place']:.2f}x",
                "in place" if order_pays(shape[-1], dtype) else "by copying", "yes" if same[name] else "no",
            )  # fmt: skip
    return table


def off_by(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here, or this PyTorch was built without CUDA: nothing was measured.")
        return
    device = torch.device("cuda", torch.cuda.current_device())
    ours, split = GPU(device), Split(device)
    table = Table(
        "Batch, tokens, channels", "pass", "stand-in, us", "ours, us", "ratio", "ours in float16, us", "bfloat16, us",
        "off by", title=f"BiWKV on {torch.cuda.get_device_name(device)}, torch {torch.__version__}",
    )  # fmt: skip
    for shape in SHAPES:
        random = torch.Generator().manual_seed(0)
        batch, tokens, channels = shape
        decay = (4 / tokens * torch.randn(channels, generator=random)).to(device)
        first = torch.randn(channels, generator=random).to(device)
        key, value, upstream = torch.randn(3, batch, tokens, channels, generator=random).to(device)
        half, brain = ([x.to(dtype) for x in (key, value, upstream)] for dtype in (torch.float16, torch.bfloat16))

        def forward(
            key: Tensor, value: Tensor, _: Tensor, decay: Tensor = decay, first: Tensor = first
        ) -> Callable[[], object]:
            return lambda: scan.forward(ours, decay, first, key, value)

        def backward(
            key: Tensor, value: Tensor, upstream: Tensor, decay: Tensor = decay, first: Tensor = first
        ) -> Callable[[], object]:
            return lambda: scan.backward(ours, decay, first, key, value, upstream)

        full = (key, value, upstream)
        given = (decay, first, key, value)
        errors = {
            "forward": off_by(scan.forward(ours, *given), split.forward(*given)),
            "backward": max(
                off_by(a, b)
                for a, b in zip(scan.backward(ours, *given, upstream), split.backward(*given, upstream), strict=True)
            ),
        }
        stand_in: dict[str, Callable[[], object]] = {
            "forward": lambda given=given: split.forward(*given),
            "backward": lambda given=given, upstream=upstream: split.backward(*given, upstream),
        }
        for name, made in (("forward", forward), ("backward", backward)):
            runs = {"split": stand_in[name], "ours": made(*full), "half": made(*half), "brain": made(*brain)}
            found = microseconds(runs, options.repeats)
            table.add_row(
                ", ".join(map(str, shape)), name, f"{found['split']:.0f}", f"{found['ours']:.0f}",
                f"{found['split'] / found['ours']:.2f}x", f"{found['half']:.0f}", f"{found['brain']:.0f}",
                f"{errors[name]:.0e}",
            )  # fmt: skip
    console = Console(width=130)
    console.print(table)
    console.print(orders(ours, options.repeats))


if __name__ == "__main__":
    main()
