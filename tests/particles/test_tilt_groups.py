"""Which images show the same particle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryoatlas.errors import MetadataError
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.particles.inspection import inspect_file
from cryoatlas.particles.metadata import ParticleTables
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.tilt_groups import TiltGroups, tilt_groups

from .small_project import BOX, noise_images, write_stack

PIXEL_SIZE, PARTICLES, TILTS = 3.0, 4, 5
COUNT = PARTICLES * TILTS
TILTS_DEG = np.array([0.0, 3.0, -3.0, 6.0, -6.0])


def flat_columns() -> dict:
    """As Warp and M write them: one row per image, exposure as B-factor, tilt as its cosine."""
    particle, frame = np.divmod(np.arange(COUNT), TILTS)
    rng = np.random.default_rng(3)
    return {
        "rlnImageName": [f"{number:06d}@tilts.mrcs" for number in range(1, COUNT + 1)],
        "rlnMicrographName": [f"series_{number}.mrc" for number in frame],
        "rlnGroupName": [f"series_{number:07d}" for number in particle],
        "rlnPixelSize": np.full(COUNT, PIXEL_SIZE),
        "rlnDefocusU": rng.uniform(2e4, 3e4, COUNT),
        "rlnDefocusV": rng.uniform(2e4, 3e4, COUNT),
        "rlnDefocusAngle": rng.uniform(0, 180, COUNT),
        "rlnVoltage": np.full(COUNT, 300.0),
        "rlnSphericalAberration": np.full(COUNT, 2.7),
        "rlnAmplitudeContrast": np.full(COUNT, 0.07),
        "rlnAngleRot": rng.uniform(-180, 180, COUNT),
        "rlnAngleTilt": rng.uniform(0, 180, COUNT),
        "rlnAnglePsi": rng.uniform(-180, 180, COUNT),
        "rlnCtfBfactor": -13.0 * (frame + 1),
        "rlnCtfScalefactor": np.cos(np.deg2rad(TILTS_DEG))[frame],
    }


@pytest.fixture
def flat_star(tmp_path):
    def write(**other: object):
        columns = {**flat_columns(), **other}
        write_stack(tmp_path / "tilts.mrcs", noise_images(COUNT, BOX))
        kept = {name: values for name, values in columns.items() if values is not None}
        write_star(tmp_path / "tilts.star", {"": StarTable.from_columns(kept)})
        return tmp_path / "tilts.star"

    return write


def tables_in_memory() -> ParticleTables:
    return ParticleTables(Path("t.star"), {"": StarTable.from_columns(flat_columns())}, block="")


def groups_of(path) -> TiltGroups:
    groups = read_particles(path).groups
    assert groups is not None
    return groups


def named(groups: TiltGroups) -> list[str]:
    return [groups.names[number] for number in groups.particle.tolist()]


def test_images_of_one_name_are_one_particle(flat_star):
    groups = groups_of(flat_star())
    assert named(groups) == flat_columns()["rlnGroupName"]
    assert groups.images_per_particle.tolist() == [TILTS] * PARTICLES


def test_the_exposure_is_a_quarter_of_warps_b_factor_and_the_tilt_has_its_cosine(flat_star):
    groups = groups_of(flat_star())
    assert groups.exposure is not None
    assert groups.tilt is not None
    np.testing.assert_allclose(groups.exposure[:TILTS], 3.25 * np.arange(1, TILTS + 1))
    # The arc cosine near 1 loses half the digits.
    np.testing.assert_allclose(torch.rad2deg(groups.tilt[:TILTS]), np.abs(TILTS_DEG), atol=1e-6)


def test_what_the_file_says_of_exposure_and_tilt_comes_before_what_follows_from_the_ctf(flat_star):
    exposure, tilt = np.linspace(0, 57, COUNT), np.linspace(-60, 60, COUNT)
    groups = groups_of(flat_star(rlnMicrographPreExposure=exposure, rlnTomoNominalStageTiltAngle=tilt))
    assert groups.exposure is not None
    assert groups.tilt is not None
    np.testing.assert_allclose(groups.exposure, exposure)
    np.testing.assert_allclose(torch.rad2deg(groups.tilt), tilt)


def test_a_scale_above_one_is_no_cosine_and_no_b_factor_is_no_exposure(flat_star):
    scales = np.linspace(0.5, 1.5, COUNT)
    groups = groups_of(flat_star(rlnCtfScalefactor=scales, rlnCtfBfactor=np.zeros(COUNT)))
    assert groups.tilt is None
    assert groups.exposure is None


@given(order=st.permutations(range(COUNT)))
def test_the_order_of_rows_does_not_matter(order):
    tables = ParticleTables(
        path=Path("t.star"), tables={"": StarTable.from_columns(flat_columns())}, block=""
    )
    sizes = np.full(COUNT, PIXEL_SIZE)
    whole = tilt_groups(tables, sizes)
    assert whole is not None
    mixed = tilt_groups(tables.select(np.array(order)), sizes)
    assert mixed is not None
    assert named(mixed) == [named(whole)[row] for row in order]
    assert set(mixed.names) == set(whole.names)
    assert len(mixed.names) == len(whole.names)


@given(chosen=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=2 * COUNT))
def test_choosing_images_and_grouping_them_commute(chosen):
    tables = ParticleTables(
        path=Path("t.star"), tables={"": StarTable.from_columns(flat_columns())}, block=""
    )
    # Named so that any choice of rows is still told as a tilt series.
    table = tables.particles.with_column("rlnTomoParticleName", tables.particles.text("rlnGroupName"))
    tables = tables.with_particles(table)
    sizes, rows = np.full(COUNT, PIXEL_SIZE), np.array(chosen)
    whole, part = tilt_groups(tables, sizes), tilt_groups(tables.select(rows), sizes[rows])
    assert whole is not None
    assert part is not None
    selected = whole[torch.from_numpy(rows)]
    assert selected.names == part.names
    assert torch.equal(selected.particle, part.particle)
    for one, other in ((selected.exposure, part.exposure), (selected.tilt, part.tilt)):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@given(chosen=st.lists(st.integers(0, COUNT - 1), min_size=2, unique=True))
def test_halves_share_no_particle(chosen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    write_stack(folder / "tilts.mrcs", noise_images(COUNT, BOX))
    write_star(folder / "tilts.star", {"": StarTable.from_columns(flat_columns())})
    particles = read_particles(folder / "tilts.star")[torch.tensor(chosen)]
    assert particles.groups is not None
    if len(particles.groups) == 1:
        with pytest.raises(MetadataError, match="two particles or more"):
            particles.half_sets()
        return
    half, particle = particles.half_sets(), particles.groups.particle
    sides = [set(particle[half == number].tolist()) for number in (0, 1)]
    assert not sides[0] & sides[1]
    # Particles go to the halves by turns.
    assert abs(len(sides[0]) - len(sides[1])) <= 1
    assert sides[1]


def test_images_of_single_particles_go_to_the_halves_by_turns(project):
    particles = read_particles(project())
    assert particles.groups is None
    assert particles.half_sets().tolist() == [0, 1, 0, 1, 0, 1]


def test_relions_groups_of_micrographs_are_no_particles(flat_star):
    """Several particles of one group on one micrograph: scales per particle do not make a tilt series."""
    micrographs = [f"micrograph_{number % 2}.mrc" for number in range(COUNT)]
    assert read_particles(flat_star(rlnMicrographName=micrographs)).groups is None


def test_a_file_without_tilts_has_no_groups(flat_star):
    assert read_particles(flat_star(rlnCtfScalefactor=None)).groups is None
    assert read_particles(flat_star(rlnCtfScalefactor=np.ones(COUNT))).groups is None


def test_images_named_after_their_tomogram_or_after_nothing_are_grouped(flat_star):
    names = flat_columns()["rlnGroupName"]
    assert named(groups_of(flat_star(rlnMicrographName=["one.tomostar"] * COUNT))) == names
    assert named(groups_of(flat_star(rlnMicrographName=None))) == names


@pytest.mark.parametrize(("column", "value"), [("rlnPixelSize", 4.0), ("rlnRandomSubset", 2)])
def test_images_of_one_particle_that_contradict_each_other_are_refused(flat_star, column, value):
    values = np.array(flat_columns().get(column, np.ones(COUNT)))
    values[7] = value
    with pytest.raises(MetadataError, match=r"row 8 .* row 6 .* particle series_0000001; 1 of 20 rows"):
        read_particles(flat_star(**{column: values}))


def test_info_tells_particles_images_exposure_and_tilt(flat_star):
    facts = dict(inspect_file(flat_star()).facts)
    assert facts["tilt series"] == "4 particles, 5 images of each"
    assert facts["exposure"] == "3.25 … 16.25 e/Å²"
    assert facts["tilt"] == "0 … 6°"


@pytest.mark.data
def test_the_ribosomes_of_a_real_tilt_series(shared_data):
    groups = groups_of(shared_data / "stacks" / "cryodrgn_tests" / "sta_testing_bin8.star")
    assert groups.images_per_particle.tolist() == [39, 39, 39, 39, 39, 24]
    assert groups.exposure is not None
    assert groups.tilt is not None
    assert (groups.exposure.min(), groups.exposure.max()) == (3.25, 126.75)
    assert float(torch.rad2deg(groups.tilt).max()) == pytest.approx(60, abs=0.01)


@pytest.mark.data
@pytest.mark.parametrize("kind", ["sim", "clean"])
def test_particles_of_tomodrgn_with_8_and_with_10_images(shared_data, kind):
    folder = shared_data / "stacks" / "tomodrgn_10076_classDE"
    groups = read_particles(folder / f"10076_both_32_{kind}.star", datadir=folder).groups
    assert groups is not None
    assert groups.images_per_particle.tolist() == [8] * 72 + [10] * 72
    assert groups.tilt is not None
    # The file holds cosines of seven digits.
    assert torch.rad2deg(groups.tilt).unique().round(decimals=2).tolist() == [0, 3, 6, 9, 12, 15]
    assert (groups.exposure is None) == (kind == "clean")
