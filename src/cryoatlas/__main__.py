"""``python -m cryoatlas``: the command line."""

from cryoatlas.cli.app import main

if __name__ == "__main__":
    main()
