"""Atomic models: what is read, what is left out, and how atoms are named."""

import gzip

import numpy as np
import pytest

from cryoatlas.errors import ConfigError, FormatError, InputError
from cryoatlas.io.atoms import read_atoms, selection_parts

PDB = """\
HEADER    A SMALL MODEL
MODEL        1
ATOM      1  N   ALA A  -1       1.000   2.000   3.000  1.00  0.00           N
ATOM      2  CA AALA A  -1       2.000   2.000   3.000  0.50  0.00           C
ATOM      3  CA BALA A  -1       2.500   2.000   3.000  0.50  0.00           C
ATOM      4  H   ALA A  -1       1.000   1.000   3.000  1.00  0.00           H
ATOM      5  CA  GLY A   0       5.000   2.000   3.000  1.00  0.00           C
ATOM      6  SG  CYS A   1       8.000   2.000   3.000  1.00  0.00           S
TER
ATOM      7  P     U B   7       0.000   9.000   0.000  1.00  0.00           P
HETATM    8  O   HOH B 100      50.000  50.000  50.000  1.00  0.00           O
HETATM    9 ZN    ZN C   1       4.000   4.000   4.000  1.00  0.00          ZN
ENDMDL
MODEL        2
ATOM      1  N   ALA A  -1      91.000   2.000   3.000  1.00  0.00           N
ENDMDL
END
"""

CIF = """\
data_small
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_seq_id
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
_atom_site.auth_seq_id
_atom_site.auth_asym_id
_atom_site.pdbx_PDB_model_num
ATOM 1 C CA . ALA A 1 1.0 2.0 3.0 1.0 0.0 330 spike 1
ATOM 2 C CA . ALA A 2 4.0 2.0 3.0 1.0 0.0 331 spike 1
"""


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model.pdb").write_text(PDB)
    return read_atoms(tmp_path / "model.pdb")


def test_the_first_model_is_read_without_waters_hydrogens_and_second_conformations(model):
    assert model.atomic_numbers.tolist() == [7, 6, 6, 16, 15, 30]
    np.testing.assert_array_equal(model.positions[:, 0], [1, 2, 5, 8, 0, 4])
    assert model.chains.tolist() == ["A", "A", "A", "A", "B", "C"]
    assert model.residues.tolist() == [-1, -1, 0, 1, 7, 1]


def test_gzip_changes_nothing(model, tmp_path):
    with gzip.open(tmp_path / "again.pdb.gz", "wt") as stream:
        stream.write(PDB)
    again = read_atoms(tmp_path / "again.pdb.gz")
    np.testing.assert_array_equal(again.positions, model.positions)


def test_mmcif_is_numbered_as_its_author_did(tmp_path):
    (tmp_path / "model.cif").write_text(CIF)
    model = read_atoms(tmp_path / "model.cif")
    assert model.select("spike:331").tolist() == [False, True]


@pytest.mark.parametrize(
    ("selection", "atoms"),
    [
        ("A", [0, 1, 2, 3]),
        ("A:0", [2]),
        ("A:-1-0", [0, 1, 2]),
        ("A:-1--1", [0, 1]),
        ("A:1+B", [3, 4]),
        ("C:1 + A:0-1", [2, 3, 5]),
    ],
)
def test_selections_name_chains_residues_and_ranges(model, selection, atoms):
    assert model.select(selection).nonzero()[0].tolist() == atoms


def test_the_residue_before_a_range_is_where_it_hangs(model):
    assert model.residue_before("A:1").nonzero()[0].tolist() == [2]
    assert not model.residue_before("A:-1-0").any()
    assert not model.residue_before("A").any()


@pytest.mark.parametrize("selection", ["", "A:", "A:1-", "A:x", ":5", "A+", "A:1.5"])
def test_words_that_are_no_selection_are_refused(selection):
    with pytest.raises(ConfigError, match=r"A:330-530"):
        selection_parts(selection)


def test_a_range_that_ends_before_it_starts_is_refused():
    with pytest.raises(ConfigError, match="write A:2-5"):
        selection_parts("A:5-2")


def test_a_selection_of_nothing_says_what_there_is(model):
    with pytest.raises(ConfigError, match="residues -1 to 1"):
        model.select("A:0+A:40-50")
    with pytest.raises(ConfigError, match="chains are A, B, C"):
        model.select("Z")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("notes.txt", "hello\n", r"\.cif"),
        ("broken.cif", "hello\n", "cannot be read"),
        ("broken.pdb", "hello\n", "no atoms"),
        ("torn.pdb.gz", "this is no gzip\n", "no atoms|cannot be read"),
        ("empty.pdb", "", "empty"),
        ("headless.cif", "data_x\n_cell.length_a 1\n", "no atoms"),
        ("nan.pdb", PDB.replace("   5.000", "     nan"), "residue 0 of chain A"),
        ("alien.pdb", PDB.replace("          ZN", "          Xx"), "unknown element"),
    ],
)
def test_what_is_no_atomic_model_is_refused(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=says):
        read_atoms(tmp_path / name)


def test_names_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "damaged.pdb"
    path.write_bytes(PDB.encode().replace(b" A ", b" \xb3 "))
    with pytest.raises(FormatError, match="cannot be read as an atomic model"):
        read_atoms(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*absent\.pdb"):
        read_atoms(tmp_path / "absent.pdb")


@pytest.mark.data
def test_real_models_are_read(shared_data):
    spike = read_atoms(shared_data / "models" / "6vxx.pdb.gz")
    assert set(spike.chains) == {"A", "B", "C"}
    assert 1_000 < spike.select("A:330-530").sum() < 2_000
    ribosome = read_atoms(shared_data / "models" / "7p6z.cif.gz")
    assert len(ribosome) > 140_000
