"""Exports are rows of the user's own file: the same particles, in the order asked, untouched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoatlas.errors import ConfigError, InputError, MetadataError, OutputError
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.io.star import StarTable, read_star, write_star
from cryoatlas.particles.cryosparc import read_cs_tables
from cryoatlas.particles.export import export
from cryoatlas.particles.metadata import (
    ANGLES,
    ORIGINS,
    ParticleTables,
    pixel_sizes,
    poses,
    read_tables,
    with_pose_columns,
)
from cryoatlas.particles.original import select_rows
from cryoatlas.particles.source import UID, source_of, with_source_columns, write_source

from .small_project import COUNT

PIXEL_SIZE = 2.95


def run_on(path: Path, folder: Path, rows: list[int], pose: Pose | None = None) -> Path:
    """A star file as a run writes it, of some rows of a particle file, with other poses if given."""
    tables = read_cs_tables(path) if path.suffix == ".cs" else read_tables(path)
    tables = with_source_columns(tables.select(np.array(rows)))
    if pose is not None:
        tables = with_pose_columns(tables, pose, pixel_sizes(tables))
    folder.mkdir()
    write_source(folder, source_of(read_cs_tables(path) if path.suffix == ".cs" else read_tables(path)))
    write_star(folder / "particles.star", tables.tables)
    return folder / "particles.star"


def poses_of(tables: ParticleTables) -> Pose:
    pose = poses(tables, pixel_sizes(tables))
    assert pose is not None
    return pose


def some_pose(count: int) -> Pose:
    rng = np.random.default_rng(8)
    return Pose(random_rotations(count, rng), torch.from_numpy(rng.uniform(-5, 5, (count, 2))))


@pytest.fixture
def rich_star(tmp_path) -> Path:
    """Several blocks, columns that nobody knows, quotes, and numbers in every spelling."""
    path = tmp_path / "job 7.star"
    path.write_text(
        """# version 50001

data_general

_rlnTomoSubTomosAre2DStacks 1
_someoneElse 'two words'

# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnImagePixelSize #3
_rlnVoltage #4
_rlnImageSize #5
"first group" 1 2.500000 300.000000 64
second 2 5.00 2.0E+02 64

