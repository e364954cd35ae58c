"""Every particle knows the row of the user's file that it came from."""

import numpy as np
import pytest

from cryoatlas.errors import FormatError, InputError, MetadataError
from cryoatlas.particles.metadata import read_tables
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.particles.source import (
    SOURCE_FILE,
    SOURCE_ROW,
    Source,
    checksum,
    read_source,
    source_of,
    source_rows,
    with_source_columns,
    write_source,
)
from cryoatlas.particles.write import write_particles

from .small_project import COUNT


def test_a_file_of_the_users_is_its_own_source(project):
    path = project()
    tables = read_tables(path)
    assert source_of(tables).path == path.absolute()
    assert source_rows(tables).tolist() == list(range(1, COUNT + 1))


def test_chosen_particles_keep_the_numbers_of_their_rows(project):
    chosen = read_particles(project())[[4, 0, 4]][[2, 1]]
    assert source_rows(chosen.tables).tolist() == [5, 1]
    assert with_source_columns(chosen.tables).particles.text(SOURCE_ROW).tolist() == ["5", "1"]


def test_two_steps_lead_back_to_the_first_file(project, tmp_path):
    path = project()
    first = read_particles(path)[[3, 1, 5]]
    (tmp_path / "prepared").mkdir()
    columns = {SOURCE_ROW: source_rows(first.tables)}
    write_particles(tmp_path / "prepared" / "particles.star", first, extra_columns=columns)
    write_source(tmp_path / "prepared", source_of(first.tables))
    second = read_particles(tmp_path / "prepared" / "particles.star")[[2, 0]].tables
    assert source_of(second) == Source(path.absolute(), checksum(path))
    assert source_rows(second).tolist() == [6, 4]


def test_a_source_is_read_as_it_was_written(tmp_path):
    (tmp_path / "set.cs").write_bytes(b"particles")
    source = Source.of(tmp_path / "set.cs", passthrough=[tmp_path / "a 'quoted' name.cs"])
    write_source(tmp_path, source)
    assert read_source(tmp_path) == source


def test_the_checksum_notices_one_changed_byte(tmp_path):
    (tmp_path / "a.star").write_bytes(b"x" * 3_000_000)
    before = checksum(tmp_path / "a.star")
    (tmp_path / "a.star").write_bytes(b"x" * 2_999_999 + b"y")
    assert checksum(tmp_path / "a.star") != before


def test_a_lost_or_damaged_source_file_is_explained(project, tmp_path):
    path = project(lambda columns: columns.update({SOURCE_ROW: np.arange(COUNT) + 7}))
    with pytest.raises(InputError, match=SOURCE_FILE):
        source_of(read_tables(path))
    (tmp_path / SOURCE_FILE).write_text("path = 3")
    with pytest.raises(FormatError, match="damaged"):
        source_of(read_tables(path))


@pytest.mark.parametrize("value", [0, 1.5, -3])
def test_a_source_row_that_is_no_row_number_is_refused(project, value):
    path = project(lambda columns: columns.update({SOURCE_ROW: [1, 2, value, 4, 5, 6]}))
    with pytest.raises(MetadataError, match=rf"row 3 of .*{SOURCE_ROW}"):
        source_rows(read_tables(path))
