"""Poses of images for a given volume: the grids, then the steps beyond them."""

from collections.abc import Sequence
from dataclasses import replace

from cryoatlas.imaging.volume import Volume
from cryoatlas.poses.branch_and_bound import Found, search
from cryoatlas.poses.config import SearchConfig
from cryoatlas.poses.refinement import SLICES_OF_A_STEP, refine
from cryoatlas.poses.view import Latent, View
from cryoatlas.shapes import Float, Tensor


def find_poses(
    volume: Volume,
    views: Sequence[View],
    config: SearchConfig,
    *,
    z: Latent | None = None,
    turn: Float[Tensor, "3 3"] | None = None,
) -> Found:
    """`search`, followed by `refine` over the search's last band if the options ask for it."""
    found = search(volume, views, config, z=z, turn=turn)
    if not config.refine:
        return found
    band = config.band(config.subdivisions, views[0].half.box_size)
    pose, loss = refine(volume, views, found.pose, config.refine, z=z, band=band)
    once = len(pose) * sum(view.half.count(band) for view in views)
    asked = once * (1 + SLICES_OF_A_STEP * config.refine)
    return replace(found, pose=pose, loss=loss, evaluations=found.evaluations + asked)
