"""Particles of RELION 5's tilt series, against points followed through the geometry by other means."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoatlas.errors import ImageDataError, InputError, MetadataError
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.particles.inspection import inspect_file
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.source import source_rows

from .small_project import BOX, write_stack

VISIBLE = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [1, 0, 0, 1, 1]])
PARTICLES, FRAMES = VISIBLE.shape
TOMOGRAMS = ["TS_02", "TS_01", "TS_02"]
PIXEL_SIZE, TILT_PIXEL_SIZE = 4.0, 2.0
RNG = np.random.default_rng(11)
SUBTOMOGRAM_DEG, PARTICLE_DEG = RNG.uniform(-180, 180, (2, PARTICLES, 3))
ORIGIN = RNG.uniform(-6, 6, (PARTICLES, 3))
COORDINATE = RNG.uniform(-800, 800, (PARTICLES, 3))
TILTS_DEG = np.array(
    [[1.5, -1.0, 0.5, 2.0, 0.0], [0.0, 20.0, -20.0, 41.0, -39.0], [85.0, 84.0, 86.0, 85.5, 84.5]]
)
DEFOCUS = np.array([30000.0, 31000.0, 29000.0, 33000.0, 28000.0])
EXPOSURE = np.array([0.0, 3.0, 6.0, 9.0, 12.0])


def tilt_rotation(series: str, frame: int) -> Rotation:
    """Tomogram to image; SciPy's rotations are active and right-handed. TS_01 is TS_02 turned by 5°."""
    x, y, z = TILTS_DEG[:, frame]
    about = Rotation.from_euler
    return (
        about("z", z + 5.0 * (series == "TS_01"), degrees=True)
        * about("y", y, degrees=True)
        * about("x", x, degrees=True)
    )


def relion_rotation(angles_deg) -> Rotation:
    """C3: the inverse of SciPy's intrinsic ZYZ."""
    return Rotation.from_euler("ZYZ", angles_deg, degrees=True).inv()


def pairs(**values: object) -> StarTable:
    """A block of single values, as RELION writes its flags and optimisation sets."""
    return replace(StarTable.from_columns({name: [value] for name, value in values.items()}), is_loop=False)


def series_table(name: str, *, matrices: bool = False) -> StarTable:
    columns = {
        "rlnMicrographName": [f"{name}_{frame}.mrc" for frame in range(FRAMES)],
        "rlnDefocusU": DEFOCUS + 300,
        "rlnDefocusV": DEFOCUS - 300,
        "rlnDefocusAngle": np.linspace(10, 50, FRAMES),
        "rlnMicrographPreExposure": EXPOSURE,
        "rlnCtfScalefactor": np.cos(np.deg2rad(TILTS_DEG[1])),
        "rlnTomoNominalStageTiltAngle": TILTS_DEG[1],
    }
    if matrices:
        rows = np.stack([tilt_rotation(name, frame).as_matrix() for frame in range(FRAMES)])
        for axis, label in enumerate("XYZ"):
            columns[f"rlnTomoProj{label}"] = [
                "[" + ",".join(f"{value:.7f}" for value in [*row[axis], 99.0]) + "]" for row in rows
            ]
    else:
        x, y, z = TILTS_DEG
        turned = 5.0 * (name == "TS_01")
        columns |= {"rlnTomoXTilt": x, "rlnTomoYTilt": y, "rlnTomoZRot": z + turned}
    return StarTable.from_columns(columns)


def tomogram_columns() -> dict:
    return {
        "rlnTomoName": ["TS_01", "TS_02"],
        "rlnTomoTiltSeriesStarFile": ["Tomograms/TS_01.star", "Tomograms/TS_02.star"],
        "rlnTomoHand": [-1, -1],
        "rlnTomoTiltSeriesPixelSize": [TILT_PIXEL_SIZE] * 2,
        "rlnVoltage": [300.0, 300.0],
        "rlnSphericalAberration": [2.7, 2.7],
        "rlnAmplitudeContrast": [0.07, 0.07],
        "rlnTomoSizeX": [1000, 1000],
        "rlnTomoSizeY": [900, 900],
        "rlnTomoSizeZ": [300, 300],
    }


