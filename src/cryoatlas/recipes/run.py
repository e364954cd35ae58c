"""Run folders: what a training leaves behind, and how to use it again.

::

    run/  config.toml        arguments, version, seed, input: everything needed to repeat the run
          log.jsonl          one object for the start, each epoch, and the end
          particles.star     the input rows, in order, with poses, latents and rows of the user's file
          source.toml        the user's file that these rows are of
          latents.npz        z, z_std, loss, contrast: one row per input row; of the subspace engine also
                             z_cov and the weights of its components
          checkpoints/       *.safetensors + json
          volumes/*.mrc      the consensus map
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
import torch

from cryoatlas import __version__
from cryoatlas.errors import ConfigError, FormatError, InputError
from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.symmetry import NO_SYMMETRY
from cryoatlas.io.output import atomic_path, explained_os_errors, new_directory, write_text
from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.models.vae import VAE
from cryoatlas.particles.batch import Loader
from cryoatlas.particles.config import PreprocessConfig
from cryoatlas.particles.metadata import read_tables
from cryoatlas.particles.pairs import TiltedImages, make_loader, pair
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.particles.source import SOURCE_ROW, checksum, source_of, source_rows, write_source
from cryoatlas.particles.write import write_particles
from cryoatlas.recipes.classes_file import KeptClasses
from cryoatlas.recipes.device import choose_device, images_at_once
from cryoatlas.recipes.presets import Recipe
from cryoatlas.recipes.states_file import KeptStates
from cryoatlas.recipes.volumes import (
    ClassVolumes,
    KernelVolumes,
    Latents,
    LinearVolumes,
    NetworkVolumes,
    Volumes,
)
from cryoatlas.shapes import Array, Float, Tensor
from cryoatlas.subspace.config import ClassesConfig, StatesConfig
from cryoatlas.subspace.states import State
from cryoatlas.training import checkpoint
from cryoatlas.training.config import TrainConfig

CONFIG, LOG, PARTICLES, LATENTS = "config.toml", "log.jsonl", "particles.star", "latents.npz"
LATENT = "cryoatlasLatent"
"""Latent columns of particles.star: this name and the number of the axis, from 0."""
CONTRAST = "cryoatlasContrast"
"""Column of the factor of each image's signal; all 1 where none were fitted."""
SPREAD = {"rotation_std": "cryoatlasRotationStd", "shift_std": "cryoatlasShiftStd"}
"""Arrays and columns of how well a pose is known that was found: degrees about an axis, Å along a line."""
CHECKPOINTS, VOLUMES = "checkpoints", "volumes"
CONSENSUS = f"{VOLUMES}/consensus.mrc"
NEEDED = {
    "run": ("verb",),
    "input": ("images", "box_size", "pixel_size", "invert"),
    "preprocess": ("mean", "std"),
    "train": (),
}
"""What config.toml must hold for a run to be read."""
ARRAYS = ("z", "z_std", "loss", "contrast")
"""What latents.npz holds."""
NETWORK, SUBSPACE, CLASSES = "network", "subspace", "classes"
"""What a run's volumes come from."""
ENGINE_NAMES = {TrainConfig: NETWORK, StatesConfig: SUBSPACE, ClassesConfig: CLASSES}
"""By the options of the work."""
STATES_BATCH = 1024
"""Images that are added to states together."""


