"""What the tables of particles hold and everything that is wrong with them and their stacks."""

from pathlib import Path

import numpy as np
import torch

from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.ctf import CTFParameters
from cryoatlas.io.mrc import MrcHeader, read_header
from cryoatlas.particles import metadata, particle_set, stack_files
from cryoatlas.particles.cryosparc import CS_SUFFIX
from cryoatlas.particles.ctf_units import RANGES, unit_problems
from cryoatlas.particles.inspection import LISTED, SAMPLE, Findings, add_pixel_facts, span
from cryoatlas.particles.metadata import ANGLES, ORIGINS, ORIGINS_PX, ParticleTables
from cryoatlas.particles.microscope import describe_aberrations, describe_applied_ctf
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.stack_files import IMAGE_NAME, ImageAddresses
from cryoatlas.particles.tilt_groups import tilt_groups
from cryoatlas.shapes import Array

NUMERIC = (*RANGES, *ANGLES, *ORIGINS, *ORIGINS_PX, "rlnCtfBfactor", "rlnCtfScalefactor")
HEADER_AGREEMENT = 0.01
"""Relative difference up to which the pixel sizes of star file and stack header count as equal."""


def inspect_tables(
    findings: Findings, tables: ParticleTables, datadir: Path | str | None, *, one_box: bool = True
) -> None:
    """Look at the tables of particles and at the stacks they name."""
    columns = _readable_columns(findings, tables)
    # A .cs file without images has been reported in cryoSPARC's words.
    has_images = tables.path.suffix.lower() != CS_SUFFIX or tables.has(IMAGE_NAME)
    sizes = findings.attempt(metadata.pixel_sizes, tables) if has_images else None
    if sizes is not None:
        findings.fact("pixel size", f"{span(sizes)} Å")
    _optics_groups(findings, tables)
    _ctf(findings, tables, columns)
    _microscope(findings, tables)
    _tilt_series(findings, tables, sizes)
    pose = _poses(findings, tables, sizes)
    if has_images:
        _images(findings, tables, datadir, sizes, pose, one_box)


def _readable_columns(findings: Findings, tables: ParticleTables) -> dict[str, Array]:
    """All columns of numbers that matter, but for those with something wrong in them."""
    columns = {}
    for name in NUMERIC:
        values = findings.attempt(tables.number, name) if tables.has(name) else None
        if values is not None:
            columns[name] = values
    return columns


def _optics_groups(findings: Findings, tables: ParticleTables) -> None:
    optics = tables.optics
    if optics is None or not optics.has(metadata.GROUP):
        return
    shown = [name for name in optics.names if name != metadata.GROUP]
    for row, group in enumerate(optics.text(metadata.GROUP)[:LISTED]):
        values = ", ".join(f"{name.removeprefix('rln')} {optics.text(name)[row]}" for name in shown)
        findings.fact(f"optics group {group}", values)
    if len(optics) > LISTED:
        findings.fact("optics groups", f"{len(optics):,} in all")


def _ctf(findings: Findings, tables: ParticleTables, columns: dict[str, Array]) -> None:
    ctf: CTFParameters | None = findings.attempt(metadata.ctf_parameters, tables)
    for problem in unit_problems(
        {name: columns[name] for name in RANGES if name in columns}, tables.particles
    ):
        findings.problem(problem)
    if ctf is None:
        has_any = any(tables.has(name) for name in metadata.DEFOCUS)
        findings.fact("CTF", "not usable" if has_any else "none")
        return
    findings.fact("defocus", f"{span((ctf.defocus_u + ctf.defocus_v) / 2)} Å")
    findings.fact("astigmatism", f"{span((ctf.defocus_u - ctf.defocus_v).abs())} Å")
    findings.fact("voltage", f"{span(ctf.voltage_kv)} kV")
    findings.fact("spherical aberration", f"{span(ctf.spherical_aberration_mm)} mm")
    findings.fact("amplitude contrast", span(ctf.amplitude_contrast))
    findings.fact("phase shift", f"{span(torch.rad2deg(ctf.phase_shift))}°")


def _microscope(findings: Findings, tables: ParticleTables) -> None:
    """Higher aberrations, and what was done to the images on their account."""
    aberrations = findings.attempt(describe_aberrations, tables) or []
    for title, text in aberrations[:LISTED]:
        findings.fact(title, text)
    applied = findings.attempt(describe_applied_ctf, tables)
    if applied is not None:
        findings.fact("CTF in the images", applied)


