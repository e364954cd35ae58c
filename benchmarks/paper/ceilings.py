"""What a set would give to someone who knows its poses and states, by the measures of `score_run`."""

from collections.abc import Iterator

import numpy as np
import torch
from benchmarks.accuracy.oracle import coordinates, kernel_map

from cryoatlas.analysis.score import Score, score_run
from cryoatlas.analysis.truth import Truth, read_truth
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.recipes.backprojection import backproject_particles
from cryoatlas.shapes import Array, Float

WIDTHS_DEG = (4.0, 8.0, 16.0)
"""Kernels in the true coordinate; the one of the best resolution is taken."""
CEILING_IMAGES = 12
"""Each needs a back-projection of its own, for every width."""


def ceiling(particles: ParticleSet, data: str) -> Score:
    """The back-projection ceiling of a set, measured on a few images.

    Args:
        particles: with the true poses.
        data: the folder that `simulate` wrote.
    """
    truth = read_truth(data)
    if not truth.coordinates:
        return _measured(particles, truth, np.zeros((len(truth), 0)), 0.0)
    where = coordinates(truth)
    if len(np.unique(truth.states)) <= 20:  # states far apart: a kernel that holds one at a time
        return _measured(particles, truth, where, min(WIDTHS_DEG))
    scores = [_measured(particles, truth, where, width) for width in WIDTHS_DEG]
    return min(scores, key=lambda score: score.run.summary()["mean_px"] or 0.0)


def _measured(
    particles: ParticleSet, truth: Truth, where: Float[Array, "image column"], width_deg: float
) -> Score:
    """Score maps made of the images whose true coordinates are near."""

    def volumes(latents: Float[Array, "image column"]) -> Iterator[Float[Array, "box box box"]]:
        for centre in latents:
            if where.shape[1] == 0:
                yield backproject_particles(particles).map.numpy()
            else:
                yield kernel_map(particles, where, centre, width_deg).numpy()

    pixel_size = float(particles.pixel_size.median())
    pose = particles.require_pose()
    with torch.no_grad():
        return score_run(where, pose, volumes, truth, pixel_size, images=CEILING_IMAGES)
