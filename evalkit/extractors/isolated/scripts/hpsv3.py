"""HPSv3 by its authors' package (hpsv3, MIT): run in an environment of its own, without evalkit.

The package gives a mean and a spread per image; the score is the mean.
"""

import tempfile
from pathlib import Path

from hpsv3 import HPSv3RewardInferencer
from PIL import Image


class score:
    """`config_path`, `checkpoint_path`: of the package; none: its own YAML, and the weights of the hub."""

    def __init__(self, device, config_path=None, checkpoint_path=None):
        self.inferencer = HPSv3RewardInferencer(config_path, checkpoint_path, device=device)

    def __call__(self, images, prompts):
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(Path(folder) / f"{i}.png") for i in range(len(images))]
            for path, image in zip(paths, images, strict=True):
                Image.fromarray(image).save(path)
            # by name: the two changed places between releases
            rewards = self.inferencer.reward(image_paths=paths, prompts=list(prompts))  # [B,2]
        return rewards[:, 0]
