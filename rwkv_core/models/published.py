"""Loading the checkpoints that RWKV-UNet's authors publish.

Two generations of files exist (January and October 2025), as full networks and as ImageNet encoders. All carry
parameters that no forward pass touches; those, and only those, are left aside. Anything else that does not fit is
refused by name.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from rwkv_core.errors import CheckpointError
from rwkv_core.models.rwkv_unet import RWKVUNet

_ATTENTION = re.compile(r"encoder\.stage\d+\.\d+\.(att\.|ln1\.)")
_NEVER_USED = re.compile(r"encoder\.stage\d+\.\d+\.ln2\.|encoder\.(norm|head)\.|decoder\d\.ln1\.")
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_PREFIXES = ("module.", "_orig_mod.")


def load_published(network: RWKVUNet, state_dict: Mapping[str, object]) -> RWKVUNet:
    """Copy a published state dict into `network`, in place.

    Args:
        network: of the variant and class count of the file. For an encoder file, any class count: only
            `network.encoder` is written.
        state_dict: parameter name to tensor, as `torch.load(path, weights_only=True)` gives it; one enclosing
            dictionary ("model", "state_dict", ...) and a DataParallel prefix are looked through.

    Returns:
        `network`.

    Raises:
        CheckpointError: naming the parameters that are missing, unexpected or of another shape. `network` is then
            unchanged.
    """
    tensors = unwrap(state_dict)
    if tensors and not any(name.startswith(("encoder.", "decoder", "ccm.", "final_conv.")) for name in tensors):
        tensors = {f"encoder.{name}": value for name, value in tensors.items()}  # an ImageNet encoder file
    own = network.state_dict()
    if tensors and all(name.startswith("encoder.") for name in tensors):
        own = {name: value for name, value in own.items() if name.startswith("encoder.")}
    # The running counters are in no norm's arithmetic, so a file may lack them.
    required = {name for name in own if not name.endswith("num_batches_tracked")}
    live = {name: value for name, value in tensors.items() if name in own or not is_dead(name)}
    missing = sorted(required - live.keys())
    unexpected = sorted(live.keys() - own.keys())
    reshaped = [
        f"{name}: file {tuple(value.shape)}, network {tuple(own[name].shape)}"
        for name, value in sorted(live.items())
        if name in own and value.shape != own[name].shape
    ]
    if missing or unexpected or reshaped:
        raise CheckpointError(
            f"This file does not fit RWKV-UNet-{network.variant} with {network.num_classes} classes. "
            + " ".join(
                f"{title} ({len(names)}): {', '.join(names)}."
                for title, names in (("Missing", missing), ("Unexpected", unexpected), ("Another shape", reshaped))
                if names
            ),
            hint="Check the variant (T, S or B) and the number of classes, background included.",
        )
    damaged = [name for name, value in sorted(live.items()) if not torch.isfinite(value).all()]
    if damaged:
        raise CheckpointError(f"This file holds values that are not finite, in: {', '.join(damaged)}.")
    network.load_state_dict(live, strict=False)
    return network


def unwrap(state_dict: Mapping[str, object]) -> dict[str, Tensor]:
    """Give the parameters themselves: without an enclosing dictionary and without a wrapper's prefix.

    Raises:
        CheckpointError: when there are no tensors, or something else stands among them.
    """
    for key in _WRAPPERS:
        inner = state_dict.get(key)
        if isinstance(inner, Mapping):
            return unwrap(inner)
    other = sorted(str(name) for name, value in state_dict.items() if not isinstance(value, Tensor))
    if other or not state_dict:
        what = f"entries that are no tensors: {', '.join(other)}" if other else "no parameters"
        raise CheckpointError(f"This file is not a state dict of RWKV-UNet: it holds {what}.")
    tensors = {str(name): value for name, value in state_dict.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def is_dead(name: str) -> bool:
    """Tell whether the authors' code carries this parameter without ever using it, in blocks that lack the live one."""
    return bool(_ATTENTION.match(name) or _NEVER_USED.match(name))
