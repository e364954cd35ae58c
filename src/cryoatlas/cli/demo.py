"""``cryoatlas demo``: the whole way on simulated particles, with nothing to prepare."""

import shutil
from pathlib import Path

from cryoatlas.cli.analyze import analyze
from cryoatlas.cli.console import say
from cryoatlas.cli.simulate import simulate
from cryoatlas.cli.train import train
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.output import new_directory

SCORED_VOLUMES = 50
"""Volumes compared with the truth: enough for two digits."""


def demo(
    *,
    out: Path = Path("demo"),
    images: int = 2000,
    box: int = 48,
    snr: float = 0.2,
    epochs: int = 8,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Simulate particles of a molecule with a swinging arm, find its motion, score it, write a report.

    Training uses the simulation's true poses. Writes OUT/particles (images and truth) and OUT/run (the
    reconstruction, with report.html).

    Parameters
    ----------
    out
        Folder to make.
    images
        Number of particle images.
    box
        Side of the images, px.
    snr
        Signal-to-noise ratio of the images.
    epochs
        Passes over the images.
    seed
        Everything random follows from it.
    device
        auto, cpu, cuda or cuda:N.
    overwrite
        Replace what --out holds.
    """
    out = new_directory(out, overwrite=overwrite)
    particles, run = out / "particles", out / "run"
    say("1 of 3: simulating particles of a molecule whose arm swings through 90°")
    simulate(
        SimulationConfig("linear1d", images=images, box=box, snr=snr, seed=seed, ctf=True), out=particles
    )
    say("2 of 3: learning the motion from the images and their poses")
    train(particles / "truth" / "particles.star", latent=1, out=run, epochs=epochs, seed=seed, device=device)
    say("3 of 3: comparing with the truth and writing the report")
    analyze(run, truth=particles / "truth", images=SCORED_VOLUMES)
    report = (run / "report.html").resolve()
    width = min(len(str(report)) + 14, shutil.get_terminal_size().columns)
    say(f"{'─' * width}\nLook here:    {report}")
