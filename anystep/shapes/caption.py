"""From a scene to words: training captions in several phrasings, the canonical prompt, and GenEval's metadata, at most 13 words each (6 +
7 n of a chain of n relations); and from metadata back to a scene.

single_object never names the colour, colors and color_attr always do, the other kinds name all their colours or none. "A and B" names the
left or upper object first, as people do; a relation is told from either side.
"""

import numpy as np

from anystep.shapes.scene import KINDS, LISTED, RELATIONS, Object, Scene, World, make_scene, place, place_chain, reading_order

NUMBERS = {2: "two", 3: "three"}
PHRASES = {"left of": ("left of", "to the left of"), "right of": ("right of", "to the right of"), "above": ("above",), "below": ("below",)}
CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def _pick(rng: np.random.Generator, options):
    return options[int(rng.random() * len(options))]


def _named(obj: Object, color: bool) -> str:
    return f"{obj.color} {obj.shape}" if color else obj.shape


def _one(obj: Object, color: bool) -> str:
    name = _named(obj, color)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _many(obj: Object, color: bool, number: str) -> str:
    return f"{number} {_named(obj, color)}{'es' if obj.shape.endswith('s') else 's'}"


def _names_colors(kind: str, otherwise: bool) -> bool:
    return {"single_object": False, "colors": True, "color_attr": True}.get(kind, otherwise)


def caption(scene: Scene, rng: np.random.Generator, world: World) -> str:
    """A training caption, true of the scene but for the shares `wrong_relation` and `missing_relation` of the position captions."""
    color = _names_colors(scene.kind, rng.random() < world.color_words)
    objects = scene.objects
    if scene.kind == "counting":
        words = _many(objects[0], color, _pick(rng, (NUMBERS[len(objects)], str(len(objects)))))
        return _pick(rng, (f"a photo of {words}", f"a picture of {words}", words, f"there are {words}"))
    if len(objects) == 1:
        words = _one(objects[0], color)
    else:
        relations = scene.relations
        if rng.random() < 0.5 and relations:
            objects, relations = objects[::-1], tuple(CONVERSE[relation] for relation in relations[::-1])
        words = _joined(objects, [_link(relation, rng, world) for relation in relations or (None,)], color)
    return _pick(rng, (f"a photo of {words}", f"a picture of {words}", words, f"there is {words}"))


def _joined(objects, links, color: bool) -> str:
    """ "a ring LINK a cross LINK a square" """
    return "".join(f"{_one(o, color)} {link} " for o, link in zip(objects, links, strict=False)) + _one(objects[-1], color)


def _link(relation: str | None, rng: np.random.Generator, world: World) -> str:
    fate = rng.random()
    if relation is None or fate < world.missing_relation:
        return "and"
    if fate < world.missing_relation + world.wrong_relation:
        relation = _pick(rng, [other for other in RELATIONS if other != relation])
    return _pick(rng, PHRASES[relation])


def prompt_of(scene: Scene, colors: bool = True) -> str:
    """The canonical prompt, "a photo of a red ring left of a blue cross"; `colors` is for the kinds that may go without."""
    color = _names_colors(scene.kind, colors)
    if scene.kind == "counting":
        return f"a photo of {_many(scene.objects[0], color, NUMBERS[len(scene.objects)])}"
    return f"a photo of {_joined(scene.objects, scene.relations or ['and'] * (len(scene.objects) - 1), color)}"


def metadata(scene: Scene, colors: bool = True) -> dict:
    """What the prompt asks for, as a line of GenEval's evaluation_metadata.jsonl: tag, include, (exclude,) prompt.

    In a position prompt include[0] is the reference, include[1] the subject with position [relation, 0], and in a chain include[2] what
    stands in the relation [relation, 1] to that.
    """
    color = _names_colors(scene.kind, colors)

    def entry(obj: Object, count: int = 1) -> dict:
        return {"class": obj.shape, "count": count} | ({"color": obj.color} if color else {})

    asked = {"tag": scene.kind, "include": [entry(o) for o in scene.objects], "prompt": prompt_of(scene, colors)}
    if scene.kind == "counting":
        n = len(scene.objects)
        asked["include"] = [entry(scene.objects[0], n)]
        asked["exclude"] = [{"class": scene.objects[0].shape, "count": n + 1}]
    if scene.kind == "position":
        reference, *others = asked["include"][::-1]
        links = enumerate(zip(others, scene.relations[::-1], strict=True))
        asked["include"] = [reference] + [entry | {"position": [relation, place]} for place, (entry, relation) in links]
    return asked


def prompts(world: World, seed: int, n: int, split: str = "test", kinds: tuple[str, ...] = KINDS) -> list[dict]:
    """Metadata of n evaluation prompts, the kinds in turn, so that every prefix is balanced. A longer list begins with a shorter one."""
    colors = world.color_words > 0.0
    return [metadata(make_scene(world, seed, i, split, kinds[i % len(kinds)]), colors) for i in range(n)]


def scene_of(asked: dict, world: World, rng: np.random.Generator) -> Scene:
    """A scene that metadata describes, places and unnamed colours drawn anew."""
    entries, relations = asked["include"], (None,)
    if asked["tag"] == "position":
        entries = entries[::-1]
        relations = tuple(entry["position"][0] for entry in entries[:-1])
    things = [thing for entry in entries for thing in [(entry["class"], entry.get("color") or _pick(rng, world.colors))] * entry["count"]]
    if len(relations) > 1:
        return place_chain(things, relations, rng)
    scene = place(asked["tag"], things, relations[0], rng)
    if asked["tag"] in LISTED and reading_order(scene.objects) != scene.objects:
        scene = scene._replace(objects=tuple(at._replace(shape=a, color=b) for at, (a, b) in zip(scene.objects[::-1], things, strict=True)))
    return scene
