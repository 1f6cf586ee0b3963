"""Geometry: every order and direction of axes, straight or oblique, gives the same slices, and comes back exactly."""

import numpy as np
import pytest

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import Region
from rwkv_core.volume import Volume, choose_stack, ijk_to_ras_from_lps, lps_geometry, orientation_code, slice_stack

from core.phantom import CODES, FRAMES, grid, rotation, sample

ORIENTATIONS = ["SPL", "AIL", "LIP", "SLP"]


def matrix_of(i=(1, 0, 0), j=(0, 1, 0), k=(0, 0, 1)):
    matrix = np.eye(4)
    matrix[:3, :3] = np.column_stack((i, j, k))
    return matrix


def test_phantom_looks_different_on_every_grid():
    seen = {(array.shape, array.tobytes()) for array in (sample(np.eye(4), grid(code)[1]) for code in CODES)}
    assert len(seen) == 6  # one grid at the origin: only the shapes differ
    seen = {(array.shape, array.tobytes()) for array in (sample(*grid(code)) for code in CODES)}
    assert len(seen) == 48


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("code", CODES)
def test_orientation_code_names_the_axes(code, frame):
    assert orientation_code(grid(code, frame)[0]) == code


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("code", CODES)
def test_slices_are_the_same_for_every_axis_order(code, frame, orientation):
    matrix, shape = grid(code, frame)
    array = sample(matrix, shape)
    # slices, rows, columns are K, J, I of the grid whose I, J, K run along the reversed letters
    expected_matrix, expected_shape = grid(orientation[::-1], frame)

    stack = slice_stack(matrix, shape, orientation)

    slices = stack.to_stack(array)
    assert np.array_equal(slices, sample(expected_matrix, expected_shape))
    assert stack.shape == slices.shape
    assert stack.code == orientation
    np.testing.assert_allclose(stack.spacing, np.linalg.norm(expected_matrix[:3, 2::-1], axis=0))
    assert np.shares_memory(slices, array)
    assert slices.shape[0] == array.shape[stack.slice_axis]


@pytest.mark.parametrize("code", CODES)
def test_what_is_written_into_the_stack_lands_in_the_volume(code):
    matrix, shape = grid(code, "oblique")
    stack = slice_stack(matrix, shape, "SPL")
    labels = np.zeros(shape, np.int16)

    stack.to_stack(labels)[...] = sample(*grid("LPS", "oblique"))

    assert np.array_equal(labels, sample(matrix, shape))


@pytest.mark.parametrize("code", ["LPS", "SRA", "AIR"])
def test_stored_orientation_changes_nothing(code):
    matrix, shape = grid(code)
    stack = slice_stack(matrix, shape, "stored")
    assert (stack.axes, stack.flips, stack.shape, stack.code) == ((0, 1, 2), (False,) * 3, shape, code[::-1])


@pytest.mark.parametrize("noise", [0.0, 1e-12, -1e-12])
def test_ties_at_45_degrees_do_not_depend_on_rounding(noise):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(z=45) + noise
    assert orientation_code(matrix) == "RAS"


def test_axes_near_one_anatomical_axis_get_different_letters():
    matrix = matrix_of(i=(0.9, 0.1, 0.4), j=(0.8, -0.1, -0.6), k=(0.1, 1.0, 0.0))
    assert sorted(orientation_code(matrix).translate(str.maketrans("LPI", "RAS"))) == ["A", "R", "S"]


@pytest.mark.parametrize("orientation", ["SP", "SPLL", "SPR L", "SSL", "XYZ", "", "spl"])
def test_orientation_that_is_none_is_a_defect_of_the_caller(orientation):
    with pytest.raises(ValueError, match="orientation must be"):
        slice_stack(np.eye(4), (2, 3, 4), orientation)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ((1, 1, 1), "SPL"),
        ((1, 1, 5), "SPL"),
        ((1, 5, 1), "AIL"),
        ((5, 1, 1), "LIP"),
        ((1.05, 1, 1), "SPL"),
        ((1.2, 1, 1), "LIP"),
        ((3, 3, 1), "AIL"),  # of equals, the first listed
    ],
)
def test_the_orientation_with_the_finest_pixels_is_chosen(spacing, expected):
    matrix = np.diag([*spacing, 1.0])
    assert choose_stack(matrix, (20, 20, 20), ["SPL", "AIL", "LIP"]).code == expected


def test_a_single_slice_is_taken_as_a_slice():
    assert choose_stack(np.eye(4), (20, 1, 20), ["SPL", "AIL", "LIP"]).code == "AIL"
    assert choose_stack(np.diag([9.0, 1, 1, 1]), (20, 1, 20), ["SPL", "AIL", "LIP"]).code == "AIL"
    assert choose_stack(np.eye(4), (20, 1, 20), ["SPL"]).shape == (20, 1, 20)


def test_gantry_tilt_is_taken_as_it_is():
    tilted = matrix_of(k=(0, 0.8, 3))
    assert slice_stack(tilted, (5, 6, 7), "SPL").code == "SPL"


