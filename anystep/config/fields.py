"""The table of all fields: dotted path -> type, range or choices, meaning; and what a field takes, from Python and from a command line.

Not here: rules between fields (`rules`), files and flags (`anystep.config`).
"""

import ast
import math
from typing import NamedTuple

from anystep.shapes.silhouette import COLORS, SILHOUETTES


class Field(NamedTuple):
    kind: type
    meaning: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple = ()
    item: "Field | None" = None  # of a tuple
    lengths: tuple[int, float] = (1, math.inf)  # of a tuple: least, most


def whole(meaning, low, high=2**31 - 1):
    return Field(int, meaning, low, high)


def real(meaning, low=-1e6, high=1e6):
    return Field(float, meaning, low, high)


def one_of(meaning, *choices):
    return Field(str, meaning, choices=choices)


def switch(meaning):
    return Field(bool, meaning)


def word(meaning):
    return Field(str, meaning)


def many(meaning, item, least=1, most=math.inf):
    return Field(tuple, meaning, item=item, lengths=(least, most))


WEIGHTINGS = ("none", "adaptive", "huber")
POSITIVE = 1e-6  # the smallest value of a number that must not be 0

FIELDS = {
    "seed": whole("of every draw", 0, 2**32 - 1),
    "data.kind": one_of("what the model learns to draw", "shapes", "pictures", "store", "mixture2d"),
    "data.batch": whole("rows of the global batch", 1),
    "model.net": one_of("backbone", "sana", "mmdit", "mlp"),
    "model.width": whole("channels of the residual stream", 1, 65536),
    "model.depth": whole("blocks", 1, 1024),
    "model.double": whole("of them with weights for text and picture each, of mmdit", 0, 1024),
    "model.heads": whole("heads of self-attention", 1, 1024),
    "model.patch": whole("pixels a side of one token", 1, 64),
    "model.attention": one_of("self-attention", "softmax", "linear"),
    "model.cross_heads": whole("heads of the attention to the prompt", 1, 1024),
    "model.ffn": one_of("feed-forward", "mlp", "conv"),
    "model.mlp_ratio": real("hidden channels of the feed-forward over width", 0.1, 64.0),
    "model.positions": one_of("position embedding", "sincos", "none"),
    "model.qk_norm": switch("normalise queries and keys"),
    "model.stem": whole("channels of the convolutions before and after the blocks, 0 = none", 0, 65536),
    "model.predicts": one_of("what the network puts out", "x0", "v"),
    "model.time_frequency": real("highest of the time embedding, rad per unit time", POSITIVE, 1e6),
    "model.time_span": real("highest over lowest frequency of the time embedding", 1.0, 1e6),
    "model.second_time": switch("the network sees the asked end s, too; without it its answers are one kind, velocities or jumps to 0"),
    "model.guidance": switch("the network is told the guidance scale that a teacher was asked under"),
    "model.control": whole("residuals of a ControlNet beside the network, fewer than its blocks, 0 = none", 0, 1023),
    "model.rank": whole("of what is added to the kernels of the blocks (LoRA), 0 = nothing", 0, 4096),
    "model.frozen": switch("only what control or rank adds is trained; the network and its text encoder stay as init_from has them"),
    "model.scan": switch("one scanned block: compiles faster"),
    "model.remat": switch("recompute each block in the backward pass: less memory, more time"),
    "model.dtype": one_of("of activations; weights are float32", "float32", "bfloat16"),
    "model.shift": real("mean of the data at the door: unit = (door - shift) / scale"),
    "model.scale": real("standard deviation of the data at the door", POSITIVE, 1e6),
    "model.text.encoder": one_of("of prompts: trained along, pretrained and frozen, or a store's features", "hashed", "minilm", "stored"),
    "model.text.folder": word("'' for the installed MiniLM, or a folder with another BERT and its tokenizer; of minilm"),
    "model.text.digest": word("of that encoder's files; '' for what is there, a run writes it down"),
    "model.text.vocabulary": whole("rows of the table of hashed words", 3, 2**24),
    "model.text.length": whole("tokens of a prompt, its start included", 2, 4096),
    "model.text.width": whole("channels of the prompt encoder", 1, 65536),
    "model.text.depth": whole("layers of the prompt encoder", 0, 1024),
    "model.text.heads": whole("heads of the prompt encoder", 1, 1024),
    "path.name": one_of("x_t = alpha(t) x0 + sigma(t) noise", "linear", "trig"),
    "objective.time.law": one_of("of t before the shift", "logit_normal", "uniform"),
    "objective.time.mean": real("of the normal in logit_normal", -20.0, 20.0),
    "objective.time.std": real("of the normal in logit_normal", POSITIVE, 20.0),
    "objective.time.base_tokens": whole("tokens where the shift is exp(0.5), exp(1.15) being at 4096; 0 = shift as given", 0, 4095),
    "objective.time.shift": real("t -> shift t / (1 + (shift - 1) t), 1 = none, more = noisier", 0.01, 100.0),
    "objective.prompt_dropout": real("share of rows that see the null prompt", 0.0, 1.0),
    "objective.control_dropout": real("share of rows that are shown no edges", 0.0, 1.0),
    "objective.teacher.folder": word("'' or a model folder, work directory or diffusers pipeline: a frozen network, asked and looked into"),
    "objective.teacher.digest": word("of its weights; '' for what is there, a run writes it down"),
    "objective.teacher.scales": many("guidance that it is asked under, each row one of them", real("", 0.0, 100.0), 1, 64),
    "objective.teacher.null_mask": one_of("mask of its null prompt: that prompt's, or of the one it stands in for", "own", "prompt"),
    "objective.flow_matching.share": whole("rows in each group of sum-of-shares rows, 0 = off", 0, 1024),
    "objective.flow_matching.weight": real("of its mean in the loss", 0.0, 1e6),
    "objective.flow_matching.weighting": one_of("of a sample: its squares, by 1 / them, by 1 / the root of them", *WEIGHTINGS),
    "objective.self_evaluation.share": whole("rows in each group of sum-of-shares rows, 0 = off", 0, 1024),
    "objective.self_evaluation.weight": real("of its mean in the loss", 0.0, 1e6),
    "objective.self_evaluation.start": whole("first step that it counts in", 0),
    "objective.self_evaluation.s_min": real("smallest s / t that is asked", 0.0, 1.0),
    "objective.self_evaluation.anneal": whole("steps over which it comes in", 0),
    "objective.self_evaluation.renorm": switch("give the target the norm of the data"),
    "objective.self_evaluation.weighting": one_of("as that of flow_matching", *WEIGHTINGS),
    "objective.self_evaluation.dropped": one_of("rows without a prompt: ask s = t, or keep s", "diagonal", "keep"),
    "objective.self_evaluation.auxiliary_k": real("of the evaluator, the null prompt's part; the rest is the fake's, 1 = none", 0.0, 1.0),
    "objective.self_evaluation.auxiliary_start": whole("first step of the fake term; its words take two of model.text.length", 0),
    "objective.self_evaluation.auxiliary_warmup": whole("steps for which the fake is only learned, before it acts", 0),
    "objective.self_evaluation.auxiliary_weight": real("of the fake's own loss", 0.0, 1e6),
    "objective.consistency.share": whole("rows in each group of sum-of-shares rows, 0 = off", 0, 1024),
    "objective.consistency.weight": real("of its mean in the loss", 0.0, 1e6),
    "objective.consistency.start": whole("first step that jumps in; before, its rows are flow matching", 0),
    "objective.consistency.at_zero": real("share of its rows at s = 0 (consistency); the others at s > 0 (MeanFlow)", 0.0, 1.0),
    "objective.consistency.s_min": real("smallest s / t of those others", 0.0, 1.0),
    "objective.consistency.nodes": whole("0 = by jax.jvp, N = by a step on a grid of N nodes", 0, 1000),
    "objective.consistency.hops": whole("nodes that one step goes over", 1, 1000),
    "objective.consistency.velocity": one_of(
        "along what: noise - x0, or what the averaged weights or the teacher answer at s = t", "data", "ema", "teacher"
    ),
    "objective.consistency.guidance": real("scale inside the jumps along the averaged weights, 1 = none", 0.0, 100.0),
    "objective.consistency.interval": many(
        "t_low, t_high of guidance along averages or teacher; a scale that the teacher is told has none", real("", 0.0, 1.0), 2, 2
    ),
    "objective.consistency.at_noise": real("share of its rows at t = 1", 0.0, 1.0),
    "objective.consistency.warmup": whole("steps over which the tangent comes in; beside adversarial every other one counts", 0),
    "objective.consistency.form": one_of("where its step is measured: flow time, or TrigFlow as in sCM", "linear", "trig"),
    "objective.consistency.tangent_norm": one_of("what tames the tangent", "none", "clip", "l2", "rms"),
    "objective.consistency.tangent_constant": real("added to the norm of l2 and rms; sCM's is 0.2 for data of deviation 1", POSITIVE, 1e6),
    "objective.consistency.prior": switch("squares over the tangent of the angle once more, as SANA-Sprint's loop"),
    "objective.consistency.weighting": one_of("as that of flow_matching, absolute values, or learned", *WEIGHTINGS, "l1", "learned"),
    "objective.adversarial.share": whole("rows in each group of sum-of-shares rows, 0 = off; every other step trains its heads", 0, 1024),
    "objective.adversarial.weight": real("of its mean in the loss", 0.0, 1e6),
    "objective.adversarial.blocks": many("of the teacher, after which a head looks; increasing", whole("", 0, 1023), 1, 64),
    "objective.adversarial.at_noise": real("share of its rows at t = 1", 0.0, 1.0),
    "objective.adversarial.mean": real("of the logit of the times that heads see pictures at", -20.0, 20.0),
    "objective.adversarial.std": real("of that logit", POSITIVE, 20.0),
    "objective.adversarial.one_level": switch("real and drawn pictures get one level of noise, not two"),
    "objective.adversarial.misaligned": switch("heads also learn to refuse pictures under another one's prompt"),
    "objective.adversarial.rate": real("of the heads' learning rate over config.optim.lr", POSITIVE, 1e6),
    "optim.name": one_of("optimizer", "adamw", "muon"),
    "optim.lr": real("learning rate after the warm-up", 0.0, 100.0),
    "optim.final_lr": real("of the cosine, as a fraction of lr", 0.0, 1.0),
    "optim.warmup": whole("steps of linear warm-up; beside adversarial every other one counts", 0),
    "optim.b1": real("decay of the first moment", 0.0, 0.999999),
    "optim.b2": real("decay of the second moment", 0.0, 0.999999),
    "optim.muon_rms": real("root mean square of muon's step over lr; 0.2 is adamw's", POSITIVE, 100.0),
    "optim.weight_decay": real("decoupled", 0.0, 100.0),
    "optim.clip": real("largest norm of the gradient, 0 = no clipping", 0.0, 1e6),
    "optim.ema": real("decay of the averaged weights", 0.0, 0.999999),
    "train.steps": whole("updates", 1),
    "train.log_every": whole("steps between rows of metrics.jsonl", 1),
    "train.also": one_of("where metrics go besides metrics.jsonl", "none", "tensorboard", "wandb"),
    "train.sample_every": whole("steps between sample pictures, 0 = none", 0),
    "train.guard.sigma": real("deviations above the last steps' mean from which a loss or gradient is not believed", 1.0, 1e6),
    "train.guard.window": whole("last steps that it looks back over", 2, 10_000),
    "train.guard.patience": whole("disbelieved steps of one kind in a row after which the run goes back to a checkpoint", 1),
    "train.guard.rewinds": whole("times that it goes back before it gives up", 0),
    "eval.steps": many("numbers of steps to report, increasing", whole("", 1, 1000)),
    "eval.prompts": whole("pictures drawn for each number of steps", 1),
    "eval.scale": real("guidance scale, 1 = none", 0.0, 100.0),
    "eval.energy_preserving": switch("rescale the guided velocity to the norm of the unguided"),
    "eval.interval": many("t_low, t_high in flow time: guidance only in between", real("", 0.0, 1.0), 2, 2),
    "eval.sampler": one_of("how to walk", "euler", "heun", "dpm", "restart", "ddim", "ddim_ratio"),
    "eval.eta": real("noise that ddim draws afresh: 0 none, 1 all that its form allows", 0.0, 1.0),
    "eval.ask": one_of("s that the sampler asks for: t_next, t, 0 or t / 2", "next", "now", "zero", "half"),
    "mesh.data": whole("devices over which the batch is split, -1 = all that fsdp leaves", -1),
    "mesh.fsdp": whole("devices over which parameters are sharded and the batch is split again", 1),
    "checkpoint.every": whole("steps between checkpoints", 1),
    "checkpoint.keep": whole("newest checkpoints to keep", 1),
    "init_from": word("'' or a work directory or model folder to take weights from"),
}

