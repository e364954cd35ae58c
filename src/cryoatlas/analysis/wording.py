"""What the report says in words: for people who know proteins and microscopes, not our code."""

from collections.abc import Sequence

from cryoatlas.analysis.leakage import TELLING, Leak

TERMS = (
    (
        "latent, z",
        "The coordinates that the method gave each particle image, so that images of similar structures "
        "lie close together. Their scale, sign and axes mean nothing by themselves.",
    ),
    (
        "principal component",
        "A direction in the latent space. The first is the one along which the images differ most.",
    ),
    (
        "k-means",
        "Divides the images into a given number of groups of similar z. A convenience for looking: it "
        "finds groups in a continuous motion too.",
    ),
    (
        "density level",
        "The surfaces show where the map equals this value. All pictures of a report use one level, so "
        "that what appears or disappears is a change of the map.",
    ),
    (
        "FSC",
        "Fourier shell correlation: how well two maps agree (1 fully, 0 not at all) in details of a given "
        "size. The size at which it falls under a threshold is quoted as the resolution.",
    ),
    (
        "KL divergence",
        "How much the latents say about the images beyond what a shapeless cloud of points would; near "
        "zero means that z is not used.",
    ),
)
FILES = "Everything on this page is also on disk; paths are relative to the run folder."
TURNTABLE = "The map from all sides. Turn it with the slider or the ← → keys."
SLICES = "Central sections, to see what an isosurface hides: noise, hollow density, artefacts at the edge."
SLICES_AVERAGE = (
    "Through the average of the typical structures, weighted by their numbers of images: sections across "
    "z, y and x. Parts that move look blurred here."
)
SLICES_CLASSES = (
    "Through the average of the classes, weighted by their numbers of images: sections across z, y and x. "
    "What differs between classes looks faint here."
)
CERTAINTY = (
    "Probabilities near 1 say that images belong to their class; many near an even share say that the "
    "classes cannot be told apart, or not from every side."
)
SLICES_SINGLE = "Sections across z, y and x."
VARIANCE = "If the first bars hold nearly all, the motion has as many dimensions as there are tall bars."
UMAP = "UMAP flattens the latent space and keeps neighbours together; distances between groups mean little."
SCORE_TABLE = (
    "Correlations with z are of ranks (Spearman): 1 if the latents order the images exactly as the true "
    "coordinate does, 0 if they know nothing of it. The change in the moving part compares each volume's "
    "deviation from the average volume with the true one, only where the molecule moves: 1 is perfect, 0 no "
    "motion at all. The area in CryoBench's shells is the number to hold against published ones. Of the "
    "images nearest in z, the share that is also near in the true state is 1 at best. The imbalance of z to "
    "a quantity is at its best value if images near in z are near in that quantity too, and 1 if z says "
    "nothing of it: it should be small for the true state, and about 1 for the orientation and the CTF."
)
FSC_TRUTH = "Median over the measured images; the band holds the middle 80 % of them."
HALF_MAPS = (
    "Of the consensus map: two maps from half the images each, with the same poses. It says how far the "
    "poses and the number of images carry, not how sharp a single conformation is."
)
TRAINING = (
    "Per image, in nats. The misfit should fall and level off; a curve still falling asks for more epochs. "
    "Dashed: epochs in which finer details were still being added, and the misfit grows with them."
)
LEAKAGE_TITLE = "What z knows about how images were taken"
LEAKAGE = (
    "z is to tell the state of the molecule. If it tells the side that a molecule was seen from, or the "
    "defocus of its image, then what changes along z may be an artefact of that."
)
LEAKAGE_HEAD = ("quantity", "shared with z (nats)", "which means")
LEAKAGE_TABLE = (
    "Mutual information over that of shuffled images; ± is what chance alone does. The in-plane angle is "
    f"taken at a given viewing direction. Up to {TELLING:g} nats may be honest: states that lie differently "
    "in the ice are seen from different sides."
)
QUALITY = "Agreement of the half maps, and the course of the training."
NICKNAMES = {"viewing direction": "view"}
VOLUME_FILES = {
    "path": "the {} maps of “The motion”",
    "kmeans": "the {} maps of “Typical structures”",
    "classes": "the {} maps of “The classes”",
}


