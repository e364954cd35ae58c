"""Options of training, as plain data: importable without torch."""

from dataclasses import dataclass, field
from typing import Literal

from cryoatlas.errors import ConfigError
from cryoatlas.models.config import DecoderConfig, EncoderConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Heterogeneous reconstruction with known poses (M7)."""

    latent: int = 8
    """Dimension of z; 0 means homogeneous reconstruction."""
    epochs: int = 15
    """Passes over the images."""
    batch_size: int = 32
    """Images in each step."""
    learning_rate: float = 1e-3
    """Of Adam at its highest."""
    warm_up: float = 0.05
    """Part of the run over which the learning rate rises from 0; then it falls to 0 along a cosine.
    A negative value keeps it constant."""
    kl_weight: float = 1.0
    """β, the weight of KL(q(z|X) ‖ N(0, I)) in the objective; 1 is the evidence lower bound."""
    kl_warm_up: float = 0.3
    """Part of the run over which β rises from 0. Without it the latent can stay unused: benchmarks/LOG.md."""
    marching: float = 0.3
    """Part of the run over which the band grows from `marching_start` to all frequencies; 0 turns it off."""
    marching_start: float = 0.5
    """First band, as a fraction of the full radius."""
    dense_radius: float = 0.2
    """Within this fraction of the full radius every coefficient is compared in every step; beyond it each
    ring contributes a random draw of as many as lie on the ring at that radius. 1 compares all."""
    noise: Literal["updated", "shells", "white"] = "updated"
    """Noise model: a variance for each shell from residuals against the consensus map, updated after each
    epoch (`updated`) or not (`shells`); or one for all (`white`)."""
    contrast: bool = True
    """Give every image a contrast factor of its own, near 1; how near is learned. Off, all have 1."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The image encoder."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The volume decoder."""
    seed: int = 0
    """Of initial weights, order of images and samples of z."""

    def __post_init__(self) -> None:
        wanted = {
            "latent must be 0 or more": self.latent >= 0,
            "epochs must be 1 or more": self.epochs >= 1,
            "batch_size must be 1 or more": self.batch_size >= 1,
            "learning_rate must be positive": self.learning_rate > 0,
            "warm_up must be below 1": self.warm_up < 1,
            "kl_weight must be 0 or more": self.kl_weight >= 0,
            "kl_warm_up must lie in [0, 1]": 0 <= self.kl_warm_up <= 1,
            "marching must lie in [0, 1]": 0 <= self.marching <= 1,
            "marching_start must lie in (0, 1]": 0 < self.marching_start <= 1,
            "dense_radius must lie in (0, 1]": 0 < self.dense_radius <= 1,
            "seed must be 0 or more": self.seed >= 0,
        }
        ConfigError.unless(self, wanted, "training option")
