"""Runs on tilt pairs: one pose and one latent for both images of a particle, from search to run folder."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.recipes.small_search import (
    EFFORT,
    FINAL,
    StopAfter,
    assert_same_run,
    events,
    small,
    small_paper,
    small_subspace,
    thin,
)

from cryoatlas.analysis.pose_error import compare_poses
from cryoatlas.cli import app
from cryoatlas.errors import ConfigError, MetadataError
from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_x, geodesic_angle
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import read_volume
from cryoatlas.models.config import DecoderConfig, EncoderConfig
from cryoatlas.models.vae import VAE, Shape, build_vae
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.batch import Loader
from cryoatlas.particles.config import PreprocessConfig
from cryoatlas.particles.pairs import make_loader, pair
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.poses.config import SearchConfig
from cryoatlas.progress import Interrupted, never, silent
from cryoatlas.recipes.abinit import SEARCH, abinit
from cryoatlas.recipes.abinit_config import AbinitConfig, SubspaceConfig
from cryoatlas.recipes.noise import residual_noise, spectra
from cryoatlas.recipes.pose_rounds import STEADYINGS, States, pose_rounds
from cryoatlas.recipes.presets import recipe
from cryoatlas.recipes.run import open_run, stored_preprocessor
from cryoatlas.recipes.train import train
from cryoatlas.subspace.bootstrap import hypotheses
from cryoatlas.subspace.expectation import expect
from cryoatlas.subspace.model import Subspace
from cryoatlas.training import checkpoint
from cryoatlas.training.config import TrainConfig
from cryoatlas.training.loop import infer
from cryoatlas.training.pose_table import PoseTable, search_chunk, views_of


def quick(name: str, latent: int) -> tuple[AbinitConfig, TrainConfig]:
    """The options of a recipe, cut small."""
    final = thin(replace(recipe("network" if name == "default" else name, latent=latent), epochs=1))
    if name == "default":
        return small_subspace(components=latent), final
    return small_paper(latent), final


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 pairs of 16 px, with CTF."""
    folder = tmp_path_factory.mktemp("pairs") / "set"
    options = SimulationConfig(
        "linear1d", images=64, box=16, snr=5.0, seed=3, ctf=True, states=4, tilt_pairs=True
    )
    simulate(options, folder)
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> ParticleSet:
    return read_particles(folder / "particles.star")


@pytest.fixture(scope="module")
def second(folder: Path) -> ParticleSet:
    return read_particles(folder / "particles_tilt.star")


KINDS = ("subspace", "network", "own z")