def particle_columns() -> dict:
    columns: dict = {
        "rlnTomoName": TOMOGRAMS,
        "rlnTomoParticleName": [f"{name}/{number}" for number, name in enumerate(TOMOGRAMS, 1)],
        "rlnTomoVisibleFrames": ["[" + ",".join(map(str, row)) + "]" for row in VISIBLE],
        "rlnImageName": [
            f"Extract/job1/{name}/{number}_stack2d.mrcs" for number, name in enumerate(TOMOGRAMS, 1)
        ],
        "rlnOpticsGroup": [1] * PARTICLES,
        "rlnRandomSubset": [1, 2, 1],
    }
    for axis, label in enumerate(("Rot", "Tilt", "Psi")):
        columns[f"rlnAngle{label}"] = PARTICLE_DEG[:, axis]
        columns[f"rlnTomoSubtomogram{label}"] = SUBTOMOGRAM_DEG[:, axis]
    for axis, label in enumerate("XYZ"):
        columns[f"rlnOrigin{label}Angst"] = ORIGIN[:, axis]
        columns[f"rlnCenteredCoordinate{label}Angst"] = COORDINATE[:, axis]
    return columns


def section_values(particle: int, *, all_frames: bool) -> np.ndarray:
    """Images that say which particle and which tilt they are, by their mean."""
    frames = np.arange(FRAMES) if all_frames else np.flatnonzero(VISIBLE[particle])
    noise = np.random.default_rng(particle).standard_normal((len(frames), BOX, BOX))
    noise -= noise.mean((1, 2), keepdims=True)
    return (noise + (10 * particle + frames)[:, None, None]).astype(np.float32)


@pytest.fixture
def relion5(tmp_path):
    """Writes a RELION project and gives its optimisation set; arguments replace columns, or remove them."""

    def write(
        particles: dict | None = None,
        tomograms: dict | None = None,
        *,
        inline: bool = False,
        all_frames: bool = False,
    ) -> Path:
        job = tmp_path / "Extract" / "job1"
        job.mkdir(parents=True, exist_ok=True)
        (tmp_path / "Tomograms").mkdir(exist_ok=True)
        columns = {**particle_columns(), **(particles or {})}
        rows = {name: values for name, values in columns.items() if values is not None}
        optics = {
            "rlnOpticsGroup": [1],
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnAmplitudeContrast": [0.07],
            "rlnImagePixelSize": [PIXEL_SIZE],
            "rlnImageSize": [BOX],
            "rlnImageDimensionality": [2],
        }
        flag = pairs(rlnTomoSubTomosAre2DStacks=1)
        tables = {"general": flag, "optics": StarTable.from_columns(optics)}
        write_star(job / "particles.star", {**tables, "particles": StarTable.from_columns(rows)})
        columns = {**tomogram_columns(), **(tomograms or {})}
        rows = {name: values for name, values in columns.items() if values is not None}
        names = ("TS_01", "TS_02")
        if inline:
            rows.pop("rlnTomoTiltSeriesStarFile")
        tables = {"global": StarTable.from_columns(rows)}
        tables |= {name: series_table(name, matrices=True) for name in names} if inline else {}
        write_star(job / "tomograms.star", tables)
        for name in names:
            write_star(tmp_path / "Tomograms" / f"{name}.star", {name: series_table(name)})
        for number, name in enumerate(TOMOGRAMS):
            pixels = section_values(number, all_frames=all_frames)
            write_stack(job / name / f"{number + 1}_stack2d.mrcs", pixels)
        files = pairs(
            rlnTomoParticlesFile="Extract/job1/particles.star",
            rlnTomoTomogramsFile="Extract/job1/tomograms.star",
            rlnTomoTrajectoriesFile="",
        )
        write_star(job / "optimisation_set.star", {"": files})
        return job / "optimisation_set.star"

    return write


def images_in_order() -> list[tuple[int, int]]:
    return [
        (particle, int(frame)) for particle in range(PARTICLES) for frame in np.flatnonzero(VISIBLE[particle])
    ]


def check_geometry(particles: ParticleSet, atol: float) -> None:
    """A point of the molecule must be seen where its place in the tomogram is projected to."""
    pose, point = particles.require_pose(), np.array([31.0, -17.0, 24.0])
    assert particles.ctf is not None
    for row, (particle, frame) in enumerate(images_in_order()):
        tilt = tilt_rotation(TOMOGRAMS[particle], frame)
        box = relion_rotation(SUBTOMOGRAM_DEG[particle])
        centre = COORDINATE[particle] - box.apply(ORIGIN[particle])
        place = centre + box.apply(relion_rotation(PARTICLE_DEG[particle]).apply(point))
        # The image was cut out where the coordinates, without origin, are projected to.
        seen = (tilt.apply(place) - tilt.apply(COORDINATE[particle]))[:2]
        expected = pose.rotation[row].numpy() @ point
        np.testing.assert_allclose(expected[:2] + pose.shift[row].numpy(), seen, atol=atol)
        # rlnTomoHand −1: what lies higher in the image has less defocus.
        depth = -tilt.apply(centre)[2]
        np.testing.assert_allclose(particles.ctf.defocus_u[row], DEFOCUS[frame] + 300 + depth, atol=atol)
        np.testing.assert_allclose(particles.ctf.defocus_v[row], DEFOCUS[frame] - 300 + depth, atol=atol)


