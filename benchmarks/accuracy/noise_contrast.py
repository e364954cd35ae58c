"""Do a noise spectrum, its updates in training, and contrast factors of the images help `train`?

The linear1d scene with CTF under coloured noise, once with every contrast 1 and once with contrasts of
log-normal spread 0.2. All pairs of noise ∈ {white, shells, updated} and contrast ∈ {off, on} are trained
on the same images from the same seeds. The spectrum falls from low to high frequency, as ice and detector
make it; var(signal)/var(noise) over the whole frame is the SNR asked for.

    python -m benchmarks.accuracy.noise_contrast [--box 32] [--images 2000] [--epochs 10] [--seed 1]
"""

import argparse
import tempfile
import time
import tomllib
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from benchmarks.accuracy.known_poses import trained_row
from benchmarks.common import Row, record

from cryoatlas.analysis.latent import spearman
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import StackWriter, read_header
from cryoatlas.io.stack import read_images
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes.presets import network
from cryoatlas.recipes.train import train

LOW, KNEE = 8.0, 0.15
"""The noise's variance is 1 + LOW / (1 + (k/KNEE)²) times that far out; k in cycles per pixel."""


def simulate_coloured(config: SimulationConfig, snr: float, folder: Path) -> None:
    """A simulated set without noise, then with coloured noise put on it."""
    simulate(config, folder)
    known = tomllib.loads((folder / "simulation.toml").read_text())["result"]
    box, random = config.box, np.random.default_rng(config.seed + 1000)
    header = read_header(folder / "particles.mrcs")
    clean = read_images(header, np.arange(config.images))
    frequency = np.hypot(np.fft.fftfreq(box)[:, None], np.fft.fftfreq(box)[None])
    spectrum = 1 + LOW / (1 + (frequency / KNEE) ** 2)
    spectrum *= known["signal_variance"] / snr / spectrum.mean()
    noise = np.fft.ifft2(np.fft.fft2(random.standard_normal(clean.shape)) * np.sqrt(spectrum)).real
    with StackWriter(folder / "particles.mrcs", box, known["pixel_size"]) as stack:
        stack.append((clean + noise).astype(np.float32))


def measure(data: Path, out: Path, config: object, facts: dict) -> Row:
    """Train and compare with the truth."""
    particles = read_particles(data / "truth" / "particles.star")
    started = time.process_time()
    run = train(particles, config, out, device="cpu", overwrite=True)  # type: ignore[arg-type]
    row = trained_row(run, data, "train", time.process_time() - started)
    table = particles.tables.particles
    agreement = None
    if config.contrast and table.has("cryoatlasContrast"):  # type: ignore[attr-defined]
        agreement = spearman(run.contrasts(), table.number("cryoatlasContrast"))
    epoch = [entry for entry in run.log() if entry["event"] == "epoch"][-1]
    return {
        **facts,
        **{key: row[key] for key in ("spearman", "resolution_px", "moving_region_correlation", "cpu_s")},
        "loss": epoch["loss"],
        "found_spread": epoch["contrast_spread"],
        "std_of_factors": float(run.contrasts().std()),
        "factors_spearman": agreement,
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description="noise spectra and contrast factors")
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1, help="of the simulation and of the training")
    parser.add_argument("--spread", type=float, default=0.2)
    options = parser.parse_args()
    plain = network(latent=1)
    sizes = {"width": options.width}
    plain = replace(
        plain,
        epochs=options.epochs,
        encoder=replace(plain.encoder, **sizes),
        decoder=replace(plain.decoder, **sizes),
    )
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for spread in (options.spread, 0.0):
            data = Path(work) / f"set_{spread}"
            simulate_coloured(
                SimulationConfig(
                    "linear1d",
                    images=options.images,
                    box=options.box,
                    snr=float("inf"),
                    seed=options.seed,
                    ctf=True,
                    contrast_spread=spread,
                ),
                options.snr,
                data,
            )
            for noise, contrast in product(("updated", "shells", "white"), (False, True)):
                config = replace(plain, noise=noise, contrast=contrast, seed=options.seed)
                facts = {"spread": spread, "seed": options.seed, "noise": noise, "contrast": contrast}
                rows.append(measure(data, Path(work) / "run", config, facts))
                print(rows[-1], flush=True)
    record(f"accuracy/noise_contrast_seed{options.seed}", rows, **vars(options))


if __name__ == "__main__":
    main()
