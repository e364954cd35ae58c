"""Draw demo.png, the README's picture, from the folder that ``cryoatlas demo`` wrote.

python docs/images/draw_demo.py DEMO
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

from cryoatlas.analysis.render import Camera, Surface, automatic_level
from cryoatlas.analysis.truth import read_truth
from cryoatlas.io.mrc import read_volume
from cryoatlas.recipes.run import open_run

VOLUMES = 5


def main(demo: Path) -> None:
    """A row of volumes along the motion, and the latent of every image against its true angle."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    run, truth = open_run(demo / "run"), read_truth(demo / "particles/truth")
    paths = sorted((demo / "run/analysis/path").glob("vol_*.mrc"))
    chosen = np.linspace(0, len(paths) - 1, VOLUMES).round().astype(int)
    maps = [read_volume(paths[number]).array for number in chosen]
    level = float(np.median([automatic_level(volume) for volume in maps]))
    camera = Camera.around(maps, level)
    figure = plt.figure(figsize=(14, 3.2), dpi=110)
    for place, volume in enumerate(maps):
        axes = figure.add_axes((0.145 * place, 0.02, 0.145, 0.96))
        axes.imshow(Surface(volume).render(level, camera, size=360))
        axes.axis("off")
    axes = figure.add_axes((0.785, 0.2, 0.205, 0.72))
    axes.plot(truth.coordinates["angle_1_deg"], run.latents()[:, 0], ".", ms=2, alpha=0.5, color="#2c6fa8")
    axes.set_xlabel("true angle of the arm (degrees)")
    axes.set_ylabel("latent z found")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).with_name("demo.png"), facecolor="white")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
