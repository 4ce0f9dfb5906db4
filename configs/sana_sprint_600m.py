"""SANA-Sprint 0.6B: an imported SANA becomes a student of 1 to 4 steps (2503.09641).

    anystep encode --path PICTURES --size 1024 --pipeline TEACHER --out STORE
    anystep train --config sana_sprint_600m --workdir runs/sprint --config.data.path=STORE \
        --config.data.autoencoder=TEACHER --config.objective.teacher.folder=TEACHER --config.init_from=TEACHER

TEACHER       a diffusers folder of a SANA with q/k norms and dense times (Efficient-Large-Model/Sana_Sprint_0.6B_1024px_teacher_diffusers;
              its transformer/config.json must say timestep_scale = 0.001, or its clock counts 1,000 steps), or what the first stage
              below makes
Starts from   the teacher, but for the embedding of the guidance scale
Images seen   20,000 steps of 512: 10 million, every other batch for the heads
Parameters    student 593,501,216, as released; --dry_run prints all roles
Hardware      written for 32 accelerators of 80 GB or fewer larger ones; --config.mesh.fsdp=8 splits states, remat keeps activations small
Cost          3.0e15 FLOP a step, 6.0e19 in all (--dry_run --config.data.holds=32,32,32,300,2304,0); the paper's took 32 A100
Result        not measured

The first stage, for a SANA without q/k norms whose clock counts 1,000 steps: flow matching of the same network from the same folder.

    anystep train --config sana_sprint_600m --workdir runs/teacher --config.data.path=STORE --config.init_from=SANA \
        --config.model.guidance=False --config.objective.flow_matching.share=1 --config.objective.consistency.share=0 \
        --config.objective.adversarial.share=0 --config.objective.prompt_dropout=0.1 --config.optim.lr=2e-5 \
        --config.optim.warmup=250 --config.train.steps=5000 \
        --config.objective.time.mean=0.0 --config.objective.time.std=1.0 \
        --config.data.batch=1024 --config.eval.sampler=dpm --config.eval.ask=now

What is the paper's and what the released loop's: the law of the student's times, (0.2, 1.6) in log tan at deviation 0.5, is the one the
loop shipped (the paper's F.2 chose (0.0, 1.6), sCM began with (-0.8, 1.6)); batch, clip, tangent warm-up (4,000 steps of both kinds there,
2,000 of the student's here) are theirs. lr is the paper's 2e-6; the loop multiplies it by the root of batch / 256, 2.83e-6 at 512
(--config.optim.lr=2.83e-6). Weights, too: each loss has one half of the rows here, all of them there, hence 2 and 1 for 1 and 0.5; the EMA
is ours, the loop has none. The norm of the tangent is by root mean square and nothing is divided by its angle twice (see
objectives/consistency.py), so that the learned weight need not fall by e^10 before consistency counts, which at this lr it could not (see
nets/logvar.py). AdamW stands in for CAME, for the heads too, as in the loop, which does not read its block for their own optimizer.

What to watch: in the shapes world one of three students under this law and the learned weight collapsed, right after the tangent's warm-up
(configs/sprint_shapes.py). It shows first in loss/consistency/q1, the error near the data, then in consistency/tangent; more rows there
(--config.objective.time.mean=-1.405, sCM's law) and plain squares (--config.objective.consistency.weighting=none, with
--config.objective.adversarial.weight=0.2) did not collapse at three times the rate.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            seed=0,
            data=dict(
                kind="store",
                batch=512,
                path="",
                weights=(1.0,),
                dev_share=0.001,
                pipeline="",
                autoencoder="",
                verify=True,
                holds=(32, 32, 32, 300, 2304, 0),
                key="",
            ),
            model=dict(
                net="sana",
                width=1152,
                depth=28,
                double=0,
                heads=36,
                patch=1,
                attention="linear",
                cross_heads=16,
                ffn="conv",
                mlp_ratio=2.5,
                positions="none",
                qk_norm=True,
                stem=0,
                predicts="v",
                time_frequency=1.0,
                time_span=10000.0,
                second_time=False,
                guidance=True,
                control=0,
                rank=0,
                frozen=False,
                scan=True,
                remat=True,
                dtype="bfloat16",
                shift=0.0,
                scale=1.0,
                text=dict(encoder="stored", folder="", digest="", vocabulary=8192, length=300, width=64, depth=2, heads=4),
            ),
            path=dict(name="linear"),
            objective=dict(
                time=dict(law="logit_normal", mean=-0.206, std=1.6, shift=3.0, base_tokens=0),
                prompt_dropout=0.0,
                control_dropout=0.0,
                teacher=dict(folder="", digest="", scales=(4.0, 4.5, 5.0), null_mask="own"),
                flow_matching=dict(share=0, weight=1.0, weighting="none"),
                self_evaluation=dict(
                    share=0,
                    weight=1.0,
                    start=0,
                    s_min=0.25,
                    anneal=0,
                    renorm=True,
                    weighting="none",
                    dropped="diagonal",
                    auxiliary_k=1.0,
                    auxiliary_start=0,
                    auxiliary_warmup=0,
                    auxiliary_weight=1.0,
                ),
                consistency=dict(
                    share=1,
                    weight=2.0,
                    start=0,
                    at_zero=1.0,
                    s_min=0.0,
                    nodes=0,
                    hops=1,
                    velocity="teacher",
                    guidance=1.0,
                    interval=(0.0, 1.0),
                    at_noise=0.0,
                    warmup=2000,
                    form="trig",
                    tangent_norm="rms",
                    tangent_constant=0.2,
                    prior=False,
                    weighting="learned",
                ),
                adversarial=dict(
                    share=1,
                    weight=1.0,
                    blocks=(2, 8, 14, 19),
                    at_noise=0.5,
                    mean=0.093,
                    std=1.0,
                    one_level=False,
                    misaligned=True,
                    rate=1.0,
                ),
            ),
            optim=dict(
                name="adamw", lr=2e-6, final_lr=1.0, warmup=2500, b1=0.9, b2=0.999, muon_rms=0.2, weight_decay=0.0, clip=0.1, ema=0.999
            ),
            train=dict(
                steps=20000,
                log_every=100,
                sample_every=1000,
                also="none",
                guard=dict(sigma=6.0, window=128, patience=20, rewinds=3),
            ),
            eval=dict(
                steps=(1, 2, 4),
                prompts=8,
                scale=4.5,
                energy_preserving=False,
                interval=(0.0, 1.0),
                sampler="restart",
                ask="zero",
                eta=1.0,
            ),
            mesh=dict(data=-1, fsdp=1),
            checkpoint=dict(every=500, keep=2),
            init_from="",
        )
    )
