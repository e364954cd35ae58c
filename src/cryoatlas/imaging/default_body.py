"""The molecule that `cryoatlas simulate` uses when no atomic model is given.

One thousand pseudo-atoms, one per residue, in three domains: a core and two arms, each arm held by a
bond about which it turns through a full circle without touching the rest. It is no real protein, but
has what matters to reconstruction: about the packing and the share of helices of one, no symmetry, a
hand at low resolution (the arms and a lobe of the core point in directions that no rotation brings to
their mirror images) and at high resolution (its helices are right-handed).
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from cryoatlas.imaging.body import Body, Bond
from cryoatlas.shapes import Array, Bool, Float

RESIDUE_ELECTRONS = 58.0
"""Electrons of an average amino-acid residue (110 Da), the weight of every pseudo-atom."""
CORE_RESIDUES, FIRST_ARM_RESIDUES, SECOND_ARM_RESIDUES = 590, 230, 180
HELIX_RESIDUES = 15
HELIX_SHARE = 0.35
RISE, HELIX_RADIUS, TWIST = 1.5, 2.3, math.radians(100)
"""The α-helix: rise per residue (Å), radius of its Cα trace (Å), right-handed turn per residue."""
CHAIN_STEP = 3.8
"""Distance of consecutive Cα atoms, Å."""
CLOSEST = 3.8
"""Residues of different strands keep at least this distance, Å."""
SEED = 1
"""Chosen once, so that the body is the same for ever."""

NO_ATOMS = np.empty((0, 3))
Envelope = Callable[[Float[Array, "atom 3"]], Bool[Array, "atom"]]


@cache
def default_body() -> Body:
    """The built-in body, its centre of mass at the origin.

    Bond 1 turns the first arm (23 % of the mass) in a slab above the core, bond 2 the second (18 %)
    in a slab below it. The axes are 155° apart, not parallel: no turn of both bonds is the same as
    a turn of the core the other way.
    """
    generator = np.random.default_rng(SEED)
    lobed = _either(
        _ellipsoid((0.0, 0.0, 0.0), (35.0, 27.0, 20.0)), _ellipsoid((20.0, -24.0, -3.0), (17.0, 18.0, 14.0))
    )
    upright = np.eye(3)
    tilt = math.radians(25)
    below = np.array([math.sin(tilt), 0, -math.cos(tilt)])
    # The second arm is built as the first is, then laid along y and under the core.
    under = np.stack([upright[1], np.cross(below, upright[1]), below])
    stalks = np.concatenate([_stalk(17.5) @ upright, _stalk(19.0) @ under])
    domains = [
        _fold(CORE_RESIDUES, lobed, generator, stalks),
        _fold(FIRST_ARM_RESIDUES, _ellipsoid((23.0, 0.0, 37.0), (31.0, 17.0, 14.0)), generator) @ upright,
        _fold(SECOND_ARM_RESIDUES, _ellipsoid((20.0, 0.0, 38.0), (28.0, 15.0, 13.0)), generator) @ under,
    ]
    centres = torch.from_numpy(np.concatenate(domains))
    domain = torch.repeat_interleave(torch.tensor([len(atoms) for atoms in domains]))
    origin = centres.mean(0)
    bonds = tuple(
        Bond(torch.from_numpy(24 * frame[2]) - origin, torch.from_numpy(frame[2]), domain == number)
        for number, frame in ((1, upright), (2, under))
    )
    return Body(centres - origin, torch.full((len(centres),), RESIDUE_ELECTRONS, dtype=torch.float64), bonds)


def _stalk(start: float) -> Float[Array, "atom 3"]:
    """Six residues of helix about the z axis, from `start` Å on, which an arm turns on."""
    return _helix_trace(6) + np.array([0, 0, start + 2.5 * RISE])


def _ellipsoid(centre: tuple[float, float, float], semi_axes: tuple[float, float, float]) -> Envelope:
    return lambda points: (((points - centre) / semi_axes) ** 2).sum(-1) < 1


def _either(first: Envelope, second: Envelope) -> Envelope:
    return lambda points: first(points) | second(points)


def _fold(
    count: int, inside: Envelope, generator: np.random.Generator, atoms: Float[Array, "some 3"] = NO_ATOMS
) -> Float[Array, "atom 3"]:
    """Fill an envelope with helices, then with coil, without clashes, up to `count` atoms in all."""
    while len(atoms) < HELIX_SHARE * count:
        strand = _helix(_point_inside(inside, generator), generator)
        if inside(strand).all() and _is_free(strand, atoms):
            atoms = np.concatenate([atoms, strand])
    while len(atoms) < count:
        strand = _coil(atoms, inside, generator)
        atoms = np.concatenate([atoms, strand])
    return atoms[:count]


def _helix(middle: Float[Array, "3"], generator: np.random.Generator) -> Float[Array, "atom 3"]:
    """An α-helix of random direction."""
    return middle + _helix_trace(HELIX_RESIDUES) @ _random_frame(generator)


def _helix_trace(residues: int) -> Float[Array, "atom 3"]:
    """The Cα trace of a right-handed α-helix about the z axis, centred."""
    steps = np.arange(residues) - (residues - 1) / 2
    angle = TWIST * steps
    return np.stack([HELIX_RADIUS * np.cos(angle), HELIX_RADIUS * np.sin(angle), RISE * steps], -1)


def _coil(
    atoms: Float[Array, "atom 3"], inside: Envelope, generator: np.random.Generator
) -> Float[Array, "more 3"]:
    """A self-avoiding persistent walk through the free space, until it finds no way on."""
    walk = _point_inside(inside, generator)[None]
    if not _is_free(walk, atoms):
        return atoms[:0]
    direction = _random_frame(generator)[0]
    while len(walk) < HELIX_RESIDUES:
        candidates = direction + generator.standard_normal((12, 3))
        candidates /= np.linalg.norm(candidates, axis=-1, keepdims=True)
        steps = walk[-1] + CHAIN_STEP * candidates
        allowed = inside(steps) & _clear(steps, atoms) & _clear(steps, walk[:-1])
        if not allowed.any():
            break
        chosen = int(allowed.argmax())
        direction = candidates[chosen]
        walk = np.concatenate([walk, steps[chosen : chosen + 1]])
    return walk


def _is_free(strand: Float[Array, "atom 3"], atoms: Float[Array, "other 3"]) -> bool:
    return bool(_clear(strand, atoms).all())


def _clear(points: Float[Array, "atom 3"], atoms: Float[Array, "other 3"]) -> Bool[Array, "atom"]:
    """Which points keep `CLOSEST` from all atoms."""
    squared = ((points[:, None] - atoms) ** 2).sum(-1)
    return (squared >= CLOSEST**2).all(-1)


def _point_inside(inside: Envelope, generator: np.random.Generator) -> Float[Array, "3"]:
    while True:
        points = generator.uniform(-80, 80, (50, 3))
        hits = points[inside(points)]
        if len(hits):
            return hits[0]


def _random_frame(generator: np.random.Generator) -> Float[Array, "3 3"]:
    """Three orthonormal right-handed rows, the last uniform on the sphere."""
    last = generator.standard_normal(3)
    last /= np.linalg.norm(last)
    first = np.cross(last, generator.standard_normal(3))
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(last, first), last])