def lead(images: int, latent_size: int) -> str:
    """What was done, in a sentence or two."""
    if latent_size == 0:
        return f"One map from {images:,} particle images."
    coordinates = "one coordinate" if latent_size == 1 else f"{latent_size} coordinates"
    return (
        f"{images:,} particle images, each placed by {coordinates} in a continuous space of structures. "
        "Start with the motion below; the rest of the page says what lies behind it."
    )


def lead_of_classes(images: int, classes: int) -> str:
    """What was done, of discrete classes."""
    return (
        f"{images:,} particle images, divided into {classes} classes with a map each. Start with the maps "
        "below; the rest of the page says how sure they are."
    )


def classes(count: int) -> str:
    """What the viewer of classes steps through."""
    return (
        f"The maps of {count} classes, the largest first. Step through them with the slider or the ← → "
        "keys. A motion, too, is divided into classes, each of which is blurred: compare neighbours before "
        "you take them for states."
    )


def motion(latent_size: int, component: int | None, points: int) -> str:
    """What the viewer steps through."""
    if latent_size == 1:
        where = "along the latent coordinate, from the 5th to the 95th percentile of the images"
    elif component is None:
        where = "on a way through the typical structures below that stays where there are images"
    else:
        where = (
            f"along principal component {component}, from the 5th to the 95th percentile of the images; this "
            "straight line may leave the region where there are images"
        )
    return (
        f"{points} volumes {where}. Step through them with the slider or the ← → keys; the orange mark in "
        "the plot shows where you are."
    )


def level(value: float) -> str:
    """The level that surfaces are drawn at."""
    return f"Surfaces at density level {value:.3g}."


def typical(count: int) -> str:
    """What the gallery shows."""
    return (
        f"The images in {count} groups of similar z (k-means), numbered along the shortest way "
        "through them. "
        "Each picture is the volume at the image nearest to its group's centre, so it stands where there is "
        "data. Point at a picture to find the group in the plots."
    )


def latents(size: int, *, umap: bool) -> str:
    """What the latent plots show."""
    text = (
        "The same images, coloured by what else is known of them. Separate heaps speak for distinct states, "
        "a continuous band for a motion; a single round cloud may be noise alone."
    )
    if size > 2 and not umap:
        text += " For a UMAP picture, run analyze with --umap (an extra: pip install 'cryoatlas[umap]')."
    return text


def leakage_rows(leaks: Sequence[Leak]) -> list[tuple[str, str, str]]:
    """The table of what z knows about how images were taken."""

    def meaning(leak: Leak) -> str:
        if leak.telling:
            return f"z tells the {leak.quantity}"
        return "a little, which may be honest" if leak.significant else "nothing beyond chance"

    return [
        (leak.quantity, f"{leak.excess:.2f} ± {leak.spread:.2f}".replace("-", "−"), meaning(leak))
        for leak in leaks
    ]


def leakage(leaks: Sequence[Leak]) -> list[str]:
    """The verdict on it, one sentence for each quantity that z tells, or one if it tells none."""
    told = [
        f"z tells the {leak.quantity} ({leak.excess:.1f} nats): what it shows may be the "
        f"{NICKNAMES.get(leak.quantity, leak.quantity)} and not the molecule."
        for leak in leaks
        if leak.telling
    ]
    return told or ["z tells none of these."]


def score(images: int) -> str:
    """How the scores were made."""
    return (
        f"The true structures are known. For {images} images, the volume at the image's own z is compared "
        "with the map of its true state, after moving the run's frame onto the true one: once for the whole "
        "run, and once per state, which forgives a frame that drifts along the motion. The finest possible "
        "resolution is 2 px."
    )
