"""What `cryoatlas simulate` can be told; light, so that the command line can be made from it."""

import math
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal, get_args

from cryoatlas.errors import ConfigError

SceneName = Literal["homogeneous", "linear1d", "linear2d", "circular1d", "discrete10"]
BONDS: dict[str, int] = {"homogeneous": 0, "linear1d": 1, "linear2d": 2, "circular1d": 1, "discrete10": 2}
"""How many bonds each scene turns."""
SMALLEST_BOX, LARGEST_BOX = 8, 2048


@dataclass(frozen=True)
class SimulationConfig:
    """A simulated data set. Words are checked here, what they mean for the molecule when it is built.

    Raises:
        ConfigError: an option is out of range or contradicts another.
    """

    scene: SceneName
    """What moves: homogeneous (nothing), linear1d (one bond, 0–90°), linear2d (two bonds, one after the
    other), circular1d (one bond through 360°), discrete10 (ten random configurations of two bonds)."""
    _: KW_ONLY
    images: int
    """Number of particle images; the states get equally many each, in random order."""
    box: int
    """Side of the images and maps, px."""
    snr: float = 0.1
    """var(signal)/var(noise) over the whole frame, the signal after its CTF; inf for no noise."""
    seed: int = 0
    """Everything random follows from it."""
    ctf: bool = False
    """Apply a CTF: defocus 0.5–3 µm, mild astigmatism, 300 kV, Cs 2.7 mm, amplitude contrast 0.1."""
    contrast_spread: float = 0.0
    """Multiply each image's signal by a factor of mean 1, log-normal, whose logarithm has this standard
    deviation; 0.2 is usual for real particles."""
    tilt_pairs: bool = False
    """Write a second image of each particle, after a tilt about the image's x axis."""
    tilt_angle: float = 45.0
    """That tilt, degrees."""
    shift_px: float | None = None
    """Particles sit up to this far off centre along x and y, px (default: 5 at box 64, in proportion)."""
    pixel_size: float | None = None
    """Å per pixel (default: 192/box; with --atoms, what lets the molecule fill 75 % of the box)."""
    sigma: float | None = None
    """Width (standard deviation) of the atoms, Å (default: half a pixel, at least 1)."""
    states: int | None = None
    """Number of states (default, the paper's: 1, 50, 100, 100, 10)."""
    angles: str | None = None
    """First and last angle of the bonds, degrees (default 0,90; discrete10: 0,360)."""
    atoms: Path | None = None
    """Atomic model, mmCIF or PDB, in place of the built-in molecule."""
    rotate: tuple[str, ...] = ()
    """Atoms that move: A (a chain), A:330-530 (residues), several joined by +. Again for a second bond."""
    hinge: tuple[str, ...] = ()
    """Atoms that the axis goes through the middle of (default: the residue before the moving range, else
    where the group touches the rest)."""
    axis: tuple[str, ...] = ()
    """Direction of the axis in the model's frame, such as --axis=0,0,1 (default: the one that swings the
    group away from the rest)."""

    def __post_init__(self) -> None:
        self._check_scene()
        self._check_image_options()
        self._check_molecule()

    @property
    def angle_range_deg(self) -> tuple[float, float] | None:
        """First and last angle, degrees; None if not given."""
        return None if self.angles is None else _numbers(self.angles, "--angles", 2)  # type: ignore[return-value]

    @property
    def axes(self) -> tuple[tuple[float, float, float], ...]:
        """The directions given, x, y, z."""
        return tuple(_numbers(text, "--axis", 3) for text in self.axis)  # type: ignore[misc]

    @property
    def largest_shift_px(self) -> float:
        """Extent of the random shifts along each axis: 5 px at box 64 (and 10 at 128), the paper's."""
        return 5 * self.box / 64 if self.shift_px is None else self.shift_px

    def _check_scene(self) -> None:
        if self.scene not in BONDS:
            raise ConfigError(
                f"there is no scene {self.scene!r}: choose one of {', '.join(get_args(SceneName))}."
            )
        if self.states is not None and self.states < 1:
            raise ConfigError(f"--states must be at least 1, got {self.states}.")
        if self.scene == "homogeneous" and self.states not in (None, 1):
            raise ConfigError(
                f"a homogeneous scene has one state, but --states {self.states} was given: leave it out."
            )
        if self.scene == "linear2d" and self.states is not None and self.states % 2:
            raise ConfigError(
                f"linear2d divides its states equally between two bonds, but --states {self.states} is odd: "
                f"give {self.states + 1}."
            )
        if self.angles is not None and self.scene in ("homogeneous", "circular1d"):
            raise ConfigError(f"--angles has no meaning for {self.scene}: leave it out, or choose linear1d.")
        if self.angle_range_deg is not None and not all(map(math.isfinite, self.angle_range_deg)):
            raise ConfigError(f"--angles must be finite, got {self.angles}.")

    def _check_image_options(self) -> None:
        if self.images < 1:
            raise ConfigError(f"--images must be at least 1, got {self.images}.")
        if not SMALLEST_BOX <= self.box <= LARGEST_BOX:
            raise ConfigError(f"--box must lie in {SMALLEST_BOX} … {LARGEST_BOX} px, got {self.box}.")
        if not self.snr > 0:
            raise ConfigError(f"--snr must be above 0, got {self.snr}; for images without noise give inf.")
        if self.seed < 0:
            raise ConfigError(f"--seed must not be negative, got {self.seed}.")
        if not 0 < abs(self.tilt_angle) <= 180:
            raise ConfigError(f"--tilt-angle must lie within ±180° and not be 0, got {self.tilt_angle}.")
        if self.shift_px is not None and not 0 <= self.shift_px < math.inf:
            raise ConfigError(f"--shift-px must not be negative, got {self.shift_px}.")
        if not 0 <= self.contrast_spread < math.inf:
            raise ConfigError(f"--contrast-spread must not be negative, got {self.contrast_spread}.")
        for option, value in (("--pixel-size", self.pixel_size), ("--sigma", self.sigma)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{option} must be above 0 Å, got {value}.")

    def _check_molecule(self) -> None:
        needed = BONDS[self.scene]
        if self.atoms is None:
            for option in ("rotate", "hinge", "axis"):
                if getattr(self, option):
                    raise ConfigError(
                        f"--{option} speaks of an atomic model, but none is given: add --atoms FILE, or "
                        f"leave --{option} out to move the built-in molecule."
                    )
        elif len(self.rotate) != needed:
            raise ConfigError(
                f"{self.scene} turns {needed} {'bond' if needed == 1 else 'bonds'}, but --rotate was given "
                f"{len(self.rotate)} times: name the atoms that move once for each bond, such as "
                "--rotate A:330-530."
            )
        for option in ("hinge", "axis"):
            count = len(getattr(self, option))
            if count not in (0, len(self.rotate)):
                raise ConfigError(
                    f"--{option} was given {count} times and --rotate {len(self.rotate)} times: give one "
                    "for each moving group, or none."
                )
        _ = self.axes  # refuses what is not three numbers


def _numbers(text: str, option: str, count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise ConfigError(
            f"{option} takes {count} numbers separated by commas, without spaces, such as "
            f"{option}={','.join(['0', '90', '0'][:count])}; got {text!r}."
        )
    return values
