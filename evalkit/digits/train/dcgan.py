"""Train the class-conditional DCGAN."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.digits.nets import DCGANDiscriminator, DCGANGenerator, load_dcgan
from evalkit.digits.train.common import Budget, Digits, Options, descend, save_state, smoothed

BATCH = 64
RATE = 1e-3
PENALTY = 0.3
PENALTY_EVERY = 4


def _sample(net: DCGANGenerator, label: Tensor) -> Tensor:
    """Stroke masks [B,1,32,32] of the given digits int64 [B] from fresh latents."""
    return net.strokes(torch.randn(len(label), net.latent_dim, device=label.device), label)


@torch.no_grad()
def _settle(net: DCGANGenerator, batches: int = 16) -> None:
    """Measure the batch norms' statistics for smoothed weights: those of the live net do not fit them."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    net.train()
    device = next(net.parameters()).device
    for _ in range(batches):
        _sample(net, torch.randint(net.num_classes, (128,), device=device))
    net.eval()


def train(options: Options) -> None:
    """Write ``dcgan.safetensors``: logistic loss, projection discriminator with an R1 penalty, EMA generator.

    The critic sees stroke masks: the colours are not learned, so there is nothing to judge in them.
    """
    digits = Digits(options)
    target = options.out / "dcgan.safetensors"
    generator = load_dcgan(target).requires_grad_(True) if options.resume else DCGANGenerator()
    generator = generator.to(options.device).train()
    critic = DCGANDiscriminator().to(options.device).train()
    ema = smoothed(generator, 0.998)
    adam_g, adam_d = (torch.optim.Adam(net.parameters(), lr=RATE, betas=(0.0, 0.99)) for net in (generator, critic))

    def save() -> None:
        assert isinstance(ema.module, DCGANGenerator)
        _settle(ema.module)
        save_state(ema.module, target)

    budget = Budget(options, "dcgan", save)
    while not budget.spent:
        real, label = digits.batch(BATCH)
        # One generator pass serves both updates: the critic's on detached images, then the generator's.
        fake = _sample(generator, label)
        real.requires_grad_(True)
        both = critic(torch.cat([real, fake.detach()]), torch.cat([label, label]))
        critic_loss = F.softplus(-both[:BATCH]).mean() + F.softplus(both[BATCH:]).mean()
        loss = critic_loss
        if budget.step % PENALTY_EVERY == 0:
            slope = torch.autograd.grad(both[:BATCH].sum(), real, create_graph=True)[0]  # [B,1,32,32]
            loss = loss + PENALTY_EVERY * 0.5 * PENALTY * slope.square().sum(dim=(1, 2, 3)).mean()
        descend(loss, adam_d, budget, floor=0.1)
        critic.requires_grad_(False)
        generator_loss = F.softplus(-critic(fake, label)).mean()
        critic.requires_grad_(True)
        descend(generator_loss, adam_g, budget, floor=0.1)
        ema.update_parameters(generator)
        budget.tick(critic=critic_loss, generator=generator_loss)
