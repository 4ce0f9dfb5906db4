"""How far the shapes detector can be trusted: `anystep bench detector [--size 16] [--n 3000] [--out FILE.json]`.

Clean and noisy renderings that must be read right, damaged ones that must not, and the confusion table of silhouettes and colours.
The thresholds in `shapes.detect` rest on these figures.
"""

import time

import numpy as np
from scipy import ndimage

from anystep import flags
from anystep.bench import _record as record
from anystep.errors import run_main
from anystep.shapes import BACKGROUND, COLORS, SILHOUETTES, Scene, World, check, detect, draw, judge, make_scene, metadata

NOISE = 0.05  # standard deviation, pictures in [-1, 1]
BLUR = 0.2  # standard deviation in diameters of the picture's smallest object


def noisy(rng: np.random.Generator, picture: np.ndarray, std: float = NOISE) -> np.ndarray:
    """float64 in about [-1, 1]."""
    return picture / 127.5 - 1.0 + std * rng.standard_normal(picture.shape)


def _pixels(box, size: int) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of all the pixels that the box touches."""
    return tuple(int(v) for v in (*np.floor(np.array(box[:2]) * size), *np.ceil(np.array(box[2:]) * size)))


def blend(rng, scene: Scene, other: Scene, size: int) -> np.ndarray:
    """The mean of two pictures."""
    return (draw(scene, size) / 2.0 + draw(other, size) / 2.0).round().astype(np.uint8)


def blur(rng, scene: Scene, other: Scene, size: int) -> np.ndarray:
    """A Gaussian over all the picture."""
    sigma = BLUR * 2.0 * size * min(o.r for o in scene.objects)
    return ndimage.gaussian_filter(draw(scene, size).astype(np.float64), (sigma, sigma, 0), mode="nearest").round().astype(np.uint8)


def half(rng, scene: Scene, other: Scene, size: int) -> np.ndarray:
    """One object's left, right, upper or lower half replaced by paper."""
    obj = scene.objects[rng.integers(len(scene.objects))]
    x0, y0, x1, y1 = _pixels(obj.box, size)
    column, row = round(obj.x * size), round(obj.y * size)
    left, right, top, bottom = [(x0, column, y0, y1), (column, x1, y0, y1), (x0, x1, y0, row), (x0, x1, row, y1)][rng.integers(4)]
    picture = draw(scene, size)
    picture[top:bottom, left:right] = BACKGROUND
    return picture


def missing(rng, scene: Scene, other: Scene, size: int) -> np.ndarray:
    """One object fewer."""
    gone = rng.integers(len(scene.objects))
    return draw(scene._replace(objects=scene.objects[:gone] + scene.objects[gone + 1 :]), size)


def extra(rng, scene: Scene, other: Scene, size: int) -> np.ndarray:
    """One object more, wherever it falls."""
    return draw(scene._replace(objects=scene.objects + other.objects[:1]), size)


def smear(rng, scene: Scene, other: Scene, size: int) -> np.ndarray:
    """A soft blot of half a colour's strength, as large as half an object, its centre on paper."""
    x, y = rng.uniform(0.1, 0.9, 2)
    while any(max(abs(o.x - x), abs(o.y - y)) < o.r for o in scene.objects):
        x, y = rng.uniform(0.1, 0.9, 2)
    grid = (np.arange(size) + 0.5) / size
    blot = 0.5 * np.exp(-((grid - x) ** 2 + (grid[:, None] - y) ** 2) / (2 * 0.06**2))[..., None]
    return (draw(scene, size) * (1.0 - blot) + blot * np.array(COLORS[other.objects[0].color])).round().astype(np.uint8)


DAMAGES = {"blend": blend, "blur": blur, "half": half, "missing": missing, "extra": extra, "smear": smear}


