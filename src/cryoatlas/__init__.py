"""CryoAtlas: continuous distributions of 3D protein structure from cryo-EM particle images.

The names below are the public interface; each is imported when first used, so that
``import cryoatlas`` itself takes milliseconds.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC: dict[str, str] = {}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'cryoatlas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
