"""A shift of t pixels is t pixels in every room, for even and odd boxes: no room counts D + 1.

The images show one blob at x₀ in the molecule's frame, turned by known rotations, drawn here from the
closed form with NumPy alone. Their files say that the particle is shifted by t = (R x₀)_xy, so every
room that undoes shifts must find the blob in the middle. Taking D + 1 for D would leave it x₀/D away.
"""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoatlas.fourier.lattice import Disc
from cryoatlas.fourier.transform import hartley
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import StackWriter
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.particles.batch import ParticleLoader
from cryoatlas.particles.config import PreprocessConfig
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.prepare_config import PrepareConfig
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.recipes.backprojection import backproject_particles
from cryoatlas.recipes.prepare import prepare
from cryoatlas.training.objective import centre_images

BOXES = [15, 16, 17, 24]
COUNT, PIXEL_SIZE, SIGMA = 60, 2.5, 1.2
BLOB = np.array([2.5, -1.5, 2.0]) * PIXEL_SIZE
"""x₀, Å: 3.5 px from the middle, so that D + 1 for D is wrong by 3.5/D ≥ 0.14 px."""
CLOSE = 0.03
"""px: what remains of interpolation and of the blob's tails."""
ANGLES = Rotation.random(COUNT, random_state=0).as_euler("ZYZ", degrees=True)
SHIFTS = (Rotation.from_euler("ZYZ", ANGLES, degrees=True).inv().apply(BLOB))[:, :2]
"""t of every image, Å."""


def place(image: np.ndarray) -> np.ndarray:
    """Where a single blob lies, x first, px from the middle: minus the phase of the lowest frequencies.

    A constant background does not enter, and cropping in Fourier space leaves these frequencies as they are.
    """
    spectrum = np.fft.fft2(np.fft.ifftshift(image))
    return -np.angle([spectrum[0, 1], spectrum[1, 0]]) * len(image) / (2 * np.pi)


def centre_of_mass(volume: np.ndarray) -> np.ndarray:
    """Of what is denser than a third of the densest, so that the windowed background does not enter; px."""
    mass = (volume - volume.max() / 3).clip(min=0)
    axes = np.indices(volume.shape) - len(volume) // 2
    return np.array([(mass * axis).sum() for axis in axes]) / mass.sum()


def blobs(box: int, centres_px: np.ndarray) -> np.ndarray:
    axis = np.arange(box) - box // 2
    x, y = centres_px.T[:, :, None, None]
    distance = (axis[None, None, :] - x) ** 2 + (axis[None, :, None] - y) ** 2
    return np.exp(-distance / (2 * SIGMA**2)).astype(np.float32)


def write_images(folder: Path, box: int) -> Path:
    with StackWriter(folder / "stack.mrcs", box, PIXEL_SIZE) as stack:
        stack.append(blobs(box, SHIFTS / PIXEL_SIZE))
    return folder / "stack.mrcs"


def rows() -> dict[str, object]:
    return {
        "rlnImageName": [f"{number:06d}@stack.mrcs" for number in range(1, COUNT + 1)],
        **{f"rlnAngle{name}": ANGLES[:, axis] for axis, name in enumerate(("Rot", "Tilt", "Psi"))},
    }


def relion_31(folder: Path, box: int) -> ParticleSet:
    """Origins in Å, in the sign that brings the particle to the middle."""
    origins = {f"rlnOrigin{name}Angst": -SHIFTS[:, axis] for axis, name in enumerate("XY")}
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [PIXEL_SIZE], "rlnImageSize": [box]}
    particles = {**rows(), **origins, "rlnOpticsGroup": [1] * COUNT}
    tables = {"optics": StarTable.from_columns(optics), "particles": StarTable.from_columns(particles)}
    write_star(folder / "x.star", tables)
    return read_particles(folder / "x.star")


def relion_30(folder: Path, box: int) -> ParticleSet:
    """Origins in px."""
    origins = {f"rlnOrigin{name}": -SHIFTS[:, axis] / PIXEL_SIZE for axis, name in enumerate("XY")}
    sizes = {"rlnMagnification": [4e4] * COUNT, "rlnDetectorPixelSize": [4 * PIXEL_SIZE] * COUNT}
    write_star(folder / "x.star", {"": StarTable.from_columns({**rows(), **origins, **sizes})})
    return read_particles(folder / "x.star")


def cryodrgn(folder: Path, box: int) -> ParticleSet:
    """Origins as fractions of the box."""
    rotations = Rotation.from_euler("ZYZ", ANGLES, degrees=True).inv().as_matrix()
    (folder / "p.pkl").write_bytes(pickle.dumps((rotations, -SHIFTS / PIXEL_SIZE / box)))
    return read_particles(folder / "stack.mrcs", poses=folder / "p.pkl")


