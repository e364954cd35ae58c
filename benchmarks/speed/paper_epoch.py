"""How long is an epoch of the paper's own recipe, poses sought in a growing network, on this machine?

    python -m benchmarks.speed.paper_epoch [--device cuda] [--images 256]

A rigid body of 128² (the paper: 30 to 80 minutes an epoch of 50,000 images, on a Titan V) and Linear 1D of
64² with a z of 1 (120 minutes). Of some images; an epoch's time is proportional to their number. The paper
searches for the poses of a batch of 8 right before it learns from them; a chunk of more is searched against
one network.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from benchmarks.common import Row, facts_of, record
from benchmarks.paper.jobs import Data
from benchmarks.paper.work import simulated

from cryoatlas.particles.particle_set import read_particles
from cryoatlas.recipes.abinit import search_poses
from cryoatlas.recipes.abinit_config import paper_abinit
from cryoatlas.recipes.device import choose_device
from cryoatlas.recipes.run import read_log

FULL = 50_000
SETS = {"rigid": (Data("homogeneous", 128, 0), 0), "linear1d": (Data("linear1d", 64, 0), 1)}


def main() -> None:
    """Each set with each chunk: an epoch of random poses, and one of search."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--images", type=int, default=256, help="of the paper's chunk of 8; of others in proportion"
    )
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 128])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        for name in options.sets:
            for chunk in options.chunks:
                rows.append(measured(name, chunk, options, Path(folder)))
                print(rows[-1], flush=True)
    record("speed/paper_epoch", rows, **facts_of(options))


def measured(name: str, chunk: int, options: argparse.Namespace, work: Path) -> Row:
    """One set and chunk."""
    data, latent = SETS[name]
    images = options.images * max(1, chunk // 32)
    config = paper_abinit(latent=latent)
    config = replace(config, train=replace(config.train, epochs=2), chunk=chunk)
    device = choose_device(options.device)
    particles = read_particles(
        simulated(replace(data, images=images), work, options.device) / "particles.star"
    )
    out = work / f"{name}_{chunk}"
    search_poses(particles, config, out, device)
    random, searched = (entry for entry in read_log(out) if entry["event"] == "epoch")
    return {
        "set": name,
        "box": data.box,
        "images": images,
        "chunk": chunk,
        "random poses, images/s": random["images_per_second"],
        "search, images/s": searched["images_per_second"],
        "minutes a search epoch of 50,000": FULL / searched["images_per_second"] / 60,
        "volume evaluated at, of each image": searched["search_evaluations"],
        "on": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
    }


if __name__ == "__main__":
    main()
