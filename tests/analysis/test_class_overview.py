"""The report of discrete classes."""

import re
from pathlib import Path

import numpy as np
import torch
from tests.analysis.test_overview import BOX, PIXEL_SIZE, decoded

from cryoatlas.analysis.class_overview import ClassOverview
from cryoatlas.analysis.leakage import Imaging, leakage
from cryoatlas.analysis.overview import Options, Subject
from cryoatlas.analysis.plots import Colouring
from cryoatlas.analysis.report import report_html
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.io.mrc import read_volume

IMAGES = 600


def subject() -> Subject:
    """Three classes, of which images seen from above and below say more than those seen from the side."""
    generator = np.random.default_rng(0)
    rotation = random_rotations(IMAGES, generator)
    sure = 0.4 + 0.6 * rotation[:, 2, 2].abs().numpy() ** 2
    labels = generator.choice(3, IMAGES, p=[0.5, 0.3, 0.2])
    latents = np.repeat((1 - sure)[:, None] / 2, 3, axis=1)
    latents[np.arange(IMAGES), labels] = sure
    return Subject(
        name="run",
        latents=latents.astype(np.float32),
        volumes=lambda z: (decoded(np.array([row.argmax() - 1.0])) for row in z),
        box_size=BOX,
        pixel_size=PIXEL_SIZE,
        colourings=[Colouring("defocus <Å>", latents.sum(1))],
        imaging=Imaging(pose=Pose(rotation, torch.zeros(IMAGES, 2))),
    )


def test_the_report_shows_every_class_with_its_images(tmp_path: Path):
    about = subject()
    overview = ClassOverview(about, Options(picture_px=60), tmp_path, "analysis")
    page = report_html(overview.report())
    sizes = np.bincount(about.latents.argmax(1))
    for number, size in enumerate(sizes, 1):
        assert f"class {number}" in page
        assert f"{size} images ({size / IMAGES:.0%})" in page
        found = read_volume(tmp_path / "classes" / f"vol_{number - 1:06d}.mrc").array
        np.testing.assert_array_equal(found, decoded(np.array([number - 2.0])))
    assert "continuous space" not in page
    assert {path.name for path in tmp_path.glob("*.png")} == {"certainty.png", "classes_by_defocus_Å.png"}
    assert re.search(r"divided into 3 classes", page)


def test_what_hides_a_class_from_some_sides_is_no_leakage(tmp_path: Path):
    about = subject()
    overview = ClassOverview(about, Options(picture_px=60), tmp_path, "analysis")
    overview.report()
    assert about.imaging is not None
    (by_probability, *_), (by_class, *_) = leakage(about.latents, about.imaging), overview.leaks
    assert by_probability.quantity == by_class.quantity == "viewing direction"
    assert by_probability.telling
    assert not by_class.telling
