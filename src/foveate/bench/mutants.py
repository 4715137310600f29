"""Damaged media by the thousand: each file decodes what can be, or raises a MediaError; none crashes, hangs or bloats.

Files are made from small good ones by a seed each: bits flipped, bytes overwritten, cut short, the beginning of another
kind of file put in front, pieces moved or left out. Only seeds are kept. Each batch runs in a process of its own with a
cap on memory and a clock, so that a crash is seen, and which seed did it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, MediaError
from ..video import demo_clip, open_video
from .decoders import peak_mb
from .results import commit, goal, save

CAP_MB = 2048  # of a process's memory
CLOCK = 20.0  # seconds one file may take
START = 180.0  # seconds a process may take to start, on a busy machine
KINDS = ("flip", "overwrite", "cut", "swap", "move", "drop")
FRAMES = 6  # asked of each file


def originals(folder: Path) -> list[Path]:
    """Small good files of many kinds, made once."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    clip = demo_clip(folder / "clip.mp4", seconds=2, size=(64, 48)).path
    with open_video(clip) as video:
        frames = [f.image for f in video]
    made = [clip]
    for suffix in (".mkv", ".webm", ".avi", ".ts", ".flv"):
        made.append(_rewritten(folder / f"clip{suffix}", frames))
    for suffix in (".gif", ".png", ".webp"):
        frames[0].save(folder / f"film{suffix}", save_all=True, append_images=frames[1:], duration=100)
        made.append(folder / f"film{suffix}")
    for suffix in (".jpg", ".bmp", ".tiff", ".ppm"):
        Image.Image.save(frames[0], folder / f"still{suffix}")
        made.append(folder / f"still{suffix}")
    return made


def _rewritten(path: Path, frames: Sequence[Any]) -> Path:
    import av

    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4", ".flv": "flv"}.get(path.suffix, "libx264")
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=8)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt, stream.gop_size = "yuv420p", 6
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_image(frame)))
        out.mux(stream.encode())
    return path


def mutant(data: bytes, other: bytes, seed: int) -> bytes:
    """A damaged copy of ``data``; the same seed damages it the same way. other: whose beginning may be put in front."""
    rng = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    out, n = bytearray(data), len(data)
    if kind == "flip":
        for _ in range(rng.choice((1, 4, 32, 256))):
            at = rng.randrange(n if rng.random() < 0.5 else min(n, 2048))  # headers are hit as often as pictures
            out[at] ^= 1 << rng.randrange(8)
    elif kind == "overwrite":
        at, size = rng.randrange(n), rng.choice((4, 64, 1024))
        out[at : at + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))[: n - at]
    elif kind == "cut":
        del out[rng.randrange(1, n) :]
    elif kind == "swap":
        size = rng.choice((8, 32, 256, 1024))
        out[:size] = other[:size]
    elif kind == "move":
        a, b, size = rng.randrange(n), rng.randrange(n), rng.choice((16, 256, 4096))
        piece = out[a : a + size]
        del out[a : a + size]
        out[b:b] = piece
    else:
        at = rng.randrange(n)
        del out[at : at + rng.choice((1, 16, 512))]
    return bytes(out) or b"\0"


def look(path: Path) -> str:
    """Open the file, read a few frames and the sound -> "decoded", or "refused" with a MediaError. Others are raised.

    InputError counts as refused where a file's length leaves no time to ask for.
    """
    try:
        with open_video(path) as video:
            video.sample(FRAMES)
            for _, _ in zip(range(FRAMES), video.stream(), strict=False):
                pass
            video.audio()
    except (MediaError, InputError):
        return "refused"
    return "decoded"


def batch(folder: Path, seeds: Sequence[int]) -> None:
    """One line of JSON for each seed; run in a process of its own. Prints the seed before the file is opened."""
    files = sorted(p for p in folder.iterdir() if p.name.startswith(("clip", "film", "still")))
    contents = [p.read_bytes() for p in files]
    with tempfile.TemporaryDirectory() as scratch:
        for seed in seeds:
            which = (seed // len(KINDS)) % len(files)
            path = Path(scratch) / f"mutant{files[which].suffix}"
            path.write_bytes(mutant(contents[which], contents[(which + 1 + seed % 5) % len(files)], seed))
            print(json.dumps({"begun": seed}), flush=True)
            begun = time.perf_counter()
            try:
                end = look(path)
            except Exception as error:
                end = f"{type(error).__name__}: {error}"
            told = {"seed": seed, "kind": KINDS[seed % len(KINDS)], "file": files[which].name, "end": end}
            print(json.dumps({**told, "seconds": time.perf_counter() - begun, "peak_mb": peak_mb()}), flush=True)


def run(folder: Path, count: int, first: int = 0, size: int = 100) -> list[dict[str, Any]]:
    """Rows of ``count`` mutants from seed ``first`` on; a crash or a hang ends its row and the batch starts anew."""
    originals(folder)
    rows: list[dict[str, Any]] = []
    at = first
    while at < first + count:
        stop = min(at + size, first + count)
        code = (
            f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({8 * CAP_MB << 20},) * 2)\n"
            "from pathlib import Path; from foveate.bench.mutants import batch\n"
            f"batch(Path({str(folder)!r}), range({at}, {stop}))"
        )
        done: list[dict[str, Any]] = []
        try:
            out = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                timeout=START + CLOCK * (stop - at),
                check=False,
            )
            text, how = out.stdout, f"died with {out.returncode}: {out.stderr[-200:]}"
        except subprocess.TimeoutExpired as late:
            text, how = (late.stdout or b"").decode(), "hangs"
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        done = [line for line in lines if "end" in line]
        rows += done
        at += len(done)
        if at < stop:  # the next one never ended
            begun = next((line["begun"] for line in reversed(lines) if "begun" in line), at)
            rows.append({"seed": begun, "kind": KINDS[begun % len(KINDS)], "file": "", "end": how})
            at = begun + 1
    return rows


def add(commands: Any) -> None:
    """The command ``mutants`` of ``python -m foveate.bench``."""
    one = commands.add_parser("mutants", help="damaged media: decoded as far as can be, or refused")
    one.add_argument("--out", type=Path, default=Path("results/mutants.json"))
    one.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "foveate-mutants")
    one.add_argument("--count", type=int, default=2000)
    one.add_argument("--seed", type=int, default=0, help="of the first one; the others follow")


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    commit()
    rows = run(args.folder, args.count, args.seed)
    wrong = [r for r in rows if r["end"] not in ("decoded", "refused")]
    peak, slowest = (max((r.get(k, 0.0) for r in rows), default=0.0) for k in ("peak_mb", "seconds"))
    goals = [
        goal(f"of {len(rows)} damaged files, crash, hang or raise anything but a MediaError", len(wrong), 0, not wrong),
        goal("damaged files: peak memory of a process in MB", peak, CAP_MB, peak <= CAP_MB),
        goal("damaged files: the slowest takes so many seconds", slowest, CLOCK, slowest <= CLOCK),
    ]
    ends = {end: sum(r["end"] == end for r in rows) for end in ("decoded", "refused")}
    save(args.out, args.seed, wrong, goals, ends=ends, kinds=list(KINDS), files=sorted({r["file"] for r in rows}))
    print(f"{ends}, {len(wrong)} wrong, peak {peak:.0f} MB, slowest {slowest:.1f} s; wrote {args.out}")
