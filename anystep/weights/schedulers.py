"""diffusers' scheduler_config.json -> how `sampling` draws the same numbers: a sampler's word, a grid of flow times, a discrete clock.

A peer's x is ours, on the linear path, times a number of the level alone:

    flow matching  x        SCM, DDIM, PNDM  x / |(1 - t, t)|, unit variance        Euler  x / (1 - t), which is x0 + (sigma / alpha) noise

and a jump keeps x0 and noise, so DDIM at eta = 0, DPM-Solver of first order, Euler in sigma / alpha and Euler in flow time are one step,
at one input of the network (Euler's x divided by sqrt(sigma^2 + 1) is DDIM's). What remains is the two ends, see `ends`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from anystep import times
from anystep.errors import UserError
from anystep.nets.discrete import STEPS, flow_times, times_of
from anystep.path import TRIG, to_flow_time
from anystep.weights.peers.contract import refuse


class Schedule(NamedTuple):
    """What drawing needs to know; `eta` and `sampler` as `sampling.make` takes them."""

    sampler: str
    grid: Callable[..., np.ndarray]  # (steps, tokens=0) -> [steps + 1] float32 decreasing flow times; tokens: image tokens of one picture
    predicts: str = "flow"  # or "epsilon", "v_prediction": of a network with a discrete clock
    betas: tuple[str, float, float] | None = None  # that clock's (`nets.discrete.flow_times`)
    eta: float = 0.0
    start: str = "path"  # x at times[0]: "path" sigma(t) noise, "flow" noise, "preserving" noise of unit variance at the clock's scale
    whole: int = 0  # N: the network is told floor(N t) / N (`sampling.on_whole_steps`)
    jumps: bool = False  # the network answers with jumps to the data, not with velocities


def ends(schedule, flow_times):
    """(what to multiply `sample`'s unit noise with, what to multiply its result with) for a walk over `flow_times`, two numbers.

    1 and 1 but for clocks that stop before an end: the last step of SD's DDIM leaves x at step 0, at its own scale.
    """
    first, last = float(flow_times[0]), float(flow_times[-1])
    start = {"path": first, "flow": 1.0, "preserving": np.hypot(first, 1.0 - first)}[schedule.start]
    return float(start / first), float(1.0 / np.hypot(last, 1.0 - last))


def of_scheduler(config, pipeline="") -> Schedule:
    """The Schedule of a scheduler_config.json; pipeline: "_class_name" of model_index.json, since FLUX's pipelines bring their own grid.

    Fields that are not there have diffusers' defaults. UserError for a class that is not known, and for a value that would change numbers
    in a way that is not here. Two things are not diffusers': PNDM, which SD 1.x folders name, is drawn as DDIM on DDIM's grid, without its
    multistep; and DDIM's "trailing" goes to the step that is evaluated next, diffusers' to t - 1000 // steps, the same where steps divides
    1000.
    """
    where, name = "scheduler_config.json", config.get("_class_name")
    if name not in CLASSES:
        raise UserError(f"{where}: class {name!r} is not known; allowed {', '.join(CLASSES)}")
    read, defaults, allowed = CLASSES[name]
    unknown = sorted(field for field in config if field not in KNOWN and not field.startswith("_"))
    if unknown:
        raise UserError(f"{where}: {unknown[0]} = {config[unknown[0]]!r} is not known, allowed are the fields of {', '.join(CLASSES)}")
    found = defaults | config
    refuse({field: found[field] for field in allowed if field in defaults}, allowed, f"{where}: {name}")
    for field, (low, high) in RANGES.items():
        if field in defaults and not (isinstance(found[field], int | float) and low <= found[field] <= high):
            raise UserError(f"{where}: {field} = {found[field]!r}, allowed {low:g} to {high:g}")
    return read(found | {"pipeline": pipeline})


def flow_euler(c):
    """A fixed shift acts on the last time before all are warped, twice on that one. FLUX's pipelines bring even times instead."""

    def grid(steps, tokens=0):
        shift = c["shift"]
        if c["use_dynamic_shifting"]:
            if tokens < 1:
                raise UserError(f"tokens = {tokens}: a shift that grows with the picture needs the number of its image tokens, 1 or more")
            anchors = ((c[f"{end}_image_seq_len"], c[f"{end}_shift"]) for end in ("base", "max"))
            shift = times.flux_shift(tokens, *anchors)
        last = 1 / STEPS if c["use_dynamic_shifting"] else times.warp(1 / STEPS, shift)
        return grid_of(steps, shift, last=None if c["pipeline"].startswith("Flux") else last)

    return Schedule("restart" if c["stochastic_sampling"] else "euler", grid)


def dpm(c):
    """Over flow times the network is told whole steps, over a discrete clock it is asked at whole steps."""
    sampler = "dpm" if c["solver_order"] == 2 else "euler"
    if c["use_flow_sigmas"]:
        refuse(c, {"prediction_type": ("flow_prediction",)}, "use_flow_sigmas = True")
        return Schedule(sampler, lambda steps, tokens=0: grid_of(steps, c["flow_shift"], first=1 - 1 / STEPS), start="flow", whole=STEPS)

    refuse(c, {"prediction_type": ("epsilon", "v_prediction")}, "use_flow_sigmas = False")

    def steps_of(steps):
        spacing = c["timestep_spacing"]
        if spacing == "trailing":
            return times.discrete_steps(steps, spacing)
        return np.round(times.discrete_steps(steps + 1, spacing, c["steps_offset"]))[:-1]

    return on_clock(c, sampler, steps_of, 0.0, "preserving")


def euler(c):
    start = "preserving" if c["timestep_spacing"] == "leading" else "path"
    return on_clock(c, "euler", lambda steps: times.discrete_steps(steps, c["timestep_spacing"], c["steps_offset"]), 0.0, start)


def ddim(c):
    last = 0.0 if c["set_alpha_to_one"] else flow_times(betas_of(c))[0]
    return on_clock(c, "ddim", lambda steps: times.discrete_steps(steps, c["timestep_spacing"], c["steps_offset"]), last, "preserving")


def scm(c):
    """Times of TrigFlow; sigma_data scales noise and answer alike and leaves with the latents."""

    def grid(steps, tokens=0):
        return np.minimum(np.asarray(to_flow_time(TRIG, np.float32(times.scm_angles(counted(steps))))), 1.0)

    return Schedule("restart", grid, start="preserving", jumps=True)


def on_clock(c, sampler, steps_of, last, start):
    """The Schedule of a network with a discrete clock: steps_of(steps) are its steps, then comes the flow time `last`."""
    betas = betas_of(c)

    def grid(steps, tokens=0):
        asked = steps_of(counted(steps))
        if asked[0] > STEPS - 1:
            raise UserError(
                f"steps = {steps}: with steps_offset = {c['steps_offset']} its first step is {asked[0]:g}, allowed 0 to {STEPS - 1}"
            )
        return np.append(times_of(asked, betas), last).astype(np.float32)

    return Schedule(sampler, grid, c["prediction_type"], betas, start=start)


def betas_of(c):
    return c["beta_schedule"], float(c["beta_start"]), float(c["beta_end"])


def grid_of(steps, shift, **ends):
    return np.asarray(times.grid(counted(steps), shift, **ends))


def counted(steps):
    if not 1 <= steps <= STEPS:
        raise UserError(f"steps = {steps}, allowed 1 to {STEPS}")
    return steps


NOT = (False, None)
SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
CLOCK = {
    "num_train_timesteps": STEPS, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None,
    "prediction_type": "epsilon", "steps_offset": 0, "rescale_betas_zero_snr": False, "thresholding": False,
    "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
}  # fmt: skip
FLOW_EULER = SIGMAS | {
    "num_train_timesteps": STEPS, "shift": 1.0, "use_dynamic_shifting": False, "base_shift": 0.5, "max_shift": 1.15,
    "base_image_seq_len": 256, "max_image_seq_len": 4096, "invert_sigmas": False, "shift_terminal": None,
    "time_shift_type": "exponential", "stochastic_sampling": False,
}  # fmt: skip
DPM = CLOCK | SIGMAS | {
    "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "lower_order_final": True, "euler_at_final": False,
    "use_lu_lambdas": False, "use_flow_sigmas": False, "flow_shift": 1.0, "final_sigmas_type": "zero", "variance_type": None,
    "lambda_min_clipped": -float("inf"), "timestep_spacing": "linspace", "use_dynamic_shifting": False, "time_shift_type": "exponential",
}  # fmt: skip
EULER = CLOCK | SIGMAS | {
    "interpolation_type": "linear", "sigma_min": None, "sigma_max": None, "timestep_spacing": "linspace", "timestep_type": "discrete",
    "final_sigmas_type": "zero",
}  # fmt: skip
DDIM = CLOCK | {"set_alpha_to_one": True, "clip_sample": True, "clip_sample_range": 1.0, "timestep_spacing": "leading"}
PNDM = CLOCK | {"set_alpha_to_one": False, "skip_prk_steps": False, "timestep_spacing": "leading"}
SCM = {"num_train_timesteps": STEPS, "prediction_type": "trigflow", "sigma_data": 0.5}

COMMON = {field: NOT for field in SIGMAS} | {
    "num_train_timesteps": (STEPS,), "beta_schedule": ("linear", "scaled_linear"), "trained_betas": (None,), "thresholding": NOT,
    "rescale_betas_zero_snr": NOT, "prediction_type": ("epsilon", "v_prediction"), "timestep_spacing": ("leading", "trailing", "linspace"),
    "final_sigmas_type": ("zero",), "time_shift_type": ("exponential",), "shift_terminal": (None,), "invert_sigmas": NOT,
    "interpolation_type": ("linear",), "sigma_min": (None,), "sigma_max": (None,), "timestep_type": ("discrete",), "solver_order": (1, 2),
    "algorithm_type": ("dpmsolver++",), "solver_type": ("midpoint",), "use_lu_lambdas": NOT, "variance_type": (None,),
    "lambda_min_clipped": (-float("inf"),), "clip_sample": NOT,
}  # fmt: skip
WHOLE = COMMON | {"timestep_spacing": ("leading", "trailing")}  # diffusers' DDIM evaluates "linspace" elsewhere than it walks
RANGES = {
    "shift": (1e-3, 1e3), "flow_shift": (1e-3, 1e3), "base_shift": (-10, 10), "max_shift": (-10, 10), "base_image_seq_len": (1, 1e9),
    "max_image_seq_len": (1, 1e9), "beta_start": (1e-8, 0.5), "beta_end": (1e-8, 0.5), "steps_offset": (0, STEPS - 1),
    "sigma_data": (1e-3, 1e3),
}  # fmt: skip
CLASSES = {  # class: (reader, diffusers' defaults, allowed values)
    "FlowMatchEulerDiscreteScheduler": (flow_euler, FLOW_EULER, COMMON),
    "DPMSolverMultistepScheduler": (
        dpm,
        DPM,
        COMMON | {"use_dynamic_shifting": NOT, "prediction_type": ("epsilon", "v_prediction", "flow_prediction")},
    ),
    "SCMScheduler": (scm, SCM, COMMON | {"prediction_type": ("trigflow",)}),
    "DDIMScheduler": (ddim, DDIM, WHOLE),
    "EulerDiscreteScheduler": (euler, EULER, COMMON),
    "PNDMScheduler": (ddim, PNDM, WHOLE),
}
KNOWN = {field for _, defaults, _ in CLASSES.values() for field in defaults}  # a class leaves the fields of others alone, as diffusers does
