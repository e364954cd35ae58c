"""What does it cost to search each image against a volume of its own, and what does a stand-in save?

A body whose arm turns (40 Gaussians on the built-in body), images at SNR 0.1 with CTFs, each with its own
angle z. Searched against: one map for all; the exact volume of each image; sums of K of the images' maps
that stand in for it (`models.basis`); and a network of the default size with untrained weights, a few
images only, for what an exact decoder costs. Asked "of the model" are the volume's own evaluations, which
a network pays in full; cryoDRGN 4.3.1 `abinit` makes 0.59 million for each image. The safe bound has to
be measured for each image's volume; the printed one (slack 0) costs nothing and is none.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.search_own_z [--box 32 64] [--images 64]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from benchmarks.common import Row, record

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import geodesic_angle, random_rotations
from cryoatlas.imaging.body import Body, Bond, MovingBody
from cryoatlas.imaging.ctf import CTFParameters, contrast_transfer
from cryoatlas.imaging.default_body import default_body
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.projection import plane_frequencies, predict
from cryoatlas.imaging.volume import Volume, voxels
from cryoatlas.models.basis import interpolate_volumes
from cryoatlas.models.config import DecoderConfig
from cryoatlas.models.decoder import Decoder
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.poses.branch_and_bound import Found
from cryoatlas.poses.config import SearchConfig
from cryoatlas.poses.find import find_poses
from cryoatlas.poses.view import View

SNR, SWING, SIDE = 0.1, 0.6, 192.0
"""Signal over noise variance; largest angle of the arm, radians; side of the box, Å."""


class Counting:
    """A volume, and at how many frequencies it was asked."""

    def __init__(self, volume: Volume) -> None:
        self.volume, self.asked = volume, 0
        self.box_size, self.pixel_size = volume.box_size, volume.pixel_size
        self.latent_size = volume.latent_size

    def hartley_pair(self, freqs: torch.Tensor, z: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += freqs.shape[1] * max(len(freqs), 1 if z is None else len(z))
        return self.volume.hartley_pair(freqs, z)

    def hartley(self, freqs: torch.Tensor, z: torch.Tensor | None) -> torch.Tensor:
        return self.hartley_pair(freqs, z)[0]


def moving_arm(box: int) -> MovingBody:
    """Every 25th residue of the built-in body, the first arm of which turns."""
    body = default_body()
    some, bond = slice(None, None, 25), body.bonds[0]
    bond = Bond(bond.hinge.float(), bond.axis.float(), bond.moves[some])
    return MovingBody(
        Body(body.centres[some].float(), body.weights[some].float(), (bond,)), 5.0, box, SIDE / box
    )


def noisy_view(volume: MovingBody, z: torch.Tensor, seed: int) -> tuple[View, Pose]:
    """Images at random poses, shifted by up to 4 % of the box, and those poses."""
    count, rng = len(z), np.random.default_rng(seed)
    largest = 0.04 * SIDE
    pose = Pose(random_rotations(count, rng), torch.from_numpy(rng.uniform(-largest, largest, (count, 2))))
    defocus = torch.from_numpy(rng.uniform(8000, 20000, count))
    parameters = CTFParameters.build(
        count,
        defocus_u=defocus,
        defocus_v=defocus,
        defocus_angle=0.0,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
    )
    plane = plane_frequencies(Disc(volume.box_size), torch.full((1,), volume.pixel_size))
    ctf = contrast_transfer(plane.double(), parameters).float()
    images = predict(volume, plane, pose.to(torch.float32), ctf, z)
    variance = float(images.var()) / SNR
    images = images + variance**0.5 * torch.from_numpy(rng.standard_normal(images.shape)).float()
    noise = NoiseModel.white(variance, volume.box_size)
    return View.of(images, ctf, Disc(volume.box_size), noise, volume.pixel_size), pose


def timed(work: Callable[[], Found]) -> tuple[Found, float]:
    """What it gives, and CPU milliseconds for each image."""
    started = time.process_time()
    found = work()
    return found, 1e3 * (time.process_time() - started) / len(found.pose)


def degrees(first: Pose, second: Pose) -> float:
    """Median angle."""
    return float(torch.rad2deg(geodesic_angle(first.rotation, second.rotation)).median())


@torch.no_grad()
def measure(box: int, images: int, few: int, seed: int) -> list[Row]:
    """All ways at one box size."""
    arm = moving_arm(box)
    rng = np.random.default_rng(seed)
    z = torch.from_numpy(rng.uniform(-SWING, SWING, (images, 1))).float()
    view, true = noisy_view(arm, z, seed)
    config = SearchConfig(shift_extent_px=5 * box / 64)
    turn = random_rotations(1, rng)[0]
    exact = Counting(arm)
    best, best_ms = timed(lambda: find_poses(exact, [view], config, z=z, turn=turn))

    def row(name: str, found: Found, ms: float, **facts: float | int | None) -> Row:
        effort = found.effort()
        common: dict = {"search against": name, "box": box, "images": len(found.pose), "search CPU ms": ms}
        common |= {"making CPU ms": None, "asked of the model": None, "stand-in error": None} | facts
        of = Pose(true.rotation[: len(found.pose)], true.shift[: len(found.pose)])
        known = name != "network"
        return common | {
            "asked of what is searched": effort.evaluations,
            "deg from the truth": degrees(found.pose, of) if known else None,
            "deg from exact": degrees(found.pose, best.pose) if known else None,
            "bound lets through": effort.let_through,
            "cap decides": effort.capped,
        }

    middle = VoxelVolume.from_map(voxels(arm, torch.zeros(1)), arm.pixel_size)
    found, ms = timed(lambda: find_poses(middle, [view], config, turn=turn))
    rows = [row("one map for all", found, ms)]
    for most in (1, 4, 8):
        asked, started = Counting(arm), time.process_time()
        ours = interpolate_volumes(asked, z, band=box / 2, tolerance=0.0, most=most)
        making = 1e3 * (time.process_time() - started) / images
        found, ms = timed(lambda ours=ours: find_poses(ours.volume, [view], config, z=ours.z, turn=turn))
        facts = {"making CPU ms": making, "asked of the model": asked.asked / images}
        facts["stand-in error"] = float(ours.error.mean())
        rows.append(row(f"sum of {most}", found, ms, **facts))
    printed = replace(config, slack=0.0)
    found, ms = timed(lambda: find_poses(ours.volume, [view], printed, z=ours.z, turn=turn))
    rows.append(row("sum of 8, printed bound", found, ms, **facts))
    rows.append(row("exact, closed form", best, best_ms, **{"asked of the model": exact.asked / images}))
    torch.manual_seed(seed)
    network = Counting(Decoder(DecoderConfig(consensus=False), box, arm.pixel_size, 1))
    found, ms = timed(lambda: find_poses(network, [view[:few]], config, z=z[:few], turn=turn))
    rows.append(row("network", found, ms, **{"asked of the model": network.asked / few}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--box", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--few", type=int, default=2, help="images searched against the network")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = [row for box in options.box for row in measure(box, options.images, options.few, options.seed)]
    facts = {"snr": SNR, "swing_rad": SWING, "seed": options.seed, "cryodrgn 4.3.1 abinit asks": 0.59e6}
    record("speed/search_own_z", rows, **facts)


if __name__ == "__main__":
    main()