def rejection(world: World, damage: str, n: int, seed: int = 1) -> float:
    """Share of n damaged pictures that the detector does not call correct."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for i in range(n):
        scene, other = make_scene(world, seed, 2 * i), make_scene(world, seed, 2 * i + 1)
        wrong += not judge(DAMAGES[damage](rng, scene, other, world.size), metadata(scene), world)["correct"]
    return wrong / n


def accuracy(world: World, n: int, noise: float = 0.0, seed: int = 0) -> dict[int, float]:
    """Share of n renderings called correct, by number of objects; 0 for all of them."""
    rng = np.random.default_rng(seed)
    right: dict[int, list[bool]] = {0: []}
    for i in range(n):
        scene = make_scene(world, seed, i)
        picture = draw(scene, world)
        correct = judge(noisy(rng, picture, noise) if noise else picture, metadata(scene), world)["correct"]
        for group in (0, len(scene.objects)):
            right.setdefault(group, []).append(correct)
    return {group: float(np.mean(marks)) for group, marks in sorted(right.items())}


def confusion(world: World, n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Names and [K, K + 1] counts of objects by what was drawn and what was seen in its place; the last column is what was rejected."""
    names = [f"{color} {shape}" for shape in world.shapes for color in world.colors]
    counts = np.zeros((len(names), len(names) + 1), np.int64)
    for i in range(n):
        scene = make_scene(world, seed, i)
        seen = detect(draw(scene, world), world).objects
        for obj in scene.objects:
            near = [d for d in seen if max(abs(d.box[0] + d.box[2] - 2 * obj.x), abs(d.box[1] + d.box[3] - 2 * obj.y)) < obj.r]
            known = len(near) == 1 and near[0].shape is not None and near[0].color is not None
            column = names.index(f"{near[0].color} {near[0].shape}") if known else len(names)
            counts[names.index(f"{obj.color} {obj.shape}"), column] += 1
    return names, counts


def speed(world: World, n: int = 200) -> float:
    """Pictures judged per second of one core."""
    scenes = [make_scene(world, 0, i) for i in range(n)]
    work = [(draw(scene, world), metadata(scene)) for scene in scenes]
    start = time.process_time()
    for picture, asked in work:
        judge(picture, asked, world)
    return n / (time.process_time() - start)


def measure(world: World, n: int) -> dict:
    """The whole measurement; n renderings each for clean and noisy ones and the table, and a third for each damage."""
    names, counts = confusion(world, n)
    return {
        "size": world.size,
        "n": n,
        "shapes": list(world.shapes),
        "colors": list(world.colors),
        "accuracy": {"clean": accuracy(world, n), f"noise {NOISE}": accuracy(world, n, NOISE)},
        "rejected": {damage: rejection(world, damage, max(n // 3, 1)) for damage in DAMAGES},
        "pictures_per_second": round(speed(world), 1),
        "confusion": {"rows": names, "columns": [*names, "rejected"], "counts": counts.tolist()},
    }


def report(result: dict) -> str:
    """The measurement as text: columns of the table are numbered like its rows, "." is zero."""
    rows, counts = result["confusion"]["rows"], result["confusion"]["counts"]
    width = max(len(str(v)) for row in counts for v in row) + 1
    wide = max(len(name) for name in rows) + 4
    lines = ["drawn / seen".ljust(wide) + "".join(str(i + 1).rjust(width) for i in range(len(rows))) + " rejected"]
    for i, (name, row) in enumerate(zip(rows, counts, strict=True)):
        cells = [str(v).rjust(width) if v else ".".rjust(width) for v in row[:-1]]
        lines.append(f"{i + 1:>2}  {name}".ljust(wide) + "".join(cells) + f"{row[-1] or '.':>9}")
    for kind, groups in result["accuracy"].items():
        parts = ", ".join(f"{number} objects {share:.4f}" for number, share in groups.items() if number)
        lines.append(f"correct, {kind}: {groups[0]:.4f} ({parts})")
    lines += [f"rejected, {damage}: {share:.4f}" for damage, share in result["rejected"].items()]
    lines.append(f"pictures per second: {result['pictures_per_second']}")
    return "\n".join(lines)


def main(argv):
    parser = flags.Parser(prog="anystep bench detector", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=16, help="pixels, >= 16")
    parser.add_argument("--n", type=flags.whole(1, 10**6), default=3000, help="renderings per figure")
    parser.add_argument("--shapes", nargs="+", default=World().shapes, help=f"among {', '.join(SILHOUETTES)}")
    parser.add_argument("--colors", nargs="+", default=World().colors, help=f"among {', '.join(COLORS)}")
    parser.add_argument("--out", default="", help="JSON record to write")
    args = parser.parse_args(argv)
    world = check(World(size=args.size, shapes=args.shapes, colors=args.colors))
    result = measure(world, args.n)
    print(report(result))
    if args.out:
        record.write(args.out, "anystep bench detector " + " ".join(argv), result)


if __name__ == "__main__":
    run_main(main)
