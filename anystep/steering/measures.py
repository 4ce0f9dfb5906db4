"""How far a classifier can be trusted: leakage of the prompt's word into the maps, and calibration. Arrays on the host."""

import numpy as np
from scipy import optimize, special


def leakage(logits, labels, words) -> dict[str, float | None]:
    """Accuracy where the prompt's word is true of the picture ("matching"), where it is not, and how often the answer there is the prompt's
    own word ("echo"). logits [N, K], labels [N, K] in {0, 1}, words [N] int, -1 where the prompt has none; None where there is no such row.

    A diagonal has two right answers. What only reads the prompt scores 1, 0 and 1.
    """
    said = np.argmax(logits, -1)
    rows = np.arange(len(said))
    right, has = labels[rows, said] > 0, words >= 0
    true = has & (labels[rows, np.maximum(words, 0)] > 0)
    wrong = has & ~true

    def mean(values, where):
        return float(values[where].mean()) if where.any() else None

    return {
        "accuracy": float(right.mean()),
        "matching": mean(right, true),
        "mismatching": mean(right, wrong),
        "echo": mean(said == words, wrong),
        "share_mismatching": float(wrong.mean()),
    }


def expected_calibration_error(p, right, bins=15) -> float:
    """ECE (1706.04599, Eq. 3): sum over equal bins of p of share |mean right - mean p|; p [N] in [0, 1], right [N] in [0, 1]."""
    p, right = np.asarray(p, np.float64), np.asarray(right, np.float64)
    which = np.minimum((p * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    gaps = np.bincount(which, right, bins) - np.bincount(which, p, bins)
    return float(np.abs(gaps).sum() / max(counts.sum(), 1))


def fit_temperature(logits, events) -> float:
    """T in [0.05, 20] of the least cross-entropy of sigmoid(logits / T) with events in {0, 1} of the same shape: the one number that
    calibrates without moving an answer (1706.04599, Sec. 4.2)."""
    logits, events = np.asarray(logits, np.float64), np.asarray(events, np.float64)

    def cost(log_t):
        calm = logits / np.exp(log_t)
        return np.mean(np.logaddexp(0.0, calm) - events * calm)

    return float(np.exp(optimize.minimize_scalar(cost, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


def asked(values, words):
    """[N, K] -> those of the prompt's word, of the rows that have one: what a gate asks."""
    has = words >= 0
    return np.asarray(values)[has, words[has]]


def report(logits, labels, words, temperature) -> dict:
    """`leakage`, and of the prompt's word: how often it is true, the mean probability, the ECE before and after the temperature; None where
    no prompt has a word."""
    out = leakage(logits, labels, words)
    raw, true = np.asarray(asked(logits, words), np.float64), asked(labels, words)
    p, some = special.expit(raw / temperature), len(raw) > 0
    return out | {
        "true": float(true.mean()) if some else None,
        "probability": float(p.mean()) if some else None,
        "ece_raw": expected_calibration_error(special.expit(raw), true) if some else None,
        "ece": expected_calibration_error(p, true) if some else None,
    }
