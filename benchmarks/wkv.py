"""BiWKV on an NVIDIA GPU, our kernel beside the published way to cut the work: python benchmarks/wkv.py [--repeats 50]

The other column is a stand-in: wkv_split.cu, written by us from the description of the published kernel (a block takes
16 channels and cuts the sequence into 32 parts), not the published code. Both are compiled by NVRTC and timed in turn
on the same float32 tensors; ours is also timed in float16 and bfloat16. "off by": ours against the stand-in, float32.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

SHAPES = ((24, 784, 576), (8, 4096, 576), (24, 196, 960), (1, 196, 336), (24, 784, 288), (1, 784, 576), (2, 16384, 576))
"""Batch, tokens, channels; the first three are the ones that the targets name."""
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


def off_by(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here, or this PyTorch was built without CUDA: nothing was measured.")
        return
    from rwkv_core.ops.biwkv import scan
    from rwkv_core.ops.biwkv.cuda import GPU

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
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