@dataclass(frozen=True)
class Run:
    """A run folder, read on demand."""

    path: Path
    config: dict[str, Any]
    """What config.toml holds."""
    only_linear: bool = False
    """See `linear`."""

    @property
    def box_size(self) -> int:
        """Side of images and volumes, px."""
        return self.config["input"]["box_size"]

    @property
    def pixel_size(self) -> float:
        """Of the volumes, Å."""
        return self.config["input"]["pixel_size"]

    @property
    def latent_size(self) -> int:
        """Dimension of z; 0 for a single volume."""
        return stored_config(self).latent

    @cached_property
    def vae(self) -> VAE:
        """The networks of the newest checkpoint.

        Raises:
            InputError: there is none yet.
        """
        newest = checkpoint.newest(self.path / CHECKPOINTS)
        if newest is None and self.engine != NETWORK:
            raise InputError(f"{self.path} is a run of the subspace engine: it has no networks.")
        if newest is None:
            raise InputError(
                f"{self.path} has no finished checkpoint: the training was stopped before its first. "
                "Run the training again."
            )
        return checkpoint.load(newest)[0].eval()

    @cached_property
    def particles(self) -> ParticleSet:
        """The particles with the run's poses, signs as they were in training."""
        facts = self.config["input"]
        found = read_particles(self.path / PARTICLES, invert=facts["invert"])
        return found.with_symmetry(facts.get("symmetry", NO_SYMMETRY))  # older runs do not say

    @property
    def pose(self) -> Pose | None:
        """The poses the run ended with."""
        return self.particles.pose

    def latents(self) -> Float[Array, "image latent"]:
        """Posterior mean of z, one row for each row of the input."""
        return self._arrays["z"]

    def latent_std(self) -> Float[Array, "image latent"]:
        """Posterior standard deviation of z."""
        return self._arrays["z_std"]

    def losses(self) -> Float[Array, "image"]:
        """−log p(X|z) of each image at its mean z, nats."""
        return self._arrays["loss"]

    def contrasts(self) -> Float[Array, "image"]:
        """Factor of each image's signal; all 1 where none were fitted."""
        return self._arrays["contrast"]

    def log(self) -> list[dict[str, Any]]:
        """The objects of log.jsonl.

        Raises:
            FormatError: a line is damaged.
        """
        return read_log(self.path)

    def volume(self, z: Float[Array, "latent"] | None = None) -> Float[Array, "box box box"]:
        """V(z) in real space, in the units of the input images; z is None for a single volume."""
        one = np.zeros((1, self.latent_size)) if z is None else np.asarray(z)[None]
        (volume,) = self.volumes(one)
        return volume

    def volumes(self, z: Float[Array, "volume latent"]) -> Iterator[Float[Array, "box box box"]]:
        """V(z) of several z, one after the other. A run of the subspace engine makes many of them in one pass
        over its images: ask for all at once.

        Raises:
            InputError: there is no finished checkpoint, or images that volumes are made of are not there.
        """
        for map_ in self._source.maps(torch.as_tensor(z, dtype=torch.float32)):
            yield (map_ * self.config["preprocess"]["std"]).cpu().numpy()

    def states(self, z: Float[Array, "volume latent"]) -> Iterator[State]:
        """V(z) of a run of the subspace engine with half maps and their FSC, normalised as its images are.

        Raises:
            InputError: the run's volumes are of another kind, or see `volumes`.
        """
        source = self._source
        if not isinstance(source, KernelVolumes):
            raise InputError(
                f"{self.path} has no half maps of states: they come with runs of --recipe subspace that make "
                "volumes from their images."
            )
        return source.states(torch.as_tensor(z, dtype=torch.float32))

    def linear(self) -> "Run":
        """The same run with volumes that are sums of its mean and components alone, made without its images.

        Raises:
            InputError: it is not of the subspace engine.
        """
        if self.engine != SUBSPACE:
            raise InputError(
                f"{self.path} is no run of the subspace engine (--recipe subspace): it has no linear model."
            )
        return replace(self, only_linear=True)

    @property
    def engine(self) -> str:
        """What its volumes come from: `NETWORK`, `SUBSPACE` or `CLASSES`."""
        return self.config["run"].get("engine", NETWORK)

    @cached_property
    def _source(self) -> Volumes:
        if self.engine == NETWORK:
            return NetworkVolumes(self.vae)
        if self.engine == CLASSES:
            return ClassVolumes(self._kept_classes.whole)
        kept = KeptStates.load(self.path / CHECKPOINTS)
        if kept is None or not kept.finished:
            raise InputError(
                f"{self.path} is not finished: there are no states yet. Continue it with its command and "
                "--resume."
            )
        if self.only_linear:
            return LinearVolumes(kept.model)
        kept = kept.to(choose_device("auto"))
        latents = Latents(*(torch.from_numpy(self._extra(name)) for name in ("z", "z_cov", "components")))
        return KernelVolumes(kept.model, kept.noise_model, latents, self._loader)

    @property
    def _kept_classes(self) -> KeptClasses:
        kept = KeptClasses.load(self.path / CHECKPOINTS)
        if kept is None or not (self.path / LATENTS).exists():
            raise InputError(
                f"{self.path} is not finished: its maps are not at full resolution yet. Continue it with its "
                "command and --resume."
            )
        return kept

    def _loader(self) -> Loader:
        """The images that states are made of.

        Raises:
            InputError: they are not where they were.
        """
        facts, tilted = self.config["input"], None
        try:
            particles = self.particles
            if "tilt" in facts:
                second = read_particles(facts["tilt"], invert=facts["invert"])
                tilted = pair(particles, second, facts["tilt_angle_deg"])
        except (InputError, OSError) as error:
            raise InputError(
                f"{error} The states of {self.path} are made of its images: put them back where they were, "
                "or ask for the linear model, which needs none (`cryoatlas volumes --linear`)."
            ) from error
        disc, place = Disc(self.box_size), choose_device("auto")
        chunk = images_at_once(STATES_BATCH, self.box_size, place)
        return make_loader(particles, stored_preprocessor(self), disc, chunk, place, tilted)

    def _extra(self, name: str) -> Float[Array, "image ..."]:
        if name not in self._arrays:
            raise FormatError(
                f"{self.path / LATENTS} is damaged (it lacks {name}): delete it and continue the training "
                "with its command and --resume."
            )
        return self._arrays[name]

    def latent_covariance(self) -> Float[Array, "image latent latent"]:
        """Posterior covariance of z; diagonal for runs of networks."""
        if self.engine == SUBSPACE:
            return self._extra("z_cov")
        return np.eye(self.latent_size, dtype=np.float32) * self.latent_std()[:, None] ** 2

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        path = self.path / LATENTS
        if not path.exists():
            raise InputError(
                f"{path} is missing: the training is not finished. Continue it with its command and --resume."
            )
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = dict(file)
            missing = set(ARRAYS) - set(arrays)
            if missing:
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        # Damaged archives fail in as many ways as zip has.
        except Exception as error:
            raise FormatError(
                f"{path} is damaged ({error}): delete it and continue the training with its command and "
                "--resume."
            ) from error
        return arrays


