"""Do the poses and CTF of a real tilt series give a map, and what does chance give?

Six ribosomes in a cell, 39 images of 64² of each (24 of the last), poses and CTF from M (cryoDRGN's test
data). Half sets are split by particle: two halves of the images of the same particles would agree about
its neighbours in the cell too. For the same reason the FSC is taken inside a soft ball about the particle;
and as any two round things agree, the half maps are relieved of their spherical averages before. Beside
it stand two controls: every particle turned as a whole at random, so that the images of a particle still
fit each other, and every image turned at random. Reach: above all 100 random turns of the particles.

The star file gives 1.96 Å per pixel, at which a ribosome would be 33 Å wide; the file ctf.pkl beside it
says that images of 512 px had 1.82 Å, so those of 64 px have 14.56 Å. That is what is used here.

    python -m benchmarks.accuracy.tilt_stack [--controls 100]

Data: ../shared/data beside the checkout; without it the script says so and ends.
"""

import argparse
import sys
from dataclasses import replace

import numpy as np
import torch
from benchmarks.common import RESULTS, ROOT, Row, record

from cryoatlas.analysis.fsc import fourier_shell_correlation
from cryoatlas.fourier.mask import soft_ball
from cryoatlas.fourier.shells import shell_grid, shell_mean
from cryoatlas.fourier.transform import hartley_volume, inverse_hartley_volume
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import geodesic_angle, random_rotations
from cryoatlas.io.cryodrgn import read_ctf_table
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.sources import read_ctf, read_poses
from cryoatlas.recipes.backprojection import Reconstruction, backproject_particles
from cryoatlas.shapes import Array, Float, Tensor

DATA = ROOT.parent / "shared" / "data" / "stacks" / "cryodrgn_tests"
STAR, POSES, CTF = (DATA / name for name in ("sta_testing_bin8.star", "sta_pose.pkl", "sta_ctf.pkl"))
FIGURE = RESULTS / "accuracy" / "tilt_stack.png"
BALL_PX, EDGE_PX = 8.0, 4.0
"""116 Å, about the radius of a ribosome, and the width of the edge beyond."""
SHELLS = range(2, 12)
BAND = slice(2, 10)
"""Shells of which a mean is taken: 466 Å to 104 Å."""


def stated_pixel_size(box_size: int) -> float:
    """Å per pixel of images of this box, by the first row of ctf.pkl."""
    box, pixel_size = read_ctf_table(CTF)[0, :2]
    return float(box * pixel_size / box_size)


def compare_sources(particles: ParticleSet) -> list[Row]:
    """Largest differences between star file and pickles."""
    pose, ctf = read_poses(POSES, box_size=particles.box_size, pixel_size=1.0), read_ctf(CTF)
    assert particles.ctf is not None
    ours, theirs = particles.require_pose(), particles.ctf
    angle = torch.rad2deg(geodesic_angle(ours.rotation, pose.rotation)).max()
    values: dict[str, Tensor] = {
        "rotation, degrees": angle,
        "shift, px": (ours.shift - pose.shift).abs().max(),
    }
    for name in ("defocus_u", "defocus_v", "defocus_angle", "voltage_kv", "amplitude_contrast"):
        values[name] = (getattr(ctf, name) - getattr(theirs, name)).abs().max()
    return [{"quantity": name, "largest difference": float(value)} for name, value in values.items()]


def in_ball(half_map: Float[Tensor, "box box box"]) -> Float[Tensor, "box box box"]:
    """What is not round of a map, in the ball."""
    box = len(half_map)
    radius = shell_grid(box, 3)
    round_part = shell_mean(half_map, radius, int(radius.max()) + 1)[radius]
    return (half_map - round_part) * soft_ball(box, 3, BALL_PX, EDGE_PX).to(half_map)


def masked_fsc(result: Reconstruction) -> Float[Array, "shell"]:
    """FSC of the half maps without their spherical averages, inside the ball."""
    return fourier_shell_correlation(*(in_ball(half).numpy() for half in result.half_maps))


def turned(particles: ParticleSet, seed: int, *, whole: bool) -> ParticleSet:
    """Random orientations: of whole particles, the tilts between their images kept, or of all images."""
    pose, generator = particles.require_pose(), np.random.default_rng(seed)
    assert particles.groups is not None
    if not whole:
        return particles.with_pose(Pose(random_rotations(len(particles), generator), pose.shift))
    turns = random_rotations(len(particles.groups), generator)[particles.groups.particle]
    return particles.with_pose(Pose(pose.rotation @ turns, pose.shift))


def spoiled(particles: ParticleSet) -> list[tuple[str, ParticleSet]]:
    """The same poses with another CTF."""
    ctf = particles.ctf
    assert ctf is not None
    overfocus = replace(ctf, defocus_u=-ctf.defocus_u, defocus_v=-ctf.defocus_v)
    return [
        ("no CTF", replace(particles, ctf=None)),
        ("defocus of the other sign", replace(particles, ctf=overfocus)),
        ("pixel size of the star file", replace(particles, pixel_size=read_particles(STAR).pixel_size)),
        (
            "no decay with exposure",
            replace(particles, ctf=replace(ctf, b_factor=torch.zeros_like(ctf.b_factor))),
        ),
    ]


