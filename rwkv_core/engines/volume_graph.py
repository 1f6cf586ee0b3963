"""U-RWKV for inference: the network itself, which also tells how far float32 can be trusted.

What `inference_graph` does by hand for RWKV-UNet is left to the compiler here: group normalisation cannot go into a
convolution's weights, and BiWKV's weights are constants of the size that a compiler folds.
"""

import copy

import torch
from torch import Tensor, nn

from rwkv_core.engines.map_wkv import SAFE_EXPONENT
from rwkv_core.models import URWKV
from rwkv_core.models.u_rwkv import TriDirectionalMix


class VolumeGraph(nn.Module):
    """A copy of `network` for inference.

    Args:
        network: trained; it is not changed and shares no memory with the copy.

    Raises:
        ValueError: when the network's decays are beyond what float32 weights can hold.
    """

    def __init__(self, network: URWKV):
        super().__init__()
        self.in_channels = network.in_channels
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._ranges: list[Tensor] = []
        for mix in self.network.modules():
            if isinstance(mix, TriDirectionalMix):
                if max(-float(mix.decay.min()), float(mix.first.max())) > SAFE_EXPONENT:
                    raise ValueError("the spatial decays of this network exceed the range of float32")
                mix.key.register_forward_hook(self._note_range)

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, num_classes, D, H, W) of blocks (B, in_channels, D, H, W), float32.

        And, as a scalar, the widest range of keys in one channel of one block. Above `SAFE_EXPONENT` the logits may be
        wrong, and `URWKV.forward` must be asked instead.
        """
        self._ranges.clear()
        logits = self.network(volume)
        return logits, torch.stack(self._ranges).amax()

    def _note_range(self, layer: nn.Module, inputs: object, key: Tensor) -> None:
        """Of keys (B, D, H, W, C), over the voxels."""
        tokens = key.flatten(1, 3)
        self._ranges.append((tokens.amax(1) - tokens.amin(1)).amax())
