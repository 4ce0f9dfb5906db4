"""Your own captioned pictures at 32 pixels.

    anystep train --config pictures --config.data.path=FOLDER --workdir runs/pictures

Input      a folder in Hugging Face's imagefolder layout (pictures with metadata.jsonl or metadata.csv, or a .txt beside each), an .npz
pack, or a folder of packs
Hardware   2 CPU cores; any GPU or TPU takes the same file, with a larger --config.data.batch and --config.model.width
Time       about 25 minutes on 2 cores, estimated from the first 800 steps; shift and scale are those of
           icons on white, photographs want 0 and 0.5
Result     samples/<step>.png: held-out captions at 1, 2, 4, 8 and 32 steps. 10,300 emoji in four styles (style_captions=True), at step 800:
           colours and outlines follow the caption, water is blue and skin tones are right, faces and hands are not there yet. 51
           photographs, 100 steps: patches of colour
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            seed=0,
            data=dict(
                kind="pictures",
                batch=64,
                size=32,
                path=(),
                weights=(1.0,),
                most_bad=0.01,
                style_captions=False,
                dev_share=0.05,
                background="white",
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
                predicts="x0",
                time_frequency=4.0,
                time_span=16.0,
                second_time=True,
                guidance=False,
                control=0,
                rank=0,
                frozen=False,
                scan=False,
                remat=False,
                dtype="float32",
                shift=0.53,
                scale=0.59,
                text=dict(encoder="hashed", folder="", digest="", vocabulary=8192, length=24, width=96, depth=2, heads=4),
            ),
            path=dict(name="linear"),
            objective=dict(
                time=dict(law="logit_normal", mean=0.0, std=1.0, shift=3.0, base_tokens=0),
                prompt_dropout=0.1,
                control_dropout=0.0,
                teacher=dict(folder="", digest="", scales=(1.0,), null_mask="own"),
                flow_matching=dict(share=1, weight=1.0, weighting="none"),
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
                    weight=1.5,
                    start=500,
                    at_zero=1.0,
                    s_min=0.0,
                    nodes=6,
                    hops=1,
                    velocity="ema",
                    guidance=2.0,
                    interval=(0.0, 0.95),
                    at_noise=0.25,
                    warmup=0,
                    form="linear",
                    tangent_norm="none",
                    tangent_constant=0.1,
                    prior=False,
                    weighting="huber",
                ),
                adversarial=dict(
                    share=0,
                    weight=1.0,
                    blocks=(0,),
                    at_noise=0.5,
                    mean=0.0,
                    std=1.0,
                    one_level=False,
                    misaligned=True,
                    rate=1.0,
                ),
            ),
            optim=dict(name="muon", lr=3e-3, final_lr=0.05, warmup=50, b1=0.9, b2=0.99, muon_rms=0.6, weight_decay=0.0, clip=1.0, ema=0.99),
            train=dict(
                steps=1200,
                log_every=20,
                sample_every=400,
                also="none",
                guard=dict(sigma=6.0, window=128, patience=20, rewinds=3),
            ),
            eval=dict(
                steps=(1, 2, 4, 8, 32),
                prompts=16,
                scale=2.0,
                energy_preserving=False,
                interval=(0.0, 0.95),
                sampler="restart",
                ask="zero",
                eta=1.0,
            ),
            mesh=dict(data=-1, fsdp=1),
            checkpoint=dict(every=400, keep=2),
            init_from="",
        )
    )