SIZE = {"data.size": whole("pixels a side", 1, 4096)}
WEIGHTS = {
    "data.weights": many("of each source in the mix", real("", POSITIVE, 1e6)),
    "data.dev_share": real("share of pictures held out", 0.0, 0.5),
}

DATA = {  # fields of one data.kind only
    "shapes": SIZE
    | {
        "data.shapes": many("silhouettes", one_of("", *SILHOUETTES), 2),
        "data.colors": many("of the silhouettes", one_of("", *COLORS), 2),
        "data.max_objects": whole("in one scene", 2, 3),
        "data.color_words": real("share of captions that name the colours, where both can be", 0.0, 1.0),
        "data.wrong_relation": real("share of position captions with another relation than the picture's", 0.0, 1.0),
        "data.missing_relation": real("share of position captions without their relation", 0.0, 1.0),
        "data.chain": whole("relations of a position scene at most, one between each two neighbours of up to four objects", 1, 3),
    },
    "pictures": SIZE
    | WEIGHTS
    | {
        "data.path": many("folders of captioned pictures, .npz packs, .array_record files, tfds:NAME; one or several", word(""), 0),
        "data.most_bad": real("share of pictures that may turn out unreadable before the run stops", 0.0, 1.0),
        "data.style_captions": switch("add the style of a picture to its caption"),
        "data.background": one_of("behind transparent pixels", "white", "random"),
    },
    "store": WEIGHTS
    | {
        "data.path": word("folder that `anystep encode` wrote"),
        "data.pipeline": word("'' or the folder whose encoders the store must have been made with"),
        "data.autoencoder": word("'' or the folder of the autoencoder, to look at latents as pictures"),
        "data.verify": switch("read every byte of the store before the first step"),
        "data.holds": many(
            "() or rows, columns, channels of its latents; tokens, width of its features, of its pooled vectors", whole("", 0), 0, 6
        ),
        "data.key": word("of the store's index; '' for what is there, a run writes it down"),
    },
    "mixture2d": SIZE
    | {
        "data.modes": whole("Gaussians on a circle", 1, 1024),
    },
}

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def allowed(field):
    """What may stand in a field, in words."""
    if field.item:
        least, most = field.lengths
        return f"{least}{' or more' if most > least else ''}, each {allowed(field.item)}"
    if field.choices:
        return "one of " + ", ".join(field.choices)
    if math.isinf(field.low):
        return NAMES[field.kind]
    if field.high == 2**31 - 1:
        return f"{NAMES[field.kind]} >= {field.low}"
    return f"{NAMES[field.kind]} in [{field.low:.7g}, {field.high:.10g}]"


def fit(field, value):
    """`value` in the field's own type (a whole number is a number, a list a tuple), or ValueError."""
    if field.kind is tuple:
        if not isinstance(value, (tuple, list)) or not field.lengths[0] <= len(value) <= field.lengths[1]:
            raise ValueError
        return tuple(fit(field.item, item) for item in value)
    if field.kind is float and type(value) is int:
        value = float(value)
    if type(value) is not field.kind or (field.choices and value not in field.choices):
        raise ValueError
    if field.kind in (int, float) and not field.low <= value <= field.high:
        raise ValueError
    return value


def parse(field, text):
    """The value that a command line means; text that means none is returned as it is, for `fit` to refuse."""
    if field.kind is str:
        return text
    if field.kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if field.kind is tuple:
        inside = text.strip().removeprefix("(").removeprefix("[").removesuffix(")").removesuffix("]")
        return tuple(parse(field.item, item.strip().strip("'\"")) for item in inside.split(",") if item.strip())
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
