"""Where to compute."""

import torch

from cryoatlas.errors import ConfigError

GPU_PIXELS = 2**24
"""Of the images that a GPU works on together: 4,096 of 64². Runs need 2 to 4 GB (benchmarks/README.md)."""


def choose_device(name: str) -> torch.device:
    """The device to compute on.

    Raises:
        ConfigError: it does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} was asked for, but this PyTorch sees {torch.cuda.device_count()} CUDA devices: "
            "use --device cpu, or install a CUDA build of PyTorch and check nvidia-smi."
        )
    return device


def images_at_once(chunk: int, box_size: int, device: torch.device) -> int:
    """Images worked on together: on a GPU more, since starting its work costs as much as small work itself.

    Args:
        chunk: on a CPU.
    """
    return max(chunk, GPU_PIXELS // box_size**2) if device.type == "cuda" else chunk
