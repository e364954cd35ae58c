"""One line of a table: simulate, reconstruct, score."""

import time
import tomllib
from dataclasses import replace
from pathlib import Path

from benchmarks.accuracy.known_poses import MEASURED_IMAGES
from benchmarks.common import Row, Value, commit, gpu
from benchmarks.paper.ceilings import ceiling
from benchmarks.paper.jobs import Data, Job

from cryoatlas.analysis.latent import adjusted_rand_index
from cryoatlas.analysis.score import Score, score_run
from cryoatlas.analysis.truth import read_truth
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.progress import Progress, silent
from cryoatlas.recipes.abinit import abinit
from cryoatlas.recipes.abinit_config import NetworkConfig, SubspaceConfig, abinit_recipe, final_recipe
from cryoatlas.recipes.device import choose_device
from cryoatlas.recipes.presets import Recipe, subspace
from cryoatlas.recipes.run import Run, open_run
from cryoatlas.recipes.train import train
from cryoatlas.subspace.config import ClassesConfig
from cryoatlas.training.config import TrainConfig

SIMULATION_SEED = 1
POSE_MEASURES = (
    "median deg",
    "deg, per state",
    "median sq. Frobenius",
    "median px shift",
    "mirrored",
    "other hand",
)
CEILING = "true poses and states"
"""What the truth gives, as a method."""
SCALED = {"layers": 3, "width": 128}
"""Hidden layers and units of the paper's recipe at laptop size; the paper's networks have 9 and 128."""
SCALED_TRAINING = {"batch_size": 8, "learning_rate": 5e-4}
SCALED_CHUNK = 64
SCALED_EPOCHS = 10


def simulated(data: Data, work: Path, device: str = "cpu") -> Path:
    """The folder of a set, made if it is not there."""
    folder = work / "sets" / data.name
    if not folder.exists():
        config = SimulationConfig(
            data.scene,
            images=data.images,
            box=data.box,
            snr=data.snr,
            ctf=data.ctf,
            tilt_pairs=data.pairs,
            seed=SIMULATION_SEED,
        )
        simulate(config, folder, device=choose_device(device))
    return folder


def times_of(out: Path) -> Path:
    """The file beside a run that says what it took; not `with_suffix`, since names have dots in them."""
    return out.with_name(f"{out.name}.toml")


def finished(job: Job, work: Path, size: str, device: str) -> Run:
    """The run of a line, made or gone on with if it is not there."""
    out = work / "runs" / job.name
    times = times_of(out)
    if not times.exists():
        begun = out.exists()
        data = simulated(job.data, work, device)
        started = time.perf_counter(), time.process_time()
        reconstruct(job, data, out, size, device, resume=begun)
        wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
        times.write_text("" if begun else f"wall_s = {wall:.1f}\ncpu_s = {cpu:.1f}\n")
    return open_run(out)


def reconstruct(
    job: Job, data: Path, out: Path, size: str, device: str, *, resume: bool, progress: Progress = silent
) -> None:
    """Do what a line says."""
    method, extent = job.method, 5 * job.data.box / 64
    particles = read_particles(data / ("truth" if method.known else ".") / "particles.star")
    tilted = read_particles(data / "particles_tilt.star") if job.data.pairs else None
    if method.known:
        if method.recipe == "classify":
            config = ClassesConfig(classes=method.size, seed=job.seed)
        else:
            config = replace(subspace(latent=method.size), seed=job.seed)
        train(particles, config, out, tilted=tilted, device=device, resume=resume, progress=progress)
    else:
        search, final = configured(job, extent, size)
        abinit(
            particles,
            search,
            final,
            out,
            tilted=tilted,
            device=device,
            resume=resume,
            progress=progress,
        )


