"""What the things of the shapes world look like: silhouettes as signed distances, colours as RGB. No scenes and no pixels here.

A silhouette is a function (x, y) -> d of coordinates in units of the object's radius, y down, d < 0 inside, |grad d| = 1 near the
outline. It fills, and does not leave, the square [-1, 1]^2, which is the object's box; so a scene needs no shape to know where an object
ends.
"""

import numpy as np

# The names are GenEval's colours; "white" is missing because it is the paper. Blends of a colour with the paper stay away from all others.
COLORS = {
    "red": (218, 44, 56),
    "yellow": (250, 199, 30),
    "green": (43, 155, 84),
    "blue": (33, 107, 214),
    "purple": (142, 62, 178),
    "black": (42, 42, 50),
    "orange": (246, 130, 30),
    "pink": (247, 128, 196),
    "brown": (125, 76, 40),
}
BACKGROUND = (250, 248, 243)


def _circle(x, y):
    return np.hypot(x, y) - 1.0


def _ring(x, y):
    return np.abs(np.hypot(x, y) - 0.72) - 0.28


def _square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) - 0.9


def _triangle(x, y):  # tip (0, -1), base y = 0.9 from -1 to 1
    slope = np.hypot(1.9, 1.0)
    return np.maximum((1.9 * np.abs(x) - (y + 1.0)) / slope, y - 0.9)


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 1.0, np.minimum(x, y) - 0.32)


def _diamond(x, y):
    return (np.abs(x) + np.abs(y) - 1.0) * np.sqrt(0.5)


def _star(x, y):  # one of the ten half edges, after folding the plane: tip (1, 0) to valley 0.42 (cos 36, sin 36)
    x, y = x / 0.99, (y - 0.09) / 0.99
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    angle = np.abs(np.mod(angle + np.pi / 5, 2 * np.pi / 5) - np.pi / 5)
    edge_x, edge_y = 0.42 * np.cos(np.pi / 5) - 1.0, 0.42 * np.sin(np.pi / 5)
    return 0.99 * ((radius * np.cos(angle) - 1.0) * edge_y - radius * np.sin(angle) * edge_x) / np.hypot(edge_x, edge_y)


def _heart(x, y):  # Quilez, "2D distance functions": spans |x| <= 0.6036, 0 <= y <= 1.1036 with y up
    x, y = 0.6036 * np.abs(x), 0.5518 - 0.6036 * y
    lobe = np.hypot(x - 0.25, y - 0.75) - np.sqrt(0.125)
    foot = np.maximum(x + y, 0.0) / 2
    flank = np.sqrt(np.minimum(x**2 + (y - 1.0) ** 2, (x - foot) ** 2 + (y - foot) ** 2)) * np.sign(x - y)
    return np.where(x + y > 1.0, lobe, flank) / 0.6036


def _crescent(x, y):  # a disc less a smaller one to its right, moved so that the box is centred
    x = x - 0.13
    return np.maximum(np.hypot(x, y) - 1.0, 0.7 - np.hypot(x - 0.55, y))


# The first four are World's default: drawn as another of them at 16 pixels, each leaves a sixth of its ink's energy unexplained or more.
SILHOUETTES = {
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "circle": _circle,
    "diamond": _diamond,
    "heart": _heart,
    "star": _star,
    "crescent": _crescent,
}
