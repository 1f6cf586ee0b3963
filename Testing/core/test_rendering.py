import numpy as np
import pytest
from matplotlib import image

from rwkv_core import Segmentation, Volume
from rwkv_core.errors import StorageError
from rwkv_core.rendering import render_surface, save_figure

from core.small_models import config

RAS = np.eye(4)


def ball(centre, radius, shape=(40, 40, 40)):
    index = np.indices(shape)
    return sum((index[axis] - centre[axis]) ** 2 for axis in range(3)) <= radius**2


def test_surface_shows_each_class_in_its_colour_where_it_lies():
    classes = config().classes
    labelmap = np.zeros((40, 40, 40), np.uint8)
    labelmap[ball((30, 20, 20), 7)] = 1  # superior
    labelmap[ball((9, 20, 20), 7)] = 2  # inferior
    picture = render_surface(labelmap, RAS, classes)
    assert picture.ndim == 3
    assert 0 <= picture.min() <= picture.max() <= 1

    def rows_like(color):
        hue = np.array(color) / np.linalg.norm(color)
        bright = np.linalg.norm(picture, axis=2) > 0.2
        similar = (picture @ hue) / np.maximum(np.linalg.norm(picture, axis=2), 1e-6) > 0.995
        return np.nonzero(bright & similar)[0]

    upper, lower = rows_like(classes[0].color), rows_like(classes[1].color)
    assert len(upper) > 100
    assert len(lower) > 100
    assert upper.mean() < picture.shape[0] / 2 < lower.mean()


def test_a_class_inside_another_is_seen_through_it():
    classes = config().classes
    labelmap = np.zeros((40, 40, 40), np.uint8)
    labelmap[ball((20, 20, 20), 16)] = 1
    alone = render_surface(labelmap, RAS, classes)
    labelmap[ball((20, 20, 20), 6)] = 2
    both = render_surface(labelmap, RAS, classes)
    height, width = both.shape[:2]
    middle = (slice(height // 2 - 5, height // 2 + 5), slice(width // 2 - 5, width // 2 + 5))
    green_share = both[middle][..., 1].mean() / both[middle].mean()
    assert green_share > 1.1 * alone[middle][..., 1].mean() / alone[middle].mean() or green_share > 1.2


def test_nothing_segmented_is_an_empty_picture():
    picture = render_surface(np.zeros((8, 8, 8), np.uint8), RAS, config().classes, background=(0.1, 0.2, 0.3))
    assert np.allclose(picture, (0.1, 0.2, 0.3))


def result(labelmap):
    return Segmentation(labelmap, RAS, config().classes, None, {}, len(labelmap), "SPL")


def test_figure_is_written_for_any_volume(tmp_path):
    labelmap = np.zeros((20, 30, 24), np.uint8)
    labelmap[8:12, 10:20, 10:14] = 3
    array = np.random.default_rng(0).normal(size=labelmap.shape).astype(np.float32)
    array[0, 0, 0] = np.nan
    path = tmp_path / "ü软 x" / "figure.png"
    save_figure(path, Volume(array, RAS), result(labelmap), "Title")
    assert image.imread(path).shape[0] > 1000
    save_figure(path, Volume(np.zeros((1, 30, 24), np.int16), RAS), result(np.zeros((1, 30, 24), np.uint8)), "Empty")
    assert [entry.name for entry in path.parent.iterdir()] == ["figure.png"]


def test_figure_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(StorageError, match=r"figure\.png cannot be written"):
        save_figure(
            tmp_path / "file" / "figure.png",
            Volume(np.zeros((4, 4, 4)), RAS),
            result(np.zeros((4, 4, 4), np.uint8)),
            "Title",
        )
