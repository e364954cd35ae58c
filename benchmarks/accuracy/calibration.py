"""Does z lie where its covariance says that it does?

Images of a state share one true z, which their own z average to; what is left over, in units of each image's
own standard deviation, should be a standard normal: 68.3 % of the images inside ±1 σ and 95.4 % inside ±2 σ.
With a z of several dimensions the regions are ellipsoids of the full covariance, with as much probability.

Two covariances are looked at: that of the likelihood, which says how far z of an image falls from the truth
if nothing was known before; and that of the posterior as it is written, which is narrower, as is the scatter
of posterior means around their states. For a Gaussian prior N(0, I) the first follows from the second:
precision minus 1, and the mean that the likelihood alone has.

Known poses, `cryoatlas train`. One row a scene and noise level.

    OMP_NUM_THREADS=1 python -m benchmarks.accuracy.calibration [--images 5000] [--box 64] [--snr 0.1]
        [--scenes linear1d linear2d]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.accuracy.known_poses import work_folder
from benchmarks.common import Row, facts_of, record
from scipy.stats import chi2

from cryoatlas.analysis.truth import read_truth
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes.presets import subspace
from cryoatlas.recipes.run import LATENTS, Run, open_run
from cryoatlas.recipes.train import train
from cryoatlas.shapes import Array, Float, Int

LATENT = {"linear1d": 1, "linear2d": 2}
WITHIN = {"68.3 %": 0.6827, "95.4 %": 0.9545}
NEARLY_PRIOR = 1e-3
"""Images whose posterior is the prior to within this part say nothing, and have no likelihood to look at."""


def coverage(
    mean: Float[Array, "image latent"],
    covariance: Float[Array, "image latent latent"],
    state: Int[Array, "image"],
) -> dict[str, float]:
    """Shares of the images within the regions of each probability around the mean of their state.

    The state's mean is weighted by precision, and what it takes from the scatter of n images, 1/n, is given
    back.
    """
    precision, distance = np.linalg.inv(covariance), np.zeros(len(mean))
    for number in np.unique(state):
        mine = state == number
        some = precision[mine]
        middle = np.linalg.solve(some.sum(0), np.einsum("ikl,il->k", some, mean[mine]))
        off = mean[mine] - middle
        distance[mine] = np.einsum("ik,ikl,il->i", off, some, off) / (1 - 1 / mine.sum())
    limits = {name: chi2.ppf(share, mean.shape[1]) for name, share in WITHIN.items()}
    return {name: float((distance < limit).mean()) for name, limit in limits.items()}


def likelihood_of(
    mean: Float[Array, "image latent"], covariance: Float[Array, "image latent latent"]
) -> tuple[Float[Array, "image latent"], Float[Array, "image latent latent"], Int[Array, "some"]]:
    """What images say without the prior N(0, I): mean and covariance, and which images say something."""
    precision = np.linalg.inv(covariance)
    own = precision - np.eye(mean.shape[1])
    (told,) = np.nonzero(np.all(np.linalg.eigvalsh(own) > NEARLY_PRIOR, axis=1))
    pull = np.einsum("ikl,il->ik", precision, mean)
    return np.linalg.solve(own[told], pull[told][..., None])[..., 0], np.linalg.inv(own[told]), told


def found(data: Path, out: Path, latent: int) -> Run:
    """The run in a folder, made if it is not there."""
    if (out / LATENTS).exists():
        return open_run(out)
    particles = read_particles(data / "truth" / "particles.star")
    return train(particles, subspace(latent=latent), out, device="cpu")


def rows_of(scene: str, run: Run, state: Int[Array, "image"]) -> list[Row]:
    """Coverage by the posterior and by the likelihood."""
    mean = run.latents().astype(np.float64)
    covariance = run.latent_covariance().astype(np.float64)
    alone, alone_covariance, told = likelihood_of(mean, covariance)
    spread = float(np.sqrt(np.mean(np.diagonal(covariance, axis1=1, axis2=2))))
    return [
        {
            "scene": scene,
            "z": "posterior",
            **coverage(mean, covariance, state),
            "σ": spread,
            "images": len(mean),
        },
        {
            "scene": scene,
            "z": "likelihood",
            **coverage(alone, alone_covariance, state[told]),
            "σ": float(np.sqrt(np.median(np.diagonal(alone_covariance, axis1=1, axis2=2)))),
            "images": len(told),
        },
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, count, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--scenes", nargs="+", default=list(LATENT), choices=list(LATENT))
    parser.add_argument("--label", default="")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    with work_folder(options.work) as work:
        for scene in options.scenes:
            data = work / scene
            if not data.exists():
                config = SimulationConfig(
                    scene, images=options.images, box=options.box, snr=options.snr, seed=1
                )
                simulate(config, data)
            run = found(data, work / f"{scene}_run", LATENT[scene])
            rows += rows_of(scene, run, np.asarray(read_truth(data).states))
            record(f"accuracy/calibration{options.label}", rows, options=facts_of(options))


if __name__ == "__main__":
    main()
