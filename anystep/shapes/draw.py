"""From a scene to pixels, antialiased.

A pixel's share of ink is clip(1/2 - d, 0, 1), with d the signed distance in pixels from its centre to the outline, negative inside. The
detector renders with the same functions; what a picture says is not decided here.
"""

import numpy as np

from anystep.shapes.scene import Scene, World
from anystep.shapes.silhouette import BACKGROUND, COLORS, SILHOUETTES

PAPER = np.array(BACKGROUND, np.float64) / 255.0


def rgb(color: str) -> np.ndarray:
    """[3] float64 in [0, 1]."""
    return np.array(COLORS[color], np.float64) / 255.0


def coverage(shape: str, x, y, r, columns, rows) -> np.ndarray:
    """Share of each pixel inside the silhouette; x, y, r in pixels, pixel centres at columns [W] + 1/2 and rows [H] + 1/2.

    x, y, r may be arrays with trailing axes for H and W: the answer broadcasts to [..., H, W].
    """
    distance = SILHOUETTES[shape]((columns + 0.5 - x) / r, (rows[:, None] + 0.5 - y) / r) * r
    return np.clip(0.5 - distance, 0.0, 1.0)


def paint(objects, size: int) -> np.ndarray:
    """[size, size, 3] float64 in [0, 1] of objects (shape, rgb [3], x, y, r), lengths in units of the side, on paper."""
    picture = np.full((size, size, 3), PAPER)
    for shape, color, x, y, r in objects:
        x, y, r = x * size, y * size, r * size
        x0, x1 = max(int(x - r - 1.0), 0), min(int(x + r + 2.0), size)
        y0, y1 = max(int(y - r - 1.0), 0), min(int(y + r + 2.0), size)
        patch = picture[y0:y1, x0:x1]
        patch += coverage(shape, x, y, r, np.arange(x0, x1), np.arange(y0, y1))[..., None] * (color - patch)
    return picture


def draw(scene: Scene, world: World | int) -> np.ndarray:
    """uint8 [H, W, 3] of the scene at the world's size, or at a size in pixels (>= 16)."""
    size = world if isinstance(world, int) else world.size
    picture = paint([(o.shape, rgb(o.color), o.x, o.y, o.r) for o in scene.objects], size)
    return np.round(picture * 255.0).astype(np.uint8)
