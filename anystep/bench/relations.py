"""Several relations in a prompt: writes the prompts of Learn-to-Steer's multi-relation benchmark, and scores pictures of them.

    anystep bench relations --write PROMPTS.jsonl [--templates 2o1r,3o2r,4o2r,4o3r,5o3r] [--prompts 100] [--things "dog,teapot,..."]
    anystep sample --model MODEL --steer CLASSIFIER --prompts PROMPTS.jsonl --export geneval --steps 4 --out FOLDER
    anystep bench relations --score FOLDER [--against FOLDER] [--boxes FILE.py] [--out FILE.json]

Things and relations of a prompt differ from each other, as published, those of the shapes world in their shape (a config's own chains do,
too, of up to four things; longer prompts are what nothing here has learned, and want model.text.length of 20 to 28 words):

    2o1r  A r1 B      3o2r  A r1 B r2 C      4o2r  A r1 B and C r2 D      4o3r  A r1 B r2 C r3 D      5o3r  A r1 B r2 C and D r3 E

All must hold (`positions.all_hold`, which mends the published score). Things are those of the shapes world, which the exact detector finds
by shape and colour, unless --things says others; --boxes FILE.py, with boxes(picture, names) as `steer-train` has it, finds those. A share
is the mean over prompts of the mean over pictures, its standard error that of the prompts. --against names pictures of the same prompts,
drawn with the same seeds: unsteered ones; differences are paired by prompt.
"""

import json
from pathlib import Path

import numpy as np

from anystep import flags, shapes
from anystep.bench import _record as record
from anystep.errors import UserError, run_main
from anystep.positions import all_hold
from anystep.steering import sources

TEMPLATES = {"2o1r": (2,), "3o2r": (3,), "4o2r": (2, 2), "4o3r": (4,), "5o3r": (3, 2)}  # things of each chain
LINKS = {"left": ("to the left of", "left of"), "right": ("to the right of", "right of"), "above": ("above",) * 2, "below": ("below",) * 2}
THINGS = tuple(f"{color} {shape}" for shape in shapes.World().shapes for color in shapes.World().colors)


def main(argv):
    """Writes or scores. Raises UserError for what the user can mend."""
    parser = flags.Parser(prog="anystep bench relations", description=__doc__.splitlines()[0])
    parser.add_argument("--write", help="file of prompts to write, for anystep sample --prompts")
    parser.add_argument("--templates", default=",".join(TEMPLATES), help=f"(default: {','.join(TEMPLATES)})")
    parser.add_argument("--prompts", type=flags.whole(2, 200), default=100, help="of each template")
    parser.add_argument("--things", help="five or more with commas between (default: those of the shapes world)")
    parser.add_argument("--seed", type=flags.whole(0, flags.MOST_SEED), default=0)
    parser.add_argument("--score", help="folder of pictures, from anystep sample --export geneval")
    parser.add_argument("--against", help="folder of other pictures of the same prompts")
    parser.add_argument("--boxes", type=flags.python_file, help="Python file with boxes(picture, names), for what is no shape")
    parser.add_argument("--out", help="JSON record of the score")
    args = parser.parse_args(argv)
    if bool(args.write) == bool(args.score):
        raise UserError("--write FILE.jsonl or --score FOLDER: one of them is needed")
    if args.against and not args.score:
        raise UserError(f"--against {args.against!r}: is for --score")
    return write(args) if args.write else score(args, argv)


def write(args):
    templates, things = args.templates.split(","), tuple(name.strip() for name in (args.things or ",".join(THINGS)).split(","))
    if unknown := [name for name in templates if name not in TEMPLATES]:
        raise UserError(f"--templates {unknown[0]!r}: allowed {', '.join(TEMPLATES)}")
    if len(set(things)) < max(5, len(things)) or not all(things):
        raise UserError(f"--things {args.things!r}: allowed five or more names, each once")
    if not args.write.endswith(".jsonl") or Path(args.write).is_dir():
        raise UserError(f"--write {args.write!r}: allowed is a file that ends in .jsonl")
    apart = not args.things
    rows = [row_of(name, things, args.seed, number, apart) for name in templates for number in range(args.prompts)]
    Path(args.write).parent.mkdir(parents=True, exist_ok=True)
    Path(args.write).write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{args.write}: {len(rows)} prompts of {', '.join(templates)}")


