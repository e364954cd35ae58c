"""Atomic models (mmCIF, PDB, also gzipped) → atoms, and the words that select some of them.

A selection names chains and residues as the model's author numbered them: ``A`` is all of chain A,
``A:330-530`` a range of its residues, ends included, ``A:329`` a single one, and ``A:330-530+B`` the
union of several. Insertion codes are not told apart.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np

from cryoatlas.errors import ConfigError, FormatError
from cryoatlas.io.inputs import require_file
from cryoatlas.shapes import Array, Bool, Float, Int

SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")
PART = re.compile(r"(?P<chain>[^:+\s]+)(?::(?P<first>-?\d+)(?:-(?P<last>-?\d+))?)?")


@dataclass(frozen=True)
class AtomModel:
    """The atoms of a model's first copy, without waters, hydrogens and alternative conformations."""

    path: Path
    positions: Float[Array, "atom 3"]
    """x, y, z, Å, in the file's frame."""
    atomic_numbers: Int[Array, "atom"]
    """Electrons of the neutral atom."""
    chains: Array
    """Author's chain name of each atom."""
    residues: Int[Array, "atom"]
    """Author's residue number of each atom."""

    def __len__(self) -> int:
        return len(self.positions)

    def select(self, selection: str) -> Bool[Array, "atom"]:
        """Which atoms a selection names.

        Raises:
            ConfigError: it cannot be read, or a part of it names no atom of the model.
        """
        chosen = np.zeros(len(self), dtype=bool)
        for part in selection_parts(selection):
            named = self._named(part)
            if not named.any():
                raise ConfigError(
                    f"the selection {selection!r} names no atom of {self.path} in its part {part}; "
                    f"{self._what_there_is(part.chain)}."
                )
            chosen |= named
        return chosen

    def residue_before(self, selection: str) -> Bool[Array, "atom"]:
        """The atoms of the residue just before a selection's first range.

        None of them where that selection starts with a whole chain, or its chain has no such residue.
        """
        part = selection_parts(selection)[0]
        if part.first is None:
            return np.zeros(len(self), dtype=bool)
        return self._named(SelectionPart(part.chain, part.first - 1, part.first - 1))

    def _named(self, part: "SelectionPart") -> Bool[Array, "atom"]:
        in_chain = self.chains == part.chain
        if part.first is None:
            return in_chain
        return in_chain & (self.residues >= part.first) & (self.residues <= part.last)

    def _what_there_is(self, chain: str) -> str:
        residues = self.residues[self.chains == chain]
        if len(residues):
            return f"chain {chain} has residues {residues.min()} to {residues.max()}"
        return f"its chains are {', '.join(np.unique(self.chains))}"


@dataclass(frozen=True)
class SelectionPart:
    """A chain, or a range of its residues with both ends."""

    chain: str
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        return self.chain if self.first is None else f"{self.chain}:{self.first}-{self.last}"


def selection_parts(selection: str) -> list[SelectionPart]:
    """Read a selection.

    Raises:
        ConfigError: it is not made of ``chain``, ``chain:number`` or ``chain:first-last`` joined by ``+``.
    """
    parts = []
    for text in selection.split("+"):
        match = PART.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"cannot read {text!r} in the selection {selection!r}: write a chain (A), a residue (A:329) "
                "or a range (A:330-530), several joined by +."
            )
        chain = match["chain"]
        if match["first"] is None:
            parts.append(SelectionPart(chain))
            continue
        first = int(match["first"])
        last = first if match["last"] is None else int(match["last"])
        if first > last:
            raise ConfigError(
                f"the range {text!r} in the selection {selection!r} ends before it starts: "
                f"write {chain}:{last}-{first}."
            )
        parts.append(SelectionPart(chain, first, last))
    return parts


def read_atoms(path: Path | str) -> AtomModel:
    """Read the first model of an mmCIF or PDB file.

    Args:
        path: ``.cif``, ``.mmcif``, ``.pdb`` or ``.ent``, also with ``.gz``.

    Raises:
        InputError: there is no such file.
        FormatError: it is no atomic model, or holds no atoms, atoms of unknown elements or
            coordinates that are not numbers.
    """
    path = require_file(path, "an atomic model (mmCIF or PDB)")
    rows = _read_rows(path)
    if not rows:
        raise FormatError(
            f"{path} holds no atoms besides water and hydrogen: check that it is an atomic model in "
            "mmCIF or PDB format."
        )
    x, y, z, atomic_numbers, chains, residues = zip(*rows, strict=True)
    model = AtomModel(
        path,
        np.array([x, y, z]).T,
        np.array(atomic_numbers),
        np.array(chains),
        np.array(residues),
    )
    _check(model)
    return model


def _read_rows(path: Path) -> list[tuple]:
    """Position (Å), atomic number, chain and residue of every atom but water and hydrogen."""
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith(SUFFIXES):
        raise FormatError(
            f"{path} is not named as an atomic model: {', '.join(SUFFIXES)} were expected, also with .gz."
        )
    try:
        structure = gemmi.read_structure(str(path))
        structure.setup_entities()
        structure.remove_alternative_conformations()
        structure.remove_hydrogens()
        structure.remove_waters()
        return [
            (*atom.pos.tolist(), atom.element.atomic_number, chain.name, residue.seqid.num)
            for chain in (structure[0] if len(structure) else ())
            for residue in chain
            for atom in residue
        ]
    # Names that are no text are noticed only when they are asked for.
    except (RuntimeError, ValueError, OSError) as error:
        raise FormatError(
            f"{path} cannot be read as an atomic model ({error}): download or export it again."
        ) from error


def _check(model: AtomModel) -> None:
    strange = ~np.isfinite(model.positions).all(-1) | (model.atomic_numbers == 0)
    if strange.any():
        first = int(strange.argmax())
        raise FormatError(
            f"{model.path}: {int(strange.sum())} of {len(model)} atoms have coordinates that are not numbers "
            f"or an unknown element, the first in residue {model.residues[first]} of chain "
            f"{model.chains[first]}: correct or remove them."
        )
