"""Which slices were edited, how a head grows, what is known without being drawn, how far a result is carried."""

import numpy as np
import pytest
import torch

from rwkv_core import build_network
from rwkv_core.adaptation.augmentation import Augmentation
from rwkv_core.adaptation.extent import Extent, belief_map
from rwkv_core.adaptation.growing import fit_new_channels, grown_network
from rwkv_core.adaptation.propagation import propagate
from rwkv_core.corrections import changed_values, edited_slices, keep_slices, slices_mask
from rwkv_core.errors import InputError
from rwkv_core.vocabulary import AXES, SliceIndex


def painted(*slices):
    """A labelmap and the same with a square drawn in each of the slices."""
    before = np.random.default_rng(0).integers(0, 3, (12, 14, 16)).astype(np.uint8)
    after = before.copy()
    for one in slices:
        one.of(after)[2:9, 3:10] = 7
    return before, after


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_edited_slices_are_found_in_their_own_plane(axis):
    drawn = [SliceIndex(AXES[axis], 3), SliceIndex(AXES[axis], 6), SliceIndex(AXES[axis], 7)]
    assert edited_slices(*painted(*drawn)) == drawn


def test_edits_in_two_planes_are_found_together():
    drawn = [SliceIndex("K", 2), SliceIndex("K", 10), SliceIndex("I", 5)]
    assert edited_slices(*painted(*drawn)) == sorted(drawn)
    before, after = painted()
    assert edited_slices(before, after) == []


def test_users_slices_are_kept_whatever_the_model_says():
    users, new = np.ones((4, 5, 6), np.uint8), np.full((4, 5, 6), 300, np.uint16)
    kept = keep_slices(new, users, [SliceIndex("K", 1), SliceIndex("I", 5)])
    mask = slices_mask(users.shape, [SliceIndex("K", 1), SliceIndex("I", 5)])
    assert (kept[mask] == 1).all()
    assert (kept[~mask] == 300).all()
    assert (new == 300).all()
    for nowhere in (SliceIndex("K", 4), SliceIndex("K", -1)):
        with pytest.raises(InputError):
            keep_slices(new, users, [nowhere])


def test_a_grown_head_keeps_what_it_said_and_learns_the_new_class():
    torch.manual_seed(0)
    network = build_network("rwkv-unet", variant="T", num_classes=3).eval()
    image = torch.zeros(1, 1, 64, 64)
    image[..., 16:40, 16:40] = 1
    grown = grown_network(network, 2)
    with torch.no_grad():
        assert torch.allclose(grown(image)[:, :3], network(image), atol=1e-5)
        assert network(image).shape[1] == 3
    target = torch.zeros(1, 64, 64, dtype=torch.long)
    target[:, 20:36, 20:36] = 4
    target[:, 50:60, 50:60] = 3
    fit_new_channels(grown, 2, [image], [target])
    with torch.no_grad():
        logits = grown(image)
        assert torch.allclose(logits[:, :3], network(image), atol=1e-5)
        found = logits.argmax(1)
    assert (found[target == 4] == 4).float().mean() > 0.8


def test_what_corrections_are_about():
    before = np.zeros((4, 6, 6), np.uint8)
    before[:, :3] = 1
    before[:, 3:5] = 2
    users = before.copy()
    users[1, 2, 2] = 2  # from 1 to 2
    users[2, 0, 0] = 9  # new, over 1
    users[3, 5, 5] = 3  # not in a corrected slice
    assert changed_values(before, users, [SliceIndex("K", 1)]) == {1, 2}
    assert changed_values(before, users, [SliceIndex("K", 2)], [9]) == {9}
    assert changed_values(before, users, [SliceIndex("K", 1), SliceIndex("K", 2)], [9]) == {1, 2, 9}
    assert changed_values(before, users, [SliceIndex("K", 0)]) == set()


def disc(size=40, first=10, last=30):
    mask = np.zeros((size, size), bool)
    mask[first:last, first:last] = True
    return mask


