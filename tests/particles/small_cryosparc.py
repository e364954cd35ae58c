"""The small project as cryoSPARC would have it: the same particles in a .cs file."""

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from .small_project import BOX, COUNT, noise_images, optics_columns, particle_columns, write_stack

POSE_PIXEL_SIZE = 1.25
"""Å: poses are of an alignment of images with other pixels than those of the stack."""
UID = np.arange(COUNT, dtype=np.uint64)[::-1] * np.uint64(3) + np.uint64(2**63 + 11)


def cs_columns() -> dict[str, np.ndarray]:
    """What cryoSPARC would write of `particle_columns` and `optics_columns`, in float32."""
    star, optics = particle_columns(), optics_columns()
    group = np.array(star["rlnOpticsGroup"]) - 1
    shared = {name: np.array(values)[group] for name, values in optics.items()}
    angles = np.stack([star[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")], -1)
    origins = np.stack([star["rlnOriginXAngst"], star["rlnOriginYAngst"]], -1)
    columns = {
        "uid": UID,
        "blob/path": np.array([b">J1/extract/stack.mrc"] * COUNT),
        "blob/idx": np.arange(COUNT, dtype=np.uint32),
        "blob/shape": np.full((COUNT, 2), BOX, np.uint32),
        "blob/psize_A": shared["rlnImagePixelSize"],
        "blob/sign": np.full(COUNT, -1.0),
        "ctf/exp_group_id": group.astype(np.uint32),
        "ctf/accel_kv": shared["rlnVoltage"],
        "ctf/cs_mm": shared["rlnSphericalAberration"],
        "ctf/amp_contrast": shared["rlnAmplitudeContrast"],
        "ctf/df1_A": star["rlnDefocusU"],
        "ctf/df2_A": star["rlnDefocusV"],
        "ctf/df_angle_rad": np.deg2rad(star["rlnDefocusAngle"]),
        "ctf/phase_shift_rad": np.deg2rad(star["rlnPhaseShift"]),
        "ctf/scale": np.ones(COUNT),
        "alignments3D/pose": Rotation.from_euler("ZYZ", angles, degrees=True).as_rotvec(),
        "alignments3D/shift": origins / POSE_PIXEL_SIZE,
        "alignments3D/psize_A": np.full(COUNT, POSE_PIXEL_SIZE),
        "alignments3D/split": np.array([0, 1] * (COUNT // 2), np.uint32),
    }
    return {name: np.asarray(v, np.float32) if v.dtype.kind == "f" else v for name, v in columns.items()}


def write_cs(path: Path, columns: dict[str, np.ndarray]) -> Path:
    """A .cs file with the columns; `uid` among them."""
    kinds = [(name, values.dtype, values.shape[1:]) for name, values in columns.items()]
    table = np.zeros(len(next(iter(columns.values()))), kinds)
    for name, values in columns.items():
        table[name] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        np.save(stream, table)
    return path


def write_cs_project(folder: Path, **changes: np.ndarray | None) -> Path:
    """``J1/extract/stack.mrc`` and ``J2/particles.cs`` in a project folder; gives the path of the latter.

    Changes are new columns, or None to leave one out; double underscores stand for slashes.
    """
    write_stack(folder / "J1" / "extract" / "stack.mrc", noise_images())
    columns: dict = {**cs_columns(), **{name.replace("__", "/"): values for name, values in changes.items()}}
    kept = {name: values for name, values in columns.items() if values is not None}
    return write_cs(folder / "J2" / "particles.cs", kept)
