"""Options that some recipes have and others do not."""

from dataclasses import replace
from typing import Any

from cryoatlas.errors import ConfigError


def given(config: Any, **options: object) -> Any:
    """A configuration with the options that the user gave."""
    return replace(config, **{name: value for name, value in options.items() if value is not None})


def refuse(recipe: str, options: dict[str, object]) -> None:
    """An option without effect is an error, lest it be believed to have one."""
    useless = [name for name, value in options.items() if value is not None]
    if useless:
        raise ConfigError(f"{useless[0]} has no meaning for --recipe {recipe}: leave it out.")
