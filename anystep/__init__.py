"""anystep: text-to-image models that draw in any number of steps.

    model, params = anystep.load("runs/shapes")
    images = anystep.sample(model, params, ["a red circle left of a blue square"], steps=4)

Both names arrive on first use: importing the package itself loads nothing heavy. Commands: `anystep --help`.
"""

__all__ = ["load", "sample"]


def __getattr__(name):
    import importlib

    if name == "load":
        return importlib.import_module("anystep.api").load
    if name == "sample":  # the module of that name, which can be called: the same object in every order of imports
        return importlib.import_module("anystep.sample")
    if name == "steering":
        return importlib.import_module("anystep.steering")
    raise AttributeError(f"module 'anystep' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
