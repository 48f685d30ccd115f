"""Train the classifier that supplies the ``digits`` features and judges generated digits."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from evalkit.digits.nets import DigitClassifier, load_classifier
from evalkit.digits.train.common import Budget, Digits, Options, augmented_batch, descend, save_state, smoothed

BATCH = 128
RATE = 3e-3


def train(options: Options) -> None:
    """Write ``classifier.safetensors``: digit, ink and background losses together, so features see colour too."""
    digits = Digits(options)
    target = options.out / "classifier.safetensors"
    net = load_classifier(target).requires_grad_(True) if options.resume else DigitClassifier()
    net = net.to(options.device).train()
    ema = smoothed(net, 0.995)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.02)
    budget = Budget(options, "classifier", lambda: save_state(ema.module, target))
    while not budget.spent:
        batch = augmented_batch(digits, BATCH)
        out = net(batch.images)
        digit_loss = F.cross_entropy(out["logits"], batch.digit, label_smoothing=0.02)
        colour_loss = F.cross_entropy(out["ink"], batch.ink) + F.cross_entropy(out["background"], batch.background)
        descend(digit_loss + 0.3 * colour_loss, optimiser, budget)
        ema.update_parameters(net)
        budget.tick(digit=digit_loss, colour=colour_loss)
