r"""The rigid drift of V(z) with z, which no image shows, found and taken out.

Where poses are sought together with V(z), the volume may turn and move with z while the poses turn against
it. A frame is needed that does not depend on z. Here it is the one in which *most of the density stands
still*: a motion g(z): x ↦ A(z) x + b(z) is sought such that the maps of g(z)·V(z) differ from their median
in as few voxels as can be, by the robust registration of `poses.registration`, whose ε is lowered in two
stages.

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

from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.volume import Volume
from cryoatlas.poses.registration import Ball, Motion, step_towards
from cryoatlas.shapes import Float, Tensor

STATES = 16
"""Latents at which the drift is measured: the centres of as many groups of images."""
BAND = 10.0
"""Frequencies below this, in cycles per box, are compared; see above for what less costs."""
STAGES = ((1e-2, 10), (1e-3, 12))
"""ε, as a part of the squared maximum of the median map, and the number of Gauss–Newton steps with it."""
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
    symmetry: Float[Tensor, "element 3 3"] | None = None,
) -> tuple[Pose, Drift]:
    """Find the rigid drift of V(z), and the poses in the frame that is free of it.

    `SteadyVolume(volume, drift)` at the new poses predicts the images that `volume` does at the old ones.
    On average over images the frame stays what it was. Without z nothing drifts, and poses stay as they are.

    Args:
        z: of each image, in the dtype and on the device that the volume is evaluated in.
        states: number of latents at which the drift is measured.
        band: radius in cycles per box of the frequencies compared.
        seed: of the grouping of latents.
        symmetry: of the molecule; only motions that leave its axes where they are count as drift.
    """
    if volume.latent_size == 0 or len(torch.unique(z, dim=0)) < 2:
        return pose, Drift.none(z.shape[1])
    centres, share = representatives(z, states, seed)
    motion = find_motions(volume, centres.to(z), share, band)
    if symmetry is not None:
        # The mean over a group projects on what all its rotations leave alone: nothing, or the axis of Cn.
        axis = symmetry.to(motion).mean(0)
        motion = torch.cat([motion[:, :3] @ axis, motion[:, 3:] @ axis], 1)
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

    ball = Ball.of(volume, band, states)
    motion = Motion.none(len(states), states.device)
    for epsilon, steps in STAGES:
        for _ in range(steps):
            maps = ball.maps(ball.spectra(volume, states, motion.rotation, motion.offset))
            median = _weighted_median(maps, share)[None]
            motion = motion.then(step_towards(ball, volume, states, motion, median, epsilon))
            # All states moved alike is no drift: the mean motion is taken out again.
            total = torch.einsum("s,sij->ij", share, motion.rotation)
            mean = torch.as_tensor(roma.special_procrustes(total))
            motion = Motion(mean.mT @ motion.rotation, (motion.offset - share @ motion.offset) @ mean)
    return torch.cat([roma.rotmat_to_rotvec(motion.rotation), motion.offset], 1)


def _weighted_median(
    maps: Float[Tensor, "state voxel"], share: Float[Tensor, "state"]
) -> Float[Tensor, "voxel"]:
    """Of each voxel: the value at which half of the images are passed."""
    ordered, order = maps.sort(0)
    passed = share[order].cumsum(0) >= 0.5 - 1e-9
    return ordered.gather(0, passed.int().argmax(0, keepdim=True)).squeeze(0)


def representatives(
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


def _angle(rotation: Float[Tensor, "image 3 3"]) -> Float[Tensor, "image"]:
    import roma

    return torch.linalg.vector_norm(roma.rotmat_to_rotvec(rotation), dim=-1)
