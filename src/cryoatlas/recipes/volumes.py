"""What gives a run's volumes: its networks, its images by kernel regression, or the maps of its classes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.models.vae import VAE
from cryoatlas.particles.batch import Loader
from cryoatlas.particles.order import storage_order
from cryoatlas.progress import Progress, silent
from cryoatlas.recipes.one_grid import views_on_grid
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.subspace.states import State, StateModel, StateSums, kernel_weights


@runtime_checkable
class Volumes(Protocol):
    """Gives volumes V(z), normalised as the images that the run learned from are."""

    def maps(self, z: Float[Tensor, "volume latent"]) -> Iterator[Float[Tensor, "box box box"]]:
        """V(z) of each z, in order."""
        ...


@dataclass(frozen=True)
class NetworkVolumes:
    """Decoded one by one."""

    vae: VAE

    def maps(self, z: Float[Tensor, "volume latent"]) -> Iterator[Float[Tensor, "box box box"]]:
        """V(z) of each z; rows without columns give the only volume of a run that has one."""
        for row in z:
            with torch.no_grad():
                decoded = self.vae.decoder.map(row if z.shape[1] else None)
            yield decoded


@dataclass(frozen=True)
class LinearVolumes:
    """Sums of the mean and the components alone, which need no images."""

    model: StateModel

    def maps(self, z: Float[Tensor, "volume latent"]) -> Iterator[Float[Tensor, "box box box"]]:
        """μ + W y(z) of each z."""
        for row in z:
            yield self.model.linear(row)


@dataclass(frozen=True)
class ClassVolumes:
    """One of a few maps."""

    classes: Float[Tensor, "class box box box"]

    def maps(self, z: Float[Tensor, "volume latent"]) -> Iterator[Float[Tensor, "box box box"]]:
        """The map of the class that z holds most probable; rows without columns give the only one."""
        for row in z:
            yield self.classes[int(row.argmax()) if len(row) else 0]


@dataclass(frozen=True)
class Latents:
    """What is known of the z of every particle."""

    mean: Float[Tensor, "every_particle latent"]
    covariance: Float[Tensor, "every_particle latent latent"]
    components: Float[Tensor, "every_particle component"]
    """Weights of the components."""


@dataclass(frozen=True)
class KernelVolumes:
    """States by kernel regression, many in each pass over the images."""

    model: StateModel
    noise: NoiseModel
    latents: Latents
    loader: Callable[[], Loader]
    """Opens the images with their poses, when they are first needed."""

    def maps(self, z: Float[Tensor, "volume latent"]) -> Iterator[Float[Tensor, "box box box"]]:
        """V(z) of each z."""
        for state in self.states(z):
            yield state.map

    def states(self, z: Float[Tensor, "volume latent"], progress: Progress = silent) -> Iterator[State]:
        """The same with half maps and FSC; as many z as there is memory for share a pass."""
        loader = self.loader()
        for some in z.split(StateSums.at_once(self.model.maps.whole.box_size)):
            sums = state_sums(loader, self.model, self.noise, self.latents, some, progress=progress)
            for number, row in enumerate(some):
                yield self.model.state(row, sums, number)


@torch.no_grad()
def state_sums(
    loader: Loader,
    model: StateModel,
    noise: NoiseModel,
    latents: Latents,
    targets: Float[Tensor, "state latent"],
    *,
    bandwidths: tuple[float, ...] | None = None,
    progress: Progress = silent,
) -> StateSums:
    """One pass over the images for all states.

    Args:
        bandwidths: the kernels of each state, one after the other; default the model's alone.
    """
    widths = (model.bandwidth,) if bandwidths is None else bandwidths
    sums, done = StateSums(model.maps, len(targets) * len(widths), model.band), 0
    halves, count = loader.particles.half_sets(), len(loader.particles)
    targets = targets.to(loader.device)
    for batch in loader.batches(storage_order(loader.particles)):
        index = batch.particles.cpu()
        mean, covariance, components = (
            each[index].to(loader.device) for each in (latents.mean, latents.covariance, latents.components)
        )
        weights = [kernel_weights(targets, mean, covariance, width) for width in widths]
        pose = posed(loader, index)
        views = views_on_grid(batch, loader, noise, model.band)
        sums.add(
            views, pose, halves[index].to(loader.device), components, torch.stack(weights, 1).flatten(0, 1)
        )
        done += len(index)
        progress(done, count, "states")
    return sums


def posed(loader: Loader, index: Int[Tensor, "image"]) -> Pose:
    """The poses that some particles have in their file."""
    pose = loader.particles.require_pose()
    return pose[index].to(loader.device, torch.float32)
