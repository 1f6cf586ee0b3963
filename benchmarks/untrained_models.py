"""Models with random weights, whose speed is measured: described in the catalogue, or other people's networks."""

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from rwkv_core.bundle.bundle import Bundle, new_network, write_bundle
from rwkv_core.bundle.catalogue import load_catalogue


def write_untrained(model: str, folder: Path) -> Bundle:
    """Write a bundle as the catalogue describes it, with random weights that are the same each time."""
    catalogue = load_catalogue()
    entry = catalogue.find(model)
    config = catalogue.config(entry) if entry else None
    if config is None:
        raise SystemExit(f"the catalogue describes no {model}")
    torch.manual_seed(0)
    return write_bundle(folder, config, new_network(config))


def swin_unetr(classes: int) -> nn.Module:
    """MONAI's SwinUNETR, which needs a package that MONAI does not bring along."""
    if find_spec("einops") is None:
        raise SystemExit("SwinUNETR needs einops: pip install einops, or choose other networks.")
    from monai.networks.nets.swin_unetr import SwinUNETR

    return SwinUNETR(in_channels=1, out_channels=classes, feature_size=48)


def in_openvino(network: nn.Module, image: Tensor) -> Callable[[Tensor], Tensor]:
    """The network as it is in OpenVINO, float32, for the size of `image`."""
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(network.cpu(), example_input=image, input=[*image.shape])
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def run(batch: Tensor) -> Tensor:
        request.infer({0: batch.numpy()})
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return run


def median_seconds(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median of each; they take turns, so that a slow moment meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run()  # what the run before left in the caches is not its fault
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
