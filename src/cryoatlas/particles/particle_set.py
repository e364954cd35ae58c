"""Particles: images joined to their pixel sizes, CTF parameters and poses.

A set of particles is one star file, or what `reading` makes of another kind of file. Its images stay
on disk, in as many stacks as the file names, and are read when asked for; everything else is in memory,
one row per image.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cryoatlas.errors import ImageDataError, MetadataError
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.symmetry import NO_SYMMETRY, point_group
from cryoatlas.imaging.aberrations import Aberrations
from cryoatlas.imaging.ctf import CTFParameters
from cryoatlas.io.mrc import MrcHeader, read_header, read_images
from cryoatlas.particles.cryosparc import CS_SUFFIX, POSE
from cryoatlas.particles.metadata import (
    ANGLES,
    ParticleTables,
    ctf_parameters,
    ctf_scales,
    pixel_sizes,
    with_pose_columns,
)
from cryoatlas.particles.metadata import poses as pose_columns
from cryoatlas.particles.microscope import read_aberrations, read_applied_ctf
from cryoatlas.particles.reading import Beside, read_any_tables
from cryoatlas.particles.stack_files import (
    ImageAddresses,
    check_boxes,
    check_sections,
    check_whole_files,
    image_addresses,
    locate_stacks,
)
from cryoatlas.particles.tilt_groups import TiltGroups, tilt_groups
from cryoatlas.shapes import Array, Bool, Float, Int, Tensor

logger = logging.getLogger(__name__)

Indices = Int[Tensor, "some"] | Int[Array, "some"] | Bool[Tensor, "image"] | Sequence[int] | slice
"""Positions of particles in a set, in any order; or a mask over all of them."""


@dataclass(frozen=True)
class ParticleSet:
    """Particle images on disk and what is known about each."""

    tables: ParticleTables
    """The star file's tables, every value as written there."""
    stacks: tuple[MrcHeader, ...]
    addresses: ImageAddresses
    """Stack and position of each image."""
    pixel_size: Float[Tensor, "image"]
    """Å, float64."""
    ctf: CTFParameters | None
    """None for images without CTF."""
    ctf_scale: Float[Tensor, "image"]
    """Factor of each image's signal (rlnCtfScalefactor), 1 unless the file has it."""
    pose: Pose | None
    """None where the file has no poses."""
    sign: float = 1.0
    """−1 for files with dark particles (`invert`): what the stored pixels are multiplied by."""
    groups: TiltGroups | None = None
    """Which images show the same particle, for tilt series; None where every image is a particle."""
    aberrations: Aberrations | None = None
    """Beam tilt, higher aberrations, anisotropic magnification; None where there are none."""
    applied_ctf: Int[Tensor, "image"] | None = None
    """`AppliedCTF` of the stored pixels; None where they are as recorded."""
    symmetry: str = NO_SYMMETRY
    """The molecule's point group; see `geometry.symmetry`. No file says it."""

    def __len__(self) -> int:
        return len(self.pixel_size)

    @property
    def path(self) -> Path:
        """The star file."""
        return self.tables.path

    @property
    def box_size(self) -> int:
        """Side of all images, px; of the first, if they were read with boxes of several sizes."""
        return self.stacks[0].box_size

    @property
    def box_sizes(self) -> Int[Array, "image"]:
        """Side of each image, px."""
        return np.array([header.box_size for header in self.stacks])[self.addresses.stack]

    def __getitem__(self, indices: Indices) -> "ParticleSet":
        """Some of the particles, in the order given; their rows remember their numbers in the file."""
        chosen = torch.arange(len(self))[indices]
        rows = chosen.numpy()
        addresses = replace(
            self.addresses, stack=self.addresses.stack[rows], section=self.addresses.section[rows]
        )
        return replace(
            self,
            tables=self.tables.select(rows),
            addresses=addresses,
            pixel_size=self.pixel_size[chosen],
            ctf=None if self.ctf is None else self.ctf[chosen],
            ctf_scale=self.ctf_scale[chosen],
            aberrations=None if self.aberrations is None else self.aberrations[chosen],
            applied_ctf=None if self.applied_ctf is None else self.applied_ctf[chosen],
            pose=None if self.pose is None else self.pose[chosen],
            groups=None if self.groups is None else self.groups[chosen],
        )

    def half_sets(self) -> Int[Tensor, "image"]:
        """0 or 1 for every image, by turns; all images of one particle are in the same half.

        Raises:
            MetadataError: all images are of one particle.
        """
        if self.groups is None:
            return torch.arange(len(self)) % 2
        if len(self.groups) == 1:
            raise MetadataError(
                f"all {len(self)} images taken from {self.path} are of particle {self.groups.names[0]}, but "
                "half maps need two particles or more: take images of other particles too."
            )
        return self.groups.particle % 2

    def images(self, indices: Indices) -> Float[Tensor, "image box box"]:
        """Read images of one box from disk, float32, multiplied by `sign`.

        Raises:
            ImageDataError: a pixel is NaN or infinite.
            FormatError: a stack can no longer be read.
        """
        chosen = torch.arange(len(self))[indices].numpy()
        stack, section = self.addresses.stack[chosen], self.addresses.section[chosen]
        pixels = self._read(stack, section)
        self._check_finite(pixels, chosen)
        return torch.from_numpy(pixels if self.sign == 1 else self.sign * pixels)

    def _read(
        self, stack: Int[Array, "image"], section: Int[Array, "image"]
    ) -> Float[Array, "image box box"]:
        numbers = np.unique(stack).tolist()
        if len(numbers) == 1:
            return read_images(self.stacks[numbers[0]], section)
        box = self.box_size if not numbers else self.stacks[numbers[0]].box_size
        pixels = np.empty((len(stack), box, box), np.float32)
        for number in numbers:
            places = np.flatnonzero(stack == number)
            pixels[places] = read_images(self.stacks[number], section[places])
        return pixels

    def require_pose(self) -> Pose:
        """The poses.

        Raises:
            MetadataError: the file has none.
        """
        if self.pose is None:
            missing = ", ".join(self.tables.missing(*ANGLES)) or "the pose columns"
            missing = POSE if self.path.suffix == CS_SUFFIX else missing
            raise MetadataError(
                f"{self.path} has no poses: it lacks {missing}. Give the file of a refinement, or poses from "
                "another file with --poses, or find them with `cryoatlas abinit`."
            )
        return self.pose

    def with_symmetry(self, name: str) -> "ParticleSet":
        """The same particles of a molecule with a point group.

        Raises:
            ConfigError: there is no such group.
        """
        point_group(name)
        return replace(self, symmetry=name.strip().upper())

    def with_pose(self, pose: Pose | None) -> "ParticleSet":
        """The same particles with other poses, one for each, or with none; their tables agree."""
        if pose is not None:
            pose = pose.to("cpu", torch.float64)
        tables = with_pose_columns(self.tables, pose, self.pixel_size.numpy())
        return replace(self, pose=pose, tables=tables)

    def _check_finite(self, pixels: Float[Array, "image box box"], chosen: Int[Array, "image"]) -> None:
        # A sum is finite only if all its terms are; a sum that overflows is looked at pixel by pixel.
        with np.errstate(over="ignore", invalid="ignore"):
            suspects = np.flatnonzero(~np.isfinite(pixels.sum((1, 2)))).tolist()
        for place in suspects:
            bad = np.count_nonzero(~np.isfinite(pixels[place]))
            if bad:
                raise ImageDataError(
                    f"{self.describe(int(chosen[place]))} has {bad} pixels that are NaN or "
                    "infinite: leave this image out, or extract it again."
                )

    def describe(self, position: int) -> str:
        """Which image this is, for messages: row of the star file, number and stack."""
        header = self.stacks[self.addresses.stack[position]]
        number = self.addresses.section[position] + 1
        return f"the image of {self.tables.particles.row_name(position)}, number {number} of {header.path},"


