"""How far estimated poses are from the true ones, after one alignment of the run, and per state.

A heterogeneous reconstruction may let the map turn a little from state to state while the poses turn
against it; no image tells. Errors after one alignment of the whole run count that drift, errors after
an alignment of each state do not (convention C10). Both are given.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from cryoatlas.analysis.alignment import Alignment, align_poses
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import geodesic_angle, squared_frobenius
from cryoatlas.shapes import Float, Int, Tensor

SMALLEST_STATE = 10
"""A state of fewer images keeps the run's alignment: its own would fit the errors it is to measure."""


@dataclass(frozen=True)
class PoseErrors:
    """Summary over images. Frobenius is ‖A − B‖²_F = 4 − 4 cos θ, the error of Table 1 of the paper."""

    median_squared_frobenius: float
    mean_squared_frobenius: float
    median_rotation_deg: float
    mean_rotation_deg: float
    median_shift: float
    """Å."""
    mean_shift: float
    """Å."""
    median_shift_px: float
    mean_shift_px: float

    @classmethod
    def between(cls, aligned: Pose, true: Pose, pixel_size: float) -> "PoseErrors":
        """The errors of poses that are already in one frame."""
        frobenius = squared_frobenius(aligned.rotation, true.rotation)
        angle_deg = torch.rad2deg(geodesic_angle(aligned.rotation, true.rotation))
        shift = torch.linalg.vector_norm(aligned.shift - true.shift, dim=-1)
        return cls(
            median_squared_frobenius=median(frobenius),
            mean_squared_frobenius=float(frobenius.mean()),
            median_rotation_deg=median(angle_deg),
            mean_rotation_deg=float(angle_deg.mean()),
            median_shift=median(shift),
            mean_shift=float(shift.mean()),
            median_shift_px=median(shift) / pixel_size,
            mean_shift_px=float(shift.mean()) / pixel_size,
        )


@dataclass(frozen=True)
class PoseComparison:
    """Errors of a run's poses under both kinds of alignment, and the alignments themselves."""

    alignment: Alignment
    """The run's."""
    run: PoseErrors
    """After the run's alignment."""
    state_alignments: Mapping[int, Alignment] = field(default_factory=dict)
    """By state; small states have the run's. Empty if no states were given."""
    states: PoseErrors | None = None
    """Over the same images, each after its own state's alignment."""
    opposite_hand: float = 0.0
    """Fraction of the images whose state has the other hand than the run: hands are mixed above 0."""


def compare_poses(
    estimated: Pose, true: Pose, pixel_size: float, states: Int[Tensor, "image"] | None = None
) -> PoseComparison:
    """Align the estimated poses to the true ones, once and per state, and measure what is left.

    Args:
        pixel_size: Å, for the errors that are given in pixels.
        states: the true state of each image.
    """
    true = true.to(torch.float64)
    alignment = align_poses(estimated, true)
    aligned = alignment.apply(estimated)
    run = PoseErrors.between(aligned, true, pixel_size)
    if states is None:
        return PoseComparison(alignment, run)
    alignments: dict[int, Alignment] = {}
    rotation, shift = aligned.rotation.clone(), aligned.shift.clone()
    opposite = 0
    for state in states.unique().tolist():
        members = (states == state).nonzero().squeeze(-1)
        alignments[state] = alignment
        if len(members) < SMALLEST_STATE:
            continue
        alignments[state] = align_poses(estimated[members], true[members])
        own = alignments[state].apply(estimated[members])
        rotation[members], shift[members] = own.rotation, own.shift
        opposite += len(members) * (alignments[state].mirrored != alignment.mirrored)
    errors = PoseErrors.between(Pose(rotation, shift), true, pixel_size)
    return PoseComparison(alignment, run, alignments, errors, opposite / len(true))


def median(values: Float[Tensor, "image"]) -> float:
    """The median, of an even count the mean of the two middle values."""
    return float(values.quantile(0.5))