def test_slanted_slices_are_refused_with_axes_and_angle():
    slanted = matrix_of(j=(np.sin(np.radians(10)), np.cos(np.radians(10)), 0))
    with pytest.raises(InputError, match=r"axes I and J are 80\.0 degrees apart") as caught:
        slice_stack(slanted, (5, 6, 7), "SPL")
    assert "Resample" in caught.value.hint
    with pytest.raises(InputError, match="80"):
        choose_stack(slanted, (5, 6, 7), ["SPL"])
    assert choose_stack(slanted, (5, 6, 7), ["SPL", "AIL"]).code == "AIL"


def test_a_slant_below_three_degrees_passes():
    assert slice_stack(matrix_of(j=(np.sin(np.radians(2)), np.cos(np.radians(2)), 0)), (5, 6, 7), "SPL").code == "SPL"


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("code", ["LPS", "RAS", "SAR", "PIL"])
def test_lps_geometry_and_its_inverse(code, frame):
    matrix, _ = grid(code, frame)
    origin, spacing, direction = lps_geometry(matrix)
    np.testing.assert_allclose(ijk_to_ras_from_lps(origin, spacing, direction), matrix, atol=1e-12)
    np.testing.assert_allclose(origin, matrix[:3, 3] * [-1, -1, 1])


def test_lps_identity_is_ras_with_two_signs_turned():
    identity = ijk_to_ras_from_lps((1, 2, 3), (1, 1, 1), np.eye(3).ravel())
    assert np.array_equal(identity, [[-1, 0, 0, -1], [0, -1, 0, -2], [0, 0, 1, 3], [0, 0, 0, 1]])
    assert orientation_code(identity) == "LPS"


def test_volume_knows_its_spacing_and_directions():
    matrix, shape = grid("PSL", "oblique")
    volume = Volume(np.zeros(shape), matrix, "x")
    np.testing.assert_allclose(volume.spacing, (3.0, 4.0, 2.5))
    np.testing.assert_allclose(volume.directions * volume.spacing, matrix[:3, :3])
    matrix[0, 0] = 100  # the volume has its own copy
    assert volume.ijk_to_ras[0, 0] != 100
    with pytest.raises(ValueError, match="read-only"):
        volume.ijk_to_ras[0, 0] = 1


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64, ">i2"])
def test_volume_takes_any_number(dtype):
    Volume(np.zeros((1, 1, 1), dtype), np.eye(4))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 4)), "2 dimensions"),
        (np.zeros((5, 4, 3, 2)), r"4 dimensions \(2 x 3 x 4 x 5\)"),
        (np.zeros((5, 4, 3, 3)), "color or vector"),
        (np.zeros((5, 0, 3)), "empty: its size is 3 x 0 x 5"),
        (np.zeros((2, 2, 2), complex), "complex128"),
        (np.zeros((2, 2, 2), "U4"), "whole or real numbers"),
    ],
    ids=["2-d", "4-d", "rgb", "empty", "complex", "text"],
)
def test_volume_refuses_what_is_no_scalar_volume(array, words):
    with pytest.raises(InputError, match=words):
        Volume(array, np.eye(4), "scan")


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(3), "4 x 4"),
        (np.diag([1, 0, 1, 1]), "spacing along J is zero"),
        (matrix_of(k=(1, 1, 0)), "one plane"),
        (np.diag([1, np.nan, 1, 1]), "not a finite number"),
        (np.diag([1, 1, 1, 2]), "last row"),
    ],
    ids=["3x3", "zero-spacing", "singular", "nan", "projective"],
)
def test_volume_refuses_what_is_no_geometry(matrix, words):
    with pytest.raises(InputError, match=words):
        Volume(np.zeros((2, 2, 2)), matrix, "scan")


def test_region_is_given_in_the_order_i_j_k():
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    region = Region.parse("1:3, :, 2:").within(array.shape)
    assert region == Region((1, 3), (0, 5), (2, 4))
    assert np.array_equal(array[region.as_slices()], array[2:4, :, 1:3])
    assert np.array_equal(array[Region.parse(":,:,:").as_slices()], array)


@pytest.mark.parametrize("text", ["", "1:2", "1:2,3:4,5", "a:b,:,:", "1:2:3,:,:", "1.5:2,:,:", "1:2,:,:,:"])
def test_region_that_is_not_understood_says_how_to_write_it(text):
    with pytest.raises(InputError, match="not understood") as caught:
        Region.parse(text)
    assert "10:50,:,20:40" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"), [("-1:5,:,:", "along I is negative"), (":,5:5,:", "along J holds no voxel")]
)
def test_region_without_sense_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        Region.parse(text)


@pytest.mark.parametrize("text", ["0:7,:,:", "6:,:,:"])
def test_region_outside_is_refused_with_the_size(text):
    with pytest.raises(InputError, match=r"along I .* 6 x 5 x 4 voxels") as caught:
        Region.parse(text).within((4, 5, 6))
    assert "0:6" in caught.value.hint


def test_region_is_cut_to_the_volume():
    assert Region((-3, 4), (2, 99)).clip((4, 5, 6)) == Region((0, 4), (2, 5), (0, 4))
    with pytest.raises(InputError, match="outside the volume of 6 x 5 x 4"):
        Region((6, 9)).clip((4, 5, 6))
    with pytest.raises(ValueError, match="clip"):
        Region((-3, 4)).as_slices()
