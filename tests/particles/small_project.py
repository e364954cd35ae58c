"""Small star files with stacks, right in every respect until a test spoils them."""

from pathlib import Path

import numpy as np

from cryoatlas.io.mrc import StackWriter

COUNT, BOX, PIXEL_SIZE = 6, 8, 2.5


def noise_images(count: int = COUNT, box: int = BOX, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, box, box)).astype(np.float32)


def write_stack(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with StackWriter(path, pixels.shape[-1], PIXEL_SIZE) as stack:
        stack.append(pixels)
    return path


def optics_columns() -> dict:
    return {
        "rlnOpticsGroup": [1, 2],
        "rlnOpticsGroupName": ["first", "second"],
        "rlnVoltage": [300.0, 200.0],
        "rlnSphericalAberration": [2.7, 1.4],
        "rlnAmplitudeContrast": [0.1, 0.07],
        "rlnImagePixelSize": [PIXEL_SIZE, 2 * PIXEL_SIZE],
        "rlnImageSize": [BOX, BOX],
        "rlnImageDimensionality": [2, 2],
    }


def particle_columns() -> dict:
    rng = np.random.default_rng(1)
    return {
        "rlnImageName": [f"{number:06d}@stack.mrcs" for number in range(1, COUNT + 1)],
        "rlnOpticsGroup": [1, 2, 1, 2, 1, 2],
        "rlnMicrographName": ["a b.mrc"] * COUNT,
        "rlnDefocusU": rng.uniform(1e4, 2e4, COUNT),
        "rlnDefocusV": rng.uniform(1e4, 2e4, COUNT),
        "rlnDefocusAngle": rng.uniform(0, 180, COUNT),
        "rlnPhaseShift": rng.uniform(0, 90, COUNT),
        "rlnAngleRot": rng.uniform(-180, 180, COUNT),
        "rlnAngleTilt": rng.uniform(0, 180, COUNT),
        "rlnAnglePsi": rng.uniform(-180, 180, COUNT),
        "rlnOriginXAngst": rng.uniform(-5, 5, COUNT),
        "rlnOriginYAngst": rng.uniform(-5, 5, COUNT),
    }