def read_particles(
    path: Path | str,
    *,
    datadir: Path | str | None = None,
    invert: bool | None = None,
    poses: Path | str | None = None,
    ctf: Path | str | None = None,
    passthrough: Sequence[Path | str] = (),
    indices: Path | str | None = None,
    one_box: bool = True,
) -> ParticleSet:
    """Read particles: of RELION (star files of 3.0, 3.1 or later), cryoSPARC, or stacks of images.

    What another program wrote is translated into RELION's tables first. Every particle has its own
    pixel size, voltage, spherical aberration and amplitude contrast, from its optics group or its row.
    Poses follow conventions C3 and C4. What RELION takes as 0 where a column is missing is 0 here too:
    rlnPhaseShift, rlnCtfBfactor, and both origins beside the angles.

    Args:
        path: star file, .cs file, list of stacks (.txt), or image stack (.mrcs, .mrc).
        datadir: where image stacks are sought first, with the folders of their names or without;
            otherwise beside the file, then from the working folder, then from the folders above the file.
        invert: multiply the images by −1, for particles that are dark on a bright ground. None does so
            where the file says that they are, as those of cryoSPARC may.
        poses: file of the poses (star, .cs, or cryoDRGN's .pkl), in place of those in `path`; one row for
            each particle, in order, or by uid where both are of cryoSPARC.
        ctf: file of the CTF parameters, likewise. The pixel size comes from it if `path` has none.
        passthrough: cryoSPARC's further files of the same particles.
        indices: file of the positions of the particles to take, from 0: .pkl, .npy, .txt or .csv.
        one_box: refuse images of several sizes, which only `cryoatlas prepare` can use.

    Raises:
        InputError: a file or a stack is missing.
        FormatError: a file or a stack is damaged or of another format.
        MetadataError: a column is missing, not a number, or in another unit; a shift leaves the box; or
            files do not belong together.
        ImageDataError: images are not square, of different boxes, or beyond the end of their stack.
        ConfigError: passthrough files are given with something else than a .cs file.
    """
    beside = Beside(datadir=datadir, poses=poses, ctf=ctf, passthrough=passthrough, indices=indices)
    tables = read_any_tables(path, beside)
    addresses, headers = read_image_stacks(tables, datadir, one_box=one_box)
    sizes = pixel_sizes(tables)
    pose = pose_columns(tables, sizes)
    if pose is not None:
        boxes = np.array([header.box_size for header in headers])[addresses.stack]
        check_shifts(tables, pose, boxes * sizes)
    return ParticleSet(
        tables=tables,
        stacks=headers,
        addresses=addresses,
        pixel_size=torch.from_numpy(sizes),
        ctf=ctf_parameters(tables),
        ctf_scale=ctf_scales(tables),
        pose=pose,
        sign=_sign(tables, invert),
        groups=tilt_groups(tables, sizes),
        aberrations=read_aberrations(tables),
        applied_ctf=read_applied_ctf(tables),
    )