def open_run(path: Path | str) -> Run:
    """Open a run folder.

    Raises:
        InputError: `path` is not a run folder.
        FormatError: its config.toml is damaged.
    """
    path = Path(path)
    file = path / CONFIG
    if not file.is_file():
        raise InputError(
            f"{path} is not a run folder: it has no {CONFIG}. Give the folder named by --out of a training."
        )
    try:
        config = tomllib.loads(file.read_text(encoding="utf-8"))
        for table, keys in NEEDED.items():
            if table == "train" and config["run"]["verb"] == "search":
                continue  # poses can be sought without a network
            missing = [key for key in keys if key not in config.get(table, {})]
            if missing:
                raise ValueError(f"[{table}] lacks {', '.join(missing)}")
    except (ValueError, TypeError) as error:
        raise FormatError(f"{file} is damaged ({error}): restore it, or start the run again.") from error
    return Run(path, config)


def describe_input(particles: ParticleSet, tilted: TiltedImages | None = None) -> dict[str, Any]:
    """What config.toml keeps of the particles and their second images: enough to notice that they changed."""
    source = source_of(particles.tables)
    joined = particles.tables.joined
    return {
        "particles": str(particles.path.resolve()),
        "sha256": checksum(particles.path),
        "source": str(source.path),
        "source_sha256": source.sha256,
        "images": len(particles),
        "box_size": particles.box_size,
        "pixel_size": float(particles.pixel_size.median()),
        "invert": particles.sign < 0,
        "symmetry": particles.symmetry,
        **{name: str(path.resolve()) for name, path in joined},
        **{f"{name}_sha256": checksum(path) for name, path in joined},
        **({} if tilted is None else _describe_tilted(tilted)),
    }


