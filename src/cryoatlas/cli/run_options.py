"""The options of every verb that makes a run folder."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is made, and what becomes of what its folder holds."""

    seed: int = 0
    """Everything random follows from it."""
    symmetry: str = "C1"
    """Point group of the molecule, in RELION's axes: C1, C2, …, D2, …, T, O, I1 or I2. Not with networks."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    resume: Annotated[bool, Parameter(negative=())] = False
    """Continue the run in --out."""
    overwrite: Annotated[bool, Parameter(negative=())] = False
    """Replace what --out holds."""

    @property
    def of_folder(self) -> dict[str, Any]:
        """Those that are not options of the recipe: what `recipes.train` and `recipes.abinit` are told."""
        others = ("seed", "symmetry")
        return {name: value for name, value in asdict(self).items() if name not in others}


AS_USUAL = RunOptions()
"""A new run."""
