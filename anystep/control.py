"""The pictures that a ControlNet is shown: the edges of a picture, made on the device in training as in drawing; what users give instead is
checked. Not here: the network (`nets.controlnet`).

    e = |grad Y| / max |grad Y|,    Y = 0.299 R + 0.587 G + 0.114 B (Rec. 601), grad by Sobel's filter, the outermost pixels repeated

White edges on black, as edge detectors draw them, so that a picture of theirs can be given instead.
"""

import jax.numpy as jnp
import numpy as np

from anystep.errors import UserError

FAINT = 0.02  # of luma in [-1, 1] per pixel: the least that counts as the steepest edge of a picture, two and a half levels of 255


def edges(x):
    """Pictures [B, H, W, 3] in [-1, 1] -> [B, H, W, 3] float32 in [-1, 1]: -1 where nothing changes, 1 at the steepest edge of each."""
    x = jnp.asarray(x, jnp.float32)
    luma = 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]
    padded = jnp.pad(luma, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = padded[:, 2:] - padded[:, :-2]
    right = padded[:, :, 2:] - padded[:, :, :-2]
    by_row = (down[:, :, :-2] + 2.0 * down[:, :, 1:-1] + down[:, :, 2:]) / 8.0
    by_column = (right[:, :-2] + 2.0 * right[:, 1:-1] + right[:, 2:]) / 8.0
    steep = jnp.sqrt(jnp.square(by_row) + jnp.square(by_column))
    share = steep / jnp.maximum(jnp.max(steep, axis=(1, 2), keepdims=True), FAINT)
    return jnp.broadcast_to((2.0 * share - 1.0)[..., None], x.shape)


def check_given(control, rows: int, shape) -> np.ndarray:
    """uint8 [rows, H, W, 3], or [H, W, 3] for all, with `shape` = (H, W, 3) -> float32 [rows or 1, H, W, 3] in [-1, 1]. UserError for
    others."""
    control, (height, width, _) = np.asarray(control), shape
    if control.dtype != np.uint8 or control.shape not in ((height, width, 3), (rows, height, width, 3)):
        allowed = f"uint8 [{height}, {width}, 3] or [{rows}, {height}, {width}, 3]"
        raise UserError(f"control: {control.dtype} {list(control.shape)}, allowed {allowed}, the size and number of what is drawn")
    return control.reshape(-1, height, width, 3).astype(np.float32) / 127.5 - 1.0
