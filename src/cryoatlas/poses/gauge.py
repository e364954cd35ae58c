r"""The rigid drift of V(z) with z, which no image shows, found and taken out.

Where poses are sought together with V(z), the volume may turn and move with z while the poses turn against
it. A frame is needed that does not depend on z. Here it is the one in which *most of the density stands
still*: a motion g(z): x ↦ A(z) x + b(z) is sought such that the maps of g(z)·V(z) differ from their median
in as few voxels as can be. Least squares will not do: an arm that swings pulls the whole body along.
Residuals are therefore weighted by 1/(r² + ε), in which a voxel that the arm has left or entered counts for
next to nothing, and ε is lowered in two stages.

A body of 60 Gaussians (12 of them an arm that swings through 90°), 12 states, frequencies below 8 cycles
per box, noise in the maps: the root mean square, over states, of what still keeps the core from standing
still is

==========================================  ==============  ======================
criterion                                   no drift        drift 9.6° and 3.8 Å
==========================================  ==============  ======================
least squares to the mean                   8.8°, 0.9 Å     12.6°, 0.9 Å
weights by voxel, 1/(variance over z + ε)   2.1°, 0.2 Å     2.2°, 0.2 Å
weights by residual to the median           0.6°, 0.06 Å    0.5°, 0.06 Å
==========================================  ==============  ======================

(the first row is of 16 states without noise). With 24 of the 60 in the arm the last row is 1.0° and 2.3°:
the larger the moving part, the more it pulls. Where more moves than stands still, the frame is that of what
moves. The pull falls with finer detail, since arm and core share fewer voxels: for another such body
without noise, 16 states and the same drift it is 0.4° at a band of 8 cycles per box, 0.1° at 10 and at 12,
but 1.7° for 9 states at 7. It is the same with the drift as without.
"""

import math
from dataclasses import dataclass

import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.transform import VOLUME_AXES, fourier_from_hartley, inverse_fourier
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.volume import Volume
from cryoatlas.shapes import Complex, Float, Tensor

STATES = 16
"""Latents at which the drift is measured: the centres of as many groups of images."""
BAND = 10.0
"""Frequencies below this, in cycles per box, are compared; see above for what less costs."""
STAGES = ((1e-2, 10), (1e-3, 12))
"""ε, as a part of the squared maximum of the median map, and the number of Gauss–Newton steps with it."""
SMALL_TURN = 0.25
"""Turn for the numerical derivative, in units of the angle that moves the band's edge by one coefficient."""
DAMPING = 1e-3
"""Of the diagonal of the normal equations."""
WIDTHS = (0.5, 1.0, 2.0, 4.0)
"""Widths of the kernel that are tried, in units of the root mean square distance of states."""
RIDGES = (1e-6, 1e-4, 1e-2, 1e-1)
IMAGES = 20_000
"""At most this many different latents are divided into groups."""


@dataclass(frozen=True)
class Drift:
    """The motion g(z): x ↦ A(z) x + b(z) that takes the drift out: Gaussian kernels around states."""

    states: Float[Tensor, "state latent"]
    coefficients: Float[Tensor, "state 6"]
    """Weight of each kernel in (ω, b), radians and Å; A = exp([ω])."""
    width: float
    """Of the kernels, in units of z."""
    rms_deg: float = 0.0
    """Root mean square over images of the angle of A."""
    rms_offset: float = 0.0
    """Root mean square over images of the length of b, Å."""

    @classmethod
    def none(cls, latent_size: int = 0) -> "Drift":
        """No drift at any z."""
        return cls(
            torch.zeros(0, latent_size, dtype=torch.float64), torch.zeros(0, 6, dtype=torch.float64), 1.0
        )

    def at(
        self, z: Float[Tensor, "image latent"]
    ) -> tuple[Float[Tensor, "image 3 3"], Float[Tensor, "image 3"]]:
        """A and b (Å) at any z, float64."""
        import roma

        states = self.states.to(z.device)
        motion = _kernel(z.double(), states, self.width) @ self.coefficients.to(z.device)
        return roma.rotvec_to_rotmat(motion[:, :3]), motion[:, 3:]

    def apply(self, pose: Pose, z: Float[Tensor, "image latent"]) -> Pose:
        """The poses that show g(z)·V(z) as `pose` shows V(z)."""
        return pose.to(torch.float64).of_moved_body(*self.at(z))


