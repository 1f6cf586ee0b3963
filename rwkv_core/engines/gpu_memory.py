"""Batches on a GPU whose memory may be too small for them."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from rwkv_core.errors import DeviceError

_LOG = logging.getLogger(__name__)
_SAYS = ("out of memory", "alloc_failed")
"""What CUDA, cuDNN and cuBLAS say when torch's own allocator was not the one that failed."""


class Halving:
    """Runs a batch in parts that fit; once a part did not fit, no later one is as large.

    Args:
        device: of type cuda or mps.
        release: gives up what could be done without, before a smaller part is tried.
    """

    def __init__(self, device: torch.device, release: Callable[[], None] = lambda: None):
        self._device, self._release = device, release
        self._most: int | None = None

    def __call__(self, run: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """`run` of all parts, joined.

        Raises:
            DeviceError: when a single slice does not fit.
        """
        done: list[Tensor] = []
        while len(batch) or not done:
            part = batch[: self._most]
            result = self._try(run, part)
            if result is not None:
                done.append(result)
                batch = batch[len(part) :]
                continue
            self._release()
            torch.cuda.empty_cache()
            if len(part) == 1:
                raise DeviceError(
                    f"{_name(self._device)} has too little free memory for one input of "
                    f"{' x '.join(map(str, batch.shape[2:]))}.",
                    hint="Close other programs that use the GPU, or choose the device cpu.",
                )
            self._most = (len(part) + 1) // 2
            _LOG.info("%s holds less than %d slices at once, trying %d", _name(self._device), len(part), self._most)
        return done[0] if len(done) == 1 else torch.cat(done)

    @staticmethod
    def _try(run: Callable[[Tensor], Tensor], part: Tensor) -> Tensor | None:
        """None when it did not fit; the failed attempt's tensors are free by then."""
        try:
            return run(part)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a GPU's memory was too small. A graph's capture fails once more on the way out."""
    if isinstance(error, RuntimeError):
        if isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error).lower() for words in _SAYS):
            return True
        return error.__context__ is not None and is_out_of_memory(error.__context__)
    return False


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "The GPU"