def _describe_tilted(tilted: TiltedImages) -> dict[str, Any]:
    path = tilted.particles.path
    return {
        "tilt": str(path.resolve()),
        "tilt_sha256": checksum(path),
        "tilt_angle_deg": float(tilted.angle_deg),
    }


def write_config(
    folder: Path,
    verb: str,
    config: Recipe | None,
    particles: ParticleSet,
    preprocessor: Preprocessor,
    others: dict[str, Any] | None = None,
    tilted: TiltedImages | None = None,
) -> None:
    """Write config.toml, and which file of the user's the particles are of.

    Args:
        config: of the training; None for a search without a network.
        others: options beside those of training; a table of their own, by the verb's name.
        tilted: the particles' second images, if they have some.
    """
    write_source(folder, source_of(particles.tables))
    content = {
        "run": {
            "verb": verb,
            "version": __version__,
            "torch": torch.__version__,
            "engine": ENGINE_NAMES.get(type(config), NETWORK),
        },
        "input": describe_input(particles, tilted),
        "preprocess": {"mean": preprocessor.mean, "std": preprocessor.std, **asdict(preprocessor.config)},
        **({} if config is None else {"train": asdict(config)}),
        **({verb: others} if others else {}),
    }
    write_text(folder / CONFIG, tomlkit.dumps(content))


def stored_config(run: Run) -> Recipe:
    """The training options of a run."""
    facts = run.config["train"]
    if run.engine == CLASSES:
        return ClassesConfig(**facts)
    if run.engine == SUBSPACE:
        return StatesConfig(**{**facts, "bandwidths": tuple(facts["bandwidths"])})
    nested = {"encoder": EncoderConfig(**facts["encoder"]), "decoder": DecoderConfig(**facts["decoder"])}
    return TrainConfig(**{**facts, **nested})


def stored_preprocessor(run: Run) -> Preprocessor:
    """The normalisation that the run's images went through."""
    facts = dict(run.config["preprocess"])
    mean, std = facts.pop("mean"), facts.pop("std")
    return Preprocessor(PreprocessConfig(**facts), run.box_size, mean, std)


def check_same(
    run: Run,
    config: Recipe | None,
    particles: ParticleSet,
    others: dict[str, Any] | None = None,
    tilted: TiltedImages | None = None,
) -> None:
    """Refuse to resume with other options or particles than the run was started with.

    Args:
        others, tilted: as given to `write_config`.

    Raises:
        ConfigError: naming every difference.
    """
    own = {} if config is None else asdict(config)
    asked = {**own, **describe_input(particles, tilted), **(others or {})}
    kept = run.config.get(run.config["run"]["verb"], {}) if others else {}
    own = asdict(stored_config(run)) if "train" in run.config else {}
    stored = {"symmetry": NO_SYMMETRY, **own, **run.config["input"], **kept}
    # The places of the files may change, their content may not.
    contents = [name for name in (*asked, *stored) if name.endswith("_sha256")]
    places = {"particles", *(name.removesuffix("_sha256") for name in contents)}
    names = dict.fromkeys((*asked, *contents))
    differing = [name for name in names if name not in places and asked.get(name) != stored.get(name)]
    if differing:
        listed = "; ".join(f"{name}: {stored.get(name)} then, {asked.get(name)} now" for name in differing)
        raise ConfigError(
            f"{run.path} was started with other settings ({listed}). Resume with the same command, "
            "or start a new run in another folder."
        )


@dataclass(frozen=True)
class Begun:
    """A run folder that is ready, and the normalisation of its images."""

    folder: Path
    preprocessor: Preprocessor
    going_on: bool
    """Whether it was there before, of the same options and particles."""


