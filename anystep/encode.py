"""`anystep encode --path PICTURES --size 512 --pipeline FOLDER --out STORE`: captioned pictures become a store, latents and features of
text computed once, that `anystep train --config store` reads without either encoder in memory.

PICTURES are what data.kind = "pictures" reads: folders, packs, ArrayRecord files, tfds:NAME, several with commas between. --pipeline gives
both encoders (a diffusers folder or an imported one), --text and --autoencoder give one; what is not given stays as it is, pixels over
white and texts. Killed at any time, the same command goes on with the shard that was not finished and ends with the same bytes.

A store holds the centre square of each picture and nothing drawn at random but, with --std, the noise of the autoencoder's own
distribution: pictures that should also be seen mirrored or cut otherwise must be there as pictures.

--dtype float16 keeps 11 binary digits where bfloat16, of the same size, keeps 8, and both encoders answer far below 65,504, where float16
ends; an answer beyond is refused.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from anystep import flags
from anystep.errors import UserError, run_main
from anystep.files import is_remote, write_whole

DTYPES = ("float16", "bfloat16", "float32")
OPTIONS = ("size", "length", "std", "dtype", "compute", "style_captions", "batch", "shard")  # that a byte may hang on


def parse(argv):
    """The checked flags."""
    parser = flags.Parser(prog="anystep encode", description=__doc__.splitlines()[0])
    parser.add_argument("--path", required=True, help="folders of captioned pictures, .npz packs, .array_record files, tfds:NAME")
    parser.add_argument("--size", type=flags.whole(1, flags.MOST_SIDE), required=True, help="pixels a side")
    parser.add_argument("--out", required=True, help="folder of the store")
    parser.add_argument("--pipeline", default="", help="folder that --text and --autoencoder are taken from")
    parser.add_argument("--text", default="", help='folder of a text encoder and its tokenizer, or of a pipeline, or "minilm"')
    parser.add_argument("--autoencoder", default="", help="folder of an autoencoder, or of a pipeline")
    parser.add_argument("--length", type=flags.whole(2, 4096), default=0, help="tokens of a prompt, for --text (default: the encoder's)")
    parser.add_argument("--std", action="store_true", help="keep the deviation of the latents too; training then draws from both")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of what is stored (default: float16)")
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="float32", help="of the encoders' activations")
    parser.add_argument("--style_captions", action="store_true", help="add the style of a picture to its captions")
    parser.add_argument("--most_bad", type=flags.real(0.0, 1.0), default=0.01, help="share of pictures that may be unreadable")
    parser.add_argument("--batch", type=flags.whole(1, 4096), help="encoded at once (default: 16, fewer above 256 pixels)")
    parser.add_argument("--shard", type=flags.whole(1, 2**20), default=1024, help="pictures of a shard: what a kill may cost")
    args = parser.parse_args(argv)
    args.batch = args.batch or max(1, min(16, 2**20 // args.size**2))
    args.text, args.autoencoder = args.text or args.pipeline, args.autoencoder or args.pipeline
    args.path = [path.strip() for path in args.path.split(",") if path.strip()]
    if not args.text and not args.autoencoder:
        raise UserError("--pipeline: missing, and so are --text and --autoencoder; there is nothing to encode with")
    if args.std and not args.autoencoder:
        raise UserError("--std: the deviation of latents needs --autoencoder or --pipeline")
    if args.length and not args.text:
        raise UserError(f"--length {args.length}: is for --text")
    if is_remote(args.out):
        raise UserError(f"--out {args.out!r}: must be a local folder")
    return args


def main(argv):
    args, began = parse(argv), time.monotonic()
    out = Path(flags.folder(args.out, "--out"))

    from anystep import logs, stores
    from anystep.cache import use_compile_cache
    from anystep.data.albums import open_album
    from anystep.data.quarantine import Quarantine
    from anystep.nets.text.bert import find_minilm

    # ---------------------------------------------------------------- what the store is made of
    args.text = find_minilm() if args.text == "minilm" else args.text
    bad = Quarantine(args.most_bad, out / "quarantine.jsonl")
    albums = [open_album(path, args.size, args.style_captions, bad) for path in args.path]
    made_with = {
        "version": stores.VERSION,
        "source": [source_of(path) for path in args.path],
        "text": stores.digest_of(args.text, stores.TEXT) if args.text else None,
        "autoencoder": stores.digest_of(args.autoencoder, stores.AUTOENCODER) if args.autoencoder else None,
        "options": {name: getattr(args, name) for name in OPTIONS},
    }
    shards, index = begun(out, made_with)
    if index:
        print(f"{out}: finished already; {said(index)}")
        return

    # ---------------------------------------------------------------- the encoders
    use_compile_cache()
    pictures, prompts = picture_encoder(args), prompt_encoder(args)

    def read(where):
        """(pixels, captions), or None for a picture that is now in quarantine."""
        album, index = where
        try:
            return albums[album].row(index)
        except UserError as why:
            bad.add(f"{args.path[album]}: {albums[album].names[index]}", why)

    # ---------------------------------------------------------------- a shard after the other
    everything = [(album, index) for album in range(len(albums)) for index in range(len(albums[album].names))]
    known = set(stores.table_of(out, {name for shard in shards for name in shard["files"]})[1].tolist())
    progress = logs.Progress(len(everything), min(args.shard * len(shards), len(everything)), batch=1)
    progress.say(f"{out}: {'going on' if shards else 'starting'} at picture {progress.step:,} of {len(everything):,}")
    with ThreadPoolExecutor(4) as readers:
        for part in groups(everything, args.shard)[len(shards) :]:
            shard, counts, sums, longest = stores.Shard(out, len(shards)), [0] * len(albums), [0.0, 0.0], 0
            texts = []
            for group, found in ahead(readers, read, groups(part, args.batch)):
                sound = [(*where, *got) for where, got in zip(group, found, strict=True) if got]
                for (album, index, _, captions), array in zip(sound, pictures.encode([row[2] for row in sound]), strict=True):
                    shard.add_picture(albums[album].names[index], captions, array)
                    counts[album] += 1
                    values = array[0].astype("float64")
                    sums = [sums[0] + float(values.sum()), sums[1] + float((values**2).sum())]
                    new = [text for text in dict.fromkeys(captions) if stores.hash_of(text) not in known]
                    known.update(map(stores.hash_of, new))
                    texts += new
                progress.update(progress.step + len(group))
            for group in groups(texts, args.batch):
                for text, answer in zip(group, prompts.encode(group), strict=True):
                    shard.add_prompt(text, answer)
                    longest = max(longest, len(answer.features) if answer else 0)
            shards.append({"albums": counts, "sums": sums, "longest": longest, "prompts": len(texts), "files": shard.close()})
            write_whole(out / stores.PROGRESS, json.dumps({"made_with": made_with, "shards": shards}).encode())
    progress.close()

    # ---------------------------------------------------------------- the index, at once
    counts = [sum(column) for column in zip(*(shard["albums"] for shard in shards), strict=True)]
    if not sum(counts):
        raise UserError(f"--path {', '.join(args.path)}: no picture can be read")
    index = {"version": stores.VERSION, "made_with": made_with, "albums": counts, "prompts": sum(shard["prompts"] for shard in shards)}
    index["picture"] = pictures.facts | moments(pictures.facts, sum(counts), [shard["sums"] for shard in shards])
    index["text"] = prompts.facts and prompts.facts | {"length": max(prompts.facts["null"]["length"], *(s["longest"] for s in shards))}
    index["files"] = {name: facts for shard in shards for name, facts in shard["files"].items()}
    write_whole(out / stores.INDEX, json.dumps(index | {"key": stores.key_of(index)}).encode())
    (out / stores.PROGRESS).unlink()
    print(f"{out}: {said(index)}, {len(everything) - sum(counts)} unreadable, {time.monotonic() - began:.0f} s")


# ---------------------------------------------------------------- what was there before


def begun(out, made_with):
    """(shards that are finished, index of a store that is). UserError for a folder where another store was begun."""
    from anystep import stores

    files = [out / name for name in (stores.INDEX, stores.PROGRESS)]
    index, progress = (json.loads(file.read_bytes()) if file.is_file() else None for file in files)
    index = index and stores.read_index(out)
    before = (index or progress or {"made_with": made_with})["made_with"]
    changed = [name for name in made_with if before.get(name) != made_with[name]]
    if changed:
        raise UserError(f"--out {out}: holds a store that was made with another {', '.join(changed)}; take a new folder or the old values")
    return progress["shards"] if progress and not index else [], index


def source_of(path):
    """What a source is to the store: its files, and one digest of their names, sizes and contents."""
    from anystep import stores
    from anystep.data.records import tfds_folder
    from anystep.files import digest, list_folder

    place = Path(tfds_folder(path.removeprefix("tfds:")) if path.startswith("tfds:") else path)
    beside = place.with_suffix(".jsonl")
    files = list_folder(place) if place.is_dir() else {file.name: digest(file) for file in (place, beside) if file.is_file()}
    return {"files": len(files), "digest": stores.key_of(files)}


# ---------------------------------------------------------------- what is stored


class Encoder(NamedTuple):
    encode: Callable  # of a list, at most a batch of it
    facts: dict | None  # what the index says of an answer


def picture_encoder(args) -> Encoder:
    """pixels [S, S, 4] uint8, colour times alpha -> arrays [1 or 2, H, W, C] over white: latents, or the pixels themselves."""
    import jax
    import numpy as np

    from anystep.data.pictures import composite
    from anystep.weights import encoders

    def over_white(pictures):
        return composite(np.stack(pictures), np.full((len(pictures), 3), 255))

    if not args.autoencoder:

        def as_they_are(pictures):
            return np.rint((over_white(pictures)[:, None] + 1.0) * 127.5).astype(np.uint8) if pictures else []

        return Encoder(as_they_are, {"kind": "pixels", "shape": [args.size, args.size, 3], "dtype": "uint8", "factor": 1})
    codec, params = encoders.codec_of(args.autoencoder, args.compute)
    if args.std and codec.moments is None:
        raise UserError(f"--std: the autoencoder in {args.autoencoder} answers with one latent, not with a distribution")
    if args.size % codec.factor:
        raise UserError(f"--size {args.size}: must be a multiple of {codec.factor}, the pixels a side of one latent position")
    run, params = jax.jit(codec.moments if args.std else lambda p, x: (codec.encode(p, x),)), jax.device_put(params)

    def encode(pictures):
        if not pictures:
            return []
        latents = run(params, over_white(pictures + pictures[-1:] * (args.batch - len(pictures))))  # one compilation
        return stored(np.stack(latents, axis=1)[: len(pictures)], args.dtype, "latents")

    side = args.size // codec.factor
    return Encoder(encode, {"kind": "latents", "shape": [side, side, codec.channels], "dtype": args.dtype, "factor": codec.factor})


def prompt_encoder(args) -> Encoder:
    """prompts -> a stores.Prompt each, None where they stay texts."""
    import jax
    import numpy as np

    from anystep import stores
    from anystep.weights import encoders

    if not args.text:
        return Encoder(lambda prompts: [None] * len(prompts), None)
    text, params = encoders.text_of(args.text, args.compute, args.length)
    run, params = jax.jit(text.encode), jax.device_put(params)

    def encode(prompts):
        found = jax.device_get(run(params, text.tokenize(prompts + [""] * (args.batch - len(prompts)))))
        lengths = found["mask"].sum(1)
        if not (found["mask"] == (np.arange(found["mask"].shape[1]) < lengths[:, None])).all():
            raise ValueError("a text encoder masks tokens between others: a store keeps what comes before the padding")
        pooled = found.get("pooled", np.zeros((args.batch, 0), np.float32))
        features, pooled = stored(found["features"], args.dtype, "features"), stored(pooled, args.dtype, "pooled")
        return [stores.Prompt(features[row, :length], pooled[row]) for row, length in enumerate(lengths[: len(prompts)])]

    null = encode([""])[0]
    facts = {"width": null.features.shape[1], "pooled": len(null.pooled), "dtype": args.dtype, "null": stores.as_text(null)}
    return Encoder(encode, facts)


def stored(array, dtype, what):
    """The array in the dtype of the store. UserError for what it cannot hold."""
    import ml_dtypes  # noqa: F401  (numpy learns bfloat16 from it)
    import numpy as np

    with np.errstate(over="ignore"):
        found = np.asarray(array).astype(np.dtype(dtype))
    if not np.isfinite(found.astype(np.float32)).all():
        raise UserError(f"--dtype {dtype}: {what} reach {np.abs(np.asarray(array)).max():.3g}, beyond it; take bfloat16 or float32")
    return found


def moments(facts, count, sums):
    """{"mean", "deviation"} of what training sees at the door."""
    import numpy as np

    numbers = count * np.prod(facts["shape"])
    mean, square = (sum(column) / numbers for column in zip(*sums, strict=True))
    deviation = max(square - mean**2, 0.0) ** 0.5
    mean, deviation = (mean / 127.5 - 1.0, deviation / 127.5) if facts["kind"] == "pixels" else (mean, deviation)
    return {"mean": round(float(mean), 6), "deviation": round(float(deviation), 6)}


# ---------------------------------------------------------------- small things


def groups(rows, size):
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def ahead(readers, read, some):
    """(group, what was read of it), the next one being read meanwhile."""
    before = None
    for group in some:
        now = group, readers.map(read, group)
        if before:
            yield before
        before = now
    if before:
        yield before


def said(index):
    """A store in words."""
    size, p, t = sum(facts[0] for facts in index["files"].values()), index["picture"], index["text"]
    shape, features = "x".join(map(str, p["shape"])), "texts" if t is None else f"features {t['width']} wide, up to {t['length']} tokens"
    pictures = f"{sum(index['albums']):,} pictures as {p['kind']} {shape} (mean {p['mean']:.3f}, deviation {p['deviation']:.3f})"
    return f"{pictures}, {index['prompts']:,} prompts as {features}, {size / 1e6:,.1f} MB"


if __name__ == "__main__":
    run_main(main)