def cryosparc(folder: Path, box: int) -> ParticleSet:
    """Origins in pixels of the alignment, which are not those of the images."""
    kinds = [("uid", "<u8"), ("blob/path", "S12"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,))]
    kinds += [("blob/psize_A", "<f4"), ("alignments3D/pose", "<f4", (3,))]
    kinds += [("alignments3D/shift", "<f4", (2,)), ("alignments3D/psize_A", "<f4")]
    table = np.zeros(COUNT, kinds)
    table["uid"] = table["blob/idx"] = np.arange(COUNT)
    table["blob/path"], table["blob/shape"], table["blob/psize_A"] = b"stack.mrcs", box, PIXEL_SIZE
    table["alignments3D/pose"] = Rotation.from_euler("ZYZ", ANGLES, degrees=True).as_rotvec()
    table["alignments3D/shift"], table["alignments3D/psize_A"] = -SHIFTS / 1.25, 1.25
    with (folder / "x.cs").open("wb") as stream:
        np.save(stream, table)
    return read_particles(folder / "x.cs")


READERS = [relion_31, relion_30, cryodrgn, cryosparc]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("read", READERS)
def test_every_file_says_the_same_shift_and_backprojection_undoes_it(
    tmp_path, box, read: Callable[[Path, int], ParticleSet]
):
    write_images(tmp_path, box)
    particles = read(tmp_path, box)
    # Single precision, in which .cs files hold shifts.
    np.testing.assert_allclose(particles.require_pose().shift, SHIFTS, atol=1e-5)
    result = backproject_particles(particles, device="cpu")
    assert np.abs(centre_of_mass(result.map.double().numpy())).max() < CLOSE


@pytest.mark.parametrize("read", READERS)
def test_a_set_of_small_shifts_is_read_like_any_other(
    tmp_path, monkeypatch, read: Callable[[Path, int], ParticleSet]
):
    """No reader guesses the unit from the size of the numbers: here no shift is above 0.2 px."""
    small = 0.05 * SHIFTS
    monkeypatch.setitem(globals(), "SHIFTS", small)
    write_images(tmp_path, 16)
    np.testing.assert_allclose(read(tmp_path, 16).require_pose().shift, small, atol=1e-6)


@pytest.mark.parametrize("box", BOXES)
def test_training_compares_images_whose_particle_is_in_the_middle(tmp_path, box):
    """The coefficients that the networks see are those of a blob that was never shifted."""
    write_images(tmp_path, box)
    particles, disc = relion_31(tmp_path, box), Disc(box)
    as_it_is = Preprocessor(PreprocessConfig(window=False), box, 0.0, 1.0)
    (batch,) = ParticleLoader(particles, as_it_is, disc, COUNT).batches(np.arange(COUNT))
    centred = centre_images(batch, disc).images
    expected = disc.gather(hartley(torch.from_numpy(blobs(box, np.zeros((1, 2))))))
    # Tails beyond the box and beyond Nyquist; one shift wrong by a part in D leaves 10 %.
    assert ((centred - expected).norm(dim=1) / expected.norm()).max() < 0.01


@pytest.mark.parametrize(("box", "new"), [(15, 12), (16, 12), (17, 12), (24, 16)])
def test_prepared_images_show_the_particle_at_the_shift_in_their_own_pixels(tmp_path, box, new):
    write_images(tmp_path, box)
    config = PrepareConfig(box=new, normalize="none", dtype="float32")
    particles = read_particles(prepare(relion_31(tmp_path, box), tmp_path / "out", config))
    np.testing.assert_allclose(particles.require_pose().shift, SHIFTS, atol=1e-9)
    assert float(particles.pixel_size[0]) == pytest.approx(PIXEL_SIZE * box / new)
    shown = np.array([place(image) for image in particles.images(slice(None)).double().numpy()])
    expected = SHIFTS / (PIXEL_SIZE * box / new)
    assert np.abs(shown - expected).max() < CLOSE


@pytest.mark.parametrize("box", [16, 17, 24])
def test_simulated_particles_sit_where_their_truth_says(tmp_path, box):
    config = SimulationConfig("homogeneous", images=40, box=box, snr=1e12, seed=1, shift_px=2.0)
    simulate(config, tmp_path / "set")
    truth = read_particles(tmp_path / "set" / "truth" / "particles.star")
    pixels = truth.images(slice(None)).double().numpy()
    axis = np.arange(box) - box // 2
    mass = pixels.sum((1, 2))
    shown = np.stack([(pixels.sum(1) * axis).sum(1), (pixels.sum(2) * axis).sum(1)], -1) / mass[:, None]
    # The body is centred on its centre of mass, which a projection keeps.
    expected = (truth.require_pose().shift / truth.pixel_size[:, None]).numpy()
    assert np.abs(expected).max() > 1.5
    assert np.abs(shown - expected).max() < CLOSE
