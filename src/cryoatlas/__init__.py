"""CryoAtlas: continuous distributions of 3D protein structure from cryo-EM particle images.

The names below are the public interface; each is imported when first used, so that
``import cryoatlas`` itself takes milliseconds.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "abinit": ("cryoatlas.recipes.abinit", "abinit"),
    "backproject": ("cryoatlas.recipes.backprojection", "backproject_particles"),
    "open_run": ("cryoatlas.recipes.run", "open_run"),
    "prepare": ("cryoatlas.recipes.prepare", "prepare"),
    "read_particles": ("cryoatlas.particles.particle_set", "read_particles"),
    "read_volume": ("cryoatlas.io.mrc", "read_volume"),
    "recipes": ("cryoatlas.recipes", None),
    "train": ("cryoatlas.recipes.train", "train"),
    "write_mrc": ("cryoatlas.io.mrc", "write_volume"),
}
"""Public name → module, and the name there (None: the module itself)."""

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        found = import_module(module)
        return found if attribute is None else getattr(found, attribute)
    raise AttributeError(f"module 'cryoatlas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
