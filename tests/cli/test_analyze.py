"""``cryoatlas analyze`` and ``cryoatlas score`` on a small run of simulated images."""

import json

import numpy as np
import pytest

from cryoatlas.cli.analyze import analyze
from cryoatlas.cli.network_options import NetworkOptions
from cryoatlas.cli.score import score
from cryoatlas.cli.simulate import simulate
from cryoatlas.cli.train import train
from cryoatlas.errors import ConfigError, InputError, MetadataError, OutputError
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import write_volume
from cryoatlas.recipes.run import open_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder and the truth folder of its images."""
    place = tmp_path_factory.mktemp("small")
    config = SimulationConfig(scene="linear1d", images=96, box=24, snr=2.0, seed=0, states=3, ctf=True)
    simulate(config, out=place / "data")
    small = NetworkOptions(layers=1, width=16)
    star = place / "data/truth/particles.star"
    train(star, latent=1, out=place / "run", recipe="network", epochs=2, networks=small)
    return place / "run", place / "data/truth"


def test_a_run_with_known_poses_is_scored_without_moving_it(made, capsys):
    run, truth = made
    score(run, truth=truth, images=4)
    table = capsys.readouterr().out
    for name in ("resolution at FSC 0.5, mean (std)", "rotation error, median", "hand", "angle 1 (degrees)"):
        assert name in table
    content = json.loads((run / "score.json").read_text())
    assert content["images"] == [0, 24, 48, 72]
    assert content["poses"]["run"]["median_rotation_deg"] < 1e-3  # star files hold six decimals
    assert content["resolution"]["run"]["mean_px"] >= 2
    assert content["resolution"]["run"] == content["resolution"]["states"]
    assert list(content["neighbours"]["imbalances"]) == ["state", "orientation", "ctf"]
    assert content["masked"] is None


def test_a_mask_adds_numbers_and_changes_none(made, capsys, tmp_path):
    run, truth = made
    score(run, truth=truth, images=2)
    plain = json.loads((run / "score.json").read_text())
    capsys.readouterr()
    # A mask of ones changes nothing, one of half the strength neither: the FSC has no scale.
    write_volume(tmp_path / "mask.mrc", np.full((24, 24, 24), 0.5, np.float32), open_run(run).pixel_size)
    score(run, truth=truth, images=2, mask=tmp_path / "mask.mrc")
    content = json.loads((run / "score.json").read_text())
    assert "masked: area under the FSC in CryoBench's shells" in capsys.readouterr().out
    masked = content.pop("masked")
    assert masked["resolutions_px"] == content["resolutions_px"]
    assert {**content, "masked": None} == plain


def test_the_report_and_the_folder_are_written_and_not_replaced_unasked(made, capsys):
    run, truth = made
    analyze(run, kmeans=3, points=3, truth=truth, images=2, overwrite=True)
    page = (run / "report.html").read_text(encoding="utf-8")
    for words in ("The motion", "Typical structures", "Against the truth", "true angle 1 (degrees)",
                  "What z knows about how images were taken", ">in-plane angle</th>"):  # fmt: skip
        assert words in page
    assert "z tells" in capsys.readouterr().err
    assert len(list((run / "analysis/path").glob("vol_*.mrc"))) == 3
    with pytest.raises(OutputError, match="--overwrite"):
        analyze(run, kmeans=3, points=3)
    z = np.loadtxt(run / "analysis/kmeans/volumes.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    np.testing.assert_allclose(open_run(run).latents()[z[:, 0].astype(int), 0], z[:, 1], rtol=1e-6)


def test_options_that_do_not_fit_are_refused_before_any_work(made):
    run, truth = made
    for options in ({"kmeans": 0}, {"points": 1}, {"pc": 2}, {"pc": 0}, {"umap": True}):
        with pytest.raises(ConfigError):
            analyze(run, overwrite=True, **options)
    with pytest.raises(ConfigError, match="--images"):
        score(run, truth=truth, images=0)
    with pytest.raises(MetadataError, match="rlnNothing"):
        analyze(run, color_by=["rlnNothing"], overwrite=True)
    with pytest.raises(InputError, match=r"states\.csv"):
        score(run, truth=run)
    with pytest.raises(InputError, match="run folder"):
        analyze(truth)
