"""Prints parameter counts, and how far our logits are from the published network's: python benchmarks/parity.py"""

import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rwkv_core import build_network, load_published

sys.path.insert(0, str(Path(__file__).parent.parent / "Testing"))
from core.golden_weights import golden_input
from core.published_files import DATA, october


def main() -> None:
    counts = Table("Variant", "Live parameters, 9 classes", "of these, encoder", title="Parameters")
    for variant in ("T", "S", "B"):
        network = build_network("rwkv-unet", variant=variant, num_classes=9)
        whole = sum(p.numel() for p in network.parameters())
        encoder = sum(p.numel() for p in network.encoder.parameters())
        counts.add_row(variant, f"{whole:,}", f"{encoder:,}")

    errors = Table("Logits", "max |difference|", "relative to their std", title="Against the published network")
    golden = np.load(DATA / "golden_logits.npz")
    for name in golden.files:
        variant, classes, size, batch = name.split("_")
        network = build_network("rwkv-unet", variant=variant, num_classes=int(classes[:-1])).eval()
        load_published(network, october(variant, int(classes[:-1])))
        with torch.inference_mode():
            image = torch.from_numpy(golden_input(int(batch[1:]), int(size)))
            difference = np.abs(network(image)[:, :, ::4, ::4].numpy() - golden[name]).max()
        errors.add_row(name, f"{difference:.1e}", f"{difference / golden[name].std():.1e}")
    console = Console()
    console.print(counts, errors)


if __name__ == "__main__":
    main()
