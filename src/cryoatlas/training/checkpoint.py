"""Checkpoints: tensors in safetensors, everything else in json; nothing is unpickled.

A checkpoint is two files, ``epoch_0007.safetensors`` and ``epoch_0007.json``. The json is renamed
into place last, so a checkpoint without it is an unfinished one and is not seen.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from cryoatlas.errors import FormatError, InputError
from cryoatlas.io.output import atomic_path, write_text
from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.models.vae import VAE, Shape, build_vae
from cryoatlas.training.pose_table import PoseTable
from cryoatlas.training.statistics import ResidualStatistics

KEPT = 2
"""Checkpoints that stay in the folder."""


@dataclass(frozen=True)
class Position:
    """Where a run stands: epochs finished, and steps done in the one under way."""

    epoch: int
    step: int


def save(
    folder: Path,
    vae: VAE,
    optimizer: torch.optim.Optimizer,
    position: Position,
    statistics: ResidualStatistics,
    poses: PoseTable | None = None,
) -> Path:
    """Write a checkpoint and remove all but the newest `KEPT`; with the poses of runs that find them."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"epoch_{position.epoch:04d}" + (f"_step_{position.step:06d}" if position.step else "")
    tensors = {f"vae.{name}": value.contiguous() for name, value in vae.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors |= {f"statistics.{name}": value for name, value in statistics.state().items()}
    if poses is not None:
        tensors |= {f"poses.{name}": value for name, value in poses.state().items()}
    with atomic_path(folder / f"{stem}.safetensors") as temporary:
        # Not save_file: its error on a full disk is no OSError and would reach the user unexplained.
        temporary.write_bytes(to_bytes({name: value.cpu() for name, value in tensors.items()}))
    facts = {"format": 1, "position": asdict(position), "shape": asdict(vae.shape)}
    write_text(folder / f"{stem}.json", json.dumps(facts, indent=1))
    for old in _finished(folder)[:-KEPT]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    return folder / f"{stem}.safetensors"


def newest(folder: Path) -> Path | None:
    """The json of the most advanced finished checkpoint, or None."""
    finished = _finished(folder)
    return finished[-1] if finished else None


def load(path: Path, device: torch.device | str = "cpu") -> tuple[VAE, Position, dict[str, torch.Tensor]]:
    """The model, its place in the run, and the tensors of the optimiser (for `restore_optimizer`), of the
    statistics of the epoch under way (`restore_statistics`) and of poses (`restore_poses`).

    Raises:
        FormatError: the files are damaged or not of this program.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(path.with_suffix(".safetensors"))
        vae = build_vae(_shape(facts["shape"])).to(device)
        vae.load_state_dict({k.removeprefix("vae."): v for k, v in tensors.items() if k.startswith("vae.")})
        position = Position(**facts["position"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise FormatError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {error}). Delete it to go on "
            "from the one before, or start the run again."
        ) from error
    return vae, position, {k: v for k, v in tensors.items() if not k.startswith("vae.")}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put the saved moments back into an optimiser made for the same parameters."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        owner, *rest = key.split(".")
        if owner == "optimizer":
            index, name = rest
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def restore_statistics(statistics: ResidualStatistics, tensors: dict[str, torch.Tensor]) -> None:
    """Put the saved sums back."""
    statistics.restore(_of_kind("statistics.", tensors))


def restore_poses(tensors: dict[str, torch.Tensor]) -> PoseTable:
    """The saved poses."""
    return PoseTable.restore(_of_kind("poses.", tensors))


def _of_kind(kind: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(kind): value for key, value in tensors.items() if key.startswith(kind)}


def _finished(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch_*.json"))


def _shape(facts: dict) -> Shape:
    nested = {"encoder": EncoderConfig(**facts["encoder"]), "decoder": DecoderConfig(**facts["decoder"])}
    return Shape(**{**facts, **nested})
