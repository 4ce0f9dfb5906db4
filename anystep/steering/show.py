"""What a person is shown of a steering: lines of text, pictures before and after, the maps of the words. numpy and Pillow."""

import numpy as np

from anystep import logs


def lines(understood, info, steps):
    """A line for each relation with the probability before and after at so many steps.
    info: what `api.sample_and_say` has beside the pictures."""
    out = []
    for row, one in enumerate(understood):
        for r, relation in enumerate(one.relations):
            before, after = probabilities(info, row, r)
            moves, way = int(info["steering"]["iterations"][:, row].sum()), float(info["steering"]["distance"][:, row].max())
            named = f'"{relation.subject}" {relation.word} "{relation.object}"'
            came = f"{'?' if before is None else f'{before:.2f}'} -> {after:.2f}"
            moved = f"moves: {moves}, to {way:.0%} of its length away" if way else "not moved"
            out.append(f"prompt {row + 1}: {named}: {came} at {steps} step{'s' * (steps > 1)}, {moved}")
    return out


def probabilities(info, row, r):
    """(before the first steered step, None where nobody looked; after the last one) of relation r of a prompt."""
    here = info["steering"]
    last = max(int(np.count_nonzero(here["looks"][:, row])) - 1, 0)
    before = float(here["before"][0, row, r])
    return None if np.isnan(before) else before, float(here["after"][last, row, r])


def before_after(plain, steered, prompts):
    """A page with a row a prompt: {steps: uint8 [N, H, W, 3]} as they were and as they are."""
    tiles, captions, labels = [], [], []
    for steps in plain:
        labels += [f"{steps} step{'s' * (steps > 1)}", "steered"]
    for row, prompt in enumerate(prompts):
        for column, steps in enumerate(plain):
            tiles += [plain[steps][row], steered[steps][row]]
            captions += [prompt if not column else "", ""]
    return logs.grid(np.stack(tiles), 2 * len(plain), labels=labels, captions=captions)


def maps_page(understood, info, side=96):
    """A page with a row a relation: the mean map of its subject and of its object at the first steered step, before and after."""
    here, tiles, captions = info["steering"]["maps"][0], [], []  # [N, 2, 2 R, S, S]
    for row, one in enumerate(understood):
        for r, relation in enumerate(one.relations):
            for when in (0, 1):
                for k, name in ((2 * r, relation.subject), (2 * r + 1, relation.object)):
                    tiles.append(heat(here[row, when, k], side))
                    captions.append(name)
    return logs.grid(np.stack(tiles), 4, scale=1, labels=("before", "before", "after", "after"), captions=captions)


def heat(values, side):
    """uint8 [side, side, 3] of a map [S, S]: white to dark red, its own largest value the darkest."""
    low, high = float(values.min()), float(values.max())
    share = (values - low) / max(high - low, 1e-12)
    share = share[np.arange(side) * len(share) // side][:, np.arange(side) * share.shape[1] // side]
    dark = np.array([110, 15, 30])
    return np.rint(255 + share[..., None] * (dark - 255)).astype(np.uint8)
