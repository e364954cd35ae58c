"""RELION's columns → higher aberrations of every image, and how much of the CTF its pixels hold already."""

import math
from enum import IntEnum

import numpy as np
import torch

from cryoatlas.errors import MetadataError
from cryoatlas.imaging.aberrations import Aberrations, beam_tilt_coefficients, even_phase, odd_phase
from cryoatlas.imaging.ctf import electron_wavelength
from cryoatlas.particles.metadata import DEFOCUS, GROUP, ParticleTables, pixel_sizes
from cryoatlas.shapes import Array, Float, Int, Tensor

BEAM_TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
ODD, EVEN = "rlnOddZernike", "rlnEvenZernike"
MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
ABERRATIONS = (*BEAM_TILT, ODD, EVEN, *MAGNIFICATION)
LARGEST_DISTORTION = 0.2
"""Magnifications differ from 1 by parts in a thousand; a matrix further from the identity is a mistake."""
PREMULTIPLIED, PHASE_FLIPPED = "rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped"
IMAGE_STATE = (PREMULTIPLIED, PHASE_FLIPPED)
"""What was done to images before they were stored."""


class AppliedCTF(IntEnum):
    """What of the CTF an image was multiplied by before it was stored."""

    NOTHING = 0
    SIGN = 1
    """Phases were flipped."""
    ALL = 2
    """The image was premultiplied by its CTF."""


def read_aberrations(tables: ParticleTables) -> Aberrations | None:
    """Higher aberrations of every particle, None if the file has none or all are zero.

    Beam tilt (mrad), Zernike coefficients and magnification matrix are sought in the optics table and in
    the particles' rows. Where a column is missing there is no such aberration, as in RELION.

    Raises:
        MetadataError: one of two beam tilts or part of the matrix is missing; a value is no number or no
            list of numbers; the matrix is far from 1; or voltage or C_s are missing beside a beam tilt.
    """
    names = [name for name in (*BEAM_TILT, ODD, EVEN, *MAGNIFICATION) if tables.has(name)]
    if not names:
        return None
    if tables.has(BEAM_TILT[0]) or tables.has(BEAM_TILT[1]):
        names += [name for name in ("rlnVoltage", "rlnSphericalAberration") if tables.has(name)]
    first, kind = _kinds(tables, names)
    sample = tables.select(first)
    found = Aberrations(torch.from_numpy(kind), _odd(sample), _zernike(sample, EVEN), _magnification(sample))
    return found if found.odd.any() or found.even.any() or found.is_anisotropic else None


def read_applied_ctf(tables: ParticleTables) -> Int[Tensor, "image"] | None:
    """The `AppliedCTF` of every particle, None if it is nothing for all.

    Raises:
        MetadataError: a flag is neither 0 nor 1, an image is said to be both premultiplied and
            phase-flipped, or the CTF is not known.
    """
    premultiplied, flipped = (_flag(tables, name) for name in (PREMULTIPLIED, PHASE_FLIPPED))
    both = np.flatnonzero(premultiplied & flipped).tolist()
    if both:
        raise MetadataError(
            f"{tables.particles.row_name(both[0])} is said to be both premultiplied by its CTF and "
            f"phase-flipped ({PREMULTIPLIED} and {PHASE_FLIPPED} are 1), but it can be one of them only: set "
            "the flag that does not hold to 0."
        )
    if not (premultiplied | flipped).any():
        return None
    if len(tables.missing(*DEFOCUS)) == len(DEFOCUS):
        raise MetadataError(
            f"the images of {tables.path} were multiplied by their CTF or phase-flipped ({PREMULTIPLIED}, "
            f"{PHASE_FLIPPED}), but the file has no CTF: it lacks {', '.join(DEFOCUS)}. Use the star file of "
            "the extraction."
        )
    return torch.from_numpy(AppliedCTF.ALL * premultiplied + AppliedCTF.SIGN * flipped)


def describe_aberrations(tables: ParticleTables) -> list[tuple[str, str]]:
    """Title and text of what is known of each optics group's aberrations, for `info`; empty if none.

    Raises:
        MetadataError: as `read_aberrations`.
    """
    if read_aberrations(tables) is None:
        return []
    names = [name for name in (*BEAM_TILT, ODD, EVEN, *MAGNIFICATION) if tables.has(name)]
    grouped = tables.optics is not None and tables.particles.has(GROUP)
    first, _ = _kinds(tables, [GROUP, *names] if grouped else names)
    sample = tables.select(first)
    found, sizes = read_aberrations(sample), pixel_sizes(sample)
    assert found is not None, "the sample has a row of every kind"
    titles = [f"aberrations of optics group {group}" for group in sample.text(GROUP)] if grouped else []
    texts = [_describe(found, int(found.kind[row]), size) for row, size in enumerate(sizes.tolist())]
    return list(zip(titles or ["aberrations"] * len(texts), texts, strict=True))


def describe_applied_ctf(tables: ParticleTables) -> str | None:
    """How many images were multiplied by their CTF or its sign, for `info`; None if none.

    Raises:
        MetadataError: as `read_applied_ctf`.
    """
    applied = read_applied_ctf(tables)
    if applied is None:
        return None
    counts = {
        "multiplied by their CTF": int((applied == AppliedCTF.ALL).sum()),
        "phase-flipped": int((applied == AppliedCTF.SIGN).sum()),
    }
    told = [f"{count:,} of {len(tables):,} images were {what}" for what, count in counts.items() if count]
    return f"{', '.join(told)}; accounted for"


