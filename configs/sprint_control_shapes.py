"""A ControlNet for SANA-Sprint in the shapes world: the student of `sprint_shapes` learns to follow edges, in 1 to 4 steps.

    anystep train --config sprint_teacher_shapes --workdir runs/sprint_control_teacher \
        --config.model.control=3 --config.model.frozen=True --config.train.steps=800 --config.init_from=runs/sprint_teacher
    anystep train --config sprint_control_shapes --workdir runs/sprint_control \
        --config.objective.teacher.folder=runs/sprint_control_teacher --config.init_from=runs/sprint
    anystep sample --model runs/sprint_control --control_from PICTURE --prompt "a red ring left of a blue square" --out grid.png
    anystep bench control --model runs/sprint_control --against runs/sprint

Starts from   the trained student, which stays as it is; a copy of its embedding and of its first three blocks learns
Images seen   1,600 steps of 64, every other one for the heads, after 800 of the teacher's ControlNet
Hardware      2 CPU cores; any GPU or TPU takes the same file
Time          8 and 17 minutes of one core, beside other work
Result        512 held-out scenes (anystep/bench/records/control_16px_cpu.json): outlines overlap with those that the edges came from by
              .43, .51, .51 (IoU at 1, 2, 4 steps; .12 without edges), .11, .55, .80 of the pictures are right (.29, .66, .74 without)

As SANA-Sprint's authors describe it (3.4): the teacher gets a ControlNet by flow matching first, then the student one by the same losses as
without. The other way round nothing would be learned: what a teacher without edges answers is the best answer to its losses, whatever the
edges say, and such a config is refused. Every row sees edges: drawn without, the student is itself, and its teacher has never seen an
empty picture. Guidance extrapolates between two prompts under the same edges.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            seed=0,
            data=dict(
                kind="shapes",
                batch=64,
                size=16,
                shapes=("ring", "square", "triangle", "cross"),
                colors=("red", "green", "blue", "yellow", "purple", "black"),
                max_objects=3,
                color_words=1.0,
                wrong_relation=0.0,
                missing_relation=0.0,
                chain=1,
            ),
            model=dict(
                net="sana",
                width=128,
                depth=4,
                double=0,
                heads=4,
                patch=4,
                attention="softmax",
                cross_heads=4,
                ffn="mlp",
                mlp_ratio=4.0,
                positions="sincos",
                qk_norm=True,
                stem=64,
                predicts="v",
                time_frequency=4.0,
                time_span=16.0,
                second_time=False,
                guidance=True,
                control=3,
                rank=0,
                frozen=True,
                scan=False,
                remat=False,
                dtype="float32",
                shift=0.78,
                scale=0.4,
                text=dict(encoder="hashed", folder="", digest="", vocabulary=2048, length=14, width=64, depth=2, heads=4),
            ),
            path=dict(name="linear"),
            objective=dict(
                time=dict(law="logit_normal", mean=-1.405, std=1.6, shift=3.0, base_tokens=0),
                prompt_dropout=0.0,
                control_dropout=0.0,
                teacher=dict(folder="", digest="", scales=(1.5, 2.0, 2.5), null_mask="own"),
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
                    weight=1.0,
                    start=0,
                    at_zero=1.0,
                    s_min=0.0,
                    nodes=0,
                    hops=1,
                    velocity="teacher",
                    guidance=1.0,
                    interval=(0.0, 0.95),
                    at_noise=0.0,
                    warmup=200,
                    form="trig",
                    tangent_norm="rms",
                    tangent_constant=0.2,
                    prior=False,
                    weighting="none",
                ),
                adversarial=dict(
                    share=1,
                    weight=0.1,
                    blocks=(1, 3),
                    at_noise=0.5,
                    mean=0.093,
                    std=1.0,
                    one_level=False,
                    misaligned=True,
                    rate=1.0,
                ),
            ),
            optim=dict(name="muon", lr=5e-4, final_lr=0.05, warmup=50, b1=0.9, b2=0.99, muon_rms=0.6, weight_decay=0.0, clip=1.0, ema=0.99),
            train=dict(
                steps=1600,
                log_every=20,
                sample_every=800,
                also="none",
                guard=dict(sigma=6.0, window=128, patience=20, rewinds=3),
            ),
            eval=dict(
                steps=(1, 2, 4),
                prompts=64,
                scale=2.0,
                energy_preserving=False,
                interval=(0.0, 0.95),
                sampler="restart",
                ask="zero",
                eta=1.0,
            ),
            mesh=dict(data=-1, fsdp=1),
            checkpoint=dict(every=800, keep=2),
            init_from="",
        )
    )
