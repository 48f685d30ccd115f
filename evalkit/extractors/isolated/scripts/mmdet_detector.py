"""Objects by a detector of mmdet 3 (Apache-2.0), for `evalkit.extractors.detector` in an environment that has it.

Not run here: neither mmcv's wheels nor the weights were at hand; a stand-in of the API is in the tests.
"""

from __future__ import annotations


class Detect:
    """`config`: a file of mmdet's configs/; `checkpoint`: its weights; objects of a score above `lowest`."""

    def __init__(self, device, config, checkpoint, lowest=0.3):
        from mmdet.apis import inference_detector, init_detector

        self.model = init_detector(config, checkpoint, device=device)
        self.inference, self.lowest = inference_detector, lowest

    def __call__(self, image):
        """An image u8 [H,W,3], RGB; by object its class, score, box and, where the model gives one, mask."""
        found = self.inference(self.model, image[..., ::-1].copy()).pred_instances  # mmcv reads BGR
        names = self.model.dataset_meta["classes"]
        masks = found.masks.cpu().numpy() if "masks" in found else [None] * len(found.scores)
        objects = zip(found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), masks, strict=True)
        return [
            {"class": names[label], "score": score, "box": tuple(box), "mask": mask}
            for label, score, box, mask in objects
            if score > self.lowest
        ]
