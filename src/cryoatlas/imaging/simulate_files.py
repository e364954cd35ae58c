"""The files of a simulated set: star files, states and maps."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.ctf import CTFParameters
from cryoatlas.imaging.exact import voxel_map
from cryoatlas.imaging.experiment import Experiment
from cryoatlas.imaging.scenes import Scene
from cryoatlas.io.mrc import write_volume
from cryoatlas.io.output import write_text
from cryoatlas.io.star import StarTable, write_star
from cryoatlas.shapes import Array

Columns = dict[str, Iterable]
CONTRAST = "cryoatlasContrast"
"""Column of the true factor of each image's signal."""


def write_particle_star(path: Path, stack: str, experiment: Experiment, *, with_poses: bool = False) -> None:
    """A star file of RELION 3.1: one optics group per microscope setting, CTF columns only with a CTF.

    Args:
        stack: the image file, as seen from the star file's folder.
        with_poses: write angles, origins and, if they vary, contrasts too.
    """
    count = len(experiment)
    microscope, group, ctf = _ctf_columns(experiment.ctf, count)
    groups = int(group.max())
    optics = {
        "rlnOpticsGroup": range(1, groups + 1),
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in range(1, groups + 1)],
        **microscope,
        "rlnImagePixelSize": np.full(groups, experiment.pixel_size),
        "rlnImageSize": np.full(groups, experiment.box_size),
        "rlnImageDimensionality": np.full(groups, 2),
    }
    particles = {
        "rlnImageName": [f"{number:06d}@{stack}" for number in range(1, count + 1)],
        "rlnOpticsGroup": group,
        **ctf,
        **(_pose_columns(experiment.pose) if with_poses else {}),
        **({} if experiment.contrast is None or not with_poses else {CONTRAST: experiment.contrast.numpy()}),
    }
    tables = {"optics": StarTable.from_columns(optics), "particles": StarTable.from_columns(particles)}
    write_star(path, tables)


def write_states(path: Path, scene: Scene, state: Array) -> None:
    """states.csv: for every image, counted from 0, its state and the state's coordinates."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "state", *scene.coordinate_names])
    rows.writerows([i, s, *scene.angles_deg[s].tolist()] for i, s in enumerate(state.tolist()))
    write_text(path, text.getvalue())


def write_state_maps(folder: Path, experiment: Experiment) -> None:
    """volumes/state_000000.mrc …: the map of each state, in the frame of the true poses."""
    folder.mkdir()
    for state in range(len(experiment.angles)):
        voxels = voxel_map(experiment.volume(state)).float()
        write_volume(folder / f"state_{state:06d}.mrc", voxels, experiment.pixel_size)


def _ctf_columns(ctf: CTFParameters | None, count: int) -> tuple[Columns, Array, Columns]:
    """Columns of the optics table, optics group of every particle, columns of the particle table."""
    if ctf is None:
        return {}, np.ones(count, int), {}
    shared = torch.stack([ctf.voltage_kv, ctf.spherical_aberration_mm, ctf.amplitude_contrast], -1)
    settings, group = np.unique(shared.numpy(), axis=0, return_inverse=True)
    names = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
    own: Columns = {
        "rlnDefocusU": ctf.defocus_u.numpy(),
        "rlnDefocusV": ctf.defocus_v.numpy(),
        "rlnDefocusAngle": torch.rad2deg(ctf.defocus_angle).numpy(),
    }
    if ctf.phase_shift.any():
        own["rlnPhaseShift"] = torch.rad2deg(ctf.phase_shift).numpy()
    if ctf.b_factor.any():
        own["rlnCtfBfactor"] = ctf.b_factor.numpy()
    return dict(zip(names, settings.T, strict=True)), group.reshape(-1) + 1, own


def _pose_columns(pose: Pose) -> Columns:
    angles, origins = pose.to_relion()
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
    return dict(zip(names, torch.cat([angles, origins], -1).numpy().T, strict=True))
