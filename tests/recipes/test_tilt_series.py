"""From a RELION 5 project to a map: blobs drawn where the tilt series shows them come back where they are."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.imaging.ctf import CTFParameters, contrast_transfer
from cryoatlas.io.mrc import StackWriter
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes.backprojection import backproject_particles

BOX, PIXEL_SIZE, PARTICLES, WIDTH = 24, 4.0, 24, 6.0
BLOBS = np.array([[20.0, 4.0, -8.0], [-12.0, 16.0, 4.0], [0.0, -16.0, 12.0]])
"""x, y, z in Å; no two views of them are alike, and neither is their mirror image."""
TILTS_DEG = np.array([0.0, 15.0, -15.0, 30.0, -30.0, 45.0, -45.0])
EXPOSURE = 3.0 * np.arange(len(TILTS_DEG))


def blobs_on_a_grid(centres: np.ndarray, axes: int) -> np.ndarray:
    """Gaussians at these places, x first, on a square or cube whose centre is at box // 2 (C1, C2)."""
    place = PIXEL_SIZE * frequency_grid(BOX, axes).numpy()
    squares = np.stack([np.square(place - centre).sum(-1) for centre in centres])
    return np.exp(-squares / (2 * WIDTH**2)).sum(0)


def premultiplied(image: np.ndarray, defocus: float, exposure: float) -> np.ndarray:
    """The image seen through its CTF, and multiplied by that CTF again."""
    k = frequency_grid(BOX, 2).reshape(1, -1, 2) / (BOX * PIXEL_SIZE)
    ctf = CTFParameters.build(
        1,
        defocus_u=defocus,
        defocus_v=defocus,
        defocus_angle=0.0,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        exposure=exposure,
    )
    squared = contrast_transfer(k.double(), ctf).square().reshape(BOX, BOX).numpy()
    spectrum = np.fft.fft2(image)
    return np.fft.ifft2(spectrum * np.fft.ifftshift(squared)).real


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A RELION 5 project without noise."""
    folder, rng = tmp_path_factory.mktemp("relion5"), np.random.default_rng(5)
    angles, origins = rng.uniform(-180, 180, (PARTICLES, 3)), rng.uniform(-6, 6, (PARTICLES, 3))
    places = rng.uniform(-900, 900, (PARTICLES, 3))
    columns: dict = {
        "rlnTomoName": ["T"] * PARTICLES,
        "rlnTomoParticleName": [f"T/{number}" for number in range(PARTICLES)],
        "rlnTomoVisibleFrames": ["[1,1,1,1,1,1,1]"] * PARTICLES,
        "rlnImageName": [f"{number}.mrcs" for number in range(PARTICLES)],
        "rlnOpticsGroup": [1] * PARTICLES,
    }
    for axis, label in enumerate(("Rot", "Tilt", "Psi")):
        columns[f"rlnAngle{label}"] = angles[:, axis]
    for axis, label in enumerate("XYZ"):
        columns[f"rlnOrigin{label}Angst"] = origins[:, axis]
        columns[f"rlnCenteredCoordinate{label}Angst"] = places[:, axis]
    for number in range(PARTICLES):
        body = Rotation.from_euler("ZYZ", angles[number], degrees=True).inv()
        pixels = []
        for tilt_deg, exposure in zip(TILTS_DEG, EXPOSURE, strict=True):
            view = Rotation.from_euler("z", 80, degrees=True) * Rotation.from_euler(
                "y", tilt_deg, degrees=True
            )
            seen = view.apply(body.apply(BLOBS) - origins[number])[:, :2]
            depth = view.apply(places[number] - origins[number])[2]
            pixels.append(premultiplied(blobs_on_a_grid(seen, 2), 25000 - depth, exposure))
        with StackWriter(folder / f"{number}.mrcs", BOX, PIXEL_SIZE) as stack:
            stack.append(np.array(pixels, np.float32))
    optics = {"rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7]}
    optics |= {"rlnAmplitudeContrast": [0.1], "rlnImagePixelSize": [PIXEL_SIZE], "rlnImageSize": [BOX]}
    optics |= {"rlnCtfDataAreCtfPremultiplied": [1], "rlnImageDimensionality": [2]}
    tomograms = {"rlnTomoName": ["T"], "rlnTomoHand": [-1], "rlnTomoTiltSeriesPixelSize": [2.0]}
    tilts = {"rlnTomoYTilt": TILTS_DEG, "rlnTomoZRot": np.full(len(TILTS_DEG), 80.0)}
    tilts |= {name: np.full(len(TILTS_DEG), 25000.0) for name in ("rlnDefocusU", "rlnDefocusV")}
    tilts |= {"rlnDefocusAngle": np.zeros(len(TILTS_DEG)), "rlnMicrographPreExposure": EXPOSURE}
    files = {"rlnTomoParticlesFile": ["particles.star"], "rlnTomoTomogramsFile": ["tomograms.star"]}
    tables = {"general": {"rlnTomoSubTomosAre2DStacks": [1]}, "optics": optics, "particles": columns}
    for name, blocks in {
        "particles.star": tables,
        "tomograms.star": {"global": tomograms, "T": tilts},
        "optimisation_set.star": {"": files},
    }.items():
        write_star(folder / name, {block: StarTable.from_columns(rows) for block, rows in blocks.items()})
    return folder / "optimisation_set.star"


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten().double(), second.flatten().double()]))[0, 1])


def test_blobs_come_back_where_they_are_and_nowhere_else(project):
    truth = torch.from_numpy(blobs_on_a_grid(BLOBS, 3))
    result = backproject_particles(read_particles(project), device="cpu")
    # 0.99; with the origins' sign turned, 0.72.
    assert correlation(result.map, truth) > 0.95
    mirrored = torch.from_numpy(blobs_on_a_grid(BLOBS * [1, 1, -1], 3))
    assert correlation(result.map, mirrored) < 0.6


def test_half_maps_of_different_particles_agree(project):
    result = backproject_particles(read_particles(project), device="cpu")
    # Beyond shell 4 the blobs themselves fade, and 84 views a half leave gaps.
    assert result.fsc[1:5].min() > 0.9
