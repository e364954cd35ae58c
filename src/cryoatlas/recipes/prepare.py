"""Prepared particles: images cropped in Fourier space, normalised and stored anew, beside a star file.

::

    out/  particles.star     the rows of the input, in order; written last, so where it is, all is
          stacks/*.mrcs      the images, in order, in stacks of limited size
          background.csv     level and standard deviation of each group, in the units of the input
          prepare.toml       options and input
          source.toml        the user's file that the rows lead back to

Reading, computing and writing happen on three threads, a piece of a few megabytes each: the stack is never
held. Stacks appear when they are complete, so that work that was cut off is resumed after the last of them;
on a request to stop the one under way is closed where it is.
"""

import hashlib
import logging
import tomllib
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit

from cryoatlas import __version__
from cryoatlas.errors import ConfigError, FormatError, ImageDataError, InputError, OutputError
from cryoatlas.fourier.resample import Grid
from cryoatlas.io.folder import require_space
from cryoatlas.io.mrc import MrcHeader, StackWriter, read_header
from cryoatlas.io.output import explained_os_errors, new_directory, write_text
from cryoatlas.io.stack import MODES
from cryoatlas.io.star import write_star
from cryoatlas.particles import background as backgrounds
from cryoatlas.particles.background import Background
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.prefetch import prefetched
from cryoatlas.particles.prepare_config import PrepareConfig
from cryoatlas.particles.prepared_star import prepared_tables
from cryoatlas.particles.regrid import Regridder, choose_grid, grids_of, soft_window
from cryoatlas.particles.source import source_of, write_source
from cryoatlas.progress import Interrupted, Progress, StopRequested, never, silent
from cryoatlas.shapes import Array, Float, Int, Tensor

logger = logging.getLogger(__name__)

STAR, CONFIG, BACKGROUND, STACKS = "particles.star", "prepare.toml", "background.csv", "stacks"
CHUNK_PIXELS = 2**21
"""Images are read in pieces of about this many pixels (8 MiB)."""
STAR_ROW_BYTES = 1000
"""Generous, for the estimate of the space that is needed."""
LARGEST_HALF = 65504.0
"""Of a 16-bit float."""
LARGEST_ROUNDING = 0.01
"""Rounding to 16 bits may cost this fraction of the pixels' standard deviation, 10⁻⁴ of their variance."""
CHECKED_IMAGES = 100


