"""Ab initio runs: every search runs, poses survive interruptions, and later steps take them as they are."""

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
    both_searches,
    events,
    small,
    small_network,
    small_paper,
    small_subspace,
    thin,
)

from cryoatlas.errors import ConfigError, MetadataError, OutputError
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import read_volume
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.progress import Interrupted
from cryoatlas.recipes.abinit import SEARCH, abinit
from cryoatlas.recipes.abinit_config import AbinitConfig, abinit_recipe, components_for, final_recipe
from cryoatlas.recipes.backprojection import backproject_particles
from cryoatlas.recipes.pose_rounds import STEADY_DEG, STEADYINGS
from cryoatlas.recipes.presets import one_map, recipe
from cryoatlas.recipes.run import Run, open_run

ALL = ("subspace", "network", "own z", "paper")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 images of 16 px, with CTF."""
    folder = tmp_path_factory.mktemp("abinit") / "set"
    simulate(SimulationConfig("linear1d", images=96, box=16, snr=5.0, seed=3, ctf=True, states=4), folder)
    return folder


@pytest.fixture(scope="module")
def particles(folder: Path) -> ParticleSet:
    return read_particles(folder / "particles.star")


class Finished:
    """Whole runs by their kind of search, made when they are asked for."""

    def __init__(self, particles: ParticleSet, place: Path) -> None:
        self.particles, self.place = particles, place
        self.questions: dict[str, int] = {}

    def __getitem__(self, kind) -> Run:
        out = self.place / kind
        if kind not in self.questions:
            counter = StopAfter(10**9)
            abinit(self.particles, small(kind), FINAL, out, device="cpu", stop_requested=counter)
            self.questions[kind] = counter.asked
        return open_run(out)


@pytest.fixture(scope="module")
def finished(particles: ParticleSet, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(particles, tmp_path_factory.mktemp("finished"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_the_run_has_poses_latents_and_volumes(finished, particles, kind):
    run = finished[kind]
    assert run.pose is not None
    assert len(run.pose) == len(particles)
    assert run.latents().shape == (96, 1)
    assert np.isfinite(run.latents()).all()
    assert run.volume(np.zeros(1)).shape == (16, 16, 16)


def test_the_search_keeps_its_maps(finished):
    """The subspace engine's first maps, mean and component, and its half maps; the network's map."""
    volumes = finished["subspace"].path / SEARCH / "volumes"
    names = ["first_000.mrc", "first_001.mrc", "half_1.mrc", "half_2.mrc"]
    assert sorted(path.name for path in volumes.iterdir()) == names
    assert (finished["network"].path / SEARCH / "volumes" / "network.mrc").exists()


@pytest.mark.slow
@both_searches
def test_poses_in_the_file_are_not_looked_at(finished, folder, tmp_path, kind):
    """The set with true poses gives the same run as the set without."""
    posed = read_particles(folder / "truth" / "particles.star")
    assert_same_run(abinit(posed, small(kind), FINAL, tmp_path / "run", device="cpu"), finished[kind])


@both_searches
def test_images_without_ctf_are_reconstructed(particles, tmp_path, kind):
    run = abinit(replace(particles, ctf=None), small(kind), FINAL, tmp_path / "run", device="cpu")
    assert bool(torch.isfinite(run.pose.rotation).all())
    assert np.isfinite(run.latents()).all()


def test_the_band_grows_while_poses_are_sought(finished):
    for kind in ("network", "own z"):
        search = open_run(finished[kind].path / SEARCH)
        bands = [entry["band_px"] for entry in events(search, "epoch")]
        assert bands == sorted(bands)
        assert bands[0] < bands[-1] == 8
    bands = [entry["band_px"] for entry in events(open_run(finished["subspace"].path / SEARCH), "round")]
    assert bands[0] == small_subspace().bootstrap.band_end
    assert bands[0] < min(bands[1:])


def test_the_log_tells_how_the_subspace_engine_went(finished):
    search = open_run(finished["subspace"].path / SEARCH)
    names = [entry["event"] for entry in search.log()]
    # A search and two rounds; what half sets agree on before each round, and when drift is taken out.
    rounds = ["round", "half maps", "round", "half maps", "turns", "round"]
    steady = ["half maps", "drift", "drift"]
    times = names.count("drift") // 2
    assert names == ["starts", "first maps", *rounds, *(times * steady), "end"]
    assert 1 <= times <= STEADYINGS
    (starts,) = events(search, "starts")
    assert len(starts["evidence"]) == 2
    assert starts["evidence"] == sorted(starts["evidence"], reverse=True)
    assert [entry["searched"] for entry in events(search, "round")] == [True, False, True]
    assert {entry["images"] for entry in events(search, "drift")} == {48}


@pytest.mark.parametrize("kind", ["network", "own z", "paper"])
def test_the_log_tells_what_the_search_in_each_epoch_did(finished, kind):
    search = open_run(finished[kind].path / SEARCH)
    first, *others = events(search, "epoch")
    assert not EFFORT & set(first)
    for entry in others:
        assert set(entry) >= EFFORT | {"median_turn_deg", "turned_over_20_deg"}
        assert 0 < entry["search_let_through"] <= 1
        assert 0 <= entry["search_capped"] <= 1
        assert entry["search_poses"] > 1
        assert entry["search_evaluations"] > 1


@pytest.mark.parametrize(("kind", "count"), [("network", 0), ("own z", 1), ("paper", 1)])
def test_drift_is_taken_out_where_there_is_a_latent(finished, kind, count):
    entries = events(open_run(finished[kind].path / SEARCH), "drift")
    assert [entry["images"] for entry in entries] == count * [96]
    assert all(np.isfinite([entry["rms_deg"], entry["rms"]]).all() for entry in entries)


def test_drift_is_taken_out_half_set_by_half_set_until_it_is_small(finished):
    entries = events(open_run(finished["subspace"].path / SEARCH), "drift")
    largest = [max(entry["rms_deg"] for entry in entries[n : n + 2]) for n in range(0, len(entries), 2)]
    assert all(degrees >= STEADY_DEG for degrees in largest[:-1])
    assert largest[-1] < STEADY_DEG or len(largest) == STEADYINGS


def test_images_of_different_states_are_searched_against_different_volumes(particles, tmp_path, monkeypatch):
    """With a latent, each chunk has a z for each of its images, and they differ."""
    from cryoatlas.training import pose_table

    seen, find = [], pose_table.find_poses

    def look(volume, views, config, *, z=None, turn=None):
        seen.append(z)
        return find(volume, views, config, z=z, turn=turn)

    monkeypatch.setattr(pose_table, "find_poses", look)
    abinit(particles[:32], small("own z"), FINAL, tmp_path / "run", device="cpu")
    assert len(seen) == 3
    assert all(len(z) == 32 for z in seen)
    assert all(len(torch.unique(z, dim=0)) > 1 for z in seen)


# Questions of a whole run: subspace 2·4 + 2·2 steps of first maps, 3·3 chunks of rounds, then 3 batches of
# training; networks 3 chunks in each of 3 epochs; the paper's 6 in each of 2.
STOPS = [
    *[("subspace", count) for count in (3, 12, 13, 17, 21)],
    *[("network", count) for count in (1, 3, 8)],
    *[("own z", count) for count in (1, 4, 8)],
    ("paper", 9),
]


@pytest.mark.parametrize(("kind", "stop_after"), STOPS)
def test_resuming_gives_the_poses_of_a_run_that_was_not_stopped(
    finished, particles, tmp_path, kind, stop_after
):
    """From first maps, the first search, later rounds; from random poses and from the last epoch with search,
    where the poses exist in the checkpoint alone."""
    out, config = tmp_path / "run", small(kind)
    with pytest.raises(Interrupted):
        abinit(particles, config, FINAL, out, device="cpu", stop_requested=StopAfter(stop_after))
    assert not (out / SEARCH / "particles.star").exists()
    run = abinit(particles, config, FINAL, out, device="cpu", resume=True)
    assert_same_run(run, finished[kind])


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [0, 3], ids=["first maps", "first search"])
def test_a_round_that_was_done_is_not_done_again(finished, particles, tmp_path, chunks):
    """First maps and finished rounds are read from the folder: the questions asked add up."""
    out, config = tmp_path / "run", small_subspace()
    steps = config.bootstrap.all_steps
    stop_after = steps + chunks
    with pytest.raises(Interrupted):
        abinit(particles, config, FINAL, out, device="cpu", stop_requested=StopAfter(stop_after))
    counter = StopAfter(10**9)
    abinit(particles, config, FINAL, out, device="cpu", resume=True, stop_requested=counter)
    assert finished["subspace"]
    # Stopped in the last step of first maps nothing is kept; in the last chunk of the first search, they are.
    kept = steps if chunks else 0
    assert counter.asked == finished.questions["subspace"] - kept


@pytest.mark.parametrize("kind", ALL)
def test_a_run_stopped_after_its_search_keeps_the_poses_found(finished, particles, tmp_path, kind):
    """Resuming in the training that follows must not begin with poses of its own."""
    whole, out = finished[kind], tmp_path / "run"
    # The training of one epoch asks after each of its batches; the last answer comes too late to stop it.
    in_training = StopAfter(finished.questions[kind] - 1)
    with pytest.raises(Interrupted):
        abinit(particles, small(kind), FINAL, out, device="cpu", stop_requested=in_training)
    assert (out / SEARCH / "particles.star").exists()
    written = (out / SEARCH / "particles.star").read_bytes()
    run = abinit(particles, small(kind), FINAL, out, device="cpu", resume=True)
    assert (out / SEARCH / "particles.star").read_bytes() == written
    assert_same_run(run, whole)


@both_searches
def test_the_poses_found_are_those_that_backprojection_reads(finished, kind):
    """One unit everywhere: the map of the run's star file is the run's consensus."""
    run = finished[kind]
    read = read_particles(run.path / "particles.star")
    assert torch.equal(read.require_pose().shift, run.pose.shift)
    limit = 1.5 * np.sqrt(2) * read.pixel_size[0]
    assert float(read.require_pose().shift.norm(dim=1).median()) < 3 * limit
    map_ = backproject_particles(read, device="cpu").map.flatten()
    consensus = torch.from_numpy(read_volume(run.path / "volumes" / "consensus.mrc").array).flatten()
    assert float(torch.corrcoef(torch.stack([map_, consensus]))[0, 1]) > 0.95


@both_searches
def test_a_training_goes_on_from_the_poses_of_a_run_as_they_are(finished, tmp_path, kind):
    """Poses of a run are those of any star file: no step has a unit or a file of its own."""
    from cryoatlas.recipes.train import train

    particles = read_particles(finished[kind].path / "particles.star")
    run = train(particles, FINAL, tmp_path / "again", device="cpu")
    first = finished[kind].pose
    torch.testing.assert_close(run.pose.rotation, first.rotation, rtol=0, atol=1e-6)
    torch.testing.assert_close(run.pose.shift, first.shift, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("network", "search/volumes/network.mrc"),
        ("network", "volumes/consensus.mrc"),
        ("subspace", "search/volumes/first_000.mrc"),
        ("subspace", "search/volumes/half_2.mrc"),
        ("subspace", "volumes/consensus.mrc"),
    ],
)
def test_maps_of_a_run_have_all_their_sections(finished, kind, name):
    """Means of sections along z vary as those along x and y do: no axis of the transform was lost."""
    volume = read_volume(finished[kind].path / name).array
    spread = [float(np.ptp(volume.mean(tuple({0, 1, 2} - {axis})))) for axis in range(3)]
    assert min(spread) > max(spread) / 4


def test_other_options_are_refused_when_resuming(finished, particles):
    network = small_network()
    other: dict[str, AbinitConfig] = {
        "network": replace(network, search=replace(network.search, keep=3)),
        "subspace": replace(small_subspace(), rounds=3),
    }
    for kind, message in (("network", "search"), ("subspace", "rounds: 2 then, 3 now")):
        with pytest.raises(ConfigError, match=message):
            abinit(particles, other[kind], FINAL, finished[kind].path, device="cpu", resume=True)


@pytest.mark.parametrize(("then", "now"), [("network", "subspace"), ("subspace", "network")])
def test_another_kind_of_search_is_refused_when_resuming(finished, particles, then, now):
    with pytest.raises(ConfigError, match="started with other settings"):
        abinit(particles, small(now), FINAL, finished[then].path, device="cpu", resume=True)


@both_searches
def test_a_folder_in_use_is_left_alone(finished, particles, kind):
    with pytest.raises(OutputError, match=kind):
        abinit(particles, small(kind), FINAL, finished[kind].path, device="cpu")


@both_searches
def test_images_of_several_pixel_sizes_are_sent_to_prepare(particles, tmp_path, kind):
    mixed = particles.pixel_size.clone()
    mixed[::2] *= 1.1
    with pytest.raises(MetadataError, match="prepare"):
        abinit(replace(particles, pixel_size=mixed), small(kind), FINAL, tmp_path / "run", device="cpu")


@pytest.mark.parametrize("latent", [0, 1])
def test_the_paper_s_recipe_runs(particles, tmp_path, latent):
    """Whole: its networks and objective in the training too."""
    final = thin(replace(recipe("paper", latent=latent), epochs=1))
    run = abinit(particles[:32], small_paper(latent), final, tmp_path / "run", device="cpu")
    assert run.latent_size == latent


@pytest.mark.slow
@pytest.mark.parametrize("components", [0, 2])
def test_the_subspace_engine_has_components_of_its_own_number(particles, tmp_path, components):
    """How many it uses does not hang on the run's latent; without any, nothing drifts."""
    config = small_subspace(components)
    run = abinit(particles, config, FINAL, tmp_path / "run", device="cpu")
    search = open_run(run.path / SEARCH)
    assert events(search, "first maps")[0]["maps"] == components + 1
    assert (len(events(search, "drift")) > 0) == (components > 0)


def test_without_rounds_the_first_search_decides(particles, tmp_path):
    config = replace(small_subspace(0), rounds=0)
    run = abinit(particles, config, FINAL, tmp_path / "run", device="cpu")
    assert [entry["round"] for entry in events(open_run(run.path / SEARCH), "round")] == [0]


def test_a_motion_has_more_than_one_component():
    """Two more than z has axes, and no more than 6: each costs time in every round."""
    assert [components_for(latent) for latent in (0, 1, 2, 5, 8)] == [0, 3, 4, 6, 6]


def test_the_paper_s_numbers_of_epochs_and_its_larger_decoder():
    """One random epoch and four with search, then 10 × 500 (B.2); with a latent 40, with pairs 20 (D.3)."""
    epochs = [
        abinit_recipe("paper", latent=latent, pairs=pairs).train.epochs
        for latent, pairs in ((0, False), (1, False), (1, True))
    ]
    assert epochs == [5, 40, 20]
    assert [final_recipe("paper", latent=latent).decoder.width for latent in (0, 1)] == [500, 128]
    assert final_recipe("default", latent=0) == one_map()
