"""``cryoatlas info``: what is in a file, and what is wrong with it."""

from pathlib import Path

from cryoatlas.cli.particle_options import AS_IN_THE_FILE, ParticleOptions


def info(file: Path, *, source: ParticleOptions = AS_IN_THE_FILE) -> list[str]:
    """Show what a file holds, and all that is wrong with it.

    Particles of RELION (.star), cryoSPARC (.cs) and lists of stacks (.txt), alone or with poses and CTF from
    files of their own; MRC stacks and volumes; cryoDRGN's pickles; row numbers (.npy, .txt, .csv).

    The exit status is 1 if something is wrong.

    Parameters
    ----------
    file
        The file to look at.

    Returns
    -------
    list[str]
        The problems found, one paragraph each; empty if all is well.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from cryoatlas.particles.inspection import inspect_file

    found = inspect_file(file, source.datadir, **source.others)
    table = Table(show_header=False, box=box.SIMPLE)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in found.facts:
        table.add_row(escape(name), escape(value))
    console = Console(highlight=False)
    console.print(f"{file}: {found.kind}", markup=False, soft_wrap=True)
    console.print(table)
    for label, entries in (("remark", found.remarks), ("problem", found.problems)):
        for entry in entries:
            console.print(f"{label}: {entry}", markup=False, soft_wrap=True)
    console.print(f"problems found: {len(found.problems)}" if found.problems else "nothing wrong was found")
    return found.problems
