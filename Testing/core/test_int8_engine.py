"""The 8-bit engine, on the shipped model and slices of the sample head."""

import importlib.util
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rwkv_core
from rwkv_core import Segmenter, make_engine, read_volume
from rwkv_core.engines import openvino_int8_engine, why_unavailable
from rwkv_core.engines.openvino_int8_engine import OpenVINOInt8Engine, compared
from rwkv_core.errors import DeviceError
from rwkv_core.models.weights import NetworkWeights
from rwkv_core.vocabulary import Region, SegmentOptions

from core.test_engines import picture, random_network, relative_error

pytestmark = pytest.mark.exhaustive

HAS_BOTH = all(importlib.util.find_spec(package) for package in ("openvino", "nncf"))
needs_nncf = pytest.mark.skipif(not HAS_BOTH, reason="OpenVINO or NNCF is not installed (pip install openvino nncf)")
HEAD = Path(rwkv_core.__file__).parent / "data" / "sample" / "ch2.nii.gz"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RWKV_UNET_CACHE", str(tmp_path))


@needs_nncf
@pytest.mark.filterwarnings("default")
def test_the_head_keeps_its_labels_and_the_cost_is_told(caplog, monkeypatch):
    volume, region = read_volume(HEAD), Region(k=(52, 92))
    expected = (
        Segmenter("default", "cpu", engine="openvino")
        .segment(volume, region, options=SegmentOptions(average=False))
        .labelmap
    )
    segmenter = Segmenter("default", "cpu", engine="openvino-int8")
    with caplog.at_level(logging.WARNING):
        found = segmenter.segment(volume, region, options=SegmentOptions(average=False))
    assert segmenter.engine.name == "openvino-int8"
    assert "8-bit engine: on 12 slices" in caplog.text and "mean Dice" in caplog.text
    assert (found.labelmap != expected).any()
    agreeing = [
        2 * ((found.labelmap == c.value) & (expected == c.value)).sum()
        / max(1, (found.labelmap == c.value).sum() + (expected == c.value).sum())
        for c in found.classes
        if (expected == c.value).any()
    ]  # fmt: skip
    assert sum(agreeing) / len(agreeing) > 0.99

    def refuse(*_):
        raise AssertionError("calibrated again")

    monkeypatch.setattr(openvino_int8_engine, "quantised", refuse)
    again = Segmenter("default", "cpu", engine="openvino-int8").segment(
        volume, region, options=SegmentOptions(average=False)
    )
    assert (again.labelmap == found.labelmap).all()


@needs_nncf
@pytest.mark.filterwarnings("default")
def test_a_model_that_loses_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(openvino_int8_engine, "_LEAST_DICE", 1.0)
    engine = OpenVINOInt8Engine(NetworkWeights.of(random_network()))
    with pytest.raises(DeviceError, match=r"8 bits change the result.*Dice.*Choose the engine auto"):
        engine.calibrate((32, 32), lambda: picture(16, 1, 32, 32))
    assert engine.name == "openvino-int8"


@needs_nncf
@pytest.mark.filterwarnings("default")
def test_halved_logits_are_calibrated_by_themselves(monkeypatch):
    monkeypatch.setattr(openvino_int8_engine, "_LEAST_DICE", -1.0)
    network, images = random_network(), picture(16, 1, 32, 32)
    engine = OpenVINOInt8Engine(NetworkWeights.of(network))
    (plain,) = engine.map([images], 16, halved=True)
    engine.calibrate((32, 32), lambda: images, halved=True)
    (quantised,) = engine.map([images], 16, halved=True)
    assert engine.name == "openvino-int8"
    assert quantised.shape == plain.shape == (16, 5, 16, 16)
    assert 0 < relative_error(quantised, plain) < 1
    with torch.inference_mode():
        assert relative_error(engine(images), network(images)) < 1e-5  # not calibrated for these


@needs_nncf
def test_without_calibration_it_answers_in_float32():
    network, image = random_network(), picture(3, 1, 32, 48)
    engine = make_engine(network, "cpu", (32, 48), "openvino-int8")
    engine.calibrate((32, 48), lambda: image)  # too few
    with torch.inference_mode():
        assert relative_error(engine(image), network(image)) < 1e-5


def test_missing_nncf_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    if importlib.util.find_spec("openvino"):
        assert why_unavailable("openvino-int8") == "NNCF is not installed (pip install nncf)"
    with pytest.raises(DeviceError, match="not installed"):
        make_engine(random_network(), "cpu", engine="openvino-int8")


def test_comparison_counts_classes_that_are_there():
    truth = np.zeros((1, 3, 2, 4), np.float32)
    truth[:, 1, :, 2:] = 1
    found = truth.copy()
    found[:, 1, 0, 2] = -1
    assert compared(truth, truth) == (1.0, 1.0)
    agreement, dice = compared(found, truth)
    assert agreement == 7 / 8 and dice == pytest.approx(6 / 7)
