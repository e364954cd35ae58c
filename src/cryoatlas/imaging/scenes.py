"""The scenes of the paper's benchmarks (M11): which angles the bonds take in each state."""

from dataclasses import dataclass

import numpy as np

from cryoatlas.imaging.simulate_config import BONDS, SceneName
from cryoatlas.shapes import Array, Float, Int

STATES = {"homogeneous": 1, "linear1d": 50, "linear2d": 100, "circular1d": 100, "discrete10": 10}
"""How many states it has unless told otherwise: the paper's."""
ANGLES_DEG = {"linear1d": (0.0, 90.0), "linear2d": (0.0, 90.0), "discrete10": (0.0, 360.0)}
"""Between which angles its bonds turn unless told otherwise."""


@dataclass(frozen=True)
class Scene:
    """The states of a body."""

    name: str
    angles_deg: Float[Array, "state bond"]
    """Angle of each bond that the scene turns, degrees: the states' coordinates."""

    def __len__(self) -> int:
        return len(self.angles_deg)

    @property
    def coordinate_names(self) -> list[str]:
        """angle_1_deg, …: one for each bond that turns."""
        return [f"angle_{bond + 1}_deg" for bond in range(self.angles_deg.shape[1])]


def build_scene(
    name: SceneName,
    states: int | None,
    angles_deg: tuple[float, float] | None,
    generator: np.random.Generator,
) -> Scene:
    """The states of a scene, in order; the options are those of a valid `SimulationConfig`.

    ===========  ==========================================================================
    homogeneous  one state
    linear1d     bond 1 from the first angle to the last, both included
    linear2d     bond 1 so with bond 2 at 0, then bond 2 so with bond 1 at 0; half the states each
    circular1d   bond 1 through the full circle in equal steps, without repeating 0°
    discrete10   both bonds at angles drawn uniformly between the first and the last
    ===========  ==========================================================================

    Args:
        states: how many; None for the paper's number.
        angles_deg: first and last angle; None for 0–90° (linear) and 0–360° (discrete10).
        generator: draws the states of discrete10.
    """
    count = STATES[name] if states is None else states
    first, last = angles_deg or ANGLES_DEG.get(name, (0.0, 0.0))
    if name == "homogeneous":
        angles = np.zeros((1, 0))
    elif name == "linear1d":
        angles = np.linspace(first, last, count)[:, None]
    elif name == "linear2d":
        sweep, rest = np.linspace(first, last, count // 2), np.zeros(count // 2)
        angles = np.concatenate([np.stack([sweep, rest], -1), np.stack([rest, sweep], -1)])
    elif name == "circular1d":
        angles = (360 * np.arange(count) / count)[:, None]
    else:
        angles = generator.uniform(first, last, (count, BONDS[name]))
    return Scene(name, angles)


def balanced_states(images: int, states: int, generator: np.random.Generator) -> Int[Array, "image"]:
    """A state for every image: equally many of each, to within one, in random order."""
    return generator.permutation(np.arange(images) * states // images)
