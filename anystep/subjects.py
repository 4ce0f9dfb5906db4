"""What a kind of data is asked for, how an answer is judged, what else the data would answer, how it is shown: all that training,
`evaluate` and `bench` need to know of it.

shapes      GenEval's six kinds, judged by the exact detector
mixture2d   "mode k", right within three standard deviations of that mode; shown as clouds of points
pictures    captions of the split, no judge and no other pictures of a caption; a store's, too
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from anystep import logs, shapes
from anystep.data import captions, ring
from anystep.data.draws import generator
from anystep.data.sources import SPREAD
from anystep.errors import UserError


class Subject(NamedTuple):
    metadata: list[dict]  # each with "prompt" and "tag"
    judge: Callable | None  # (picture as a float array at the door, metadata row) -> {"correct": bool, "joint": bool}
    example: Callable | None  # (metadata row, number) -> one of the data's own samples of its prompt, a float array at the door
    show: Callable  # ({steps: float [N, H, W, C]}) -> a strip, PIL image


def subject(data, n, split="dev", seed=0) -> Subject:
    """`n` prompts of a data section. Splits: "train", "dev", and for shapes "test"."""
    if data.kind == "shapes":
        world = shapes.World(**{name: data[name] for name in shapes.World._fields})
        metadata = shapes.prompts(world, seed, n, split)

        def example(row, number):
            scene = shapes.scene_of(row, world, generator(row["prompt"], seed, number))
            return shapes.draw(scene, world).astype(np.float32) / 127.5 - 1.0

        return Subject(metadata, lambda image, row: shapes.judge(image, row, world), example, pictures_strip(metadata))
    try:
        texts = captions(data, n, split, seed)
    except UserError:
        if split != "dev":
            raise
        texts = captions(data, n, "train", seed)  # a few pictures may leave none for dev; to look at, those of training do
    metadata = [{"prompt": text, "tag": "prompts"} for text in texts]
    if data.kind == "mixture2d":
        return Subject(metadata, near_its_mode(data.modes), around_its_mode(data.modes, seed), clouds(data.modes))
    return Subject(metadata, None, None, pictures_strip(metadata))


def pictures_strip(metadata, most=8):
    """Rows are the first prompts of every tag in turn, columns the step counts."""

    def show(arrays, title=""):
        return logs.strip(
            {steps: to_uint8(x[:most]) for steps, x in arrays.items()}, [row["prompt"] for row in metadata[:most]], title=title
        )

    return show


def near_its_mode(modes):
    means = ring(modes)

    def judge(point, row):
        mean = means[int(row["prompt"].split()[-1])]
        right = bool(np.linalg.norm(np.asarray(point).reshape(2) - mean) < 3 * SPREAD)
        return {"correct": right, "joint": right}

    return judge


def around_its_mode(modes, seed):
    means = ring(modes)

    def example(row, number):
        mode = int(row["prompt"].split()[-1])
        noise = generator(row["prompt"], seed, number).standard_normal(2)
        return (means[mode] + SPREAD * noise).astype(np.float32).reshape(1, 1, 2)

    return example


def clouds(modes):
    def show(arrays, title=""):
        pictures = {steps: cloud(x.reshape(-1, 2), ring(modes))[None] for steps, x in arrays.items()}
        return logs.strip(pictures, [f"{modes} modes on a ring"], scale=1, title=title)

    return show


def cloud(points, means, size=160):
    """uint8 [size, size, 3]: the points in blue over the modes' three-sigma discs in grey."""
    y, x = np.mgrid[0:size, 0:size]
    place = np.stack([x, y], -1) / (size - 1) * 2.4 - 1.2
    picture = np.full((size, size, 3), 255, np.uint8)
    picture[(np.linalg.norm(place[:, :, None] - means, axis=-1) < 3 * SPREAD).any(-1)] = 225
    columns, rows = np.clip(np.rint((points.T + 1.2) / 2.4 * (size - 1)), 0, size - 2).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            picture[rows + down, columns + right] = (40, 90, 200)
    return picture


def to_uint8(x) -> np.ndarray:
    """[-1, 1] -> 0..255, rounded, clipped; non-finite values become 0. Of latents, which have more than three channels, the first three are
    shown, two deviations wide."""
    x = np.asarray(x)[..., :3] / 2 if np.ndim(x) == 4 and np.shape(x)[3] > 3 else x
    x = np.nan_to_num(np.asarray(x, np.float32), nan=-1.0, posinf=1.0, neginf=-1.0)
    return np.clip(np.rint((x + 1.0) * 127.5), 0, 255).astype(np.uint8)