def row_of(template, things, seed, number, apart=False):
    """Prompt, metadata as published (object and subject of each relation in turn) and "relations" [[subject, word, object], ...]: a pure
    function of the arguments. apart: no two things that end in the same word, as far as there are others."""
    rng, chains, clauses = np.random.default_rng([*template.encode(), seed, number]), [], []
    names = [things[i] for i in rng.permutation(len(things))]
    if apart:
        first = list({name.split()[-1]: name for name in names}.values())
        names = first + [name for name in names if name not in first]
    words = [list(LINKS)[i] for i in rng.permutation(len(LINKS))]
    for count in TEMPLATES[template]:
        chain, names = names[:count], names[count:]
        text = f"a {chain[0]}"
        for subject, thing in zip(chain, chain[1:], strict=False):
            clauses.append((subject, words.pop(), thing))
            text += f" {LINKS[clauses[-1][1]][0]} a {thing}"
        chains.append(text)
    include = []
    for subject, word, thing in clauses:
        include += [{"class": thing, "count": 1}, {"class": subject, "count": 1, "position": [LINKS[word][1], len(include)]}]
    prompt = "a photo of " + " and ".join(chains)
    return {"tag": template, "version": 2, "include": include, "prompt": prompt, "relations": [list(clause) for clause in clauses]}


def score(args, argv):
    if args.out and Path(args.out).is_dir():
        raise UserError(f"--out {args.out!r}: is a folder, allowed is a file")
    boxes = sources.boxes_of(args.boxes) or seen
    mine = shares_of("--score", args.score, boxes)
    its = shares_of("--against", args.against, boxes) if args.against else {}
    if its and set(its) != set(mine):
        raise UserError(f"--against {args.against!r}: holds other prompts than --score")
    rows = [
        summary(tag, *(np.stack([shares for (one, _, _), shares in side.items() if one == tag]) for side in (mine, its) if side))
        for tag in dict.fromkeys(tag for tag, _, _ in mine)
    ]
    print("\n".join(map(line, rows)))
    if args.out:
        record.write(args.out, "anystep bench relations " + " ".join(argv), {"rows": rows})


def shares_of(flag, place, boxes):
    """{(tag, folder's name, relations): of its pictures, in how many all relations hold and all things are there}. UserError for a folder
    that holds something else."""
    found = {}
    for folder in sorted(path.parent for path in Path(place).glob("*/metadata.jsonl")):
        row = relations_of(flag, folder)
        pictures = [sources.opened(path, flag) for path in sorted((folder / "samples").glob("*.png"))]
        if not pictures:
            raise UserError(f"{flag} {str(folder)!r}: has no pictures in samples/")
        verdicts = [judged(picture, row["relations"], boxes) for picture in pictures]
        found[row["tag"], folder.name, str(row["relations"])] = np.mean(verdicts, axis=0)
    if not found:
        raise UserError(f"{flag} {place!r}: holds no NNNNN/metadata.jsonl, anystep sample --export geneval writes them")
    return found


def relations_of(flag, folder):
    """The metadata of a folder of pictures, or UserError."""
    try:
        row = json.loads((folder / "metadata.jsonl").read_text())
        if isinstance(row["tag"], str) and row["relations"] and all(word in LINKS for _, word, _ in row["relations"]):
            return row
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"{flag} {str(folder)!r}: its metadata.jsonl has no tag and relations, anystep bench relations --write makes such prompts"
    )


def judged(picture, relations, boxes):
    """(whether all relations hold, whether all things are there) in a PIL picture. Of several boxes of a thing the largest counts, as the
    largest contour does in the published score."""
    names = list(dict.fromkeys(name for subject, _, thing in relations for name in (subject, thing)))
    try:
        found = boxes(np.asarray(picture, np.float32) / 127.5 - 1.0, names)
        every = {name: sources.several(found.get(name)) for name in names}
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  a stranger's code
        raise UserError(f"--boxes: boxes(picture, {names}) failed: {type(error).__name__} ({error})") from None
    there = {name: max(some, key=lambda box: (box[2] - box[0]) * (box[3] - box[1])) for name, some in every.items() if some}
    return all_hold(there, relations), len(there) == len(names)


def seen(picture, names):
    """Boxes of the things of the shapes world, by colour and shape."""
    things = shapes.detect(picture, shapes.World()).objects
    return {name: [thing.box for thing in things if f"{thing.color} {thing.shape}" == name] for name in names}


def summary(tag, shares, others=None):
    """shares, others [prompts, 2]: of pictures in which all relations hold, in which all things are there."""
    found = {"tag": tag, "prompts": len(shares)} | dict(zip(("relations", "error"), with_error(shares[:, 0]), strict=True))
    found["things"] = float(shares[:, 1].mean())
    if others is None:
        return found
    return found | dict(zip(("difference", "difference_error"), with_error(shares[:, 0] - others[:, 0]), strict=True))


def with_error(numbers):
    return float(numbers.mean()), float(numbers.std(ddof=1) / len(numbers) ** 0.5) if len(numbers) > 1 else float("nan")


def line(row):
    more = f", difference {row['difference']:+.3f} ± {row['difference_error']:.3f}" if "difference" in row else ""
    said = f"{row['tag']}: relations {row['relations']:.3f} ± {row['error']:.3f}, things {row['things']:.3f}, {row['prompts']} prompts"
    return said + more


if __name__ == "__main__":
    run_main(main)
