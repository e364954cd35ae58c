"""Files that show a reconstruction."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryoatlas.recipes.backprojection import Reconstruction

ORANGE, GREEN = (0.85, 0.55, 0.30), (0.45, 0.68, 0.50)
"""Of the half maps."""


def write_reconstruction(result: "Reconstruction", folder: Path, pixel_size: float) -> None:
    """Write maps, half maps, FSC (table and plot) and a ChimeraX script into a folder."""
    from cryoatlas.analysis.chimerax import write_view
    from cryoatlas.analysis.plots import fsc_figure, save_figure
    from cryoatlas.analysis.render import BLUE, automatic_level
    from cryoatlas.io.mrc import write_volume
    from cryoatlas.io.output import write_text

    maps = {"map": result.map, "half_map_1": result.half_maps[0], "half_map_2": result.half_maps[1]}
    box = result.map.shape[-1]
    for name, volume in maps.items():
        write_volume(folder / f"{name}.mrc", volume.cpu().numpy(), pixel_size)
    rows = [f"{s},{s / (box * pixel_size):.6f},{c:.6f}" for s, c in enumerate(result.fsc.tolist())]
    write_text(folder / "fsc.csv", "\n".join(["shell,frequency_per_angstrom,fsc", *rows]) + "\n")
    save_figure(fsc_figure({"half maps": result.fsc.cpu().numpy()}, box, pixel_size), folder / "fsc.png")
    level = automatic_level(result.map.cpu().numpy())
    write_view(folder, [f"{name}.mrc" for name in maps], level, [BLUE, ORANGE, GREEN], slider=False)
