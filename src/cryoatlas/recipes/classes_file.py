"""The checkpoint of a classification: the maps of its classes and the poses of the images.

``checkpoints/classes.safetensors`` is written after each pass over the images.
"""

from dataclasses import dataclass

import torch

from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.recipes.tensor_file import TensorFile
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.subspace.classes import ClassMaps, Mixture
from cryoatlas.subspace.model import Subspace


@dataclass(frozen=True)
class KeptClasses(TensorFile):
    """What a classification goes on from."""

    NAME = "classes.safetensors"

    whole: Float[Tensor, "class side side side"]
    halves: Float[Tensor, "class half side side side"]
    without: Float[Tensor, "class fold side side side"]
    fsc: Float[Tensor, "class shell"]
    """Fields of `ClassMaps`."""
    grid: Float[Tensor, ""]
    """Pixel size of these maps, Å; float64."""
    prior: Float[Tensor, "class"]
    noise: Float[Tensor, "image_shell"]
    """σ² by shell of the images."""
    known: Float[Tensor, ""]
    """Radius up to which half maps agree, cycles per box."""
    epoch: Int[Tensor, ""]
    """Passes done."""
    rotation: Float[Tensor, "every_particle 3 3"]
    shift: Float[Tensor, "every_particle 2"]
    """Å; poses in the frame of each particle's most probable class."""

    @property
    def mixture(self) -> Mixture:
        """The maps as they are used."""

        def one(map_: Tensor) -> Subspace:
            return Subspace(map_[None], float(self.grid))

        classes = [
            ClassMaps(one(whole), (one(halves[0]), one(halves[1])), tuple(one(each) for each in without), fsc)
            for whole, halves, without, fsc in zip(
                self.whole, self.halves, self.without, self.fsc, strict=True
            )
        ]
        return Mixture(tuple(classes), self.prior)

    @property
    def noise_model(self) -> NoiseModel:
        """σ² by shell."""
        return NoiseModel(self.noise)


def of_mixture(mixture: Mixture) -> dict[str, Tensor]:
    """The fields of `KeptClasses` that a mixture is."""
    classes = mixture.classes

    def stacked(maps: tuple[Subspace, ...]) -> Tensor:
        return torch.stack([each.maps[0] for each in maps])

    return {
        "whole": stacked(tuple(each.whole for each in classes)),
        "halves": torch.stack([stacked(each.halves) for each in classes]),
        "without": torch.stack([stacked(each.without) for each in classes]),
        "fsc": torch.stack([each.fsc for each in classes]),
        "grid": torch.tensor(classes[0].whole.pixel_size, dtype=torch.float64),
        "prior": mixture.prior,
    }
