"""Torch on an Apple GPU, held against the CPU before its first use: MPS has given silently empty masks elsewhere."""

import logging

from torch import nn

from rwkv_core.engines.agreement import HALF_PRECISION, disagreement, example
from rwkv_core.engines.torch_engine import TorchEngine
from rwkv_core.models.u_rwkv import URWKV

_LOG = logging.getLogger(__name__)
_SIDE = 64
"""Of the picture or block that both see."""


def apple_engine(network: nn.Module) -> TorchEngine:
    """Make the engine on "mps"; where that fails or answers otherwise than the CPU, on the CPU, and the log says so."""
    image = example(getattr(network, "in_channels", 1), *[_SIDE] * (3 if isinstance(network, URWKV) else 2))
    expected = TorchEngine(network, "cpu")(image)
    try:
        engine = TorchEngine(network, "mps")
        reason = disagreement(engine(image), expected, HALF_PRECISION)
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
    if not reason:
        return engine
    _LOG.warning("The Apple GPU is not used, the CPU computes instead: %s.", reason.rstrip("."))
    return TorchEngine(network, "cpu")