def curves(sets: list[ParticleSet]) -> tuple[Float[Array, "set shell"], Float[Array, "set shell"]]:
    """FSC of each, unmasked and masked."""
    results = [backproject_particles(each, device="cpu") for each in sets]
    return np.stack([result.fsc.numpy() for result in results]), np.stack([masked_fsc(r) for r in results])


def row(name: str, of_curves: Float[Array, "set shell"]) -> Row:
    """Mean FSC by shell, and over the band."""
    mean = of_curves.mean(0)
    by_shell = {f"shell {shell}": float(mean[shell]) for shell in SHELLS}
    return {"halves, poses, mask": name, "band": float(mean[BAND].mean()), **by_shell}


def low_passed(result: Reconstruction) -> Float[Array, "box box box"]:
    """The mean of the half maps without what is beyond the band."""
    spectrum = hartley_volume(result.half_maps[0] + result.half_maps[1]) / 2
    return inverse_hartley_volume(spectrum * (shell_grid(len(spectrum), 3) < BAND.stop)).numpy()


def draw(result: Reconstruction, control: Float[Array, "set shell"]) -> None:
    """Central sections of the map, and the FSC inside the ball beside what chance gives."""
    from matplotlib.figure import Figure

    map_, real = low_passed(result), masked_fsc(result)
    box = len(map_)
    width = box * stated_pixel_size(box)
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.7))
    sections = (map_[box // 2], map_[:, box // 2], map_[:, :, box // 2])
    for axis, section, plane in zip(axes, sections, ("xy", "xz", "yz"), strict=False):
        axis.imshow(section, cmap="gray", origin="lower", vmin=map_.min(), vmax=map_.max())
        axis.set_title(f"{plane}, {width:.0f} Å wide, to {width / (BAND.stop - 1):.0f} Å")
        axis.set_axis_off()
    shells = np.arange(1, 20)
    low, high = np.quantile(control, (0.05, 0.95), axis=0)[:, shells]
    axes[3].fill_between(shells, low, high, color="0.8", label="particles turned at random, 5–95 %")
    axes[3].plot(shells, real[shells], label="poses of the file")
    axes[3].axhline(0, color="0.5", linewidth=0.5)
    axes[3].set_xticks(shells[2::3], [f"{width / shell:.0f}" for shell in shells[2::3]])
    axes[3].set(xlabel="resolution, Å", ylabel="FSC of half maps in the ball", ylim=(-0.6, 1))
    axes[3].legend(frameon=False)
    figure.savefig(FIGURE, dpi=110)


def main() -> int:
    """Run the comparison and write its record and figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--controls", type=int, default=100)
    options = parser.parse_args()
    if not STAR.exists():
        print(f"{STAR} is not there: nothing measured")
        return 0
    particles = read_particles(STAR)
    record("accuracy/tilt_stack_sources", compare_sources(particles), images=len(particles))
    size = stated_pixel_size(particles.box_size)
    particles = replace(particles, pixel_size=torch.full_like(particles.pixel_size, size))
    result = backproject_particles(particles, device="cpu")
    real = masked_fsc(result)
    by_image = backproject_particles(replace(particles, groups=None), device="cpu")
    wrong = {name: masked_fsc(backproject_particles(each, device="cpu")) for name, each in spoiled(particles)}
    seeds = range(options.controls)
    plain, masked = curves([turned(particles, seed, whole=True) for seed in seeds])
    plain_each, masked_each = curves([turned(particles, seed, whole=False) for seed in seeds])
    rows = [
        row("by particle, of the file, ball", real[None]),
        row("by particle, particles turned, ball", masked),
        row("by particle, images turned, ball", masked_each),
        row("by particle, of the file, none", result.fsc.numpy()[None]),
        row("by particle, particles turned, none", plain),
        row("by particle, images turned, none", plain_each),
        row("by image, of the file, none", by_image.fsc.numpy()[None]),
        row("by image, of the file, ball", masked_fsc(by_image)[None]),
        *(row(f"by particle, of the file, ball; {name}", curve[None]) for name, curve in wrong.items()),
    ]
    band = masked[:, BAND].mean(1)
    record(
        "accuracy/tilt_stack",
        rows,
        images=len(particles),
        controls=options.controls,
        pixel_size=size,
        controls_above_in_band=int((band >= real[BAND].mean()).sum()),
        best_control_in_band=float(band.max()),
        centre_against_rim=bright_centre(particles),
    )
    draw(result, masked)
    return 0


def bright_centre(particles: ParticleSet) -> dict[str, float]:
    """Mean pixel within the ball's radius and in the rim beyond twice that, over all images."""
    images = particles.images(slice(None))
    away = torch.arange(particles.box_size) - particles.box_size // 2
    radius = (away[:, None].square() + away[None].square()).sqrt()
    return {
        "centre": float(images[:, radius < BALL_PX].mean()),
        "rim": float(images[:, radius > 2 * BALL_PX].mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
