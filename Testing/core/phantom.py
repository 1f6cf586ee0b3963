"""An asymmetric phantom, defined in the patient's space, that can be sampled on any grid.

Eight blocks meet at a corner that is off the centre on every axis, so every flip, permutation or shift of a grid that
is taken for another one shows.
"""

from itertools import permutations, product

import numpy as np

CORNER = np.array([4.0, -6.0, 5.0])  # mm, RAS


def rotation(x=0.0, y=0.0, z=0.0):
    """Turned about the R, A and S axes, by degrees."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians([x, y, z])), np.sin(np.radians([x, y, z]))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


FRAMES = {"straight": rotation(), "oblique": rotation(12, -17, 9), "very-oblique": rotation(-31, 22, 35)}
"""Columns: where the axes called R, A and S of a grid really point."""

SIZE = {"R": 9, "A": 8, "S": 7}
SPACING = {"R": 2.5, "A": 3.0, "S": 4.0}
_AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_PLUS = {"R": "R", "L": "R", "A": "A", "P": "A", "S": "S", "I": "S"}

CODES = [
    "".join(pair[sign] for pair, sign in zip(order, signs, strict=True))
    for order in permutations(("RL", "AP", "SI"))
    for signs in product((0, 1), repeat=3)
]
"""All 48 orders and directions of I, J, K."""


def grid(code, frame="straight"):
    """(IJK to RAS, (K, J, I) shape) of one and the same block of voxels, its I, J, K running along `code`."""
    matrix = np.eye(4)
    sizes = [SIZE[_PLUS[letter]] for letter in code]
    for axis, letter in enumerate(code):
        world, sign = _AXES[letter]
        matrix[:3, axis] = sign * SPACING[_PLUS[letter]] * FRAMES[frame][:, world]
    centre = np.array([1.0, -2.0, 3.0])
    matrix[:3, 3] = centre - matrix[:3, :3] @ ((np.array(sizes) - 1) / 2)
    return matrix, tuple(reversed(sizes))


def sample(ijk_to_ras, shape):
    """The phantom on a grid: (K, J, I) int16 with values 10 to 17."""
    k, j, i = np.indices(shape)
    points = np.stack([i, j, k], -1) @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]
    return (10 + (points > CORNER) @ [1, 2, 4]).astype(np.int16)
