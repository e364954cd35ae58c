"""How much memory does training on 50,000 images of 128² take beyond its model?

The set lies on disk (3.3 GB: noise, random poses, a CTF for each image; what the images show does not
matter to memory). One fresh process goes the way of the training recipe: reading and normalisation of
the whole set, the consensus map and the noise spectrum from its first --consensus images (the pass
streams them, so more only take longer), then steps on images drawn from the whole set, with all
frequencies, and a checkpoint. Another only imports and builds the same networks. The difference of their
peaks is what training takes beyond the model. Reach: below 4 GB.

    python -m benchmarks.speed.memory [--images 50000] [--box 128] [--consensus 2000] [--steps 20]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from benchmarks.common import ROOT, record

PIECE = 500
"""Images written at a time."""
PIXEL_SIZE = 1.5


def write_set(folder: Path, images: int, box: int) -> Path:
    """A stack of noise with random poses and CTFs; the star file."""
    from cryoatlas.geometry.rotations import random_rotations, to_relion_angles
    from cryoatlas.io.mrc import StackWriter
    from cryoatlas.io.star import StarTable, write_star

    random = np.random.default_rng(0)
    with StackWriter(folder / "particles.mrcs", box, PIXEL_SIZE) as stack:
        for start in range(0, images, PIECE):
            count = min(PIECE, images - start)
            stack.append(random.standard_normal((count, box, box), dtype=np.float32))
    angles = to_relion_angles(random_rotations(images, random)).numpy()
    columns = {
        "rlnImageName": [f"{number}@particles.mrcs" for number in range(1, images + 1)],
        "rlnImagePixelSize": np.full(images, PIXEL_SIZE),
        **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True)),
        **dict(zip(("rlnOriginXAngst", "rlnOriginYAngst"), random.uniform(-9, 9, (2, images)), strict=True)),
        **dict(zip(("rlnDefocusU", "rlnDefocusV"), random.uniform(5000, 30000, (2, images)), strict=True)),
        "rlnDefocusAngle": np.zeros(images),
        "rlnVoltage": np.full(images, 300.0),
        "rlnSphericalAberration": np.full(images, 2.7),
        "rlnAmplitudeContrast": np.full(images, 0.1),
    }
    write_star(folder / "particles.star", {"particles": StarTable.from_columns(columns)})
    return folder / "particles.star"


def build_only(latent: int, box: int) -> None:
    """What the training process has before it looks at an image."""
    import cryoatlas.recipes.train  # noqa: F401  the same imports
    from cryoatlas.models.vae import Shape, build_vae
    from cryoatlas.recipes.presets import network

    config = network(latent=latent)
    build_vae(
        Shape(
            box_size=box,
            pixel_size=PIXEL_SIZE,
            latent=latent,
            encoder=config.encoder,
            decoder=config.decoder,
            seed=0,
        )
    )


def train_steps(folder: Path, latent: int, steps: int, consensus: int) -> None:
    """What the recipe does, with fewer images in the consensus map and stopped after some steps."""
    import torch

    from cryoatlas.particles.batch import ParticleLoader
    from cryoatlas.particles.order import random_order
    from cryoatlas.particles.particle_set import read_particles
    from cryoatlas.particles.preprocess import Preprocessor
    from cryoatlas.progress import silent
    from cryoatlas.recipes.networks import initial_vae
    from cryoatlas.recipes.presets import network
    from cryoatlas.training import checkpoint
    from cryoatlas.training.checkpoint import Position
    from cryoatlas.training.loop import Trainer

    particles = read_particles(folder / "particles.star")
    fitted = Preprocessor.fit(particles)
    # Without frequency marching the first steps are as large as the last.
    config = replace(network(latent=latent), marching=0.0)
    vae = initial_vae(particles[:consensus], fitted, config, folder, torch.device("cpu"), silent)
    trainer = Trainer(vae, config, steps)
    loader = ParticleLoader(particles, fitted, vae.disc, config.batch_size)
    order = random_order(len(particles), seed=0, epoch=0)[: steps * config.batch_size]
    trainer.run_epoch(lambda epoch, step: loader.batches(order), Position(0, 0))
    checkpoint.save(folder / "checkpoints", vae, trainer.optimizer, Position(1, 0))


def peak_of(*arguments: str) -> dict[str, float]:
    """Peak memory and CPU seconds of this script as a fresh process."""
    command = [sys.executable, "-m", "benchmarks.speed.memory", *arguments]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return json.loads(printed.splitlines()[-1])


def main() -> None:
    """Measure and record; with --part, be one of the processes measured."""
    parser = argparse.ArgumentParser(description="memory of training")
    parser.add_argument("--images", type=int, default=50000)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--consensus", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--latent", type=int, default=8)
    parser.add_argument("--part", choices=("model", "train"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        if options.part == "model":
            build_only(options.latent, options.box)
        else:
            train_steps(options.folder, options.latent, options.steps, options.consensus)
        # Linux counts in KiB.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"peak_gb": peak / 1e9, "cpu_s": time.process_time()}))
        return
    sizes = [f"--{name}={getattr(options, name)}" for name in ("box", "latent", "steps", "consensus")]
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), options.images, options.box)
        model = peak_of("--part", "model", *sizes)
        training = peak_of("--part", "train", "--folder", folder, *sizes)
    rows = [
        {"process": "imports and model", **model},
        {"process": f"training, consensus and {options.steps} steps", **training},
        {"process": "beyond the model", "peak_gb": training["peak_gb"] - model["peak_gb"], "cpu_s": None},
    ]
    facts = {key: value for key, value in vars(options).items() if key not in ("part", "folder")}
    record("speed/memory", rows, stack_gb=4e-9 * options.images * options.box**2, **facts)


if __name__ == "__main__":
    main()