@dataclass(frozen=True)
class SteadyVolume:
    """g(z)·V(z), a `Volume` without the drift: its transform is exp(−2πi k·b) V̂(Aᵀk)."""

    volume: Volume
    drift: Drift

    @property
    def box_size(self) -> int:
        """Of the volume that drifts."""
        return self.volume.box_size

    @property
    def pixel_size(self) -> float:
        """Of the volume that drifts, Å."""
        return self.volume.pixel_size

    @property
    def latent_size(self) -> int:
        """Of the volume that drifts."""
        return self.volume.latent_size

    def hartley_pair(
        self, freqs: Float[Tensor, "image pixel 3"], z: Float[Tensor, "image latent"] | None
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"]]:
        """H(k) and H(−k)."""
        if z is None:
            return self.volume.hartley_pair(freqs, z)
        rotation, offset = (part.to(freqs) for part in self.drift.at(z))
        forward, backward = self.volume.hartley_pair(freqs @ rotation, z)
        phase = 2 * math.pi * (freqs @ offset[:, :, None]).squeeze(-1)
        c, s = torch.cos(phase), torch.sin(phase)
        return c * forward + s * backward, c * backward - s * forward

    def hartley(
        self, freqs: Float[Tensor, "image pixel 3"], z: Float[Tensor, "image latent"] | None
    ) -> Float[Tensor, "image pixel"]:
        """H(k)."""
        return self.hartley_pair(freqs, z)[0]


@torch.no_grad()
def remove_drift(
    volume: Volume,
    z: Float[Tensor, "image latent"],
    pose: Pose,
    *,
    states: int = STATES,
    band: float = BAND,
    seed: int = 0,
) -> tuple[Pose, Drift]:
    """Find the rigid drift of V(z), and the poses in the frame that is free of it.

    `SteadyVolume(volume, drift)` at the new poses predicts the images that `volume` does at the old ones.
    On average over images the frame stays what it was. Without z nothing drifts, and poses stay as they are.

    Args:
        z: of each image, in the dtype and on the device that the volume is evaluated in.
        states: number of latents at which the drift is measured.
        band: radius in cycles per box of the frequencies compared.
        seed: of the grouping of latents.
    """
    if volume.latent_size == 0 or len(torch.unique(z, dim=0)) < 2:
        return pose, Drift.none(z.shape[1])
    centres, share = _representatives(z, states, seed)
    motion = find_motions(volume, centres.to(z), share, band)
    drift = _interpolated(centres.to(motion), motion)
    rotation, offset = drift.at(z)
    rms_deg = math.degrees(float(_angle(rotation).square().mean().sqrt()))
    rms_offset = float(offset.square().sum(-1).mean().sqrt())
    drift = Drift(drift.states, drift.coefficients, drift.width, rms_deg, rms_offset)
    return drift.apply(pose, z), drift


def find_motions(
    volume: Volume,
    states: Float[Tensor, "state latent"],
    share: Float[Tensor, "state"],
    band: float = BAND,
) -> Float[Tensor, "state 6"]:
    """(ω, b) for each state, radians and Å, with which most of the density stands still; mean zero.

    Args:
        states: latents, in the dtype and on the device that the volume is evaluated in.
        share: of the images, that each state stands for; they sum to 1.
    """
    import roma

    ball = _Ball.of(volume, min(band, volume.box_size / 2), states)
    rotation = torch.eye(3, dtype=torch.float64, device=states.device).repeat(len(states), 1, 1)
    offset = torch.zeros(len(states), 3, dtype=torch.float64, device=states.device)
    for epsilon, steps in STAGES:
        for _ in range(steps):
            step = _step(ball, volume, states, share, rotation, offset, epsilon)
            turn = roma.rotvec_to_rotmat(step[:, :3])
            rotation, offset = turn @ rotation, _turned(turn, offset) + step[:, 3:]
            # All states moved alike is no drift: the mean motion is taken out again.
            total = torch.einsum("s,sij->ij", share, rotation)
            mean = torch.as_tensor(roma.special_procrustes(total))
            offset = (offset - share @ offset) @ mean
            rotation = mean.mT @ rotation
    return torch.cat([roma.rotmat_to_rotvec(rotation), offset], 1)


@dataclass(frozen=True)
class _Ball:
    """Half of the low frequencies of a box, and the small grid that shows them in real space."""

    freqs: Float[Tensor, "half 3"]
    """Å⁻¹, float64; the last is 0."""
    places: Tensor
    """Of the whole ball in the flattened grid, in raster order."""
    side: int
    radius: float

    @classmethod
    def of(cls, volume: Volume, radius: float, like: Tensor) -> "_Ball":
        side = 2 * math.ceil(radius) + 2
        grid = frequency_grid(side, 3).flatten(0, 2)
        places = (grid.square().sum(-1) < radius**2).nonzero().squeeze(-1)
        freqs = grid[places[: len(places) // 2 + 1]] / (volume.box_size * volume.pixel_size)
        return cls(freqs.to(like.device), places.to(like.device), side, radius)

    def spectra(
        self,
        volume: Volume,
        z: Float[Tensor, "state latent"],
        rotation: Float[Tensor, "state 3 3"],
        offset: Float[Tensor, "state 3"],
    ) -> Complex[Tensor, "state half"]:
        """The transform of each state's V(z) after the motion x ↦ A x + b."""
        freqs = (self.freqs @ rotation).to(z)
        spectrum = fourier_from_hartley(*volume.hartley_pair(freqs, z)).to(torch.complex128)
        return spectrum * torch.exp(-2j * math.pi * (offset @ self.freqs.T))

    def maps(self, spectra: Complex[Tensor, "*batch half"]) -> Float[Tensor, "*batch voxel"]:
        """In real space."""
        full = spectra.new_zeros(*spectra.shape[:-1], self.side**3)
        half = self.freqs.shape[0]
        full[..., self.places[:half]] = spectra
        full[..., self.places.flip(0)[:half]] = spectra.conj()
        grid = full.unflatten(-1, (self.side, self.side, self.side))
        return inverse_fourier(grid, VOLUME_AXES).real.flatten(-3)


def _step(
    ball: _Ball,
    volume: Volume,
    z: Float[Tensor, "state latent"],
    share: Float[Tensor, "state"],
    rotation: Float[Tensor, "state 3 3"],
    offset: Float[Tensor, "state 3"],
    epsilon: float,
) -> Float[Tensor, "state 6"]:
    """The weighted Gauss–Newton step (ω, b) of each state towards the median map."""
    spectra = ball.spectra(volume, z, rotation, offset)
    maps = ball.maps(spectra)
    median = _weighted_median(maps, share)
    residual = median - maps
    weight = 1 / (residual.square() + epsilon * median.square().max())
    columns = [ball.maps(column) for column in _derivatives(ball, volume, z, rotation, offset, spectra)]
    jacobian = torch.stack(columns, 1)
    weighted = jacobian * weight[:, None]
    normal = weighted @ jacobian.mT
    gradient = (weighted @ residual[..., None]).squeeze(-1)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    # A direction in which nothing changes, as a turn of a ball, gets no step and not a division by 0.
    floor = 1e-12 * diagonal.amax(1, keepdim=True) + 1e-300
    return torch.linalg.solve(normal + torch.diag_embed(DAMPING * diagonal + floor), gradient)


def _derivatives(
    ball: _Ball,
    volume: Volume,
    z: Float[Tensor, "state latent"],
    rotation: Float[Tensor, "state 3 3"],
    offset: Float[Tensor, "state 3"],
    spectra: Complex[Tensor, "state half"],
) -> list[Complex[Tensor, "state half"]]:
    """By a further turn about x, y, z (numerical) and a further move along them (a factor)."""
    import roma

    small = SMALL_TURN / ball.radius
    columns = []
    for axis in torch.eye(3, dtype=torch.float64, device=rotation.device):
        either = [roma.rotvec_to_rotmat(sign * small * axis) for sign in (1, -1)]
        ahead, behind = (ball.spectra(volume, z, turn @ rotation, offset @ turn.mT) for turn in either)
        columns.append((ahead - behind) / (2 * small))
    return columns + [-2j * math.pi * k * spectra for k in ball.freqs.T]


def _weighted_median(
    maps: Float[Tensor, "state voxel"], share: Float[Tensor, "state"]
) -> Float[Tensor, "voxel"]:
    """Of each voxel: the value at which half of the images are passed."""
    ordered, order = maps.sort(0)
    passed = share[order].cumsum(0) >= 0.5 - 1e-9
    return ordered.gather(0, passed.int().argmax(0, keepdim=True)).squeeze(0)


def _representatives(
    z: Float[Tensor, "image latent"], count: int, seed: int
) -> tuple[Float[Tensor, "state latent"], Float[Tensor, "state"]]:
    """Latents of the images nearest to the centres of groups, and the share of images in each group.

    Different latents are sorted first, so that the order of images does not matter.
    """
    from sklearn.cluster import KMeans

    distinct, images = torch.unique(z.double().cpu(), dim=0, return_counts=True)
    chosen = torch.arange(min(IMAGES, len(distinct))) * len(distinct) // min(IMAGES, len(distinct))
    points, images = distinct[chosen], images[chosen].double()
    # The stub of scikit-learn knows n_init only by its default, the word "auto".
    model = KMeans(min(count, len(points)), n_init=4, random_state=seed)  # pyright: ignore[reportArgumentType]
    labels = torch.from_numpy(model.fit_predict(points.numpy(), sample_weight=images.numpy())).long()
    nearest = torch.cdist(torch.from_numpy(model.cluster_centers_), points).argmin(1)
    share = torch.zeros(len(nearest), dtype=torch.float64).index_add_(0, labels, images)
    return points[nearest], (share / share.sum()).to(z.device)


def _interpolated(states: Float[Tensor, "state latent"], motion: Float[Tensor, "state 6"]) -> Drift:
    """Kernel ridge regression; width and ridge are those with the least error at states left out."""
    spread = float((states - states.mean(0)).square().sum(-1).mean().sqrt()) * math.sqrt(2)
    scale = motion.square().mean(0).clamp(min=1e-24)
    best, chosen = math.inf, Drift.none(states.shape[1])
    for width in WIDTHS:
        kernel = _kernel(states, states, width * spread)
        for ridge in RIDGES:
            inverse = torch.linalg.inv(kernel + ridge * torch.eye(len(states)).to(kernel))
            coefficients = inverse @ motion
            # What the fit to all other states misses at each state, in closed form.
            missed = coefficients / inverse.diagonal()[:, None]
            error = float((missed.square() / scale).mean())
            if error < best:
                best, chosen = error, Drift(states, coefficients, width * spread)
    return chosen


def _kernel(
    first: Float[Tensor, "image latent"], second: Float[Tensor, "state latent"], width: float
) -> Float[Tensor, "image state"]:
    return torch.exp(-torch.cdist(first, second).square() / (2 * width**2))


def _turned(turn: Float[Tensor, "state 3 3"], offset: Float[Tensor, "state 3"]) -> Float[Tensor, "state 3"]:
    return (turn @ offset[..., None]).squeeze(-1)


def _angle(rotation: Float[Tensor, "image 3 3"]) -> Float[Tensor, "image"]:
    import roma

    return torch.linalg.vector_norm(roma.rotmat_to_rotvec(rotation), dim=-1)
