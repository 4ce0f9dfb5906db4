"""The shapes world: an infinite stream of captioned little pictures whose content can be read back exactly. Pure numpy, no network.

Import order inside: silhouette, scene, draw, caption, detect.
"""
# isort: skip_file

from anystep.positions import relations
from anystep.shapes.silhouette import BACKGROUND, COLORS, SILHOUETTES
from anystep.shapes.scene import KINDS, RELATIONS, SPLITS, Object, Scene, World, canonical, check, make_scene, split_of
from anystep.shapes.draw import draw
from anystep.shapes.caption import caption, metadata, prompt_of, prompts, scene_of
from anystep.shapes.detect import Detection, Seen, detect, foreground, judge

__all__ = [
    "BACKGROUND", "COLORS", "SILHOUETTES",
    "KINDS", "RELATIONS", "SPLITS", "Object", "Scene", "World", "canonical", "check", "make_scene", "relations", "split_of",
    "draw",
    "caption", "metadata", "prompt_of", "prompts", "scene_of",
    "Detection", "Seen", "detect", "foreground", "judge",
]  # fmt: skip
