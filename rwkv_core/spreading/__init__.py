"""From a few corrected slices to the whole structure, in seconds, without a network.

- ``spreading``: `spread`, which puts it all together.
- ``features``: what voxels look like.
- ``shapes``: signed distances interpolated between the slices.
- ``classifier``: a small network that learns in a tenth of a second.
- ``corrections``: which slices a user has corrected, and what must not change; needs numpy alone.
- ``standing``: the answer that stood before the corrections.
"""
