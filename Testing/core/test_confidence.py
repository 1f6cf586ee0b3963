"""Volumes of structures, and how sure a model was of them."""

import numpy as np
import pytest

from rwkv_core import Segmenter, Volume
from rwkv_core.inference.confidence import Confidence, low_confidence, structure_volumes

from core.small_models import BandNetwork, config, with_network
from core.test_sides import LEFT, RIGHT, head, segmenter


def test_the_expected_dice_is_that_of_truths_drawn_from_the_probabilities():
    random = np.random.default_rng(0)
    foreground = random.beta(0.3, 0.6, 20_000)
    probabilities = np.stack([1 - foreground, foreground])
    labels = probabilities.argmax(0)
    confidence = Confidence(2)
    for part in (slice(0, 7_000), slice(7_000, None)):
        confidence.add(probabilities[:, part], labels[part])
    truth = random.random(len(foreground)) < foreground
    dice = 2 * (truth & (labels == 1)).sum() / (truth.sum() + (labels == 1).sum())
    assert confidence.values()[1] == pytest.approx(dice, abs=0.02)


def test_what_is_labeled_nowhere_has_no_confidence_and_no_warning():
    confidence = Confidence(3)
    confidence.add(np.array([[0.9, 0.5], [0.1, 0.5], [0.0, 0.0]]), np.array([0, 1]))
    classes = config(values=(1, 2)).classes
    rows = structure_volumes(np.array([1, 1, 0]), 0.5, classes, (), confidence.values())
    assert [row.volume_ml for row in rows] == [0.5, 0.0]
    assert rows[1].confidence is None
    assert len(low_confidence(rows)) == 1
    assert f"Class 1 ({rows[0].confidence:.2f})" in low_confidence(rows)[0]
    assert "Class 2" not in low_confidence(rows)[0]


def test_volumes_of_a_result_hold_each_side_and_the_inside_of_the_skull():
    volume, labels = head()
    rows = {row.name: row for row in segmenter().segment(volume).volumes}
    for name, value in (("Class 1", LEFT), ("Class 2", RIGHT)):
        assert rows[name].volume_ml == pytest.approx(np.count_nonzero(labels == value) / 1000)
        assert rows[name].confidence > 0.95
    assert rows["Intracranial"].volume_ml == pytest.approx(np.count_nonzero(volume.array) / 1000)


def test_one_plane_has_confidence_too():
    channel = np.zeros((12, 32, 32), np.int64)
    channel[2:9, 5:20, 8:25] = 3
    model = with_network(config(), BandNetwork())
    result = Segmenter(model, "cpu", engine="torch").segment(volume_of(channel))
    row = next(row for row in result.volumes if row.value == 3)
    assert row.volume_ml == pytest.approx(np.count_nonzero(channel == 3) / 1000)
    assert 0.5 < row.confidence <= 1
    assert all(row.confidence is None for row in result.volumes if not row.volume_ml)


def volume_of(channel):
    return Volume(channel.astype(np.float32) / 4, np.eye(4))