def test_points_of_the_molecule_are_seen_where_the_tilt_series_shows_them(relion5):
    # Angles go through RELION's degrees and back: eleven digits of 1,000 Å remain.
    check_geometry(read_particles(relion5()), atol=1e-8)


def test_projection_matrices_say_the_same_as_tilts(relion5):
    # Matrices are written with seven digits and coordinates reach 1,400 Å.
    check_geometry(read_particles(relion5(inline=True)), atol=1e-3)


@pytest.mark.parametrize("all_frames", [False, True])
def test_every_row_has_the_image_of_its_particle_and_tilt(relion5, all_frames):
    """RELION's stacks hold the visible images alone, WarpTools' all of them."""
    particles = read_particles(relion5(all_frames=all_frames))
    expected = [10 * particle + frame for particle, frame in images_in_order()]
    np.testing.assert_allclose(particles.images(slice(None)).mean((1, 2)).numpy(), expected, atol=1e-5)


def test_images_are_grouped_by_particle_with_exposure_and_tilt(relion5):
    particles = read_particles(relion5())
    groups, order = particles.groups, images_in_order()
    assert groups is not None
    assert groups.names == ("TS_02/1", "TS_01/2", "TS_02/3")
    assert groups.particle.tolist() == [particle for particle, _ in order]
    assert groups.exposure is not None
    assert groups.exposure.tolist() == [EXPOSURE[frame] for _, frame in order]
    assert groups.tilt is not None
    np.testing.assert_allclose(torch.rad2deg(groups.tilt), [TILTS_DEG[1, frame] for _, frame in order])
    assert particles.half_sets().tolist() == [particle % 2 for particle, _ in order]


def test_the_signal_decays_with_exposure_or_with_the_b_factor_of_the_tomograms(relion5):
    frames = [frame for _, frame in images_in_order()]
    ctf = read_particles(relion5()).ctf
    assert ctf is not None
    assert ctf.exposure.tolist() == EXPOSURE[frames].tolist()
    assert not ctf.b_factor.any()
    ctf = read_particles(relion5(tomograms={"rlnCtfBfactorPerElectronDose": [2.5, 2.5]})).ctf
    assert ctf is not None
    assert not ctf.exposure.any()
    assert ctf.b_factor.tolist() == (2.5 * EXPOSURE[frames]).tolist()


def test_scale_pixel_size_and_half_set_come_along(relion5):
    particles = read_particles(relion5())
    scale = np.cos(np.deg2rad(TILTS_DEG[1]))[[frame for _, frame in images_in_order()]]
    np.testing.assert_allclose(particles.ctf_scale.numpy(), scale)
    assert (particles.pixel_size == PIXEL_SIZE).all()
    subsets = particles.tables.particles.number("rlnRandomSubset").tolist()
    assert subsets == [[1, 2, 1][particle] for particle, _ in images_in_order()]


def test_rows_remember_their_particles_row(relion5):
    particles = read_particles(relion5())
    assert source_rows(particles.tables).tolist() == [particle + 1 for particle, _ in images_in_order()]
    assert particles.path.name == "particles.star"


def test_the_set_is_found_beside_its_particles(relion5):
    star = relion5().parent / "particles.star"
    assert len(read_particles(star)) == VISIBLE.sum()
    (star.parent / "optimisation_set.star").rename(star.parent / "other.star")
    with pytest.raises(
        MetadataError, match="0 optimisation sets beside it name it: give the optimisation set"
    ):
        read_particles(star)


def test_what_is_written_is_read_as_one_row_per_image(relion5, tmp_path):
    particles = read_particles(relion5())
    write_star(tmp_path / "written.star", particles.tables.tables)
    again = read_particles(tmp_path / "written.star")
    assert again.groups is not None
    assert again.groups.names == ("TS_02/1", "TS_01/2", "TS_02/3")
    torch.testing.assert_close(again.require_pose().rotation, particles.require_pose().rotation)
    assert again.ctf is not None
    assert again.ctf.exposure.tolist() == [EXPOSURE[frame] for _, frame in images_in_order()]
    assert torch.equal(again.images([3]), particles.images([3]))


def test_particles_without_angles_have_no_poses_and_all_else(relion5):
    particles = read_particles(relion5(dict.fromkeys(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))))
    assert particles.pose is None
    assert len(particles) == VISIBLE.sum()