@pytest.fixture(scope="module")
def finished(first, second, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole run by each kind of search."""
    folder = tmp_path_factory.mktemp("pairs")
    for kind in KINDS:
        abinit(first, small(kind), FINAL, folder / kind, tilted=second, device="cpu")
    return {kind: folder / kind for kind in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("latent", [0, 1])
@pytest.mark.parametrize("name", ["default", "paper"])
def test_pairs_are_reconstructed_from_nothing(first, second, tmp_path, name, latent):
    """One row for each pair, which leads back to the row of the first image."""
    config, final = quick(name, latent)
    run = abinit(first, config, final, tmp_path / "run", tilted=second, device="cpu")
    assert len(run.pose) == 64
    assert run.latents().shape == (64, latent)
    assert run.losses().shape == run.contrasts().shape == (64,)
    assert np.isfinite(run.losses()).all()
    assert torch.isfinite(run.pose.rotation).all()
    assert torch.equal(run.particles.images([3]), first.images([3]))
    assert run.vae.shape.views == 2
    epochs = [entry for entry in run.log() if entry["event"] == "epoch"]
    assert [entry["images"] for entry in epochs] == [64]


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_remembers_the_tilted_file(finished, second, kind):
    for place in (finished[kind], finished[kind] / SEARCH):
        kept = open_run(place).config["input"]
        assert kept["tilt"] == str(second.path.resolve())
        assert kept["tilt_angle_deg"] == 45.0


# 12 steps of first maps, then 2 chunks in each of three rounds; 2 chunks in each of three epochs; training.
STOPS = [
    *[("subspace", count) for count in (5, 13, 17, 19)],
    *[("network", count) for count in (1, 3, 7)],
    *[("own z", count) for count in (1, 5, 7)],
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stop_after"), STOPS)
def test_resuming_gives_the_run_that_was_not_stopped(finished, first, second, tmp_path, kind, stop_after):
    out, config = tmp_path / "run", small(kind)
    with pytest.raises(Interrupted):
        abinit(first, config, FINAL, out, tilted=second, device="cpu", stop_requested=StopAfter(stop_after))
    in_training = stop_after == (19 if kind == "subspace" else 7)
    assert (out / SEARCH / "particles.star").exists() == in_training
    run = abinit(first, config, FINAL, out, tilted=second, device="cpu", resume=True)
    assert_same_run(run, open_run(finished[kind]))


def test_the_search_of_pairs_with_a_latent_tells_of_its_effort_and_its_drift(finished):
    search = open_run(finished["own z"] / SEARCH)
    assert all(set(entry) >= EFFORT for entry in events(search, "epoch")[1:])
    assert [entry["images"] for entry in events(search, "drift")] == [64]
    halves = open_run(finished["subspace"] / SEARCH)
    images = [entry["images"] for entry in events(halves, "drift")]
    assert set(images) == {32}
    assert len(images) in range(2, 2 * STEADYINGS + 1, 2)


@pytest.mark.parametrize("kind", ["subspace", "network"])
def test_resuming_with_other_second_images_is_refused(finished, first, second, folder, kind):
    config, out = small(kind), finished[kind]
    with pytest.raises(ConfigError, match=r"tilt_angle_deg: 45\.0 then, 30\.0 now"):
        abinit(first, config, FINAL, out, tilted=second, tilt_angle_deg=30.0, device="cpu", resume=True)
    with pytest.raises(ConfigError, match="tilt_sha256"):
        abinit(first, config, FINAL, out, device="cpu", resume=True)
    other = read_particles(folder / "truth" / "particles_tilt.star")
    with pytest.raises(ConfigError, match="tilt_sha256"):
        abinit(first, config, FINAL, out, tilted=other, device="cpu", resume=True)


def test_a_run_of_single_images_does_not_go_on_with_pairs(folder, second, tmp_path):
    posed = read_particles(folder / "truth" / "particles.star")
    run = train(posed, FINAL, tmp_path / "run", device="cpu")
    assert run.vae.shape.views == 1
    with pytest.raises(ConfigError, match=r"tilt_sha256: None then"):
        train(posed, FINAL, tmp_path / "run", tilted=second, device="cpu", resume=True)


def test_files_that_are_no_pair_leave_nothing_behind(first, second, tmp_path):
    with pytest.raises(MetadataError, match=r"particles_tilt\.star has 10 images"):
        abinit(first, small_subspace(), FINAL, tmp_path / "run", tilted=second[:10], device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["default", "paper"])
def test_a_checkpoint_of_pairs_is_read_as_it_was_written(folder, second, tmp_path, name):
    posed = read_particles(folder / "truth" / "particles.star")
    run = train(posed, quick(name, 1)[1], tmp_path / "run", tilted=second, device="cpu")
    vae = run.vae
    assert vae.shape.views == 2
    loader = make_loader(posed, stored_preprocessor(run), vae.disc, 10, tilted=pair(posed, second, 45.0))
    found = infer(vae, loader.batches(range(64)), 64)
    # Other batches than the run's, so not bit for bit.
    np.testing.assert_allclose(found["z"], run.latents(), atol=1e-5)
    np.testing.assert_allclose(found["misfit"], run.losses(), rtol=1e-4)


def test_checkpoints_of_before_there_were_pairs_are_read(folder, tmp_path):
    posed = read_particles(folder / "truth" / "particles.star")
    run = train(posed, FINAL, tmp_path / "run", device="cpu")
    newest = checkpoint.newest(run.path / "checkpoints")
    facts = json.loads(newest.read_text())
    del facts["shape"]["views"]
    newest.write_text(json.dumps(facts))
    assert checkpoint.load(newest)[0].shape.views == 1


def test_noise_is_measured_on_both_images(folder, second):
    """The mean square of residuals, whatever the number of views."""
    posed = read_particles(folder / "truth" / "particles.star")
    scale, disc = Preprocessor.fit(posed), Disc(16)
    nothing = VoxelVolume.from_map(torch.zeros(16, 16, 16), float(posed.pixel_size[0]))
    tilted = pair(posed, second, 45.0)
    loaders = [
        make_loader(posed, scale, disc, 10, tilted=tilted),
        make_loader(posed, scale, disc, 10),
        make_loader(second.with_pose(posed.pose), scale, disc, 10),
    ]
    both, one, other = (residual_noise(each, nothing).variance for each in loaders)
    torch.testing.assert_close(both, (one + other) / 2, rtol=1e-4, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [["--recipe=paper", "--search-epochs=2", "--keep=1"], ["--starts=1", "--rounds=0"]],
    ids=["paper", "default"],
)
def test_the_command_line_takes_pairs(folder, tmp_path, capsys, monkeypatch, options):
    recipes = {"default": small_subspace, "paper": small_paper}
    small_ones = {name: lambda *, latent, pairs, make=make: make(latent) for name, make in recipes.items()}
    monkeypatch.setattr("cryoatlas.recipes.abinit_config.ABINIT_RECIPES", small_ones)
    words = ["abinit", str(folder / "particles.star"), "--latent=0", "--device=cpu", "--epochs=2"]
    words += ["--shift-extent=1", f"--out={tmp_path / 'run'}", *options]
    assert app.run([*words, "--tilt-angle=30"]) == 2
    assert "add --tilt" in capsys.readouterr().err
    assert app.run([*words, f"--tilt={folder / 'particles_tilt.star'}", "--tilt-angle=30"]) == 0
    kept = open_run(tmp_path / "run").config["input"]
    assert kept["tilt_angle_deg"] == 30.0
    assert Path(kept["tilt"]).name == "particles_tilt.star"


@pytest.mark.parametrize(
    "words", [["train", "--latent=1"], ["classify", "--classes=2"]], ids=["train", "classify"]
)
def test_verbs_with_known_poses_take_pairs(folder, tmp_path, words):
    verb, size = words
    star, tilt = folder / "truth" / "particles.star", folder / "particles_tilt.star"
    options = [size, "--epochs=2", f"--tilt={tilt}", "--tilt-angle=45", "--device=cpu"]
    assert app.run([verb, str(star), *options, f"--out={tmp_path / 'run'}"]) == 0
    run = open_run(tmp_path / "run")
    assert Path(run.config["input"]["tilt"]).name == "particles_tilt.star"
    assert len(run.latents()) == 64
    assert np.isfinite(run.volume(run.latents()[0])).all()


@pytest.fixture(scope="module")
def rigid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pairs of 24 px of a rigid body, at SNR 10."""
    folder = tmp_path_factory.mktemp("rigid") / "set"
    simulate(SimulationConfig("homogeneous", images=60, box=24, snr=10.0, seed=5, tilt_pairs=True), folder)
    return folder


def network_of(map_: torch.Tensor, pixel_size: float) -> VAE:
    """A VAE that has a map and nothing to add to it."""
    box = len(map_)
    shape = Shape(
        box_size=box,
        pixel_size=pixel_size,
        latent=0,
        encoder=EncoderConfig(),
        decoder=DecoderConfig(layers=1, width=8),
        seed=0,
        views=2,
    )
    vae = build_vae(shape)
    vae.decoder.start_from(torch.zeros(box // 2 + 1), map_)
    return vae


def mirrored(map_: torch.Tensor) -> torch.Tensor:
    """z → −z about the centre; the face that has no opposite is nearly empty."""
    return torch.roll(map_.flip(0), 1, 0)


def test_the_search_finds_one_pose_for_both_images_and_tells_the_hand(rigid):
    truth, second = (
        read_particles(rigid / name)[:24] for name in ("truth/particles.star", "particles_tilt.star")
    )
    tilted = pair(truth, second, 45.0)
    written = read_volume(rigid / "truth" / "volumes" / "state_000000.mrc")
    map_, pixel_size = torch.from_numpy(written.array), float(truth.pixel_size[0])
    scale = Preprocessor(PreprocessConfig(window=False), 24, 0.0, 1.0)
    config = SearchConfig(band_start=5.0, shift_extent_px=2.0, refine=3)
    loss, tables = {}, {}
    for hand, body in (("right", map_), ("wrong", mirrored(map_))):
        vae = network_of(body, pixel_size)
        chunk = make_loader(truth.with_pose(None), scale, vae.disc, 24, tilted=tilted).batch(torch.arange(24))
        tables[hand] = PoseTable.random(24, 0)
        search_chunk(chunk, tables[hand], vae, config, (0,))
        loss[hand] = tables[hand].loss
    assert (loss["right"] < loss["wrong"]).double().mean() > 0.9
    found = tables["right"]
    turned = torch.rad2deg(geodesic_angle(found.rotation, truth.pose.rotation))
    # SNR 10 at 8 Å pixels; no grid or hand is near that is not the truth.
    assert turned.median() < 2
    assert (found.shift - truth.pose.shift).norm(dim=1).median() < 0.3 * pixel_size
    rows = found.at(chunk).rotation.double()
    torch.testing.assert_close(rows[1::2], about_x(math.pi / 4) @ found.rotation, atol=1e-5, rtol=0)


def evidence_for(body: torch.Tensor, loader: Loader) -> torch.Tensor:
    """Mean evidence of images for a map, over all poses of a grid."""
    pixel_size = float(loader.particles.pixel_size[0])
    seen = views_of(loader.batch(torch.arange(60)), loader.disc, spectra(loader).noise, pixel_size)
    grid = hypotheses(2 * pixel_size, 2, 3, np.random.default_rng(0), seen[0].transfer)
    return expect(Subspace(body[None], pixel_size), seen, grid, 6.0).evidence.mean()


def test_pairs_tell_the_hand_of_a_map_and_single_images_do_not(rigid):
    """What evidence of held-out images chooses among starts by."""
    truth = read_particles(rigid / "truth" / "particles.star").with_pose(None)
    second = pair(truth, read_particles(rigid / "particles_tilt.star"), 45.0)
    map_ = torch.from_numpy(read_volume(rigid / "truth" / "volumes" / "state_000000.mrc").array)
    scale = Preprocessor(PreprocessConfig(window=False), 24, 0.0, 1.0)
    gain = []
    for tilted in (second, None):
        loader = make_loader(truth, scale, Disc(24), 60, tilted=tilted)
        gain.append(float(evidence_for(map_, loader) - evidence_for(mirrored(map_), loader)))
    # Grids are 15° apart and turned alike for both hands, which single images feel a little.
    assert gain[0] > 10 * abs(gain[1])


def test_rounds_use_both_images_and_bring_poses_nearer(rigid, tmp_path):
    """From poses a few degrees off, without searching."""
    truth = read_particles(rigid / "truth" / "particles.star")
    tilted = pair(truth, read_particles(rigid / "particles_tilt.star"), 45.0)
    start = Pose(nearby(truth.pose.rotation), truth.pose.shift)
    found = {}
    for name, second in (("pair", tilted), ("single", None)):
        loader = make_loader(truth.with_pose(None), Preprocessor.fit(truth), Disc(24), 60, tilted=second)
        config = SubspaceConfig(shift_extent_px=2.0, rounds=3, search_every=9)
        found[name] = rounds_from(start, loader, config, tmp_path / name)
    before, after = (
        compare_poses(pose, truth.pose, float(truth.pixel_size[0])).run.median_rotation_deg
        for pose in (start, found["pair"].pose)
    )
    assert after < 0.7 * before
    # What two images say adds up: each holds about as much as the other.
    gain = found["pair"].loss / found["single"].loss
    assert 1.5 < gain.median() < 2.5


def nearby(rotation: torch.Tensor) -> torch.Tensor:
    """Turned by 0.05 about each axis, as a standard deviation: 4.5° in the middle."""
    import roma

    generator = torch.Generator().manual_seed(0)
    return (
        roma.rotvec_to_rotmat(0.05 * torch.randn(60, 3, generator=generator, dtype=torch.float64)) @ rotation
    )


def rounds_from(start: Pose, loader: Loader, config: SubspaceConfig, folder: Path) -> PoseTable:
    """Rounds 1, 2 … of one mean map, as if the first search had found these poses."""
    states = States.unknown(len(start), 0, 0)
    states.table.rotation[:], states.table.shift[:] = start.rotation, start.shift
    (folder / "volumes").mkdir(parents=True)
    states.save(folder, 1)
    box = loader.disc.box_size
    empty = Subspace(torch.zeros(1, box, box, box), float(loader.particles.pixel_size[0]))
    return pose_rounds(loader, empty, spectra(loader).noise, config, folder, silent, never).table
