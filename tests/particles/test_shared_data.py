"""Every file of the shared data reads, or is refused with the right reason; each is named here."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from cryoatlas.errors import CryoAtlasError, FormatError, InputError, MetadataError
from cryoatlas.io import cryodrgn
from cryoatlas.io.atoms import read_atoms
from cryoatlas.io.mrc import read_volume
from cryoatlas.io.star import StarTable, read_star, write_star
from cryoatlas.particles.indices import read_indices, read_numbers
from cryoatlas.particles.inspection import inspect_file
from cryoatlas.particles.metadata import pixel_sizes
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.sources import read_columns, read_ctf, read_poses

pytestmark = pytest.mark.data
ABOUT = {"README.md", "PROVENANCE.tsv", "SHA256SUMS"}


class Particles(NamedTuple):
    """What `read_particles` gives."""

    images: int
    box: int
    pixel_size: float
    ctf: bool = False
    poses: bool = False
    sign: float = 1.0
    optics_groups: int | None = 1


class Refused(NamedTuple):
    """What `read_particles`, or the reader named, says."""

    error: type[CryoAtlasError]
    message: str
    reader: Callable = lambda path: read_particles(path, datadir=path.parent)


class Metadata(NamedTuple):
    """A file of particles whose images are not here: what its columns say, and that images are missing."""

    rows: int
    pixel_size: float
    stacks: int


class Volume(NamedTuple):
    """What `read_volume` gives."""

    shape: tuple[int, int, int]
    pixel_size: float


class Arrays(NamedTuple):
    """What the reader of a pickle or list gives: the length of its first array."""

    reader: Callable
    length: int


def atoms(count: int) -> Arrays:
    return Arrays(lambda path: read_atoms(path).positions, count)


def no_atoms(message: str) -> Refused:
    return Refused(FormatError, message, read_atoms)


def pickled_poses(count: int) -> Arrays:
    return Arrays(lambda path: read_poses(path, box_size=64, pixel_size=1.0).rotation, count)


def pickled_ctf(count: int) -> Arrays:
    return Arrays(read_ctf, count)


def row_numbers(total: int, count: int) -> Arrays:
    return Arrays(lambda path: read_indices(path, total), count)


C, T = "stacks/cryodrgn_tests/", "stacks/tomodrgn_10076_classDE/"
EXPECTED: dict[str, NamedTuple] = {
    "dist/cryosparc_P12_J24_001_particles.cs": Metadata(2019, 2.95, 50),
    "dist/cryosparc_P12_J24_001_pose.pkl": pickled_poses(2019),
    "dist/empiar10017_betagal_relion_images.star": Metadata(6496, 3.54, 15),
    "dist/empiar10204_betagal_particles.star": Metadata(4501, 1.244531, 24),
    "dist/empiar10076/ctf.pkl": pickled_ctf(131_899),
    "dist/empiar10076/poses.pkl": pickled_poses(131_899),
    "dist/empiar10076/filtered.ind.pkl": row_numbers(131_899, 87_327),
    "maps/EMD-1080.mrc": Volume((100, 100, 100), 2.7),
    "maps/clean70SRibosome_vol_65p.mrc": Refused(FormatError, "has no usable cell", read_volume),
    "maps/ngl_betaGal.mrc": Volume((100, 100, 100), 3.54),
    "maps/relion_ref_model.mrc": Volume((100, 100, 100), 3.54),
    "maps/ribo80s_emd_3883_866_64_resized.mrc": Volume((64, 64, 64), 8.66),
    "models/1MNF.pdb.gz": atoms(55_552),
    "models/1aon.pdb.gz": atoms(58_870),
    "models/1igt.pdb.gz": atoms(10_434),
    "models/1xnr.cif.gz": atoms(27_606),
    "models/5A5E_full.pdb.gz": atoms(3286),
    "models/5A5F_full.pdb.gz": atoms(3286),
    "models/6rn2.cif.gz": atoms(32_937),
    "models/6rn3.cif.gz": atoms(32_871),
    "models/6vxx.pdb.gz": atoms(22_812),
    "models/7l2i.cif.gz": atoms(17_396),
    "models/7l2j.cif.gz": atoms(17_300),
    "models/7p6z.cif.gz": atoms(142_534),
    "models/8uv2.cif.gz": atoms(35_580),
    "models/adk_dims/adk.psf": no_atoms("is not named as an atomic model"),
    "models/adk_dims/adk_closed.pdb": no_atoms("1559 of 2952 atoms have .* an unknown element"),
    "models/adk_dims/adk_open.pdb": no_atoms("1559 of 2952 atoms have .* an unknown element"),
    "models/adk_dims/adk_dims.dcd": no_atoms("is not named as an atomic model"),
    "models/murd/MurD_test.dcd": no_atoms("is not named as an atomic model"),
    "models/murd/MurD_test_topo.pdb": atoms(3286),
    "stacks/aspire_sample/sample.mrcs": Refused(MetadataError, "pixel size .* is not known: their headers"),
    "stacks/aspire_sample/sample_particles_relion30.star": Particles(17, 200, 1.338, True, True, 1, None),
    "stacks/aspire_sample/sample_particles_relion31.star": Particles(17, 200, 1.4, True, True, 1, 2),
    C + "50S-vol.mrc": Volume((128, 32, 32), 4.0),
    C + "spike-vol.mrc": Volume((128, 16, 16), 8.0),
    C + "hand-vol.mrc": Volume((64, 64, 64), 1.0),
    C + "toymodel_small_nocenter.mrc": Volume((30, 30, 30), 1.0),
    C + "FinalRefinement-OriginalParticles-PfCRT.star": Refused(
        MetadataError, "has CTF columns, but lacks rlnAmplitudeContrast", read_ctf
    ),
    C + "ay19102021_L3_position6_ribo_it09_bin8_1.82A.mrcs": Particles(220, 64, 1.0),
    C + "empiar_10076_7.mrc": Refused(MetadataError, "pixel size .* is not known: their headers"),
    C + "empiar_10076_7.star": Particles(7, 320, 1.309998, True, optics_groups=None),
    C + "empiar_10076_7.cs": Particles(7, 320, 1.309998, True, sign=-1),
    C + "hand.mrcs": Particles(100, 64, 1.0),
    C + "hand_rot.pkl": pickled_poses(100),
    C + "hand_rot_trans.pkl": pickled_poses(100),
    C + "relion31.mrcs": Particles(5, 256, 1.0),
    C + "relion31.star": Particles(5, 256, 2.806, True, True),
    C + "relion31.v2.star": Particles(5, 256, 2.806, True, True),
    C + "relion5.star": Refused(InputError, r"2 of 2 image stacks .* toy_images_a\.mrcs"),
    C + "sta_testing.star": Refused(InputError, r"1 of 1 image stacks .* \.\./tilts/particleseries"),
    C + "sta_testing_bin8.star": Particles(219, 64, 1.96, True, True, optics_groups=None),
    C + "sta_ctf.pkl": pickled_ctf(219),
    C + "sta_pose.pkl": pickled_poses(219),
    C + "test_ctf.pkl": Refused(MetadataError, "the largest defocus .* is 0", read_ctf),
    C + "toy_angles.pkl": pickled_poses(1000),
    C + "toy_projections.mrcs": Particles(1000, 30, 1.0),
    C + "toy_rot_trans.pkl": pickled_poses(1000),
    C + "zvals_het-8_4k.pkl": Arrays(lambda path: cryodrgn.read_latents(path)[0], 4549),
    T + "10076_both_32_clean.star": Particles(1296, 32, 13.1, False, True, optics_groups=None),
    T + "10076_both_32_sim.star": Particles(1296, 32, 13.1, True, True, optics_groups=None),
    T + "10076_both_32_sim_vols.star": Particles(144, 32, 13.1, True, True, optics_groups=None),
    T + "10076_classD_32.mrc": Volume((32, 32, 32), 1.0),
    T + "10076_classE_32.mrc": Volume((32, 32, 32), 1.0),
    T + "10076_classD_32_clean.mrcs": Particles(576, 32, 1.0),
    T + "10076_classE_32_clean.mrcs": Particles(720, 32, 1.0),
    T + "10076_classD_32_clean.star": Particles(576, 32, 13.1, False, True, optics_groups=None),
    T + "10076_classE_32_clean.star": Particles(720, 32, 13.1, False, True, optics_groups=None),
    T + "10076_classD_32_sim.mrcs": Particles(576, 32, 13.1),
    T + "10076_classE_32_sim.mrcs": Particles(720, 32, 13.1),
    T + "10076_classD_32_sim.star": Particles(576, 32, 13.1, True, True, optics_groups=None),
    T + "10076_classE_32_sim.star": Particles(720, 32, 13.1, True, True, optics_groups=None),
    T + "ctf_classD.pkl": pickled_ctf(576),
    T + "ctf_classE.pkl": pickled_ctf(720),
    T + "pose_classD.pkl": pickled_poses(576),
    T + "pose_classE.pkl": pickled_poses(720),
    T + "ind_ptcl_first10last10.pkl": row_numbers(144, 20),
    T + "ptcl_ind_classD.pkl": row_numbers(145, 73),
    T + "ptcl_ind_classE.pkl": row_numbers(145, 72),
    T + "labels_D-0_E-1.pkl": Arrays(read_numbers, 144),
    T + "ptcl_labels_D0_E1.pkl": Arrays(read_numbers, 144),
    T + "tilt_scheme_classD.txt": Arrays(read_numbers, 8),
    T + "tilt_scheme_classE.txt": Arrays(read_numbers, 10),
}


def summary(particles: ParticleSet) -> Particles:
    assert particles.images([0, len(particles) - 1]).isfinite().all()
    optics = particles.tables.optics
    return Particles(
        len(particles),
        particles.box_size,
        round(float(particles.pixel_size[0]), 6),
        particles.ctf is not None,
        particles.pose is not None,
        particles.sign,
        None if optics is None else len(optics),
    )


def check(path: Path, expected: NamedTuple) -> None:
    if isinstance(expected, Particles):
        assert summary(read_particles(path, datadir=path.parent)) == expected
    elif isinstance(expected, Refused):
        with pytest.raises(expected.error, match=expected.message):
            expected.reader(path)
    elif isinstance(expected, Metadata):
        tables = read_columns(path)
        sizes = pixel_sizes(tables)
        assert (len(tables), sizes.min(), sizes.max()) == (
            expected.rows,
            *[pytest.approx(expected.pixel_size)] * 2,
        )
        assert len(read_ctf(path)) == len(read_poses(path)) == expected.rows
        with pytest.raises(InputError, match=f"{expected.stacks} of {expected.stacks} image stacks"):
            read_particles(path)
    elif isinstance(expected, Volume):
        volume = read_volume(path)
        assert (volume.array.shape, volume.pixel_size) == (expected.shape, pytest.approx(expected.pixel_size))
    else:
        assert isinstance(expected, Arrays)
        assert len(expected.reader(path)) == expected.length


def test_every_file_is_named_here(shared_data):
    files = {str(path.relative_to(shared_data)) for path in shared_data.rglob("*") if path.is_file()}
    assert files - ABOUT == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_it_reads_or_is_refused_with_the_right_reason(shared_data, name):
    check(shared_data / name, EXPECTED[name])


@pytest.mark.parametrize(
    "name", [name for name, expected in EXPECTED.items() if isinstance(expected, Particles)]
)
def test_nothing_is_wrong_with_what_reads(shared_data, name):
    path = shared_data / name
    assert inspect_file(path, path.parent).problems == []


def test_three_forms_of_the_same_images_agree(shared_data):
    folder = shared_data / C
    star = read_particles(folder / "empiar_10076_7.star")
    cs = read_particles(folder / "empiar_10076_7.cs", invert=False)
    bare = read_particles(folder / "empiar_10076_7.mrc", ctf=folder / "empiar_10076_7.star")
    assert star.ctf is not None
    for other in (cs, bare):
        assert torch.equal(other.images(slice(None)), star.images(slice(None)))
        # The .cs file holds float32: 7 digits.
        torch.testing.assert_close(other.pixel_size, star.pixel_size, rtol=1e-7, atol=0)
        for name, values in vars(other.ctf).items():
            torch.testing.assert_close(values, getattr(star.ctf, name), rtol=1e-7, atol=1e-12)
    assert read_particles(folder / "empiar_10076_7.cs").sign == -1


def test_stacks_with_pickles_are_the_star_file_that_they_were_made_from(shared_data):
    folder = shared_data / T
    star = read_particles(folder / "10076_classD_32_sim.star", datadir=folder)
    bare = read_particles(
        folder / "10076_classD_32_sim.mrcs",
        poses=folder / "pose_classD.pkl",
        ctf=folder / "ctf_classD.pkl",
        indices=folder / "ind_ptcl_first10last10.pkl",
    )
    chosen = read_indices(folder / "ind_ptcl_first10last10.pkl", len(star))
    star = star[chosen]
    assert star.pose is not None
    assert bare.pose is not None
    assert star.ctf is not None
    assert bare.ctf is not None
    assert torch.equal(bare.images(slice(None)), star.images(slice(None)))
    torch.testing.assert_close(bare.pixel_size, star.pixel_size, rtol=1e-12, atol=0)
    # The pickle of poses is of float32; shifts reach 50 Å.
    torch.testing.assert_close(bare.pose.rotation, star.pose.rotation, rtol=0, atol=1e-6)
    torch.testing.assert_close(bare.pose.shift, star.pose.shift, rtol=0, atol=1e-5)
    torch.testing.assert_close(bare.ctf.defocus_u, star.ctf.defocus_u)


def test_six_optics_groups_stay_six(shared_data, tmp_path):
    """A file of six groups, made from the one of a single group, each with another pixel size and voltage."""
    folder = shared_data / C
    tables = read_star(folder / "relion31.star")
    voltages, sizes = np.linspace(100, 300, 6), 2.806 + np.arange(6) / 10
    once = {name: tables["optics"].text(name)[0] for name in tables["optics"].names}
    optics = {name: [value] * 6 for name, value in once.items()}
    optics |= {"rlnOpticsGroup": range(1, 7), "rlnVoltage": voltages, "rlnImagePixelSize": sizes}
    groups = np.array([6, 1, 5, 2, 4, 3])
    particles = tables["particles"].select(np.array([0, 1, 2, 3, 4, 0])).with_column("rlnOpticsGroup", groups)
    write_star(tmp_path / "six.star", {"optics": StarTable.from_columns(optics), "particles": particles})
    six = read_particles(tmp_path / "six.star", datadir=folder)
    assert six.tables.optics is not None
    assert six.ctf is not None
    assert len(six.tables.optics) == 6
    assert six.ctf.voltage_kv.tolist() == voltages[groups - 1].tolist()
    assert six.pixel_size.tolist() == sizes[groups - 1].tolist()
    assert (
        len([name for name, _ in inspect_file(six.path, folder).facts if name.startswith("optics group ")])
        == 6
    )