def _tilt_series(findings: Findings, tables: ParticleTables, sizes: Array | None) -> None:
    groups = findings.attempt(tilt_groups, tables, np.ones(len(tables)) if sizes is None else sizes)
    if groups is None:
        return
    findings.fact(
        "tilt series", f"{len(groups):,} particles, {span(groups.images_per_particle)} images of each"
    )
    findings.fact("exposure", "not stated" if groups.exposure is None else f"{span(groups.exposure)} e/Å²")
    findings.fact("tilt", "not stated" if groups.tilt is None else f"{span(torch.rad2deg(groups.tilt))}°")


def _poses(findings: Findings, tables: ParticleTables, sizes: Array | None) -> Pose | None:
    pose = findings.attempt(metadata.poses, tables, np.ones(len(tables)) if sizes is None else sizes)
    if pose is None:
        findings.fact("poses", "no")
        return None
    largest = f", shifts up to {float(pose.shift.abs().max()):.4g} Å" if sizes is not None else ""
    findings.fact("poses", f"yes{largest}")
    return pose


def _images(
    findings: Findings,
    tables: ParticleTables,
    datadir: Path | str | None,
    sizes: Array | None,
    pose: Pose | None,
    one_box: bool,
) -> None:
    """Find the stacks, look at each header, and at some pixels where all is well so far."""
    findings.attempt(particle_set.check_dimensions, tables)
    addresses = findings.attempt(stack_files.image_addresses, tables.particles)
    if addresses is None:
        return
    findings.fact("stacks", f"{len(addresses.names):,}")
    headers = _headers(findings, tables, addresses, datadir)
    boxes = findings.attempt(lambda: np.array([header.box_size for header in headers]))
    if one_box:
        findings.attempt(stack_files.check_boxes, headers)
    if boxes is None or not len(boxes) or (one_box and len(set(boxes.tolist())) > 1):
        return
    findings.fact("box", f"{span(boxes)} px")
    if len(headers) == len(addresses.names):
        findings.attempt(particle_set.check_announced_box, tables, headers, addresses.stack)
        boxes = boxes[addresses.stack]
    if sizes is not None and pose is not None and len(boxes) == len(sizes):
        findings.attempt(particle_set.check_shifts, tables, pose, boxes * sizes)
    if len(headers) == len(addresses.names):
        findings.attempt(stack_files.check_sections, headers, addresses, tables.particles)
        findings.attempt(stack_files.check_whole_files, headers, addresses, tables.particles)
        _compare_with_headers(findings, sizes, addresses, headers)
        _pixels(findings, tables, addresses, headers)


def _headers(
    findings: Findings, tables: ParticleTables, addresses: ImageAddresses, datadir: Path | str | None
) -> list[MrcHeader]:
    """The headers of all stacks that are there and whole."""
    findings.attempt(stack_files.locate_stacks, addresses.names, tables.path, datadir)
    before = len(findings.problems)
    found = stack_files.find_stacks(addresses.names, tables.path, datadir)
    headers = [findings.attempt(read_header, path) for path in found if path is not None]
    findings.shorten(before)
    return [header for header in headers if header is not None]


def _compare_with_headers(
    findings: Findings, sizes: Array | None, addresses: ImageAddresses, headers: list[MrcHeader]
) -> None:
    """Remark on images that the star file leaves out or names twice, and on other pixel sizes."""
    pairs = np.unique(np.stack([addresses.stack, addresses.section]), axis=1).shape[1]
    held, named = sum(header.sections for header in headers), len(addresses.stack)
    findings.fact("images in the stacks", f"{held:,}")
    if pairs < named:
        findings.remarks.append(
            f"{named - pairs:,} of {named:,} rows name an image that another row names too."
        )
    if pairs < held:
        findings.remarks.append(
            f"{held - pairs:,} of {held:,} images in the stacks are not named in the star file."
        )
    stated = headers[0].pixel_size
    ours = None if sizes is None else sizes[addresses.stack == 0][0]
    if stated is not None and ours is not None and abs(stated / ours - 1) > HEADER_AGREEMENT:
        findings.remarks.append(
            f"the header of {headers[0].path} says {stated:g} Å per pixel, the star file {ours:g} Å; the "
            "star file counts."
        )


def _pixels(
    findings: Findings, tables: ParticleTables, addresses: ImageAddresses, headers: list[MrcHeader]
) -> None:
    ones = torch.ones(len(tables), dtype=torch.float64)
    images = ParticleSet(tables, tuple(headers), addresses, ones, ctf=None, ctf_scale=ones, pose=None)
    counts = np.array([header.sections for header in headers])
    there = np.flatnonzero(addresses.section < counts[addresses.stack])
    if len(there):
        chosen = there[np.unique(np.linspace(0, len(there) - 1, SAMPLE).round().astype(np.int64))]
        add_pixel_facts(findings, len(tables), chosen.tolist(), lambda row: images.images([row])[0].numpy())
