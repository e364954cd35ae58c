"""``cryoatlas demo``: the whole way on simulated particles, with nothing to prepare."""

import shutil
from pathlib import Path

from cryoatlas.cli.abinit import abinit
from cryoatlas.cli.analyze import analyze
from cryoatlas.cli.console import say
from cryoatlas.cli.pair_options import PairOptions
from cryoatlas.cli.run_options import RunOptions
from cryoatlas.cli.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.output import new_directory

SCORED_VOLUMES = 30
"""Volumes compared with the truth: enough for two digits."""


def demo(
    *,
    out: Path = Path("demo"),
    images: int = 1000,
    box: int = 32,
    snr: float = 0.2,
    starts: int = 8,
    rounds: int = 2,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Simulate particles of a molecule with a swinging arm, find poses and motion, score them, make a report.

    Nothing but the images is used: each particle is imaged twice, with the specimen tilted by 45° in between,
    which also tells the hand. Writes OUT/particles (images and truth) and OUT/run (the reconstruction, with
    report.html).

    Parameters
    ----------
    out
        Folder to make.
    images
        Number of particles.
    box
        Side of the images, px.
    snr
        Signal-to-noise ratio of the images.
    starts
        First maps that are grown; the best one goes on.
    rounds
        Rounds over all images in which poses are improved.
    seed
        Everything random follows from it.
    device
        auto, cpu, cuda or cuda:N.
    overwrite
        Replace what --out holds.
    """
    out = new_directory(out, overwrite=overwrite)
    particles, run = out / "particles", out / "run"
    say("1 of 3: simulating particles of a molecule whose arm swings through 90°, each imaged twice")
    scene = SimulationConfig(
        "linear1d", images=images, box=box, snr=snr, seed=seed, ctf=True, tilt_pairs=True
    )
    simulate(scene, out=particles)
    say("2 of 3: finding poses and the motion, from the images alone")
    abinit(
        particles / "particles.star",
        latent=1,
        out=run,
        pairs=PairOptions(tilt=particles / "particles_tilt.star"),
        starts=starts,
        contenders=1,
        rounds=rounds,
        run=RunOptions(seed=seed, device=device),
    )
    say("3 of 3: comparing with the truth and writing the report")
    analyze(run, truth=particles / "truth", images=SCORED_VOLUMES)
    report = (run / "report.html").resolve()
    width = min(len(str(report)) + 14, shutil.get_terminal_size().columns)
    say(f"{'─' * width}\nLook here:    {report}")
