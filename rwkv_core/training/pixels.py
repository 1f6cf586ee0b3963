"""Colour images through the network: what `Segmenter` is for grey volumes, for RGB, which is 2-D and needs no stack."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.bundle import Bundle
from rwkv_core.engines import make_engine
from rwkv_core.engines.arrays import as_numpy
from rwkv_core.inference.intensity import fit_intensity
from rwkv_core.inference.preprocessing import make_resampler
from rwkv_core.training.datasets.description import Sample
from rwkv_core.volume import choose_stack


def label_pixels(
    bundle: Bundle, image: NDArray[np.generic], sample: Sample, mode: Literal["best", "paper"], device: str
) -> NDArray[np.unsignedinteger]:
    """Labelmap (K, J, I), values of the bundle's classes, of an image (3, K, J, I).

    Raises:
        InputError: when the image cannot be prepared.
        DeviceError: when the device is not there.
    """
    preprocessing = bundle.config.preprocessing
    assert preprocessing is not None
    engine = make_engine(bundle.weights, device)
    stack = choose_stack(sample.ijk_to_ras, image.shape[1:], preprocessing.orientations)
    scale = fit_intensity(preprocessing.intensity, np.asarray(image), exact=mode == "paper")
    shape = (stack.shape[1], stack.shape[2])
    resampler = make_resampler(preprocessing, shape, stack.spacing[1:], mode == "paper")
    values = np.array([0, *(one.value for one in bundle.config.classes)], np.uint16)
    labelmap = np.zeros(image.shape[1:], np.uint16)
    target = stack.to_stack(labelmap)
    source = [stack.to_stack(channel) for channel in image]
    for n in range(stack.shape[0]):
        raw = np.stack([one[n] for one in source])
        batch = as_numpy(resampler.to_network(scale(raw), scale.padding)).swapaxes(0, 1)
        target[n] = values[resampler.labels(as_numpy(engine(batch)))[0]]
    return labelmap