def test_between_drawn_slices_a_class_is_known_as_far_as_its_border_can_move():
    extent = Extent([(0.0, disc()), (8.0, disc())], (1.0, 1.0))
    middle = extent.at(4.0)
    assert middle[20, 20] == 1
    assert middle[12, 20] == 0
    assert middle[7, 20] == 0
    assert middle[0, 20] == -1
    for far in (-8.5, 16.5):  # beyond the gap between the drawn slices
        assert (extent.at(far) == -1).all()
    assert (extent.at(12.0) > -1).any()


def test_shapes_between_drawn_slices_are_a_guess_that_weakens_with_the_distance():
    extent = Extent([(0.0, disc()), (8.0, disc(first=14, last=26))], (1.0, 1.0))
    drawn, near, middle, beyond = (extent.log_odds(at) for at in (0.0, 1.0, 4.0, 10.0))
    assert np.array_equal(drawn > 0, disc())
    assert np.array_equal(middle > 0, disc(first=12, last=28))  # halfway in size, too
    assert near[11, 20] > middle[12, 20] > 0
    assert (beyond > 0).sum() < disc(first=14, last=26).sum()
    assert (extent.log_odds(40.0) == middle.min()).all()


def test_an_empty_slice_ends_a_class():
    mask = disc(20, 5, 15)
    extent = Extent([(0.0, mask), (30.0, mask), (36.0, np.zeros_like(mask))], (1.0, 1.0))
    assert extent.at(34.0)[10, 10] >= 0
    assert (extent.at(36.0) == -1).all()
    assert extent.at(-20.0)[10, 10] >= 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_belief_along_any_axis(axis):
    labelmap = np.zeros((14, 15, 16), np.uint8)
    labelmap[3:11, 4:12, 5:13] = 7
    slices = [SliceIndex(AXES[axis], index) for index in (6, 9)]
    belief = belief_map(labelmap, 7, [*slices, SliceIndex(AXES[(axis + 1) % 3], 7)], (1.0, 1.0, 1.0))
    assert belief.shape == labelmap.shape
    for one in slices:
        assert np.array_equal(one.of(belief) > 0, one.of(labelmap) == 7)
    assert belief[7, 8, 9] == 1
    assert (SliceIndex(AXES[axis], 0).of(belief) == -1).all()


def test_augmented_maps_stay_with_their_image():
    labels = torch.zeros(4, 1, 64, 64)
    labels[..., 20:44, 12:50] = 1
    image, maps = Augmentation(1)(labels.clone(), labels, clipped=True)
    assert not torch.equal(maps, labels)
    assert 0 <= image.min() <= image.max() <= 1
    assert image[maps > 0.99].mean() > image[maps < 0.01].mean() + 0.5
    again = Augmentation(1)(labels.clone(), labels, clipped=True)
    assert torch.equal(image, again[0])


def stack(*radii):
    """One disc per slice, of these radii; 0 is none."""
    j, i = np.indices((30, 30))
    distance = np.hypot(j - 15, i - 15)
    return np.stack([np.where(distance < radius, 5, 0) for radius in radii]).astype(np.uint8)


def test_a_correction_spreads_until_agreement_falls():
    adapted = stack(0, 4, 8, 8, 9, 10, 10, 3, 9)
    labelmap = np.zeros_like(adapted)
    labelmap[4] = adapted[4]
    found = propagate(labelmap, adapted, SliceIndex("K", 4), [5])
    assert [one.index for one in found.slices] == [3, 2, 5, 6]
    assert np.array_equal(found.labelmap[2:7], adapted[2:7])
    assert not found.labelmap[[0, 1, 7, 8]].any()
    assert min(found.agreement) >= 0.7
    assert not labelmap[3].any()


def test_verified_slices_and_other_classes_stay():
    adapted = stack(9, 9, 9, 9, 9)
    labelmap = np.zeros_like(adapted)
    labelmap[2] = adapted[2]
    labelmap[1, 0, 0] = 3
    found = propagate(labelmap, adapted, SliceIndex("K", 2), [5], keep=[SliceIndex("K", 3), SliceIndex("J", 15)])
    assert [one.index for one in found.slices] == [1, 0]
    assert found.labelmap[1, 0, 0] == 3
    assert not found.labelmap[3].any()
    assert np.array_equal(found.labelmap[:, 15], labelmap[:, 15])
    with pytest.raises(InputError, match="none of the chosen"):
        propagate(labelmap, adapted, SliceIndex("K", 0), [5])
