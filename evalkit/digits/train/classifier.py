"""Train the classifier that supplies the ``digits`` features and judges generated digits."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from evalkit.digits.nets import DigitClassifier, load_classifier
from evalkit.digits.train.common import Budget, Digits, Ema, Options, augmented_batch, descend, save_state, set_rate

BATCH = 128
RATE = 3e-3


def train(options: Options) -> None:
    """Write ``classifier.safetensors``: digit, ink and background losses together, so features see colour too."""
    torch.manual_seed(options.seed)
    digits = Digits(options)
    target = options.out / "classifier.safetensors"
    net = load_classifier(target).requires_grad_(True) if options.resume else DigitClassifier()
    net = net.to(options.device).train()
    ema = Ema(net, 0.995)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.02)
    budget = Budget(options, "classifier")
    more = True
    while more:
        images, label, ink, background = augmented_batch(digits, BATCH)
        out = net(images)
        digit_loss = F.cross_entropy(out["logits"], label, label_smoothing=0.02)
        colour_loss = F.cross_entropy(out["ink"], ink) + F.cross_entropy(out["background"], background)
        set_rate(optimiser, RATE, budget)
        descend(digit_loss + 0.3 * colour_loss, optimiser)
        ema.update(net)
        more = budget.tick(digit=digit_loss, colour=colour_loss)
        if budget.save_due() or not more:
            save_state(ema.module, target)
