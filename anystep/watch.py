"""What a person sees while a model trains: strips of the same noise at every step count, and accuracy against steps where a picture can
be judged.

WORKDIR/samples/<step>.png, samples/curve.png, and a row {"step", "eval/<steps>", ...} in metrics.jsonl. Averaged weights, dev prompts,
few of them: a look, not a measurement.
"""

import re
import sys

import jax
import numpy as np

from anystep import evals, logs
from anystep.api import sample_array
from anystep.control import edges
from anystep.models import codec_params, pipeline
from anystep.subjects import subject, to_uint8
from anystep.train_step import kinds


def before_jumps(model):
    """`model` as it is drawn before it has learned a jump: along its velocities."""
    d = model.drawing
    sampler, scale = d.sampler if d.sampler in ("heun", "dpm") else "euler", d.scale if d.unprompted else 1.0
    return model._replace(drawing=d._replace(sampler=sampler, ask="now", scale=scale, learned=1.0, jumps_only=False))


class Watch:
    """`watch(step, params)` draws and writes; prompts, noise and compiled samplers are kept between calls. All processes draw, the first
    one writes."""

    def __init__(self, config, workdir, writer):
        self.config, self.workdir, self.writer = config, workdir, writer
        self.model = pipeline(config)
        self.subject = subject(config.data, min(self.model.drawing.batch, config.eval.prompts)) if config.train.sample_every else None
        self.followed = self.edges() if self.model.net.controls and self.subject and self.subject.example else {}

    def __call__(self, step, params):
        metadata, judge, _, show = self.subject
        prompts = [row["prompt"] for row in metadata]
        c = self.config.objective.consistency
        early = c.share and step // kinds(self.config) <= c.start
        model = before_jumps(self.model) if early else self.model
        params = params | codec_params(self.model)  # for as long as it draws
        drawn = {n: sample_array(model, params, prompts, n, **self.followed) for n in self.config.eval.steps}
        if jax.process_index():
            return
        self.save(show(drawn, title=f"step {step}"), f"{step}.png")
        if judge is None:
            return
        row = {"step": step}
        for n, pictures in drawn.items():
            scores = evals.scores([judge(x, asked) for x, asked in zip(pictures, metadata, strict=True)], metadata)
            row |= {f"eval/{n}": scores["overall"], f"eval/{n}/se": scores["overall_se"]}
        self.writer.write(row)
        self.save(self.curve(), "curve.png")

    def edges(self):
        """What a ControlNet follows: the edges of the data's own pictures of the prompts, where there are some."""
        examples = [self.subject.example(row, 0) for row in self.subject.metadata]
        return {"control": to_uint8(edges(np.stack(examples)))}

    def save(self, picture, name):
        """A disk that refuses costs the picture, not the run."""
        try:
            logs.save(picture, self.workdir / "samples" / name)
        except OSError as error:
            print(f"WARNING: samples/{name} was not written ({error}), the run goes on", file=sys.stderr, flush=True)

    def curve(self):
        """Accuracy against steps, one line for each time that was looked at so far."""
        series = {}
        for row in logs.read_rows(self.workdir / "metrics.jsonl"):
            points = [(int(name[5:]), value, row[f"{name}/se"]) for name, value in row.items() if re.fullmatch(r"eval/\d+", name)]
            if points:
                series[f"step {row['step']}"] = points
        return logs.curves(series, "sampling steps", "right (dev prompts)", logx=True)
