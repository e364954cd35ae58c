"""Options of pose search, as plain data: importable without torch."""

from dataclasses import dataclass

from cryoatlas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Branch and bound with frequency marching (Algorithm 1), and what follows it."""

    base_level: int = 1
    """Level of the first grid of rotations: 72·8ˡ of them, 576 in the paper."""
    subdivisions: int = 5
    """Times that the grids are subdivided; 5 from level 1 end at 0.94° and 1/32 of the first shift step."""
    band_start: float = 12.0
    """Radius of the frequencies that the first grid is judged on, cycles per box."""
    band_end: float = 0.0
    """Radius that the last grid is judged on, cycles per box; 0 means half the box."""
    shift_extent_px: float = 10.0
    """Shifts are sought in ± this; 0 for particles known to be centred."""
    shift_points: int = 7
    """Steps along each axis of the first grid of shifts."""
    slack: float = 1.0
    """Share of the change possible inside a cell that the bound allows for: 1 for all; 0 is as printed."""
    keep: int = 24
    """At most this many poses of an image go on to the next grid; 0 lets all go on that the bound allows."""
    refine: int = 4
    """Gauss–Newton steps after the last grid; 0 leaves the pose on the grid, as in the paper."""

    def __post_init__(self) -> None:
        wanted = {
            "base_level must be 0 or more": self.base_level >= 0,
            "subdivisions must be 0 or more": self.subdivisions >= 0,
            "band_start must be 1 or more": self.band_start >= 1,
            "band_end must be 0 (half the box) or at least band_start": (
                self.band_end == 0 or self.band_end >= self.band_start
            ),
            "shift_extent_px must be 0 or more": self.shift_extent_px >= 0,
            "shift_points must be 1 or more": self.shift_points >= 1,
            "slack must be 0 or more": self.slack >= 0,
            "keep must be 0 (no limit) or more": self.keep >= 0,
            "refine must be 0 or more": self.refine >= 0,
        }
        ConfigError.unless(self, wanted, "search option")

    def band(self, subdivision: int, box_size: int) -> float:
        """Radius of the frequencies in use after so many subdivisions, cycles per box.

        Grows linearly from `band_start` to `band_end` (k_l of Algorithm 1), never beyond half the box.
        """
        last = self.band_end or box_size / 2
        grown = self.band_start + (last - self.band_start) * subdivision / max(1, self.subdivisions)
        return min(last if subdivision == self.subdivisions else grown, box_size / 2)
