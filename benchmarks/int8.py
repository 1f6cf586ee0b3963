"""What 8 bits cost and bring: python benchmarks/int8.py [--repeats 20]

The shipped model on slices of the sample head, as the network sees them: every eighth calibrates, all are compared with
float32. "the engine's layers" is what the engine openvino-int8 does, "every layer" shows why it does no more.
"""

import argparse
import tempfile
from functools import partial
from os import environ
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from untrained_models import median_seconds

import rwkv_core
from rwkv_core import Segmenter, read_volume
from rwkv_core.engines.openvino_engine import OpenVINOEngine
from rwkv_core.engines.openvino_int8_engine import IN_FLOAT, OpenVINOInt8Engine, compared, quantised
from rwkv_core.inference.intensity import fit_intensity
from rwkv_core.inference.preprocessing import make_resampler
from rwkv_core.volume import choose_stack

SAMPLE = Path(rwkv_core.__file__).parent / "data" / "sample" / "ch2.nii.gz"
KEPT_IN_FLOAT = {"the engine's layers": IN_FLOAT, "every layer": (".*wkv.*",)}


def head_slices() -> tuple[Segmenter, NDArray[np.float32]]:
    """The model, and (N, 1, H, W) as its network gets them."""
    segmenter, volume = Segmenter("default", "cpu", engine="torch"), read_volume(SAMPLE)
    config = segmenter.preprocessing
    stack = choose_stack(volume.ijk_to_ras, volume.array.shape, config.orientations)
    source = stack.to_stack(volume.array).astype("float32", order="C")
    scale = fit_intensity(config.intensity, volume.array)
    resampler = make_resampler(config, (source.shape[1], source.shape[2]), stack.spacing[1:])
    return segmenter, resampler.to_network(scale(source), scale.padding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environ["RWKV_UNET_CACHE"] = folder
        segmenter, slices = head_slices()
        size = (slices.shape[2], slices.shape[3])
        weights = segmenter.bundle.weights
        engines: dict[str, OpenVINOEngine] = {"float32": OpenVINOEngine(weights)}
        for name, in_float in KEPT_IN_FLOAT.items():
            engines[name] = made = OpenVINOInt8Engine(weights)
            made.use((size, False), quantised(weights, slices[::8], in_float))
        answers = {name: np.asarray(engine(slices)) for name, engine in engines.items()}
        middle = slices[len(slices) // 2 :][:1]
        runs = {name: partial(engine, middle) for name, engine in engines.items()}
        seconds = median_seconds(runs, options.repeats)
    table = Table(
        "8 bits", "ms a slice", "ratio", "same labels", "mean Dice with float32", title=f"{len(slices)} slices"
    )
    plain = seconds["float32"]
    for name in engines:
        agreement, dice = compared(answers[name], answers["float32"])
        table.add_row(
            name, f"{1000 * seconds[name]:.1f}", f"{plain / seconds[name]:.2f}x", f"{agreement:.2%}", f"{dice:.4f}"
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
