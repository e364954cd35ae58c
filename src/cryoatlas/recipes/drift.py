"""The end of every search with a latent: poses in one frame for all states."""

from pathlib import Path

from cryoatlas.imaging.volume import Volume
from cryoatlas.poses.gauge import remove_drift
from cryoatlas.recipes import run as runs
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.training.pose_table import PoseTable


def take_out_drift(
    volume: Volume,
    z: Float[Tensor, "particle latent"],
    table: PoseTable,
    index: Int[Tensor, "particle"],
    folder: Path,
) -> None:
    """Move the poses of some particles to the frame in which most of V(z) stands still.

    What follows is trained with these poses, so that its volumes stand still too.

    Args:
        index: the particles that z is of.
        folder: of the search; what was taken out goes to its log.
    """
    pose, drift = remove_drift(volume, z, table.of(index, z.device))
    pose = pose.to("cpu")
    table.rotation[index], table.shift[index] = pose.rotation, pose.shift
    runs.append_log(
        folder, {"event": "drift", "images": len(index), "rms_deg": drift.rms_deg, "rms": drift.rms_offset}
    )