def _describe(found: Aberrations, kind: int, pixel_size: float) -> str:
    angle, radius = torch.meshgrid(
        torch.arange(64, dtype=torch.float64) * (math.pi / 32),
        torch.linspace(0, 0.5 / pixel_size, 33, dtype=torch.float64),
        indexing="ij",
    )
    freqs = torch.stack([radius * angle.cos(), radius * angle.sin()], -1).reshape(1, -1, 2)
    parts = []
    for name, phase, weights in (("odd", odd_phase, found.odd[kind]), ("even", even_phase, found.even[kind])):
        if weights.any():
            largest = float(phase(freqs, weights[None]).abs().max())
            parts.append(f"{name} phase errors up to {largest:.2g} rad inside Nyquist")
    distortion = float(torch.linalg.matrix_norm(found.magnification[kind] - torch.eye(2).double(), 2))
    if distortion > 0:
        parts.append(f"magnification off by up to {100 * distortion:.2g} %")
    return f"{', '.join(parts)}; corrected for" if parts else "none"


def _kinds(tables: ParticleTables, names: list[str]) -> tuple[Int[Array, "kind"], Int[Array, "image"]]:
    """The first row of each combination of values of these columns, and which of them each row has."""
    own = [name for name in names if tables.particles.has(name)]
    keys = [np.unique(tables.particles.text(name), return_inverse=True)[1] for name in own]
    if tables.optics is not None and any(tables.optics.has(name) for name in names):
        keys.append(tables.optics_rows())
    kind, first = np.zeros(len(tables), np.int64), np.zeros(1, np.int64)
    for key in keys:
        _, first, kind = np.unique(kind * (key.max() + 1) + key, return_index=True, return_inverse=True)
    return first, kind


def _odd(sample: ParticleTables) -> Float[Tensor, "kind odd"]:
    odd = _zernike(sample, ODD)
    missing = sample.missing(*BEAM_TILT)
    if len(missing) == 2:
        return odd
    if missing:
        raise MetadataError(
            f"{sample.path} has one component of the beam tilt, but lacks {missing[0]}: add it, 0 for none."
        )
    tilt = torch.from_numpy(np.stack([sample.number(name) for name in BEAM_TILT], -1))
    voltage, aberration = (
        torch.from_numpy(sample.number(name)) for name in ("rlnVoltage", "rlnSphericalAberration")
    )
    coma = beam_tilt_coefficients(tilt, electron_wavelength(voltage), aberration)
    total = torch.zeros(len(sample), max(odd.shape[1], coma.shape[1]), dtype=torch.float64)
    total[:, : odd.shape[1]] += odd
    total[:, : coma.shape[1]] += coma
    return total


def _zernike(sample: ParticleTables, name: str) -> Float[Tensor, "kind term"]:
    """Lists of coefficients, filled with zeros to the length of the longest."""
    lists = [_numbers(sample, name, row) for row in range(len(sample))] if sample.has(name) else []
    table = torch.zeros(len(sample), max(map(len, lists), default=0), dtype=torch.float64)
    for row, values in enumerate(lists):
        table[row, : len(values)] = torch.tensor(values, dtype=torch.float64)
    return table


def _numbers(sample: ParticleTables, name: str, row: int) -> list[float]:
    """The list in one cell, ``[0.1,-2,0]``; an empty one is all zeros."""
    text = str(sample.text(name)[row]).strip()
    inside = text.removeprefix("[").removesuffix("]")
    try:
        values = [float(word) for word in inside.replace(",", " ").split()]
    except ValueError:
        values = [math.nan]
    if not np.isfinite(values).all() or len(text) - len(inside) != 2:
        raise MetadataError(
            f"{sample.particles.row_name(row)} has '{text}' as {name}, but a list of finite numbers in "
            "brackets was expected, such as [0.1,-2,0]: correct the table."
        )
    return values


def _magnification(sample: ParticleTables) -> Float[Tensor, "kind 2 2"]:
    identity = torch.eye(2, dtype=torch.float64).repeat(len(sample), 1, 1)
    missing = sample.missing(*MAGNIFICATION)
    if len(missing) == len(MAGNIFICATION):
        return identity
    if missing:
        raise MetadataError(
            f"{sample.path} has a part of the magnification matrix, but lacks {', '.join(missing)}: add the "
            "columns, or remove all four."
        )
    matrix = torch.from_numpy(np.stack([sample.number(name) for name in MAGNIFICATION], -1)).reshape(-1, 2, 2)
    distortion = torch.linalg.matrix_norm(matrix - identity, 2)
    worst = int(distortion.argmax())
    if distortion[worst] > LARGEST_DISTORTION:
        raise MetadataError(
            f"{sample.particles.row_name(worst)} has {matrix[worst].flatten().tolist()} as its magnification "
            f"({MAGNIFICATION[0]} …), but a matrix within {LARGEST_DISTORTION:g} of 1, 0, 0, 1 was expected: "
            "correct the table, or remove the four columns."
        )
    return matrix


def _flag(tables: ParticleTables, name: str) -> Int[Array, "image"]:
    values = tables.number(name, 0.0)
    other = np.flatnonzero((values != 0) & (values != 1)).tolist()
    if other:
        raise MetadataError(
            f"{tables.particles.row_name(other[0])} has {values[other[0]]:g} as {name}, but 0 or 1 was "
            "expected: correct the table."
        )
    return values.astype(np.int64)
