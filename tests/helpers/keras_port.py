"""The embedded DCGAN of digits, ported to Keras 3 by hand: a real generator with trained weights, as one .keras file.

`python tests/helpers/keras_port.py FILE.keras` writes it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

CLASSES, COLOURS, WIDTHS = 10, 8, (128, 96, 48, 32)


def port(file: Path) -> Path:
    """Builds the DCGAN's layers, channels last, gives them its weights, and saves the model."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras
    from safetensors.numpy import load_file

    from evalkit.digits import data, weights_path

    state = load_file(weights_path("dcgan"))
    weights: list[tuple[Any, list[Any]]] = []

    def layer(made: Any, *of: Any) -> Any:
        weights.append((made, list(of)))
        return made

    def conv(kind: type, name: str, width: int, size: int, stride: int) -> Any:
        """torch: [O,I,h,w], transposed [I,O,h,w]; Keras: [h,w,I,O] and [h,w,O,I]; neither flips."""
        kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
        return layer(kind(width, size, strides=stride, padding="same"), kernel, state[f"{name}.bias"])

    def conditional_norm(x: Any, labels: Any, number: int) -> Any:
        width, name = WIDTHS[number], f"norms.{number}"
        mean, variance = state[f"{name}.norm.running_mean"], state[f"{name}.norm.running_var"]
        norm = layer(keras.layers.BatchNormalization(epsilon=1e-5, center=False, scale=False), mean, variance)
        table = layer(keras.layers.Embedding(CLASSES, 2 * width), state[f"{name}.table.weight"])(labels)
        table = keras.layers.Reshape((1, 1, 2 * width))(table)
        return keras.layers.ReLU()(norm(x) * table[..., :width] + table[..., width:])

    z, labels = keras.Input((64,), name="z"), keras.Input((), dtype="int64", name="labels")
    embedded = layer(keras.layers.Embedding(CLASSES, 32), state["embed.weight"])(labels)
    start = layer(keras.layers.Dense(WIDTHS[0] * 16), state["start.weight"].T, state["start.bias"])
    x = start(keras.layers.Concatenate()([z[:, 2 * COLOURS :], embedded]))
    x = keras.layers.Permute((2, 3, 1))(keras.layers.Reshape((WIDTHS[0], 4, 4))(x))  # [B,4,4,128]
    x = conditional_norm(x, labels, 0)
    transposed, plain = keras.layers.Conv2DTranspose, keras.layers.Conv2D
    for number, (kind, size, stride) in enumerate(((transposed, 4, 2), (transposed, 4, 2), (plain, 3, 1))):
        x = conv(kind, f"layers.{number}", WIDTHS[number + 1], size, stride)(x)
        x = conditional_norm(x, labels, number + 1)
    mask = keras.ops.sigmoid(conv(transposed, "out", 1, 4, 2)(x))  # [B,32,32,1]
    ink = keras.ops.one_hot(keras.ops.argmax(z[:, :COLOURS], axis=1), COLOURS)
    other = keras.ops.argmax(z[:, COLOURS : 2 * COLOURS] - ink * 1e9, axis=1)  # the ink's place skipped
    palette = layer(keras.layers.Dense(3, use_bias=False), data.PALETTE_RGB.astype("float32") / 127.5 - 1)
    front, back = (keras.layers.Reshape((1, 1, 3))(palette(one)) for one in (ink, keras.ops.one_hot(other, COLOURS)))
    model = keras.Model([z, labels], back + mask * (front - back))
    for made, values in weights:
        made.set_weights(values)
    model.save(file)
    return file


if __name__ == "__main__":
    print(port(Path(sys.argv[1])))
