"""Reading a peer's config.json: every field has a value, and no value passes that our network does not have."""

from anystep.errors import UserError


def complete(config, defaults, where):
    """The peer's config with its own defaults for what is not there, lists as tuples. UserError for a field that it does not have."""
    unknown = sorted(name for name in set(config) - set(defaults) if not name.startswith("_"))
    if unknown:
        raise UserError(f"{where}: {unknown[0]} = {config[unknown[0]]!r} is not a field of this class, allowed {', '.join(defaults)}")
    return {name: frozen(config.get(name, default)) for name, default in defaults.items()}


def frozen(value):
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def demand(true, where, field, value, allowed):
    if not true:
        raise UserError(f"{where}: {field} = {value!r} is not supported, allowed {allowed}")
