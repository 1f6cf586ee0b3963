"""A bundle: one folder (or Hub repository) that holds all that is needed to segment with one trained network.

``config.json`` (see `rwkv_core.bundle.config`) describes it; ``model.safetensors`` holds the weights. The shipped
model, a download, an imported checkpoint and a fine-tuned run are all bundles. Reading one needs no torch; writing one,
and the network in torch, do.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from rwkv_core.bundle.config import BundleConfig, config_text, parse_config
from rwkv_core.errors import BundleError, StorageError
from rwkv_core.models.weights import NetworkWeights, is_counter, not_finite

if TYPE_CHECKING:
    from torch import Tensor

    from rwkv_core.models import Network

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ENCODER_PREFIX = "encoder."


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. The weights are read when `weights` or `network` is first asked for."""

    folder: Path
    config: BundleConfig

    @cached_property
    def weights(self) -> NetworkWeights:
        """Read the network's weights.

        Raises:
            BundleError: when the weights file is missing, damaged, or does not fit config.json; or when the bundle
                holds an encoder only.
        """
        if self.config.kind == "encoder":
            raise BundleError(
                f"{self.config.id} holds encoder weights only: a starting point for training.",
                hint="Choose a segmentation model, or train one from this encoder.",
            )
        return self._read()

    @cached_property
    def network(self) -> "Network":
        """Make the network in torch with its weights, float32, in evaluation mode.

        Raises:
            BundleError: as for `weights`.
            MissingPackageError: when torch is not installed.
        """
        return self.weights.network()

    def load_encoder(self, network: "Network") -> None:
        """Copy this bundle's encoder into `network`, of the same kind and size and any class count, in place.

        Raises:
            BundleError: when the architecture or variant differs, or the weights file is missing, damaged, or does
                not fit config.json.
        """
        import torch

        own = (self.config.architecture, self.config.variant)
        if (network.architecture, network.variant) != own:
            raise BundleError(
                f"{self.config.id} is {' '.join(own)} and does not fit {network.architecture} {network.variant}."
            )
        weights = self._read(encoder=True)
        encoder = {
            name.removeprefix(ENCODER_PREFIX): torch.tensor(value)
            for name, value in weights.arrays.items()
            if name.startswith(ENCODER_PREFIX)
        }
        network.encoder.load_state_dict(encoder, strict=False)

    @property
    def weights_file(self) -> Path:
        """Path of model.safetensors."""
        return self.folder / WEIGHTS_FILE

    def check(self) -> None:
        """Tell whether the weights file is there and complete, from its header alone.

        Raises:
            BundleError: when it is missing, cut short or no safetensors file.
        """
        with _reading(self.weights_file) as path, safe_open(path, framework="np"):
            pass

    def verify(self) -> None:
        """Read all weights and compare them with config.json.

        Raises:
            BundleError: when they are missing, damaged, not finite, or do not fit.
        """
        self._read(encoder=self.config.kind == "encoder")

    def _read(self, encoder: bool = False) -> NetworkWeights:
        """Give all weights, or those of the encoder; there must be exactly the network's own."""
        from rwkv_core.engines.graphs import unfit_names

        config, arrays = self.config, {}
        with _reading(self.weights_file) as path, safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                arrays[name] = file.get_tensor(name).astype(np.float32)
        weights = NetworkWeights(config.architecture, config.variant, config.num_classes, config.in_channels, arrays)
        wrong = unfit_names(weights, encoder)
        if wrong:
            raise BundleError(
                f"{path} does not fit {self.folder / CONFIG_FILE} (variant {config.variant}, "
                f"{config.num_classes} classes): {', '.join(wrong[:8])}{' ...' if len(wrong) > 8 else ''}."
            )
        bad = not_finite(arrays.items())
        if bad:
            raise BundleError(f"{path} holds values that are not finite, in: {', '.join(bad)}.")
        return weights


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Turn what goes wrong while the weights file is read into words."""
    try:
        yield path
    except FileNotFoundError:
        raise BundleError(f"{path} is missing.", hint="Download or import the model again.") from None
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"{path} cannot be read: {error}.", hint="The file is damaged; download or import the model again."
        ) from None


def read_bundle(folder: Path) -> Bundle:
    """Read and validate the description of the bundle in `folder`.

    Raises:
        BundleError: when there is no config.json, or it is not valid.
    """
    path = folder / CONFIG_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{folder} is not a bundle: it holds no {CONFIG_FILE}.") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from None
    return Bundle(folder, parse_config(text, str(path)))


def new_network(config: BundleConfig) -> "Network":
    """Make the network that `config` describes, with fresh weights."""
    from rwkv_core.models import build_network

    return build_network(
        config.architecture, variant=config.variant, num_classes=config.num_classes, in_channels=config.in_channels
    )


def write_bundle(folder: Path, config: BundleConfig, network: "Network", half: bool = False) -> Bundle:
    """Write a bundle, whole or not at all; an older one in its place is replaced.

    Args:
        folder: the bundle's folder; its parent is created.
        config: its description.
        network: the weights, on any device. Of kind "encoder", only its encoder is stored.
        half: store weight matrices in float16 (half the size); vectors, such as norms, stay in float32.

    Raises:
        StorageError: when the disk is full or not writable.
    """
    from safetensors.torch import save_file

    prefix = ENCODER_PREFIX if config.kind == "encoder" else ""
    weights = {
        name: _stored(value, half)
        for name, value in network.state_dict().items()
        if name.startswith(prefix) and not is_counter(name)
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            save_file(weights, new / WEIGHTS_FILE, metadata={"format": "pt"})
            (new / CONFIG_FILE).write_text(config_text(config), encoding="utf-8")
            # safetensors makes a file for its owner alone; a model may be for all users of a machine.
            (new / WEIGHTS_FILE).chmod((new / CONFIG_FILE).stat().st_mode)
            replace_folder(new, folder)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"The bundle {folder} could not be written: {error}.", hint="Check the free space and permissions."
        ) from None
    return Bundle(folder, config)


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` at `target`, on one file system; a folder there is moved away first, then removed."""
    old = new.with_name("old")
    if target.exists():
        target.replace(old)
    new.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def _stored(value: "Tensor", half: bool) -> "Tensor":
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.ndim > 1 else value.float()