# version 30001

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_nobodyKnowsThis #3
_rlnMicrographName #4
_rlnAngleRot #5
_rlnAngleTilt #6
_rlnAnglePsi #7
_rlnOriginXAngst #8
_rlnOriginYAngst #9
000001@a.mrcs 1 0x1F 'mic one.mrc' -12.340 1e1 000.5 0.10000 -2
000002@a.mrcs 2 <NA> "it's.mrc" 5 20 30 1.0 2.0
000003@a.mrcs 1 ? plain.mrc 7 20 31 1.5 -2.0
000007@b.mrcs 2 . plain.mrc 9. 21 32 +1.5 .25
""",
        encoding="utf-8",
    )
    return path


def cs_table(count: int = COUNT) -> np.ndarray:
    kinds = [("uid", "<u8"), ("blob/path", "S20"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,))]
    kinds += [("blob/psize_A", "<f4"), ("blob/sign", "<f4"), ("alignments3D/split", "<u4")]
    kinds += [("alignments3D/pose", "<f4", (3,)), ("alignments3D/shift", "<f4", (2,))]
    kinds += [("alignments3D/psize_A", "<f4"), ("nobody/knows", "S4")]
    table, rng = np.zeros(count, kinds), np.random.default_rng(2)
    table["uid"] = rng.integers(2**63, 2**64 - 1, count, dtype=np.uint64)
    table["blob/path"], table["blob/idx"] = b"J1/stack.mrcs", np.arange(count)
    table["blob/shape"], table["blob/psize_A"], table["blob/sign"] = 64, PIXEL_SIZE, -1
    table["alignments3D/pose"] = rng.normal(size=(count, 3))
    table["alignments3D/shift"] = rng.uniform(-3, 3, (count, 2))
    # Shifts may be counted in pixels of another size than the images'.
    table["alignments3D/psize_A"] = 2 * PIXEL_SIZE
    return table


def save(path: Path, table: np.ndarray) -> Path:
    with path.open("wb") as stream:
        np.save(stream, table)
    return path


@pytest.fixture
def cs_file(tmp_path) -> Path:
    return save(tmp_path / "P1_J7_particles.cs", cs_table())


def texts(path: Path) -> dict[str, dict[str, list[str]]]:
    """Every value of every block as it is spelled."""
    return {
        name: {column: list(values) for column, values in table.columns.items()}
        for name, table in read_star(path).items()
    }


def test_everything_exported_is_the_users_star_file_value_for_value(rich_star, tmp_path):
    made = run_on(rich_star, tmp_path / "run", [0, 1, 2, 3])
    export(select_rows(read_tables(made), np.arange(4)), tmp_path / "out.star")
    assert texts(tmp_path / "out.star") == texts(rich_star)
    assert list(texts(tmp_path / "out.star")) == ["general", "optics", "particles"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(used=st.permutations(range(4)), chosen=st.permutations(range(3)), count=st.integers(1, 3))
def test_any_choice_of_any_run_is_those_rows_in_that_order(rich_star, tmp_path_factory, used, chosen, count):
    folder = tmp_path_factory.mktemp("export")
    made = run_on(rich_star, folder / "run", used[:3])
    export(select_rows(read_tables(made), np.array(chosen[:count])), folder / "out.star")
    before, after = (texts(path)["particles"] for path in (rich_star, folder / "out.star"))
    rows = [used[position] for position in chosen[:count]]
    assert after == {column: [values[row] for row in rows] for column, values in before.items()}


@pytest.mark.parametrize("kind", ["project", "old_project"])
def test_poses_replace_those_of_the_rows_in_the_files_own_units(kind, request, tmp_path):
    path = request.getfixturevalue(kind)()
    pose = some_pose(COUNT)
    made = run_on(path, tmp_path / "run", list(range(COUNT)), pose)
    order = np.array([4, 0, 3])
    export(select_rows(read_tables(made), order, with_poses=True), tmp_path / "out.star")
    tables, before = read_tables(tmp_path / "out.star"), read_tables(path)
    again = poses_of(tables)
    # Through degrees and, for RELION 3.0, pixels: a few roundings.
    torch.testing.assert_close(again.rotation, pose.rotation[order], atol=1e-12, rtol=0)
    torch.testing.assert_close(again.shift, pose.shift[order], atol=1e-12, rtol=0)
    assert tables.particles.names == before.particles.names
    untouched = [name for name in before.particles.names if "Angle" not in name or "Defocus" in name]
    for name in [name for name in untouched if "Origin" not in name]:
        assert list(tables.particles.columns[name]) == list(before.particles.columns[name][order])


def test_origins_in_angstrom_stay_in_angstrom_without_optics_groups(tmp_path):
    columns = {
        "rlnImageName": ["1@a.mrcs"],
        "rlnPixelSize": [2.0],
        **{name: [1.0] for name in ANGLES},
        **{name: [3.0] for name in ORIGINS},
    }
    write_star(tmp_path / "old.star", {"particles": StarTable.from_columns(columns)})
    made = run_on(tmp_path / "old.star", tmp_path / "run", [0], some_pose(1))
    export(select_rows(read_tables(made), np.array([0]), with_poses=True), tmp_path / "out.star")
    table = read_star(tmp_path / "out.star")["particles"]
    assert table.names == list(columns)
    np.testing.assert_allclose(table.number("rlnOriginXAngst"), -some_pose(1).shift[:, 0])


def test_everything_exported_is_the_users_cs_file_byte_for_byte(cs_file, tmp_path):
    made = run_on(cs_file, tmp_path / "run", list(range(COUNT)))
    written = export(select_rows(read_tables(made), np.arange(COUNT)), tmp_path / "out.cs")
    assert written == [tmp_path / "out.cs"]
    assert (tmp_path / "out.cs").read_bytes() == cs_file.read_bytes()


def test_poses_go_into_a_cs_file_as_rotation_vectors_and_shifts_in_its_pixels(cs_file, tmp_path):
    pose = some_pose(COUNT)
    made = run_on(cs_file, tmp_path / "run", list(range(COUNT)), pose)
    order = np.array([5, 2])
    export(select_rows(read_tables(made), order, with_poses=True), tmp_path / "out.cs")
    again = read_cs_tables(tmp_path / "out.cs")
    read = poses_of(again)
    # cryoSPARC stores 32-bit floats: angles of up to π and shifts of a few Å, to 2⁻²².
    torch.testing.assert_close(read.rotation, pose.rotation[order], atol=1e-6, rtol=0)
    torch.testing.assert_close(read.shift, pose.shift[order], atol=1e-5, rtol=0)
    before, after = np.load(cs_file), np.load(tmp_path / "out.cs")
    for name in before.dtype.names:
        if name not in ("alignments3D/pose", "alignments3D/shift"):
            assert after[name].tobytes() == before[name][order].tobytes()


def test_poses_that_did_not_change_stay_what_they_were(cs_file, tmp_path):
    made = run_on(cs_file, tmp_path / "run", list(range(COUNT)))
    export(select_rows(read_tables(made), np.arange(COUNT), with_poses=True), tmp_path / "out.cs")
    before, after = np.load(cs_file), np.load(tmp_path / "out.cs")
    np.testing.assert_allclose(after["alignments3D/shift"], before["alignments3D/shift"], atol=1e-6)
    # Vectors longer than π come back as the same rotation the shorter way round.
    short = np.linalg.norm(before["alignments3D/pose"], axis=1) < np.pi
    assert short.any()
    np.testing.assert_allclose(
        after["alignments3D/pose"][short], before["alignments3D/pose"][short], atol=1e-5
    )


def test_passthrough_and_group_files_go_along_with_the_same_particles(cs_file, tmp_path):
    table = cs_table()
    shuffled = np.random.default_rng(1).permutation(COUNT)
    other = np.zeros(COUNT, [("uid", "<u8"), ("location/center_x_frac", "<f4")])
    other["uid"], other["location/center_x_frac"] = table["uid"][shuffled], shuffled
    save(tmp_path / "P1_J7_passthrough.cs", other)
    lines = ["group:", "  type: particle", "results:"]
    for slot, name in (("blob", cs_file.name), ("location", "P1_J7_passthrough.cs")):
        lines += [f"  {slot}:", f"    metafile: '>{name}'", f"    num_items: {COUNT}"]
    (tmp_path / "P1_J7.csg").write_text("\n".join(lines) + "\n")
    made = run_on(cs_file, tmp_path / "run", [5, 4, 3, 1])
    written = export(select_rows(read_tables(made), np.array([3, 0])), tmp_path / "out.cs")
    assert [path.name for path in written] == ["out.cs", "out_P1_J7_passthrough.cs", "out.csg"]
    main, beside = np.load(written[0]), np.load(written[1])
    assert main["uid"].tolist() == beside["uid"].tolist() == table["uid"][[1, 5]].tolist()
    assert beside["location/center_x_frac"].tolist() == [1, 5]
    text = written[2].read_text()
    assert "'>out.cs'" in text
    assert "'>out_P1_J7_passthrough.cs'" in text
    assert text.count("num_items: 2\n") == 2
    (tmp_path / "P1_J7_passthrough.cs").unlink()
    with pytest.raises(InputError, match="passthrough"):
        export(select_rows(read_tables(made), np.array([3, 0])), tmp_path / "again.cs")


def test_a_cs_file_goes_out_as_a_star_file_of_relion(cs_file, tmp_path):
    made = run_on(cs_file, tmp_path / "run", list(range(COUNT)))
    export(select_rows(read_tables(made), np.array([4, 1])), tmp_path / "out.star")
    tables, expected = read_tables(tmp_path / "out.star"), read_cs_tables(cs_file).select(np.array([4, 1]))
    assert tables.particles.text(UID).tolist() == expected.particles.text(UID).tolist()
    one, other = poses_of(tables), poses_of(expected)
    torch.testing.assert_close(one.rotation, other.rotation)
    torch.testing.assert_close(one.shift, other.shift)
    assert tables.optics is not None
    assert tables.particles.has("rlnOriginXAngst")


@pytest.mark.parametrize("suffix", [".txt", ".npy"])
def test_positions_in_the_users_file_count_from_0(rich_star, tmp_path, suffix):
    made = run_on(rich_star, tmp_path / "run", [3, 1, 2])
    out = tmp_path / f"out{suffix}"
    export(select_rows(read_tables(made), np.array([2, 0])), out)
    read = np.load(out) if suffix == ".npy" else np.loadtxt(out)
    assert read.tolist() == [2, 3]


def test_a_file_changed_by_hand_is_refused(rich_star, tmp_path):
    made = read_tables(run_on(rich_star, tmp_path / "run", [0, 1]))
    copy = tmp_path / "copy.star"
    copy.write_text(rich_star.read_text())
    rich_star.write_text(rich_star.read_text().replace("plain.mrc", "Plain.mrc"))
    with pytest.raises(MetadataError, match=r"job 7\.star is not what it was.*--original"):
        select_rows(made, np.array([0]))
    with pytest.raises(InputError, match="--original"):
        select_rows(made, np.array([0]), original=tmp_path / "nowhere.star")
    export(select_rows(made, np.array([0]), original=copy), tmp_path / "out.star")
    assert len(read_star(tmp_path / "out.star")["particles"]) == 1


def test_particles_that_are_others_in_the_file_are_refused(cs_file, tmp_path):
    made = run_on(cs_file, tmp_path / "run", list(range(COUNT)))
    table = read_star(made)
    swapped = table["particles"].columns[UID][[1, 0, 2, 3, 4, 5]]
    write_star(made, {**table, "particles": table["particles"].with_column(UID, swapped)})
    for name in ("out.cs", "out.star"):
        with pytest.raises(MetadataError, match=r"row 1 of .*uid.*do not belong together"):
            export(select_rows(read_tables(made), np.arange(COUNT)), tmp_path / name)
        assert not (tmp_path / name).exists()


def test_what_cannot_be_selected_is_refused(rich_star, tmp_path):
    made = read_tables(run_on(rich_star, tmp_path / "run", [0, 1]))
    with pytest.raises(MetadataError, match="none of the 2 particles is selected"):
        select_rows(made, np.array([], np.int64))
    with pytest.raises(MetadataError, match="selected twice"):
        select_rows(made, np.array([1, 1]))


def test_a_row_of_many_tilt_images_is_written_once(rich_star, tmp_path):
    """Stacks of tilt images of RELION 5 become one row per image; the file has one per particle."""
    made = run_on(rich_star, tmp_path / "run", [0, 0, 2, 2, 2, 1])
    tables = read_tables(made)
    export(select_rows(tables, np.array([5, 4, 1, 3])), tmp_path / "out.star")
    before, after = (texts(path)["particles"] for path in (rich_star, tmp_path / "out.star"))
    assert after == {name: [values[row] for row in (1, 2, 0)] for name, values in before.items()}
    with pytest.raises(MetadataError, match="tilt images"):
        select_rows(tables, np.array([5]), with_poses=True)


def test_poses_that_are_not_there_are_refused(project, tmp_path):
    path = project(lambda columns: [columns.pop(name) for name in list(columns) if "rlnAngle" in name])
    with pytest.raises(MetadataError, match="--poses"):
        select_rows(read_tables(path), np.array([0]), with_poses=True)


def test_outputs_that_would_mislead_or_overwrite_are_refused(rich_star, cs_file, tmp_path):
    selection = select_rows(read_tables(rich_star), np.array([0]))
    with pytest.raises(ConfigError, match="Import Particle Stack"):
        export(selection, tmp_path / "out.cs")
    with pytest.raises(ConfigError, match="suffix"):
        export(selection, tmp_path / "out.csv")
    with pytest.raises(OutputError, match="came from"):
        export(selection, rich_star, overwrite=True)
    (tmp_path / "mine.star").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        export(selection, tmp_path / "mine.star")
    assert (tmp_path / "mine.star").read_text() == "mine"
    export(selection, tmp_path / "mine.star", overwrite=True)
    assert len(read_star(tmp_path / "mine.star")["particles"]) == 1


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "aspire_sample/sample_particles_relion30.star",
        "aspire_sample/sample_particles_relion31.star",
        "cryodrgn_tests/relion31.star",
        "cryodrgn_tests/relion31.v2.star",
        "cryodrgn_tests/relion5.star",
        "cryodrgn_tests/FinalRefinement-OriginalParticles-PfCRT.star",
        "cryodrgn_tests/sta_testing.star",
        "tomodrgn_10076_classDE/10076_both_32_sim.star",
    ],
)
def test_shared_star_files_go_through_unchanged(shared_data, tmp_path, name):
    path = shared_data / "stacks" / name
    count = len(read_tables(path))
    made = run_on(path, tmp_path / "run", list(range(count)))
    export(select_rows(read_tables(made), np.arange(count)), tmp_path / "out.star")
    assert texts(tmp_path / "out.star") == texts(path)


@pytest.mark.data
def test_a_file_of_cryosparc_keeps_its_particles_and_poses(shared_data, tmp_path):
    path = shared_data / "dist" / "cryosparc_P12_J24_001_particles.cs"
    before = np.load(path)
    made = run_on(path, tmp_path / "run", list(range(len(before))))
    order = np.random.default_rng(0).permutation(len(before))[:100]
    export(select_rows(read_tables(made), order, with_poses=True), tmp_path / "out.cs")
    after = np.load(tmp_path / "out.cs")
    assert after["uid"].tolist() == before["uid"][order].tolist()
    np.testing.assert_allclose(after["alignments3D/shift"], before["alignments3D/shift"][order], atol=1e-5)
    again, expected = (read_cs_tables(each) for each in (tmp_path / "out.cs", path))
    ours, theirs = poses_of(again), poses_of(expected)
    torch.testing.assert_close(ours.rotation, theirs.rotation[order], atol=1e-6, rtol=0)
