"""``cryoatlas info``: what is in a file, and what is wrong with it."""

from pathlib import Path


def info(file: Path, *, datadir: Path | None = None) -> list[str]:
    """Show what a star file, MRC stack or volume, or cryoDRGN pickle holds, and all that is wrong with it.

    The exit status is 1 if something is wrong.

    Parameters
    ----------
    file
        The file to look at.
    datadir
        Folder that image paths in the star file start from.

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

    found = inspect_file(file, datadir)
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