def _sign(tables: ParticleTables, invert: bool | None) -> float:
    """What the images are multiplied by, and a word about it where it is not as one might expect."""
    if invert is None and tables.dark:
        logger.info("%s says that its particles are dark: images are multiplied by −1", tables.path)
    elif invert is False and tables.dark:
        logger.info("%s says that its particles are dark, but images are left as they are", tables.path)
    elif invert and tables.path.suffix == CS_SUFFIX and not tables.dark:
        logger.info("%s says that its particles are bright, but images are inverted", tables.path)
    return -1.0 if (tables.dark if invert is None else invert) else 1.0


def read_image_stacks(
    tables: ParticleTables, datadir: Path | str | None, *, one_box: bool = True
) -> tuple[ImageAddresses, tuple[MrcHeader, ...]]:
    """Where the images are, with all stacks found and checked.

    Raises:
        InputError, FormatError, MetadataError, ImageDataError: as `read_particles`.
    """
    check_dimensions(tables)
    addresses = image_addresses(tables.particles)
    headers = tuple(read_header(path) for path in locate_stacks(addresses.names, tables.path, datadir))
    if one_box:
        check_boxes(headers)
    check_sections(headers, addresses, tables.particles)
    check_whole_files(headers, addresses, tables.particles)
    check_announced_box(tables, headers, addresses.stack)
    return addresses, headers


def check_shifts(tables: ParticleTables, pose: Pose, box: Float[Array, "image"]) -> None:
    """Refuse shifts that put a particle's centre outside its image.

    Args:
        tables: of the star file, for the message.
        pose: of every particle.
        box: side of every image, Å.

    Raises:
        MetadataError: naming the row.
    """
    shift = pose.shift.abs().amax(1).numpy()
    beyond = np.flatnonzero(shift > box / 2).tolist()
    if beyond:
        row = beyond[0]
        raise MetadataError(
            f"{tables.particles.row_name(row)} has a shift of "
            f"{shift[row]:.1f} Å, which puts the particle outside its box of {box[row]:.1f} Å; {len(beyond)} "
            f"of {len(shift)} rows do. Origins may be in px under the name of those in Å, or belong to "
            "images of another size: extract the particles again, re-centred."
        )


def check_dimensions(tables: ParticleTables) -> None:
    """Refuse subtomograms.

    Raises:
        MetadataError: rlnImageDimensionality is 3.
    """
    if tables.number("rlnImageDimensionality", 2.0).max() > 2:
        raise MetadataError(
            f"{tables.path} lists subtomograms (rlnImageDimensionality 3), but 2-D images are needed: "
            "extract the particles as 2-D stacks."
        )


def check_announced_box(
    tables: ParticleTables, headers: Sequence[MrcHeader], stack: Int[Array, "image"]
) -> None:
    """Refuse stacks of another box than the star file says.

    Args:
        tables: of the star file.
        headers: of the stacks.
        stack: the stack of each image.

    Raises:
        MetadataError: rlnImageSize differs.
    """
    if not tables.has("rlnImageSize"):
        return
    announced = tables.number("rlnImageSize")
    boxes = np.array([header.box_size for header in headers])[stack]
    other = np.flatnonzero(announced != boxes).tolist()
    if other:
        header = headers[stack[other[0]]]
        raise MetadataError(
            f"{tables.path} says that images are {announced[other[0]]:g} px wide (rlnImageSize), but those "
            f"of {header.path} are {header.box_size}: star file and stack do not belong together, or the "
            "images were rescaled and the optics table, with the pixel size, was not."
        )
