"""Everything CryoAtlas raises on purpose.

::

    CryoAtlasError
    ├── InputError            something the user handed us cannot be used
    │   ├── FormatError       a file is not what its name or header says
    │   ├── MetadataError     a table, column or value is missing or contradicts another
    │   ├── ImageDataError    pixels are missing, not finite or not square
    │   └── ConfigError       an option is out of range or contradicts another
    ├── OutputError           a result cannot be written (exists, disk full, no permission)
    └── DivergedError         an optimisation produced values that are not finite

A message is one paragraph: what was found, what was expected, the usual fix; with file, row and
column where there are any. The command line prints it alone, without a traceback, and exits with
status 2 for `InputError` and `OutputError`, 3 for `DivergedError`.
"""

from collections.abc import Mapping


class CryoAtlasError(Exception):
    """Base of all errors raised on purpose."""

    exit_status = 2


class InputError(CryoAtlasError, ValueError):
    """Something the user handed us cannot be used."""


class FormatError(InputError):
    """A file is not what its name or header says."""


class MetadataError(InputError):
    """A table, column or value is missing or contradicts another."""


class ImageDataError(InputError):
    """Pixels are missing, not finite or not square."""


class ConfigError(InputError):
    """An option is out of range or contradicts another."""

    @classmethod
    def unless(cls, options: object, wanted: Mapping[str, bool], kind: str = "option") -> None:
        """Raise for the first rule that is broken.

        Args:
            options: whose attributes the rules begin with.
            wanted: rules, such as ``epochs must be 1 or more``, and whether they hold.
            kind: what the message calls such an option.
        """
        for rule, holds in wanted.items():
            if not holds:
                raise cls(f"{kind} {rule}, got {getattr(options, rule.split()[0])}.")


class OutputError(CryoAtlasError, OSError):
    """A result cannot be written."""


class DivergedError(CryoAtlasError, ArithmeticError):
    """An optimisation produced values that are not finite."""

    exit_status = 3
