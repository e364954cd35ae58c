"""On noisy images of two real ribosome assembly states, are the maps right and do latents tell them apart?

Classes D and E of EMPIAR-10076 as tilt series images simulated by others from the published maps
(tomoDRGN's test data: 576 + 720 images of 32², SNR 0.056, CTF, dose), each tilt image taken as a
particle of its own. Back-projections of either class against its map (FSC); then on both together
`train --latent 1`, with `--recipe network` or without, and `classify --classes 2`: area under the ROC
curve of z (of the probability of a class) for D against E, beside that of the likelihood ratio of the two
true maps, the ceiling for single images. It fits one scale for each map and takes the noise of each shell
from the residuals against the right map. The last column is the same after averaging over the images
of each particle.

    python -m benchmarks.accuracy.ribosome_classes [--epochs N] [--seeds 0 1 2]
        [--methods network subspace classify]

Data: ../shared/data beside the checkout; without it the script says so and ends.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from benchmarks.common import ROOT, Row, record

from cryoatlas.analysis.fsc import fourier_shell_correlation, resolution
from cryoatlas.analysis.latent import area_under_roc
from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.projection import central_slices
from cryoatlas.io.mrc import read_volume
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.batch import ParticleLoader
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.recipes.backprojection import backproject_particles
from cryoatlas.recipes.presets import network, subspace
from cryoatlas.recipes.run import Run
from cryoatlas.recipes.train import train
from cryoatlas.shapes import Array, Float, Int, Tensor
from cryoatlas.subspace.config import ClassesConfig
from cryoatlas.training.objective import centre_images

DATA = ROOT.parent / "shared" / "data" / "stacks" / "tomodrgn_10076_classDE"
STAR = DATA / "10076_both_32_sim.star"
CLASSES = ("D", "E")


def true_map(name: str) -> Float[Array, "box box box"]:
    """The map that the images of a class were made from."""
    return read_volume(DATA / f"10076_class{name}_32.mrc").array


def labels(particles: ParticleSet) -> Int[Array, "image"]:
    """0 for D, 1 for E, by the stack that the image lies in."""
    names = particles.tables.particles.text("rlnImageName")
    return np.array(["classE" in name for name in names.tolist()]).astype(np.int64)


def backprojection_rows(particles: ParticleSet, classes: Int[Array, "image"]) -> list[Row]:
    """FSC of each class's back-projection with its own map and with the other, by shell."""
    maps = {name: true_map(name) for name in CLASSES}
    curves = {}
    for number, name in enumerate(CLASSES):
        result = backproject_particles(particles[np.flatnonzero(classes == number)], device="cpu")
        for other in CLASSES:
            curves[f"{name}_with_map_{other}"] = fourier_shell_correlation(result.map, maps[other])
        curves[f"{name}_half_maps"] = result.fsc.numpy()
    curves["map_D_with_map_E"] = fourier_shell_correlation(maps["D"], maps["E"])
    shells = range(len(curves["map_D_with_map_E"]))
    rows: list[Row] = [
        {"shell": shell, **{name: float(curve[shell]) for name, curve in curves.items()}} for shell in shells
    ]
    for name in CLASSES:
        own = curves[f"{name}_with_map_{name}"]
        print(f"{name}: FSC = 0.5 with its map at {resolution(own, 0.5, particles.box_size):.2f} px")
    return rows


@torch.no_grad()
def log_likelihood_ratio(particles: ParticleSet, classes: Int[Array, "image"]) -> Float[Array, "image"]:
    """log p(X | map E) − log p(X | map D) of each image, from true poses and CTF."""
    fitted, disc = Preprocessor.fit(particles), Disc(particles.box_size)
    observed, predicted = observations(particles, fitted, disc)
    truth = torch.from_numpy(classes)
    for number in range(len(CLASSES)):
        mine = truth == number
        scale = (observed[mine] * predicted[number][mine]).sum() / predicted[number][mine].square().sum()
        predicted[number] *= scale
    right = torch.where(truth[:, None] == 1, predicted[1], predicted[0])
    noise = NoiseModel.from_residuals(observed - right, disc)
    costs = [noise.negative_log_likelihood(observed, each, disc) for each in predicted]
    return (costs[0] - costs[1]).numpy()


def observations(
    particles: ParticleSet, fitted: Preprocessor, disc: Disc
) -> tuple[Float[Tensor, "image pixel"], list[Float[Tensor, "image pixel"]]]:
    """Centred coefficients of all images, and what either map predicts for them."""
    pixel_size = float(particles.pixel_size.median())
    volumes = [VoxelVolume.from_map(torch.from_numpy(true_map(name)), pixel_size) for name in CLASSES]
    observed, predicted = [], [[] for _ in volumes]
    for batch in ParticleLoader(particles, fitted, disc, 256).batches(range(len(particles))):
        centred = centre_images(batch, disc)
        observed.append(centred.images)
        for volume, parts in zip(volumes, predicted, strict=True):
            parts.append(centred.ctf * central_slices(volume, centred.plane, centred.rotation))
    return torch.cat(observed), [torch.cat(parts) for parts in predicted]


def area_row(
    method: str, score: Float[Array, "image"], classes: Int[Array, "image"], groups: Int[Array, "image"]
) -> Row:
    """AUC of single images, and of means over the images of each particle."""
    count = np.bincount(groups)
    mean = np.bincount(groups, score) / count
    group_class = (np.bincount(groups, classes) / count).round().astype(np.int64)
    return {
        "method": method,
        "auc_image": area_under_roc(score, classes, either_direction=True),
        "auc_particle": area_under_roc(mean, group_class, either_direction=True),
    }


def trained(particles: ParticleSet, out: Path, seed: int, epochs: int | None) -> Run:
    """By a network."""
    config = network(latent=1)
    return train(particles, replace(config, seed=seed, epochs=epochs or config.epochs), out, device="cpu")


def solved(particles: ParticleSet, out: Path, seed: int, epochs: int | None) -> Run:
    """By the subspace engine."""
    config = subspace(latent=1)
    config = replace(config, seed=seed, epochs=epochs or config.epochs)
    return train(particles, config, out, device="cpu")


def classified(particles: ParticleSet, out: Path, seed: int, epochs: int | None) -> Run:
    """Two classes."""
    config = ClassesConfig(classes=2, seed=seed)
    return train(particles, replace(config, epochs=epochs or config.epochs), out, device="cpu")


METHODS = {"network": trained, "subspace": solved, "classify": classified}


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description="ribosome classes D and E")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--label", default="", help="end of the name of the JSON file")
    options = parser.parse_args()
    if not STAR.exists():
        sys.exit("skipped: ../shared/data is not beside the checkout")
    particles = read_particles(STAR, datadir=DATA, invert=True)
    classes = labels(particles)
    groups = np.unique(particles.tables.particles.text("rlnGroupName"), return_inverse=True)[1]
    record("accuracy/ribosome_backprojection", backprojection_rows(particles, classes), images=len(particles))
    ratio = log_likelihood_ratio(particles, classes)
    rows = [area_row("likelihood ratio, true maps", ratio, classes, groups)]
    for method in options.methods:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                run = METHODS[method](particles, Path(folder) / "run", seed, options.epochs)
                rows.append(area_row(f"{method}, seed {seed}", run.latents()[:, -1], classes, groups))
    record(f"accuracy/ribosome_classes{options.label}", rows, images=len(particles), epochs=options.epochs)


if __name__ == "__main__":
    main()
