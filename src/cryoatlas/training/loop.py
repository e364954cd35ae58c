"""The training loop: order, draws and samples depend on (seed, epoch, step) alone.

That makes a run the same whether or not it was interrupted: to continue, skip the steps done.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from cryoatlas.errors import DivergedError
from cryoatlas.models.vae import VAE
from cryoatlas.particles.batch import Batch
from cryoatlas.progress import Interrupted, StopRequested, never
from cryoatlas.shapes import Float, Tensor
from cryoatlas.training import schedule
from cryoatlas.training.checkpoint import Position
from cryoatlas.training.config import TrainConfig
from cryoatlas.training.objective import Loss, centre_images, compare, elbo
from cryoatlas.training.statistics import ResidualStatistics

CONTRAST_SPREAD = 0.2
"""Standard deviation expected of the contrasts before the first epoch is over."""
LEAST_NOISE = 1e-2
"""The noise variance of a shell falls to no less than this part of where it started, lest a shell without
noise outweigh all others."""
Batches = Callable[[int, int], Iterable[Batch]]
"""From (epoch, first step) to the epoch's batches."""


@dataclass(frozen=True)
class EpochSummary:
    """What `log.jsonl` holds of an epoch; losses are means per image, in nats. Where particles have several
    images, each particle counts as one."""

    epoch: int
    loss: float
    misfit: float
    kl: float
    beta: float
    learning_rate: float
    band_px: float
    """Radius of the frequencies in use at the end of the epoch, cycles per box."""
    noise_variance: list[float]
    """By shell, in use from the end of the epoch on; likewise the spread."""
    contrast_spread: float
    """Standard deviation of the images' contrasts."""
    images: int
    seconds: float
    images_per_second: float


