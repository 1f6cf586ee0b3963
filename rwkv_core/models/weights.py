"""A network's weights as numpy arrays, with what is needed to know which network they are; without torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.packages import require_torch

if TYPE_CHECKING:
    from rwkv_core.models import Network


@dataclass(frozen=True)
class NetworkWeights:
    """What model.safetensors and config.json say of a network.

    Attributes:
        architecture, variant: keys of `rwkv_core.models.architectures.ARCHITECTURES`.
        num_classes: output channels, background included.
        in_channels: input channels.
        arrays: float32, by the names of the published checkpoints.
    """

    architecture: str
    variant: str
    num_classes: int
    in_channels: int
    arrays: Mapping[str, NDArray[np.float32]] = field(repr=False)

    @staticmethod
    def of(network: "Network") -> "NetworkWeights":
        """Make a copy of the weights of a network in torch, on any device."""
        arrays = {
            name: value.detach().float().cpu().numpy().copy()
            for name, value in network.state_dict().items()
            if not is_counter(name)
        }
        return NetworkWeights(network.architecture, network.variant, network.num_classes, network.in_channels, arrays)

    def network(self) -> "Network":
        """Make the network in torch, float32, in evaluation mode, with a copy of these weights.

        Raises:
            MissingPackageError: when torch is not installed.
        """
        require_torch("The network in PyTorch")
        import torch

        from rwkv_core.models import build_network

        network = build_network(
            self.architecture, variant=self.variant, num_classes=self.num_classes, in_channels=self.in_channels
        )
        network.load_state_dict({name: torch.tensor(value) for name, value in self.arrays.items()}, strict=False)
        return network.eval()


class Parameters:
    """The arrays of a `NetworkWeights`, handed out by name and shape, and what does not fit noted.

    Args:
        arrays: by name; all but those that begin with `prefix` are left out.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], prefix: str = ""):
        self._arrays = {name: value for name, value in arrays.items() if name.startswith(prefix)}
        self._untaken = set(self._arrays)
        self._unfit: set[str] = set()

    def take(self, name: str, *shape: int) -> NDArray[np.float64]:
        """Give the array of this name, float64; zeros, and the name noted, where it is missing or of another shape."""
        self._untaken.discard(name)
        value = self._arrays.get(name)
        if value is None or value.shape != shape:
            self._unfit.add(name)
            return np.zeros(shape)
        return value.astype(np.float64)

    def wrong(self) -> list[str]:
        """List the names that are missing, of another shape, or were never taken; sorted."""
        return sorted(self._unfit | self._untaken)


def is_counter(name: str) -> bool:
    """Tell whether it is a BatchNorm's count of batches, which inference does not need and files do not keep."""
    return name.endswith("num_batches_tracked")


def not_finite(arrays: Iterable[tuple[str, NDArray[Any]]]) -> list[str]:
    """List the names of the arrays that hold infinities or what is no number, sorted."""
    return sorted(name for name, value in arrays if not np.isfinite(value).all())