def test_coordinates_in_pixels_count_from_the_corner_if_it_is_clear_which_pixels(relion5):
    corner = COORDINATE / PIXEL_SIZE + np.array([1000, 900, 300]) / 2
    in_pixels = dict.fromkeys(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
    in_pixels |= {f"rlnCoordinate{label}": corner[:, axis] for axis, label in enumerate("XYZ")}
    unbinned = {"rlnTomoTiltSeriesPixelSize": [PIXEL_SIZE] * 2}
    check_geometry(read_particles(relion5(in_pixels, unbinned)), atol=1e-8)
    with pytest.raises(MetadataError, match="it is not certain whether they are those of the tilt images"):
        read_particles(relion5(in_pixels))


@pytest.mark.parametrize(
    ("particles", "tomograms", "error", "words"),
    [
        ({"rlnTomoVisibleFrames": ["[1,1]"] * 3}, {}, MetadataError, "2 flags .* series has 5 images"),
        ({"rlnTomoVisibleFrames": ["[0,0,0,0,0]"] * 3}, {}, MetadataError, "visible in no image"),
        ({"rlnTomoVisibleFrames": ["[1,1,0,0,0]"] * 3}, {}, ImageDataError, "visible in 2 of 5"),
        ({"rlnTomoVisibleFrames": ["1 1 0"] * 3}, {}, MetadataError, "a list of numbers in brackets"),
        ({"rlnTomoVisibleFrames": None}, {}, MetadataError, "lacks rlnTomoVisibleFrames"),
        ({"rlnOriginZAngst": None}, {}, MetadataError, "has a part of .* lacks rlnOriginZAngst"),
        ({"rlnAnglePsi": None}, {}, MetadataError, "has a part of .* lacks rlnAnglePsi"),
        ({"rlnTomoSubtomogramTilt": None}, {}, MetadataError, "lacks rlnTomoSubtomogramTilt"),
        ({"rlnTomoName": ["TS_03"] * 3}, {}, MetadataError, "do not belong together"),
        ({}, {"rlnTomoHand": None}, MetadataError, "one table with rlnTomoName and rlnTomoHand"),
        ({}, {"rlnTomoTiltSeriesStarFile": None}, MetadataError, "geometry of this tilt series is missing"),
        ({}, {"rlnTomoTiltSeriesStarFile": ["a.star", "b.star"]}, InputError, "names the file b.star"),
        (
            {},
            {"rlnVoltage": [200.0, 200.0]},
            MetadataError,
            "200 as rlnVoltage, but its optics group says 300",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(relion5, particles, tomograms, error, words):
    with pytest.raises(error, match=words):
        read_particles(relion5(particles, tomograms))


@pytest.mark.parametrize("spoilt", ["[-0.1,0,0,0]", "[nan,0,0,0]", "[1e300,1e300,0,0]"])
def test_matrices_that_are_no_rotations_are_refused(relion5, spoilt):
    star = relion5(inline=True).parent / "tomograms.star"
    words = star.read_text().split()
    first = next(position for position, word in enumerate(words) if "[" in word)
    star.write_text(star.read_text().replace(words[first], spoilt, 1))
    with pytest.raises(MetadataError, match="no rotation; 1 of 5 rows have"):
        read_particles(star.parent / "particles.star")


def test_tilts_and_matrices_that_contradict_each_other_are_refused(relion5):
    star = relion5()
    for name, matrices in (("TS_01", "TS_01"), ("TS_02", "TS_01")):
        both = {**series_table(name).columns, **series_table(matrices, matrices=True).columns}
        write_star(star.parents[2] / "Tomograms" / f"{name}.star", {name: StarTable(both)})
    with pytest.raises(MetadataError, match=r"TS_02.star .* differs from its tilts .* by 5.00°"):
        read_particles(star)


def test_a_mirrored_tilt_series_is_refused(relion5, monkeypatch):
    original = Rotation.as_matrix
    monkeypatch.setattr(Rotation, "as_matrix", lambda self: original(self) @ np.diag([1.0, 1.0, -1.0]))
    star = relion5(inline=True)
    with pytest.raises(MetadataError, match="no rotation; 5 of 5 rows have"):
        read_particles(star)


def test_info_tells_particles_and_images(relion5):
    facts = dict(inspect_file(relion5()).facts)
    assert facts["tilt series"] == "3 particles, 3 … 5 images of each"
    assert facts["exposure"] == "0 … 12 e/Å²"
    assert facts["tilt"] == "-39 … 41°"
