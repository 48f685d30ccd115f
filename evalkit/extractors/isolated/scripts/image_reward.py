"""ImageReward by its authors' package (image-reward, Apache-2.0): run in an environment of its own, without evalkit."""

import ImageReward as RM
import torch
from PIL import Image


class score:
    """`model`: a name that the package knows, or a checkpoint file."""

    def __init__(self, device, model="ImageReward-v1.0", download_root=None, med_config=None):
        self.model = RM.load(model, device=device, download_root=download_root, med_config=med_config)

    def __call__(self, images, prompts):
        with torch.no_grad():
            return [
                self.model.score(prompt, Image.fromarray(image)) for image, prompt in zip(images, prompts, strict=True)
            ]
