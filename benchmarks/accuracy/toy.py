"""Do our projections of the toy map give the toy images, and do the images give the map back?

1,000 images of 30² px made by others from a map with known rotations (cryoDRGN's test data), without
noise, shifts or CTF. The map is projected in three ways: rotated in real space by trilinear
interpolation and summed, which is how the images were made; as exact Fourier slices; and the same for
low frequencies, where trilinear interpolation is still faithful. Reach: correlation ≥ 0.999. Then the
stack, with a star file of these poses, is back-projected and compared with the map.

    python -m benchmarks.accuracy.toy [--images 1000]

Data: ../shared/data beside the checkout; without it the script says so and ends.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmarks.common import ROOT, record

from cryoatlas.analysis.fsc import fourier_shell_correlation
from cryoatlas.fourier.lattice import Disc, frequency_grid
from cryoatlas.fourier.transform import hartley
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.projection import central_slices, plane_frequencies
from cryoatlas.imaging.volume import GaussianBody
from cryoatlas.io.cryodrgn import read_arrays
from cryoatlas.io.mrc import read_header, read_images, read_volume
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes.backprojection import Reconstruction, backproject_particles
from cryoatlas.shapes import Array, Float, Tensor

DATA = ROOT.parent / "shared" / "data" / "stacks" / "cryodrgn_tests"
STACK = DATA / "toy_projections.mrcs"
LOW_BAND = 8
"""Cycles per box."""
CHUNK = 20


def rotate_and_sum(
    volume: Float[Array, "box box box"], rotations: Float[Tensor, "image 3 3"]
) -> Float[Tensor, "image box box"]:
    """Projections by trilinear interpolation of the map at Rᵀx, summed along z."""
    box = volume.shape[0]
    points = frequency_grid(box, 3).flatten(0, 2)
    density = torch.from_numpy(volume).double()[None, None]
    images = []
    for rotation in rotations:
        index = points @ rotation + box // 2
        where = (2 * index / (box - 1) - 1).reshape(1, box, box, box, 3)
        images.append(torch.nn.functional.grid_sample(density, where, align_corners=True)[0, 0].sum(0))
    return torch.stack(images)


def exact_slices(
    volume: Float[Array, "box box box"], rotations: Float[Tensor, "image 3 3"], disc: Disc
) -> Float[Tensor, "image pixel"]:
    """Central slices of the map's discrete transform, evaluated without interpolation."""
    box = volume.shape[0]
    density = torch.from_numpy(volume).double().flatten()
    # A body of points at the voxels has just this transform.
    occupied = density.nonzero().squeeze(-1)
    body = GaussianBody(frequency_grid(box, 3).flatten(0, 2)[occupied], density[occupied], 0.0, box, 1.0)
    plane = plane_frequencies(disc, torch.ones(1, dtype=torch.float64))
    return torch.cat([central_slices(body, plane, some) for some in rotations.split(CHUNK)])


def correlations(
    first: Float[Tensor, "image value"], second: Float[Tensor, "image value"]
) -> Float[Array, "image"]:
    """Pearson correlation of each pair of rows."""
    a, b = first - first.mean(-1, keepdim=True), second - second.mean(-1, keepdim=True)
    return ((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).numpy()


def reconstruct(rotations: Float[Tensor, "image 3 3"]) -> Reconstruction:
    """Back-projection by way of a star file with these poses."""
    count = len(rotations)
    angles, origins = Pose(rotations, torch.zeros(count, 2, dtype=torch.float64)).to_relion()
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
    columns = {
        "rlnImageName": [f"{number}@{STACK}" for number in range(1, count + 1)],
        "rlnImagePixelSize": np.ones(count),
        **dict(zip(names, torch.cat([angles, origins], 1).T.numpy(), strict=True)),
    }
    with tempfile.TemporaryDirectory() as folder:
        star = Path(folder) / "toy.star"
        write_star(star, {"particles": StarTable.from_columns(columns)})
        return backproject_particles(read_particles(star), device="cpu")


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description="toy images against their map")
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    if not STACK.exists():
        sys.exit("skipped: ../shared/data is not beside the checkout")
    volume = read_volume(DATA / "toymodel_small_nocenter.mrc").array
    rotations = torch.from_numpy(read_arrays(DATA / "toy_angles.pkl")).double()[: options.images]
    images = torch.from_numpy(read_images(read_header(STACK), np.arange(len(rotations)))).double()
    disc = Disc(volume.shape[0])
    observed, sliced = disc.gather(hartley(images)), exact_slices(volume, rotations, disc)
    low = disc.within(LOW_BAND)
    found = {
        "rotated in real space and summed": correlations(
            images.flatten(1), rotate_and_sum(volume, rotations).flatten(1)
        ),
        "exact Fourier slices": correlations(observed, sliced),
        f"exact Fourier slices, |k| < {LOW_BAND}": correlations(observed[:, low], sliced[:, low]),
    }
    rows = [
        {"projection": name, "mean_correlation": float(values.mean()), "lowest": float(values.min())}
        for name, values in found.items()
    ]
    record("accuracy/toy", rows, images=len(rotations), box=volume.shape[0])
    result = reconstruct(rotations)
    fsc = fourier_shell_correlation(result.map, volume)
    curve = [
        {"shell": shell, "fsc_with_map": float(value), "fsc_half_maps": float(half)}
        for shell, (value, half) in enumerate(zip(fsc, result.fsc, strict=True))
    ]
    record("accuracy/toy_backprojection", curve, images=len(rotations), box=volume.shape[0])


if __name__ == "__main__":
    main()
