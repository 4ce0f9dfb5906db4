"""Writing a file so that nobody ever sees half of it; and what the files of a folder are."""

import hashlib

from etils import epath


def is_remote(path) -> bool:
    return "://" in str(path)


def write_whole(path, data: bytes):
    """Writes `data` to `path` (local or gs://), whole or not at all: a reader sees the old file or the new one."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):  # an object appears whole or not at all
        path.write_bytes(data)
        return
    draft = path.parent / f".{path.name}.part"
    draft.write_bytes(data)
    draft.replace(path)


def below(path, prefix=""):
    """(name, file) of every file in the folder `path` and below, sorted by name; epath's own walk loses the gs:// of what it finds."""
    for entry in sorted(epath.Path(path).iterdir()):
        if entry.is_dir():
            yield from below(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def list_folder(path) -> dict[str, list]:
    """{name below `path`: [bytes, SHA-256]} of every file in it and below, each read whole."""
    return dict(sorted((name, digest(file)) for name, file in below(path)))


def digest(file) -> list:
    """[bytes, SHA-256] of a file, read whole."""
    found, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while part := stream.read(2**22):
            found.update(part)
            size += len(part)
    return [size, found.hexdigest()]
