"""Options that some recipes have and others do not."""

from dataclasses import replace
from typing import Any

from cryoatlas.errors import ConfigError


def given(config: Any, **options: object) -> Any:
    """A configuration with the options that the user gave."""
    return replace(config, **{name: value for name, value in options.items() if value is not None})


def refuse(recipe: str, options: dict[str, object], other: str | None = None) -> None:
    """An option without effect is an error, lest it be believed to have one.

    Args:
        other: the recipe that has these options, if there is one.
    """
    useless = [name for name, value in options.items() if value is not None]
    if useless:
        instead = "" if other is None else f", or add --recipe {other}"
        raise ConfigError(f"{useless[0]} has no meaning for --recipe {recipe}: leave it out{instead}.")
