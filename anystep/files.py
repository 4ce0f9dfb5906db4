"""Writing a file so that nobody ever sees half of it; and what the files of a folder are."""

import hashlib

from etils import epath


def write_whole(path, data: bytes):
    """Writes `data` to `path` (local or gs://), whole or not at all: a reader sees the old file or the new one."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.part"
    draft.write_bytes(data)
    draft.replace(path)


def list_folder(path) -> dict[str, list]:
    """{name below `path`: [bytes, SHA-256]} of every file in it and below, each read whole."""
    folder, found = epath.Path(path), {}
    for place, _, names in folder.walk():
        for name in sorted(names):
            digest, size = hashlib.sha256(), 0
            with (place / name).open("rb") as file:
                while part := file.read(2**22):
                    digest.update(part)
                    size += len(part)
            found[(place / name).relative_to(folder).as_posix()] = [size, digest.hexdigest()]
    return dict(sorted(found.items()))
