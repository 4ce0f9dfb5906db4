"""Writing a file so that nobody ever sees half of it."""

from etils import epath


def write_whole(path, data: bytes):
    """Writes `data` to `path` (local or gs://), whole or not at all: a reader sees the old file or the new one."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.part"
    draft.write_bytes(data)
    draft.replace(path)
