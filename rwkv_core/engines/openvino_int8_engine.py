"""The network in OpenVINO with 8-bit products where they cost little accuracy: optional, and never chosen by itself.

Which layers: the 1x1 and local convolutions of the two deepest stages and the first decoder, where most of the products
of the larger networks are. All other layers work on finer maps, where 8 bits move borders: with every layer in 8 bits,
the shipped model's Dice with float32 is 0.975, with these 0.998 (benchmarks/int8.py). Keys stay in float32, for they
are exponents.
"""

import contextlib
import hashlib
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.compiled_cache import CompiledCache
from rwkv_core.engines.arrays import Batch, as_numpy
from rwkv_core.engines.openvino_engine import Form, OpenVINOEngine, convert
from rwkv_core.engines.openvino_ops import import_openvino
from rwkv_core.errors import DeviceError
from rwkv_core.models.weights import NetworkWeights

_LOG = logging.getLogger(__name__)
IN_FLOAT = (r"^(?!.*(stages\.2|stages\.3|decoders\.0)\.).*$", r".*(shift_|mix\.key|wkv).*")
"""Names of operations that are left alone, as patterns."""
_LEAST_DICE = 0.995
FEWEST_SLICES = 16
"""Half of them to calibrate with, half to check."""


class OpenVINOInt8Engine(OpenVINOEngine):
    """Computes as `OpenVINOEngine` does, in float32, until it was calibrated for a size; partly in 8 bits from then on.

    Args:
        weights: of a trained RWKV-UNet.
    """

    def __init__(self, weights: NetworkWeights):
        self._quantised: dict[Form, dict[str, bytes]] = {}
        super().__init__(weights)

    @property
    def name(self) -> str:
        return "openvino-int8" if super().name == "openvino" else super().name

    def calibrate(self, size: tuple[int, int], typical: Callable[[], Batch], halved: bool = False) -> None:
        """Get ready for one size, and say in the log what it costs. What was calibrated once is kept on disk.

        Args:
            size: (H, W).
            halved: whether the logits will be.
            typical: slices (N, C, H, W) such as will come, as the network takes them; called if they are needed. With
                fewer than `FEWEST_SLICES` nothing is calibrated.

        Raises:
            DeviceError: when the labels would differ too much from those of float32.
        """
        form: Form = (size, halved)
        if form in self._quantised:
            return
        cache, key = CompiledCache("openvino-int8"), self._int8_key(form)
        model = cache.load(key)
        if model is None:
            slices = as_numpy(typical())
            if len(slices) < FEWEST_SLICES:
                _LOG.info("%d slices are too few to calibrate 8 bits with: float32 is used", len(slices))
                return
            model = self._made(slices, halved)
            cache.save(key, model)
        self.use(form, model)
        _LOG.warning("%s", model["report"].decode())

    def _made(self, slices: NDArray[np.float32], halved: bool) -> dict[str, bytes]:
        expected = self._logits(slices[1::2], halved)  # in float32 so far
        model = quantised(self._weights, slices[::2], halved=halved)
        form: Form = (slices.shape[2:], halved)
        self.use(form, model)
        agreement, dice = compared(self._logits(slices[1::2], halved), expected)
        cost = (
            f"on {len(expected)} slices, {agreement:.2%} of the pixels have the label that they have in float32, and "
            f"the mean Dice of the classes with float32 is {dice:.4f}"
        )
        if self._failed or not dice > _LEAST_DICE:
            self._quantised.pop(form)
            raise DeviceError(
                f"8 bits change the result of this model too much: {cost}, less than {_LEAST_DICE}.",
                hint="Choose the engine auto.",
            )
        return {**model, "report": f"8-bit engine: {cost}.".encode()}

    def use(self, form: Form, model: dict[str, bytes]) -> None:
        """Take what `quantised` made for slices of this form, unchecked."""
        self._quantised[form] = model
        self._requests.pop(form, None)
        self._several = None

    def _load(self, size: tuple[int, ...], halved: bool, options: dict[str, Any]) -> Any:
        model = self._quantised.get((size, halved))
        if model is None:
            return super()._load(size, halved, options)
        core = import_openvino().Core()
        return core.compile_model(core.read_model(model["graph"], model["weights"]), "CPU", options)

    def _int8_key(self, form: Form) -> str:
        openvino = import_openvino()
        setting = (self._key(openvino, openvino.Core(), (*form[0], form[1])), Path(__file__).read_bytes())
        return hashlib.sha256(repr(setting).encode()).hexdigest()


def quantised(
    weights: NetworkWeights, slices: NDArray[np.float32], in_float: tuple[str, ...] = IN_FLOAT, halved: bool = False
) -> dict[str, bytes]:
    """Make OpenVINO's "graph" and "weights" with 8-bit layers, for slices (N, C, H, W) like these.

    Args:
        weights: of the network.
        slices: to calibrate with.
        in_float: patterns of operations' names that stay in float32.
        halved: whether the logits are.
    """
    openvino = import_openvino()
    with contextlib.redirect_stdout(sys.stderr):  # where its progress bars do no harm
        import nncf

        nncf.set_log_level(logging.ERROR)
        model = nncf.quantize(
            convert(weights, slices.shape[2:], halved),
            nncf.Dataset([image[None] for image in slices]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(slices),
            ignored_scope=nncf.IgnoredScope(patterns=list(in_float), validate=False),
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return {"graph": path.read_bytes(), "weights": path.with_suffix(".bin").read_bytes()}


def compared(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> tuple[float, float]:
    """Give the share of equal labels, and the mean Dice over the classes there are, of logits (N, classes, H, W)."""
    found, truth = logits.argmax(1), expected.argmax(1)
    dice = []
    for value in np.unique(truth):
        if value:
            a, b = found == value, truth == value
            dice.append(2 * int((a & b).sum()) / int(a.sum() + b.sum()))
    return float((found == truth).mean()), float(np.mean(dice)) if dice else 0.0
