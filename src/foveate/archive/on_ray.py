"""Indexing thousands of files with Ray Data: models encode side by side, one process writes.

Files are the rows. Each goes to one worker, which holds a model and returns the file's clips as Arrow bytes, or what
was wrong with it; the driver alone writes, in the order in which files come back. A file whose entry the store holds is
not encoded, so a run that was stopped is taken up by running it again, and no file is stored twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import InputError, MediaError
from ..load import Loaded
from ..on_ray import enough, imported, running
from ..video import open_video
from .indexing import Encoder, Indexed, failed, find, note
from .recipe import Recipe, media_hash
from .row import Video as Entry
from .row import clip_rows, clip_table, rows, stored
from .table import Archive


class Worker:
    """One model of the pool. Called with batches of one file."""

    def __init__(
        self,
        known: list[str],
        model: str,
        plan: Any,
        fps: float,
        clip: int,
        question: str | None,
        threads: int,
        bits: int | None = None,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.maker = Encoder.of(model, plan, fps, clip, question, bits)
        self.known = set(known)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """{"path": [path]} -> the same with what became of it; "clips" are Arrow bytes."""
        out = [self.one(Path(str(p))) for p in batch["path"]]
        return {name: [o[name] for o in out] for name in out[0]}

    def one(self, path: Path) -> dict[str, Any]:
        """Encode one file unless it is known."""
        done: dict[str, Any] = {"path": str(path), "state": "failed", "key": "", "media": "", "error": ""}
        done |= {"recipe": self.maker.recipe.text, "seconds": 0.0, "width": 0, "clips": b""}
        try:
            done["media"] = media_hash(path)
            done["key"] = self.maker.recipe.key(done["media"])
            if done["key"] in self.known:
                return {**done, "state": "known"}
            made: list[dict[str, Any]] = []
            with open_video(path) as video:
                done["seconds"] = float(video.duration)
                for number, seen in self.maker.clips(video):
                    done["width"] = int(seen.x.shape[1])
                    made += rows(done["key"], self.maker.recipe, [(number, seen)])
        except MediaError as error:
            return {**done, "error": failed(path, error).error}
        return {**done, "state": "indexed", "clips": clip_table(done["width"], made)}


def index_on_ray(
    videos: Iterable[str | PathLike[str]],
    store: Archive | str | PathLike[str],
    *,
    model: str | Path,
    plan: Any = None,
    fps: float = 1.0,
    clip: int = 8,
    question: str | None = None,
    bits: int | None = None,
    workers: int = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    tell: Callable[[Indexed], None] | None = None,
) -> list[Indexed]:
    """As :func:`foveate.archive.index`, on a Ray cluster; starts a local one when none is there, and stops it again.

    Args:
        model: a name, folder or hub id that every worker can load.
        workers: models that encode at the same time. cpus, gpus: what each of them takes.

    Raises:
        MissingExtraError: Ray is not installed. FoveateError: as :func:`foveate.archive.index`.
    """
    ray = imported("ray,store")
    enough(workers)
    if isinstance(model, Loaded):
        raise InputError("every worker loads the model itself; give its name or folder")
    paths = find(videos)
    archive = store if isinstance(store, Archive) else Archive(store)
    known = {v.key: v for v in archive.videos()}
    name = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
    Encoder.of(name, plan, fps, clip, question, bits)  # what is wrong for all files is said here, not by every worker
    with running(ray):
        data = ray.data.from_items([{"path": str(p.resolve())} for p in paths], override_num_blocks=len(paths))
        made = data.map_batches(
            Worker,
            fn_constructor_args=(sorted(known), name, plan, fps, clip, question, max(1, int(cpus)), bits),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=cpus,
            num_gpus=gpus or None,
        )
        out = []
        for row in made.iter_rows():
            done = _stored(row, archive, known)
            out.append(done)
            if tell is not None:
                tell(done)
    if any(d.state == "indexed" for d in out):
        archive.tidy()
    return out


def _stored(row: dict[str, Any], archive: Archive, known: dict[str, Entry]) -> Indexed:
    """Write what a worker made of a file, unless another file had the same content."""
    path = Path(row["path"])
    if row["state"] == "failed":
        return Indexed(str(path), "failed", error=row["error"])
    key = row["key"]
    if (there := known.get(key)) is not None:
        note(path, archive, there)
        return Indexed(str(path), "known", key, there.clips, there.tokens, there.seconds)
    clips = clip_rows(row["clips"])
    if clips:
        archive.begin(key, row["width"])
        archive.add(row["width"], clips)
    tokens = sum(c["tokens"] for c in clips)
    recipe = Recipe.read(row["recipe"])
    made = Entry(key, row["media"], path.name, str(path), recipe, row["seconds"], len(clips), tokens, row["width"])
    archive.finish(made)
    known[key] = made
    return Indexed(str(path), "indexed", key, len(clips), tokens, row["seconds"], stored=stored(clips))
