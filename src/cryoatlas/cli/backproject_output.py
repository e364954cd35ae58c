"""Files that show a reconstruction."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryoatlas.recipes.backprojection import Reconstruction


def write_reconstruction(result: "Reconstruction", folder: Path, pixel_size: float) -> None:
    """Write maps, half maps and FSC (table and plot) into a folder."""
    from cryoatlas.analysis.plots import fsc_figure, save_figure
    from cryoatlas.io.mrc import write_volume
    from cryoatlas.io.output import write_text

    maps = {"map": result.map, "half_map_1": result.half_maps[0], "half_map_2": result.half_maps[1]}
    box = result.map.shape[-1]
    for name, volume in maps.items():
        write_volume(folder / f"{name}.mrc", volume.cpu().numpy(), pixel_size)
    rows = [f"{s},{s / (box * pixel_size):.6f},{c:.6f}" for s, c in enumerate(result.fsc.tolist())]
    write_text(folder / "fsc.csv", "\n".join(["shell,frequency_per_angstrom,fsc", *rows]) + "\n")
    save_figure(fsc_figure({"half maps": result.fsc.cpu().numpy()}, box, pixel_size), folder / "fsc.png")
