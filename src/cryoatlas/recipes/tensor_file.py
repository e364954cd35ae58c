"""Named tensors of a run in one file, which is replaced as a whole."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from cryoatlas.errors import FormatError
from cryoatlas.io.output import atomic_path

# typing.Self is not understood by the run-time checks of shapes.
Kind = TypeVar("Kind", bound="TensorFile")


@dataclass(frozen=True)
class TensorFile:
    """Base of dataclasses whose fields are tensors, kept in ``<folder>/NAME``."""

    NAME: ClassVar[str]

    def to(self: Kind, device: torch.device) -> Kind:
        """On another device."""
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def save(self, folder: Path) -> None:
        """Write the file."""
        folder.mkdir(exist_ok=True)
        tensors = {field.name: getattr(self, field.name).cpu().contiguous() for field in fields(self)}
        with atomic_path(folder / self.NAME) as temporary:
            temporary.write_bytes(to_bytes(tensors))

    @classmethod
    def load(cls: type[Kind], folder: Path) -> Kind | None:
        """What a folder keeps; None if it has no such file yet.

        Raises:
            FormatError: it is damaged.
        """
        path = folder / cls.NAME
        if not path.exists():
            return None
        try:
            return cls(**load_file(path))
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise FormatError(
                f"the checkpoint {path} cannot be read ({type(error).__name__}: {error}). Start the run "
                "again with --overwrite."
            ) from error