@dataclass(frozen=True)
class Work:
    """All that is fixed before the first image is written."""

    particles: ParticleSet
    config: PrepareConfig
    grid: Grid
    regridder: Regridder
    background: Background | None
    """None for images that are not normalised."""
    window: Float[Tensor, "box box"] | None

    @property
    def image_bytes(self) -> int:
        """Of a new image."""
        return self.grid.box_size**2 * np.dtype(self.config.dtype).itemsize

    @property
    def stack_images(self) -> int:
        """Images of a full stack."""
        return max(1, int(self.config.shard_gib * 2**30 / self.image_bytes))

    @property
    def chunk(self) -> int:
        """Images read at a time."""
        return max(1, CHUNK_PIXELS // int(self.particles.box_sizes.max()) ** 2)

    def finish(
        self, positions: Int[Array, "image"], images: Float[Tensor, "image box box"]
    ) -> Float[Tensor, "image box box"]:
        """Images on the new grid → as they are stored."""
        if self.background is not None:
            images = self.background.normalize(positions, images)
            if self.regridder.pads:
                images = images * self.regridder.covered(positions)
        return images if self.window is None else images * self.window


def prepare(
    particles: ParticleSet,
    out: Path | str,
    config: PrepareConfig | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
    stop_requested: StopRequested = never,
) -> Path:
    """Bring particle images to one grid and write them anew, streaming.

    Args:
        particles: of one or several boxes and pixel sizes.
        out: folder to make.
        config: what to do.
        resume: continue in `out` after the last complete stack.
        overwrite: replace what `out` holds.
        progress: counts images.
        stop_requested: asked after each piece.

    Returns:
        The new star file.

    Raises:
        ConfigError: options contradict the images, each other, or those of the work to be resumed.
        MetadataError: phases are to be flipped and the CTF is not known, or they are right already.
        ImageDataError: pixels are not finite, of no variance, or too large for 16 bits.
        OutputError: `out` is in use, or its disk is or will be full.
        Interrupted: `stop_requested` said so.
    """
    config, out = config or PrepareConfig(), Path(out)
    grid = choose_grid(grids_of(particles)[0], config)
    regridder = Regridder(particles, grid, phase_flip=config.phase_flip)
    _check_padding(regridder, config)
    facts = _facts(particles, grid, config)
    if resume:
        _check_same(out, facts)
    else:
        _check_apart(particles, out)
        itemsize = np.dtype(config.dtype).itemsize
        require_space(out, len(particles) * (grid.box_size**2 * itemsize + STAR_ROW_BYTES))
        new_directory(out, overwrite=overwrite)
        write_text(out / CONFIG, tomlkit.dumps(facts))
    if (out / STAR).exists():
        logger.info("%s is complete already", out)
        return out / STAR
    window = soft_window(grid.box_size) if config.window else None
    chunk = max(1, CHUNK_PIXELS // int(particles.box_sizes.max()) ** 2)
    background = _background(regridder, config, out, chunk, progress)
    work = Work(particles, config, grid, regridder, background, window)
    if config.dtype == "float16" and background is None:
        _check_rounding(work)
    names = _write_stacks(work, out / STACKS, progress, stop_requested)
    tables = prepared_tables(particles, grid, names, phase_flipped=config.phase_flip)
    write_source(out, source_of(particles.tables))
    write_star(out / STAR, tables.tables)
    return out / STAR


def _check_apart(particles: ParticleSet, out: Path) -> None:
    """Refuse to write where the input is: --overwrite would delete it."""
    inside = out.resolve()
    for path in (particles.path, *(header.path for header in particles.stacks)):
        if path.resolve().is_relative_to(inside):
            raise ConfigError(f"the input {path} lies inside the output {out}: choose another --out.")


def _check_padding(regridder: Regridder, config: PrepareConfig) -> None:
    if regridder.pads and config.normalize == "none":
        raise ConfigError(
            f"some images are smaller than the new {regridder.grid.extent:.5g} Å and would be continued with "
            "zeros, which is their background only if they are normalised: choose a smaller --box, or leave "
            "out --normalize none."
        )


def _facts(particles: ParticleSet, grid: Grid, config: PrepareConfig) -> dict[str, Any]:
    """What prepare.toml holds."""
    digest = hashlib.sha256()
    for header in particles.stacks:
        digest.update(f"{header.path.name} {header.sections} {header.box_size} {header.mode}\n".encode())
    arrays = [particles.addresses.stack, particles.addresses.section, particles.pixel_size.numpy()]
    if config.phase_flip and particles.ctf is not None:
        arrays += [value.numpy() for value in vars(particles.ctf).values()]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return {
        "run": {"verb": "prepare", "version": __version__},
        "input": {
            "particles": str(particles.path.resolve()),
            "images": len(particles),
            "invert": particles.sign < 0,
            "digest": digest.hexdigest(),
        },
        "grid": asdict(grid),
        "prepare": {name: value for name, value in asdict(config).items() if value is not None},
    }


def _check_same(out: Path, facts: dict[str, Any]) -> None:
    """Refuse to resume work of other options or images; the place of the input may change."""
    path = out / CONFIG
    if not path.is_file():
        raise InputError(f"there is nothing to resume in {out}: it has no {CONFIG}. Leave out --resume.")
    try:
        stored = tomllib.loads(path.read_text(encoding="utf-8"))
        flat = {name: value for part in ("input", "grid", "prepare") for name, value in stored[part].items()}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise FormatError(f"{path} is damaged ({error}): start again with --overwrite.") from error
    asked = {name: value for part in ("input", "grid", "prepare") for name, value in facts[part].items()}
    names = dict.fromkeys((*flat, *asked))
    differing = [name for name in names if name != "particles" and flat.get(name) != asked.get(name)]
    if differing:
        listed = "; ".join(f"{name}: {flat.get(name)} then, {asked.get(name)} now" for name in differing)
        raise ConfigError(
            f"{out} was started with other options or images ({listed}). Resume with the same command, or "
            "start again in another folder."
        )


def _background(
    regridder: Regridder, config: PrepareConfig, out: Path, chunk: int, progress: Progress
) -> Background | None:
    """Measured now, or before the work was interrupted."""
    if config.normalize == "none":
        return None
    groups = backgrounds.background_groups(regridder.particles.tables, config.normalize)
    if (out / BACKGROUND).exists():
        return backgrounds.read_background(out / BACKGROUND, groups)
    outside = backgrounds.background_pixels(regridder.grid, config.diameter)
    found = backgrounds.measure_background(regridder, groups, outside, chunk, progress)
    backgrounds.write_background(out / BACKGROUND, found)
    return found


def _check_rounding(work: Work) -> None:
    """Refuse to store pixels in 16 bits that lose by it, such as small differences of large values."""
    count = min(CHECKED_IMAGES, len(work.particles))
    for position in np.linspace(0, len(work.particles) - 1, count).round().astype(np.int64):
        here = np.array([position])
        images = work.finish(here, work.regridder.regrid(here, work.regridder.read(here)))
        lost = (images.half().float() - images).square().mean().sqrt()
        if not lost <= LARGEST_ROUNDING * images.std():
            raise ImageDataError(
                f"{work.particles.describe(int(position))} has a mean of {float(images.mean()):.4g} and a "
                f"standard deviation of {float(images.std()):.4g}, which 16-bit floats cannot hold well: "
                "leave out --normalize none, or give --dtype float32."
            )


def _write_stacks(work: Work, folder: Path, progress: Progress, stop_requested: StopRequested) -> list[str]:
    """Write what is missing; the name of every image, relative to the star file."""
    with explained_os_errors(folder):
        folder.mkdir(exist_ok=True)
    counts = [header.sections for header in _finished(work, folder)]
    total = len(work.particles)
    starts = range(sum(counts), total, work.stack_images)
    parts = [np.arange(first, min(first + work.stack_images, total)) for first in starts]
    with closing(_stream(work, parts)) as images:
        for part in parts:
            path = folder / _stack_name(len(counts))
            with StackWriter(path, work.grid.box_size, work.grid.pixel_size, work.config.dtype) as stack:
                while stack.count < len(part):
                    stack.append(next(images))
                    progress(int(part[0]) + stack.count, total, "")
                    if stop_requested():
                        break
            counts.append(stack.count)
            if stack.count < len(part):
                raise Interrupted(f"{sum(counts):,} of {total:,} images are prepared")
    return [
        f"{number:06d}@{STACKS}/{_stack_name(stack)}"
        for stack, count in enumerate(counts)
        for number in range(1, count + 1)
    ]


def _stream(
    work: Work, stacks: Sequence[Int[Array, "_"]]
) -> Generator[Float[Tensor, "image box box"], None, None]:
    """Images as they are stored, in pieces that end where stacks end; made two threads ahead."""
    pieces = [
        positions[start : start + work.chunk]
        for positions in stacks
        for start in range(0, len(positions), work.chunk)
    ]
    raw = prefetched((piece, work.regridder.read(piece)) for piece in pieces)
    return prefetched(_stored(work, piece, images) for piece, images in raw)


def _stored(work: Work, piece: Int[Array, "image"], raw: list) -> Float[Tensor, "image box box"]:
    images = work.finish(piece, work.regridder.regrid(piece, raw))
    if work.config.dtype == "float16":
        largest = images.abs().amax((1, 2))
        if largest.max() > LARGEST_HALF:
            worst = int(largest.argmax())
            raise ImageDataError(
                f"{work.particles.describe(int(piece[worst]))} holds a value of {float(largest[worst]):.4g} "
                "after normalisation, more than 16-bit floats can hold: leave this image out, or give "
                "--dtype float32."
            )
    return images


def _finished(work: Work, folder: Path) -> list[MrcHeader]:
    """The complete stacks of an earlier attempt; what it left half-written is removed."""
    for part in folder.glob(".*.part"):
        part.unlink()
    headers: list[MrcHeader] = []
    while (path := folder / _stack_name(len(headers))).exists():
        header = read_header(path)
        if header.box_size != work.grid.box_size or header.mode != MODES[work.config.dtype]:
            raise OutputError(f"{path} is not of the work to be resumed: start again with --overwrite.")
        headers.append(header)
    return headers


def _stack_name(number: int) -> str:
    return f"particles_{number + 1:05d}.mrcs"