def configured(job: Job, extent: float, size: str) -> tuple[SubspaceConfig | NetworkConfig, Recipe]:
    """The options of a search from nothing, and of what follows.

    Args:
        extent: of shifts, px.
        size: at laptop size the paper's recipe is scaled down.
    """
    recipe, latent = job.method.recipe, job.method.size
    if recipe == "classify":
        search = abinit_recipe("default", latent=0)
        final = ClassesConfig(
            classes=latent, align="search" if latent > 1 else "refine", shift_extent_px=extent, seed=job.seed
        )
    else:
        search = abinit_recipe(recipe, latent=latent, pairs=job.data.pairs)
        final = replace(final_recipe(recipe, latent=latent), seed=job.seed)
    if isinstance(search, SubspaceConfig):
        return replace(search, shift_extent_px=extent, seed=job.seed), final
    search = replace(
        search,
        train=replace(search.train, seed=job.seed),
        search=replace(search.search, shift_extent_px=extent),
    )
    if size == "laptop" and isinstance(final, TrainConfig):
        searching = replace(_scaled(search.train), epochs=SCALED_EPOCHS)
        search = replace(search, train=searching, chunk=SCALED_CHUNK)
        final = replace(_scaled(final), epochs=SCALED_EPOCHS)
    return search, final


def _scaled(config: TrainConfig) -> TrainConfig:
    """The paper's networks and steps, small enough for two cores."""
    encoder, decoder = replace(config.encoder, **SCALED), replace(config.decoder, **SCALED)
    return replace(config, encoder=encoder, decoder=decoder, **SCALED_TRAINING)


def line(job: Job, run: Run, work: Path) -> Row:
    """What a run measures."""
    truth = read_truth(simulated(job.data, work))
    latents = run.latents()
    score = score_run(latents, run.pose, run.volumes, truth, run.pixel_size, images=MEASURED_IMAGES)
    rand = score.rand_index
    if rand is not None and job.method.recipe == "classify":
        rand = adjusted_rand_index(latents.argmax(1), truth.states)  # the classes themselves, not clusters
    times = tomllib.loads(times_of(run.path).read_text())
    return {
        **described(job),
        **measures(score),
        "Rand index": rand,
        "wall s": times.get("wall_s"),
        "cpu s": times.get("cpu_s"),
        "on": gpu(),
        "commit": commit(),
    }


def ceiling_line(job: Job, work: Path) -> Row:
    """What the truth would give on the set of a line."""
    folder = simulated(job.data, work)
    score = ceiling(read_particles(folder / "truth" / "particles.star"), str(folder))
    named = {**described(job), "method": CEILING, "seed": 0}
    measured = {**measures(score), **dict.fromkeys(POSE_MEASURES)}
    untimed = {"Rand index": None, "wall s": None, "cpu s": None}
    return {**named, **measured, **untimed, "on": gpu(), "commit": commit()}


def described(job: Job) -> Row:
    """What was run."""
    data = job.data
    return {
        "table": job.table,
        "scene": data.scene,
        "box": data.box,
        "images": data.images,
        "snr": f"{data.snr:g}",
        "ctf": data.ctf,
        "tilt pairs": data.pairs,
        "method": job.method.name,
        "seed": job.seed,
    }


def measures(score: Score) -> dict[str, Value]:
    """The paper's measures (M12), and those of the field."""
    maps, per_state = score.run.summary(), score.states.summary()
    poses, coordinates = score.poses, list(score.coordinates.values())
    states = None if poses is None else poses.states
    known = [each.circular if each.circular is not None else each.knn_spearman for each in coordinates]
    return {
        "px": maps["mean_px"],
        "px std": maps["std_px"],
        "px, per state": per_state["mean_px"],
        "px std, per state": per_state["std_px"],
        "FSC area": maps["mean_cryobench_area"],
        "change": maps["mean_change_correlation"],
        "change, per state": per_state["mean_change_correlation"],
        "latent and coordinate": min(known) if known else None,
        "median deg": None if poses is None else poses.run.median_rotation_deg,
        "deg, per state": None if states is None else states.median_rotation_deg,
        "median sq. Frobenius": None if poses is None else poses.run.median_squared_frobenius,
        "median px shift": None if poses is None else poses.run.median_shift_px,
        "mirrored": None if poses is None else poses.alignment.mirrored,
        "other hand": None if poses is None else poses.opposite_hand,
    }
