"""The store: two kinds of LanceDB tables, one row a clip and one row a video.

LanceDB is embedded (no server), columnar (a search reads vectors and times, not the tokens), and takes ``s3://`` and
``gs://`` addresses as it takes folders. Tokens are kept as safetensors bytes in a binary column, each with a checksum
over everything in its row; a row that fails it is refused. A video counts once its row is there, which is written
after all of its clips, so an interrupted run leaves nothing that is answered from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from os import PathLike
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as unpack

from ..errors import FoveateError, InputError, MissingExtraError, StoreError
from ..stream.seen import Seen
from .coding import decoded
from .recipe import Recipe
from .row import Clip, Video, clip_check, clip_schema, video_check, video_schema


class Archive:
    """An open store.

    Args:
        where: a folder, made when the first video comes, or an address that LanceDB takes (``s3://bucket/store``).

    Raises:
        MissingExtraError: LanceDB is not installed.
        StoreError: there is something else, or it is damaged.
    """

    def __init__(self, where: str | PathLike[str]) -> None:
        try:
            import lancedb
        except ImportError as error:
            raise MissingExtraError("the store needs LanceDB; install it with: pip install 'foveate[store]'") from error
        self.where = str(where)
        try:
            self._db = lancedb.connect(self.where)
            self._names = set(_names(self._db))
        except Exception as error:  # LanceDB raises whatever its storage does
            raise StoreError(f"{self.where}: cannot be opened as a store ({_line(error)})") from error

    def __repr__(self) -> str:
        return f"Archive({self.where!r}, {len(self.videos())} videos)"

    # --- reading ------------------------------------------------------------------------------------------------

    def videos(self) -> list[Video]:
        """All entries that are complete, by name.

        Raises:
            StoreError: a row is damaged.
        """
        if "videos" not in self._names:
            return []
        found = [_video(r) for r in self._read("videos", None, None)]
        return sorted(found, key=lambda v: (v.name, v.path, v.key))

    def clips(self, videos: Sequence[Video], near: Sequence[float] | None = None, most: int = 0) -> list[Clip]:
        """The clips of these entries, or only the ``most`` whose vectors fit ``near`` (width,) best, best first."""
        name = f"clips_{videos[0].width}" if videos else ""
        if name not in self._names:
            return []
        columns = ["key", "number", "start", "stop", "tokens"]
        keys = {v.key for v in videos}
        if len(keys) <= FEW:
            among = f"key IN ({', '.join(repr(_hex(k)) for k in sorted(keys))})"
        else:  # a filter that names thousands of keys is slow; what it lets through too many is left out below
            among = f"recipe IN ({', '.join(repr(_hex(r)) for r in sorted({v.recipe.id for v in videos}))})"
            most *= 2
        if near is None:
            read = [r for r in self._read(name, among, columns) if r["key"] in keys]
            return sorted((Clip(**r) for r in read), key=lambda c: (c.key, c.number))
        with _explained(self.where):
            query = self._db.open_table(name).search(list(near), vector_column_name="vector")
            query = query.distance_type("dot").where(among, prefilter=True).limit(most)
            read = query.select([*columns, "_distance"]).to_arrow().to_pylist()
        made = [Clip(**{k: r[k] for k in columns}, fit=1.0 - r["_distance"]) for r in read if r["key"] in keys]
        return sorted(made, key=lambda c: (-c.fit, c.key, c.number))

    def tokens(self, width: int, clips: Sequence[Clip], bits: int | None = None) -> list[Seen]:
        """What is stored of these clips, in their order. bits: of the recipe they were made with.

        Raises:
            StoreError: a clip is missing or damaged.
        """
        if not clips:
            return []
        ids = [f"{_hex(c.key)}/{int(c.number)}" for c in clips]
        read = {r["id"]: r for r in self._read(f"clips_{width}", f"id IN ({', '.join(map(repr, ids))})", None)}
        out = []
        for i in ids:
            if i not in read:
                raise StoreError(f"{self.where}: clip {i[:12]}... is missing; {_AGAIN}")
            out.append(self._seen(read[i], width, bits))
        return out

    def _seen(self, row: dict[str, Any], width: int, bits: int | None = None) -> Seen:
        told = f"clip {row['number']} of entry {row['key'][:12]}..."
        if clip_check(row, row["payload"]) != row["check"]:
            raise StoreError(f"{self.where}: {told} is damaged (its checksum does not fit); {_AGAIN}")
        try:
            seen = Seen.of(decoded(unpack(row["payload"]), bits))
        except (SafetensorError, InputError) as error:
            raise StoreError(f"{self.where}: {told} cannot be read ({_line(error)}); {_AGAIN}") from error
        if (seen.n, seen.x.shape[1]) != (row["tokens"], width):
            raise StoreError(f"{self.where}: {told} does not hold what its row says; {_AGAIN}")
        return seen

    def _read(self, name: str, where: str | None, columns: list[str] | None) -> list[dict[str, Any]]:
        with _explained(self.where):
            query = self._db.open_table(name).search()
            query = query.where(where) if where is not None else query
            query = query.select(columns) if columns is not None else query
            out: list[dict[str, Any]] = query.limit(None).to_arrow().to_pylist()
        return out

    # --- writing ------------------------------------------------------------------------------------------------

    def begin(self, key: str, width: int) -> None:
        """Remove what an interrupted run left of an entry."""
        if f"clips_{width}" in self._names:
            with _explained(self.where):
                self._db.open_table(f"clips_{width}").delete(f"key = '{_hex(key)}'")

    def add(self, width: int, clips: list[dict[str, Any]]) -> None:
        """Add rows made by :func:`rows`; those that are there already stay as they are."""
        if clips:
            self._merge(f"clips_{width}", clip_schema(width), "id", clips)

    def finish(self, video: Video) -> None:
        """Add the video's own row: from now on the entry counts."""
        row = {**vars(video), "recipe": video.recipe.text}
        row["row"] = hashlib.sha256(f"{video.key}\n{video.path}".encode()).hexdigest()
        row["check"] = video_check(row)
        self._merge("videos", video_schema(), "row", [row])

    def tidy(self) -> None:
        """Join the small pieces that many additions leave, so that searches read fewer files."""
        for name in sorted(self._names):
            with _explained(self.where):
                self._db.open_table(name).optimize()

    def _merge(self, name: str, schema: Any, by: str, new: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        data = pa.Table.from_pylist(new, schema=schema)
        with _explained(self.where):
            table = self._db.create_table(name, schema=schema, exist_ok=True)
            table.merge_insert(by).when_not_matched_insert_all().execute(data)
        self._names.add(name)


#: Entries up to which a search names the key of each.
FEW = 200
_AGAIN = "index the video again into a new store"


def _video(row: dict[str, Any]) -> Video:
    if video_check(row) != row["check"]:
        raise StoreError(f"the entry of {row['name']} is damaged (its checksum does not fit); {_AGAIN}")
    recipe = Recipe.read(row["recipe"])
    if recipe.key(row["media"]) != row["key"]:
        raise StoreError(f"the entry of {row['name']} is stored under a key that is not its own; {_AGAIN}")
    plain = {k: row[k] for k in ("key", "media", "name", "path", "seconds", "clips", "tokens", "width")}
    return Video(**plain, recipe=recipe)


def _hex(key: str) -> str:
    if len(key) != 64 or set(key) - set("0123456789abcdef"):
        raise InputError(f"a key is 64 hex digits. Got {key!r}.")
    return key


def _names(db: Any) -> list[str]:
    found: list[str] = []
    token = None
    while True:
        page = db.list_tables(page_token=token)
        found += list(page.tables)
        token = page.page_token
        if not token:
            return found


class _explained:  # noqa: N801 - reads as a statement
    """LanceDB's exceptions, of whatever kind, as a StoreError that names the store."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, FoveateError):
            raise StoreError(f"{self.where}: {_line(error)}; {_AGAIN}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
