"""What a run was made with, for environment.json."""

import os
import platform
import sys
from importlib import metadata
from typing import Any

import torch

from rwkv_core import __version__

_PACKAGES = ("torch", "lightning", "monai", "numpy", "SimpleITK", "h5py", "pillow", "tensorboard")


def environment(device: str, processes: int) -> dict[str, Any]:
    """Versions, machine, device and command line."""
    found: dict[str, Any] = {
        "rwkv-unet-segment": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "device": device,
        "processes": processes,
        "command": sys.argv,
    }
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if device.startswith("cuda"):
        found |= {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name()}
    return found
