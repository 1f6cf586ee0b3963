"""A small network that learns in a tenth of a second what a user's slices show, beginning with what is known already.

A layer of rectified units and a direct linear path, for all classes at once (softmax); several copies, whose logits
are averaged. To each class's logit, evidence from elsewhere (the interpolated shape, the model's probability) is added,
so that before any learning the answer is that evidence, and learning only corrects it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_core.errors import CancelledError

Matrix = NDArray[np.float32]

_HIDDEN = 32
_BATCH = 1024
_RATE = 0.01
_DECAY = 1e-4
_CLIP = 4.0
_MOST = 60.0
"""Logits above which exp would soon overflow in single precision."""

_BLOCK = 1 << 18
"""Multiplications of a matrix product up to which OpenBLAS uses no threads. Larger ones wait for threads that spin
while other processes hold the cores: several times as long on a busy machine."""


@dataclass(frozen=True)
class Samples:
    """What is learnt from.

    Attributes:
        features: (N, F).
        evidence: (N, E, C): log-odds of each class against the rest, from E sources.
        labels: (N,): 0 for the rest, 1 to C for the classes.
    """

    features: Matrix
    evidence: Matrix
    labels: NDArray[np.intp]


class VoxelClassifier:
    """Learns from samples, then tells log-odds of classes.

    Args:
        samples: at least one.
        copies: of the network; more are steadier.
        steps: of Adam, of 1024 samples each.
        seed: of the random numbers.
        cancelled: asked before every step.

    Raises:
        CancelledError: when it was cancelled.
    """

    def __init__(
        self,
        samples: Samples,
        copies: int = 3,
        steps: int = 240,
        seed: int = 0,
        cancelled: Callable[[], bool] = lambda: False,
    ):
        features = samples.features
        self._mean = features.mean(0)
        self._unit = features.std(0) + 1e-4
        count, size = features.shape
        sources, classes = samples.evidence.shape[1:]
        random = np.random.default_rng(seed)
        weights: list[Matrix] = [
            random.normal(0, size**-0.5, (copies, size, _HIDDEN)).astype(np.float32),
            np.zeros((copies, 1, _HIDDEN), np.float32),
            np.zeros((copies, _HIDDEN, classes), np.float32),
            np.zeros((copies, size, classes), np.float32),
            np.zeros((copies, 1, classes), np.float32),
            np.ones((copies, sources), np.float32),
        ]
        at_rest = [None, None, 10 * _DECAY, 10 * _DECAY, None, None]
        scaled = self._scaled(features)
        first = [np.zeros_like(weight) for weight in weights]
        second = [np.zeros_like(weight) for weight in weights]
        for step in range(1, steps + 1):
            if cancelled():
                raise CancelledError
            chosen = random.integers(0, count, (copies, min(_BATCH, 4 * count)))
            gradients = _gradients(weights, scaled[chosen], samples.evidence[chosen], samples.labels[chosen])
            gradients[0] += _DECAY * weights[0]
            gradients[5] += _DECAY * (weights[5] - 1)
            rate = _RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for place, gradient in enumerate(gradients):
                decay = at_rest[place]
                if decay is not None:
                    gradient = gradient + decay * weights[place]
                first[place] = 0.9 * first[place] + 0.1 * gradient
                second[place] = 0.99 * second[place] + 0.01 * gradient * gradient
                move = (first[place] / (1 - 0.9**step)) / (np.sqrt(second[place] / (1 - 0.99**step)) + 1e-8)
                weights[place] = weights[place] - np.float32(rate) * move
        hidden, bias, out, direct, offset, trust = weights
        # The mean of the copies' logits, as one network.
        self._first = np.concatenate([direct.mean(0), *hidden], 1)
        self._bias = np.concatenate([offset.mean(0), *bias], 1)
        self._second = out.reshape(-1, classes) / np.float32(copies)
        self._trust = trust.mean(0)

    def log_odds(self, features: Matrix, evidence: Matrix) -> Matrix:
        """Give (N, C) log-odds of each class against all else, within 12 of zero; arguments as in `Samples`."""
        return against_all_else(self.logits(features, evidence))

    def logits(self, features: Matrix, evidence: Matrix) -> Matrix:
        """Give (N, C) logits of the classes; that of the rest is 0."""
        units = _product(self._scaled(features), self._first)
        units += self._bias
        direct = units[:, : evidence.shape[2]]
        hidden = units[:, evidence.shape[2] :]
        logits = _product(np.maximum(hidden, 0, out=hidden), self._second)
        logits += direct
        for source, trust in enumerate(self._trust.tolist()):
            logits += np.float32(trust) * evidence[:, source]
        return logits

    def _scaled(self, features: Matrix) -> Matrix:
        scaled = (features - self._mean) * (1 / self._unit)
        return np.clip(scaled, -_CLIP, _CLIP, out=scaled)


def against_all_else(logits: Matrix) -> Matrix:
    """Give (N, C) log-odds of each class against the others and the rest (whose logit is 0), within 12 of zero."""
    if logits.shape[1] == 1:
        return logits.clip(-12, 12)
    top = np.maximum(logits.max(1, keepdims=True), 0)
    shares = np.exp(logits - top)
    total = shares.sum(1, keepdims=True) + np.exp(-top)
    return np.log(shares.clip(1e-9) / (total - shares).clip(1e-9)).clip(-12, 12)


def _gradients(weights: list[Matrix], features: Matrix, evidence: Matrix, labels: NDArray[np.intp]) -> list[Matrix]:
    """Of the mean cross-entropy; (copies, B, ...) samples for (copies, ...) weights."""
    hidden, bias, out, direct, offset, trust = weights
    units = _product(features, hidden)
    units += bias
    np.maximum(units, 0, out=units)
    logits = _product(units, out)
    logits += _product(features, direct)
    logits += offset
    logits += (trust[:, None, None] @ evidence)[:, :, 0]
    wrong = np.exp(np.minimum(logits, _MOST, out=logits), out=logits)
    wrong /= wrong.sum(2, keepdims=True) + 1
    copy, place = np.nonzero(labels)
    wrong[copy, place, labels[copy, place] - 1] -= 1
    wrong /= labels.shape[1]
    back = _product(wrong, out.transpose(0, 2, 1))
    back *= units > 0
    return [
        _correlation(features, back),
        back.sum(1, keepdims=True),
        _correlation(units, wrong),
        _correlation(features, wrong),
        wrong.sum(1, keepdims=True),
        (evidence @ wrong[..., None]).sum(1)[..., 0],
    ]


def _product(samples: Matrix, weights: Matrix) -> Matrix:
    """Multiply (..., N, F) by (..., F, H), in blocks of samples."""
    *leading, count, size = samples.shape
    rows = _rows(size, weights.shape[-1])
    whole = count - count % rows
    product = np.empty((*leading, count, weights.shape[-1]), np.float32)
    if whole:
        blocks = samples[..., :whole, :].reshape(*leading, -1, rows, size)
        product[..., :whole, :] = (blocks @ weights[..., None, :, :]).reshape(*leading, whole, -1)
    np.matmul(samples[..., whole:, :], weights, out=product[..., whole:, :])
    return product


def _correlation(samples: Matrix, others: Matrix) -> Matrix:
    """Sum (copies, N, F) times (copies, N, H) over N: (copies, F, H), in blocks of samples."""
    copies, count, size = samples.shape
    rows = _rows(size, others.shape[2])
    whole = count - count % rows
    total: Matrix = samples[:, whole:].transpose(0, 2, 1) @ others[:, whole:]
    if whole:
        left = samples[:, :whole].reshape(copies, -1, rows, size).transpose(0, 1, 3, 2)
        total += (left @ others[:, :whole].reshape(copies, -1, rows, others.shape[2])).sum(1)
    return total


def _rows(size: int, columns: int) -> int:
    """Give how many samples a product takes at once."""
    return max(_BLOCK // (size * columns), 1)
