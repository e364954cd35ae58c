"""The checkpoint of a run of the subspace engine: maps of both half sets, and at the end its chart.

``checkpoints/states.safetensors`` is written after each pass over the images, and replaced as a whole.
"""

from dataclasses import dataclass

import torch

from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.recipes.tensor_file import TensorFile
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.subspace.chart import Chart
from cryoatlas.subspace.known_poses import HalfSets
from cryoatlas.subspace.model import Subspace
from cryoatlas.subspace.states import StateModel


@dataclass(frozen=True)
class KeptStates(TensorFile):
    """What a run goes on from, and what its volumes are made with."""

    NAME = "states.safetensors"

    half_1: Float[Tensor, "map side side side"]
    half_2: Float[Tensor, "map side side side"]
    whole: Float[Tensor, "map side side side"]
    grid: Float[Tensor, ""]
    """Pixel size of these maps, Å; float64."""
    consensus: Float[Tensor, "box box box"]
    noise: Float[Tensor, "shell"]
    """σ² by shell."""
    signal: Float[Tensor, "shell"]
    """Variance of the mean map's coefficients by shell."""
    known: Float[Tensor, ""]
    """Radius up to which the consensus' half maps agree, cycles per box."""
    epoch: Int[Tensor, ""]
    """Passes done."""
    coefficients: Float[Tensor, "feature component"]
    bumps: Float[Tensor, "bump latent"]
    width: Float[Tensor, ""]
    spread: Float[Tensor, "component component"]
    """Of the chart; the last four are principal axes until it is fitted."""
    band: Float[Tensor, ""]
    bandwidth: Float[Tensor, ""]
    """Of the kernel; 0 until it is chosen."""

    @property
    def maps(self) -> HalfSets:
        """The maps as they are used."""
        first, second, whole = (
            Subspace(each, float(self.grid)) for each in (self.half_1, self.half_2, self.whole)
        )
        return HalfSets((first, second), whole)

    @property
    def chart(self) -> Chart:
        """Where z lies among the components."""
        return Chart(self.coefficients, self.bumps, float(self.width), self.spread)

    @property
    def model(self) -> StateModel:
        """What volumes are made with, once the run is finished."""
        return StateModel(self.maps, self.consensus, self.chart, float(self.band), float(self.bandwidth))

    @property
    def finished(self) -> bool:
        """Whether chart and kernel were found."""
        return float(self.bandwidth) > 0

    @property
    def noise_model(self) -> NoiseModel:
        """σ² by shell."""
        return NoiseModel(self.noise)


def of_maps(maps: HalfSets) -> dict[str, Tensor]:
    """The fields of `KeptStates` that hold maps."""
    first, second = maps.halves
    grid = torch.tensor(maps.whole.pixel_size, dtype=torch.float64)
    return {"half_1": first.maps, "half_2": second.maps, "whole": maps.whole.maps, "grid": grid}


def of_chart(chart: Chart) -> dict[str, Tensor]:
    """The fields of `KeptStates` that hold a chart."""
    width = torch.tensor(chart.width, dtype=torch.float64)
    return {
        "coefficients": chart.coefficients,
        "bumps": chart.bumps,
        "width": width,
        "spread": chart.spread,
    }
