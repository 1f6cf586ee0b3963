"""A real bundle of the smallest size, with weights, made once per run."""

import functools
import tempfile
from pathlib import Path

import torch

from rwkv_core.bundle.bundle import CONFIG_FILE, WEIGHTS_FILE, write_bundle
from rwkv_core.bundle.config import config_text
from rwkv_core.models import build_network

from core.small_models import config


@functools.cache
def weights(num_classes=5, half=True):
    """Bytes of the weights file of variant T; num_classes 1 makes an encoder's."""
    torch.manual_seed(num_classes)
    kind = {"kind": "encoder"} if num_classes == 1 else {}
    network = build_network("rwkv-unet", variant="T", num_classes=num_classes)
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "b", config(values=range(1, num_classes), **kind), network, half)
        return bundle.weights_file.read_bytes()


def bundle_files(**changes):
    """Name to contents, as in a repository."""
    values = changes.get("values", (1, 2, 3, 4))
    return {
        CONFIG_FILE: config_text(config(**changes)).encode(),
        WEIGHTS_FILE: weights(1 + len(values)),
    }


def write_files(folder, files=None, **changes):
    """The bundle as a folder."""
    folder.mkdir(parents=True)
    for name, content in (files or bundle_files(**changes)).items():
        (folder / name).write_bytes(content)
    return folder