def begin(
    folder: Path,
    config: Recipe,
    particles: ParticleSet,
    tilted: TiltedImages | None,
    *,
    resume: bool,
    overwrite: bool,
    folder_is_ready: bool,
) -> Begun:
    """Make a run folder with its config.toml, or look whether the one that is there is of the same work.

    Args:
        folder_is_ready: the folder was made by the caller, who may have put something into it.

    Raises:
        OutputError: the folder is not empty and neither `resume` nor `overwrite` is set.
        ConfigError: `resume` with other options or particles.
    """
    if resume and (folder / CONFIG if folder_is_ready else folder).exists():
        run = open_run(folder)
        check_same(run, config, particles, tilted=tilted)
        return Begun(folder, stored_preprocessor(run), True)
    if not folder_is_ready:
        folder = new_directory(folder, overwrite=overwrite)
    preprocessor = Preprocessor.fit(particles)
    write_config(folder, "train", config, particles, preprocessor, tilted=tilted)
    return Begun(folder, preprocessor, False)


def write_results(
    folder: Path,
    particles: ParticleSet,
    inferred: dict[str, Tensor],
    arrays: Mapping[str, Tensor] | None = None,
    columns: Mapping[str, Tensor] | None = None,
) -> None:
    """Write latents.npz and particles.star: the input's rows with their latents and contrasts.

    Args:
        inferred: z, z_std, misfit and contrast of every particle.
        arrays: of latents.npz besides.
        columns: of particles.star besides, by their names.
    """
    spread = {
        name: particles.tables.number(column)
        for name, column in SPREAD.items()
        if column in particles.tables.particles.names
    }
    _write_latents(folder, inferred, {**(arrays or {}), **spread})
    _write_run_particles(folder, particles, inferred, columns or {})


def spread_columns(spread: Float[Tensor, "particle 2"]) -> dict[str, Array]:
    """Columns of a star file: degrees about one axis, Å along one direction.

    Args:
        spread: what `poses.refinement.spread_of` gives.
    """
    rotation, shift = spread.double().numpy().T
    return dict(zip(SPREAD.values(), (np.degrees(rotation), shift), strict=True))


def with_spread(particles: ParticleSet, path: Path) -> ParticleSet:
    """Particles with the columns of `spread_columns` that a star file of them has."""
    found, table = read_tables(path), particles.tables.particles
    for column in SPREAD.values():
        table = table.without_columns(column)
        if column in found.particles.names:
            table = table.with_column(column, found.particles.text(column))
    return replace(particles, tables=particles.tables.with_particles(table))


def _write_latents(folder: Path, inferred: dict[str, Tensor], more: Mapping[str, Tensor | Array]) -> None:
    with atomic_path(folder / LATENTS) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            z=inferred["z"].numpy(),
            z_std=inferred["z_std"].numpy(),
            loss=inferred["misfit"].numpy(),
            contrast=inferred["contrast"].numpy(),
            allow_pickle=False,
            **{name: np.asarray(values) for name, values in more.items()},
        )


def _write_run_particles(
    folder: Path, particles: ParticleSet, inferred: dict[str, Tensor], more: Mapping[str, Tensor]
) -> None:
    latents = inferred["z"]
    table = particles.tables.particles
    of_earlier_run = [name for name in table.names if name.startswith(LATENT)]
    tables = particles.tables.with_particles(table.without_columns(*of_earlier_run))
    columns = {SOURCE_ROW: source_rows(tables), CONTRAST: inferred["contrast"].numpy()}
    columns |= {f"{LATENT}{axis}": latents[:, axis].numpy() for axis in range(latents.shape[1])}
    columns |= {name: values.numpy() for name, values in more.items()}
    write_particles(folder / PARTICLES, replace(particles, tables=tables), extra_columns=columns)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The objects of log.jsonl in a folder; none if there is no such file.

    Raises:
        FormatError: a line is damaged.
    """
    path = folder / LOG
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise FormatError(
                f"line {number} of {path} is damaged ({error}): the work may have been killed while "
                "it was written; delete the line."
            ) from error
    return entries


def append_log(folder: Path, entry: dict[str, Any]) -> None:
    """Add an object to log.jsonl."""
    path = folder / LOG
    with explained_os_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