class Stopped(Interrupted):
    """Raised inside the loop when it is asked to stop; carries the place to continue from."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"stopped in epoch {position.epoch}, step {position.step}; a checkpoint is kept")
        self.position = position


class Trainer:
    """Minimises the objective of a `VAE` over batches of images."""

    def __init__(self, vae: VAE, config: TrainConfig, steps_per_epoch: int) -> None:
        self.vae, self.config, self.steps_per_epoch = vae, config, steps_per_epoch
        self.optimizer = torch.optim.Adam(vae.parameters(), lr=config.learning_rate)
        self.device = vae.noise_variance.device
        self.statistics = ResidualStatistics(vae.disc, self.device)
        """Of the epoch under way."""

    def run_epoch(
        self,
        batches: Batches,
        position: Position,
        on_batch: Callable[[int], None] = lambda images: None,
        stop_requested: StopRequested = never,
        band: float | None = None,
    ) -> EpochSummary:
        """One pass over the images, from `position` on.

        Args:
            on_batch: told the number of images of each finished step.
            stop_requested: asked after each step.
            band: radius of the frequencies compared, cycles per box; default as the options' marching has it.

        Raises:
            Stopped: `stop_requested` said so.
            DivergedError: the objective is not finite.
        """
        started, sums, images = time.perf_counter(), torch.zeros(2, dtype=torch.float64), 0
        state = (0.0, 0.0, 0.0)
        for step, batch in enumerate(batches(position.epoch, position.step), start=position.step):
            loss, state = self._step(batch, position.epoch, step, band)
            self.statistics.add(loss.compared, self.vae)
            sums += torch.stack([loss.misfit.sum(), loss.kl.sum()]).detach().cpu().double()
            self._check(sums, position.epoch, step)
            images += len(batch)
            on_batch(len(batch))
            if stop_requested() and step + 1 < self.steps_per_epoch:
                raise Stopped(Position(position.epoch, step + 1))
        self._update_variances()
        misfit, kl = (sums / max(images, 1)).tolist()
        seconds = time.perf_counter() - started
        rate, beta, band = state
        return EpochSummary(
            position.epoch,
            misfit + beta * kl,
            misfit,
            kl,
            beta,
            rate,
            band,
            self.vae.noise_variance.tolist(),
            float(self.vae.contrast_variance) ** 0.5,
            images,
            seconds,
            images / seconds,
        )

    def _step(
        self, batch: Batch, epoch: int, step: int, band: float | None
    ) -> tuple[Loss, tuple[float, float, float]]:
        config, vae = self.config, self.vae
        progress = (epoch + step / self.steps_per_epoch) / config.epochs
        generator = torch.Generator().manual_seed(_mix(config.seed, epoch, step))
        full = vae.disc.box_size / 2
        band = schedule.band_radius(config, progress, full) if band is None else band
        draw = schedule.draw_coefficients(vae.disc, band, config.dense_radius * full, generator).to(
            self.device
        )
        beta, rate = schedule.kl_weight(config, progress), schedule.learning_rate(config, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = elbo(vae, centre_images(batch, vae.disc), draw, beta, generator)
        self.optimizer.zero_grad(set_to_none=True)
        # Per coefficient, so that gradients, and Adam's epsilon, keep one scale for all boxes.
        (loss.total / len(vae.disc)).backward()
        self.optimizer.step()
        return loss, (rate, beta, band)

    @torch.no_grad()
    def _update_variances(self) -> None:
        """Put what the epoch says about noise and contrasts in the place of what was assumed."""
        vae, config = self.vae, self.config
        if config.noise == "updated":
            found = self.statistics.noise_variance(vae.noise_variance)
            vae.noise_variance.copy_(torch.maximum(found, vae.least_noise))
        if config.contrast:
            vae.contrast_variance.copy_(self.statistics.contrast_variance())
        self.statistics = ResidualStatistics(vae.disc, self.device)

    def _check(self, sums: Float[Tensor, "2"], epoch: int, step: int) -> None:
        if not bool(torch.isfinite(sums).all()):
            raise DivergedError(
                f"the objective stopped being finite in epoch {epoch}, step {step}. Train again with a lower "
                f"--learning-rate (a third of {self.config.learning_rate:g} is the usual remedy), and look "
                " for images of extreme values with `cryoatlas info`."
            )


@torch.no_grad()
def infer(
    vae: VAE, batches: Iterable[Batch], count: int, on_batch: Callable[[int], None] = lambda images: None
) -> dict[str, Float[Tensor, "particle ..."]]:
    """Posterior mean and standard deviation of z, and the misfit at the mean, for particles 0 … count − 1.

    Returns:
        ``z``, ``z_std`` (particle, latent), ``misfit`` and ``contrast`` (particle,), in the order of the
        particle set. The misfit is −log p(X|z), in nats, of all images of the particle; the contrast is the
        mean of theirs.
    """
    latent, disc = vae.shape.latent, vae.disc
    everything = schedule.draw_coefficients(disc, disc.box_size / 2, disc.box_size / 2, torch.Generator())
    everything = everything.to(vae.noise_variance.device)
    result = {
        "z": torch.zeros(count, latent),
        "z_std": torch.zeros(count, latent),
        "misfit": torch.zeros(count),
        "contrast": torch.ones(count),
    }

    for batch in batches:
        centred = centre_images(batch, vae.disc)
        posterior = vae.encode(centred.images, centred.ctf, centred.plane, centred.rotation)
        where = batch.particles.cpu()
        if posterior is not None:
            result["z"][where] = posterior.mean.cpu()
            result["z_std"][where] = posterior.stddev.cpu()
        z = None if posterior is None else posterior.mean
        compared = compare(vae, centred, z, everything)
        result["misfit"][where] = compared.misfit(vae).cpu()
        result["contrast"][where] = compared.contrast(vae).mean.unflatten(0, (-1, batch.views)).mean(1).cpu()
        on_batch(len(where))
    return result


def _mix(seed: int, epoch: int, step: int) -> int:
    """One number from three, different for every step of every run."""
    return (seed * 1_000_003 + epoch) * 10_000_019 + step
