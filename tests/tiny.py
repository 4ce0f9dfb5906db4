"""Configs as shipped, cut to a size that a test can train. What a config says about objectives, paths and data stays as it is."""

import json

import jax
import numpy as np
from PIL import Image

from anystep import config as configs
from anystep import stores, tree, weights

NAMES = sorted(configs.packaged())
ALIKE = ("nine_shapes", "shapes64", "steer_shapes", "sprint_teacher_shapes", "sana_sprint_1600m")  # as another is, at another size
STORES = ("store", "sana_sprint_600m", "sana_sprint_1600m", "sprint_flux")
CONTROLLED = ("sprint_control_shapes",)
TAUGHT = (*CONTROLLED, "sprint_shapes", "sana_sprint_600m", "sana_sprint_1600m", "sprint_flux")
ALL_OBJECTIVES = (
    "--config.objective.flow_matching.share=2",
    "--config.objective.self_evaluation.share=1",
    "--config.objective.consistency.share=1",
)
PLAIN = ("--config.model.control=0", "--config.model.frozen=False", "--config.objective.control_dropout=0")
FLOW = ("flow_matching.share=1", "self_evaluation.share=0", "consistency.share=0", "adversarial.share=0", "prompt_dropout=0.1")
FLOW_ALONE = tuple(f"--config.objective.{field}" for field in FLOW)  # compiles fastest, where it does not matter what is learned


def arguments(name, folder, *more):
    """The flags that make config `name` small; `folder` is where pictures are put for a config that wants some."""
    flags = ["--config", name, "--config.data.batch=8", "--config.model.width=16", "--config.model.depth=2", "--config.model.heads=2"]
    flags += [
        "--config.model.cross_heads=2",
        "--config.model.text.width=16",
        "--config.model.text.heads=2",
        "--config.model.text.vocabulary=64",
    ]
    flags += ["--config.train.steps=6", "--config.train.log_every=1", "--config.train.sample_every=0", "--config.optim.warmup=1"]
    flags += ["--config.objective.consistency.start=2", "--config.objective.self_evaluation.anneal=2"]
    flags += ["--config.eval.steps=1,2", "--config.eval.prompts=6", "--config.checkpoint.every=3", "--config.checkpoint.keep=3"]
    if name == "shapes64":
        flags += ["--config.data.size=16", "--config.model.depth=1"]
    if name == "pictures":
        pictures(folder / "pictures")
        flags += [
            f"--config.data.path={folder / 'pictures'}",
            "--config.data.dev_share=0.3",
            "--config.data.size=16",
            "--config.data.style_captions=False",
        ]
    if name in STORES:
        store(folder / "store", pooled=6 if name == "sprint_flux" else 0)
        flags += [f"--config.data.path={folder / 'store'}", "--config.data.dev_share=0.3"]
        flags += ["--config.data.holds=()"] if name != "store" else []
    if name == "sprint_flux":
        flags += ["--config.model.double=1"]
    if name in CONTROLLED:
        flags += ["--config.model.control=1"]
    if name in TAUGHT:
        flags += ["--config.objective.consistency.warmup=1", "--config.objective.consistency.start=0"]
        lone = [*more, "--config.model.guidance=False", "--config.eval.sampler=euler", "--config.eval.ask=now"]
        place = beginning = teacher(folder, [*flags, *lone])
        if name in CONTROLLED:
            beginning = teacher(folder, [*flags, *more, *PLAIN, f"--config.objective.teacher.folder={place}"], "student", ())
        flags += [f"--config.objective.teacher.folder={place}", f"--config.init_from={beginning}"]
        flags += ["--config.objective.adversarial.blocks=0,1"]
    return [*flags, *more]


def teacher(folder, flags, called="teacher", objective=FLOW):
    """A model folder with the fresh weights of a config's network, as if flow matching, or what the config says, had trained it."""
    from anystep.nets.build import build_models, drawn_roles

    config = configs.load([*flags, *(f"--config.objective.{field}" for field in objective)])[0]
    models = build_models(config)
    params = jax.jit(lambda: {role: models[role].init(tree.fold(jax.random.key(7), role)) for role in drawn_roles(config)})()
    weights.save_folder(folder / called, config.to_dict(), params)
    return folder / called


def everything(name, folder):
    """Flags beside `arguments` that make a config train all there is, heads on a teacher's blocks included."""
    place = teacher(folder, arguments(name, folder))
    flags = [f"--config.objective.{field}.share=1" for field in ("flow_matching", "self_evaluation", "consistency", "adversarial")]
    flags += ["--config.objective.adversarial.blocks=0,1", "--config.objective.consistency.weighting=learned"]
    return [*flags, f"--config.objective.teacher.folder={place}", "--config.objective.consistency.start=1"]


def config(name, folder, *more):
    return configs.load(arguments(name, folder, *more))[0]


def store(folder, n=12, width=8, pooled=0):
    """A store of noise, as if of an autoencoder and a text encoder; and a prompt that no picture has."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, shard = np.random.default_rng(0), stores.Shard(folder, 0)

    def prompt(length):
        return stores.Prompt(rng.standard_normal((length, width)).astype(np.float16), np.zeros(pooled, np.float16))

    for i in range(n):
        shard.add_picture(f"{i}.png", [f"noise number {i}"], rng.standard_normal((1, 16, 16, 4)).astype(np.float16))
        shard.add_prompt(f"noise number {i}", prompt(2 + i % 3))
    shard.add_prompt("a red ring", prompt(3))
    index = {"version": stores.VERSION, "made_with": {"text": "", "autoencoder": ""}, "albums": [n], "prompts": n + 1}
    index["picture"] = {"kind": "latents", "shape": [16, 16, 4], "dtype": "float16", "factor": 8}
    index["text"] = {"width": width, "pooled": pooled, "dtype": "float16", "null": stores.as_text(prompt(1)), "length": 4}
    index["files"] = shard.close()
    (folder / stores.INDEX).write_text(json.dumps(index | {"key": stores.key_of(index)}))


def pictures(folder, n=12):
    """A folder of captioned pictures in imagefolder layout."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / f"{i}.png")
        rows.append(f'{{"file_name": "{i}.png", "text": "noise number {i}"}}\n')
    (folder / "metadata.jsonl").write_text("".join(rows))
