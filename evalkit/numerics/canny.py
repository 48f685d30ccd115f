"""Edge maps by Canny (1986), for control images and for the metric that looks for them in the samples.

As scikit-image's `feature.canny` computes it: Gaussian smoothing whose border is corrected for what lies outside, Sobel
gradients, non-maximum suppression by linear interpolation along the gradient, hysteresis over 8 neighbours; pixels at
the border are no edges. Of colour images each pixel takes the channel with the steepest gradient, as OpenCV's
`cv2.Canny` does: red ink on a blue ground of the same lightness has an outline too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIGMA = 1.0  # pixels
LOW, HIGH = 100.0, 200.0  # levels of 0 to 255: what ControlNet's own Canny maps were made with (Zhang et al. 2023)


def canny(images: NDArray[np.uint8], sigma: float = SIGMA, low: float = LOW, high: float = HIGH) -> NDArray[np.bool_]:
    """Where each image has edges, bool [B,H,W].

    Args:
        images: u8 [B,H,W,C].
        sigma: of the Gaussian, in pixels; 0: no smoothing.
        low, high: a pixel whose gradient reaches `low` is an edge if it is connected with one that reaches `high`. The
            gradient is Sobel's, not normalised: a step by L levels without smoothing has one of 4 L.
    """
    import numpy as np
    from scipy import ndimage

    smooth = _smooth(images.astype(np.float64), sigma)
    down, right = _sobel(smooth, 1), _sobel(smooth, 2)
    size = np.hypot(down, right)
    steepest = size.argmax(axis=-1)[..., None]  # [B,H,W,1]
    down, right, size = (np.take_along_axis(x, steepest, axis=-1)[..., 0] for x in (down, right, size))
    thin = _thinned(down, right, size) & (size >= low)
    plane = np.zeros((3, 3, 3), bool)
    plane[1] = True  # neighbours within an image
    labels, count = ndimage.label(thin, plane)
    strong = np.zeros(count + 1, bool)
    strong[labels[thin & (size >= high)]] = True
    edges: NDArray[np.bool_] = strong[labels]
    return edges


def _smooth(images: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian means over what lies inside of the image."""
    import numpy as np
    from scipy import ndimage

    if sigma == 0:
        return images
    height, width = images.shape[1:3]
    inside = ndimage.gaussian_filter(np.ones((height, width)), sigma, mode="constant")[..., None]
    smoothed: NDArray[np.float64] = ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="constant") / inside
    return smoothed


def _sobel(images: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Sobel's gradient within each image; `ndimage.sobel` would also mean over images and channels."""
    from scipy import ndimage

    slope = ndimage.correlate1d(images, (-1, 0, 1), axis)
    gradient: NDArray[np.float64] = ndimage.correlate1d(slope, (1, 2, 1), 3 - axis)
    return gradient


def _thinned(down: NDArray[np.float64], right: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where the gradient is not below its two neighbours along its own direction; [B,H,W] each."""
    import numpy as np

    def at(dy: int, dx: int) -> NDArray[np.float64]:
        """The size of the gradient `dy` rows below and `dx` columns to the right, of inner pixels."""
        height, width = size.shape[1:]
        return size[:, 1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]

    inner = (slice(None), slice(1, -1), slice(1, -1))
    steep, flat = np.abs(down[inner]), np.abs(right[inner])
    upright = steep > flat
    share = np.divide(
        np.minimum(steep, flat), np.maximum(steep, flat), out=np.zeros_like(steep), where=(steep + flat) > 0
    )
    same = (down[inner] * right[inner]) >= 0  # the gradient points down right or up left
    straight = [np.where(upright, at(s, 0), at(0, s)) for s in (1, -1)]
    # The diagonal neighbour on the side of the straight one.
    falling = [np.where(same, at(s, s), np.where(upright, at(s, -s), at(-s, s))) for s in (1, -1)]
    top = at(0, 0)
    peak = np.ones(top.shape, bool)
    for near, far in zip(straight, falling, strict=True):
        peak &= near * (1 - share) + far * share <= top
    whole = np.zeros(size.shape, bool)
    whole[inner] = peak
    return whole
