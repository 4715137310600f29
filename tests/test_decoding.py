"""Decoding in threads: the same bytes as PyAV's plain decoding, in order, in bounded memory, and the same errors."""

from __future__ import annotations

import threading
import time
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from foveate.errors import InputError, MediaError
from foveate.video import Limits, coded, open_image, open_video, write_video
from foveate.video.ahead import Ahead
from foveate.video.convert import Converter
from foveate.video.jobs import cut

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "video"
CLIPS = ("flipping_a_pancake.mkv", "big_buck_bunny_432_433.webm", "h265_10bits.mp4", "video_90.mov")
SIZE = (96, 64)


@pytest.fixture(autouse=True)
def always_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small clips are decoded in the reader's thread; here none is small."""
    monkeypatch.setattr(coded, "WORTH_IT", 0)


def moving(count: int) -> list[Image.Image]:
    """Noise that moves, so that every frame refers to others and none is like another."""
    rng = np.random.default_rng(0)
    field = rng.integers(0, 256, (SIZE[1], SIZE[0] + 2 * count, 3)).astype(np.uint8)
    return [Image.fromarray(field[:, 2 * i : 2 * i + SIZE[0]]) for i in range(count)]


def encode(path: Path, count: int = 60, **options: str) -> Path:
    given = ":".join(f"{k.replace('_', '-')}={v}" for k, v in {"keyint": "12", "bframes": "3", **options}.items())
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"x264-params": given})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in moving(count):
            out.mux(stream.encode(av.VideoFrame.from_image(frame)))
        out.mux(stream.encode())
    return path


def plain(path: Path) -> list[np.ndarray]:
    """What PyAV gives on its own, on one thread."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        return [f.to_ndarray(format="rgb24") for f in container.decode(stream)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("kind", [{"open_gop": "0"}, {"open_gop": "1"}, {"intra_refresh": "1"}], ids=str)
def test_bytes_are_pyavs(tmp_path: Path, suffix: str, kind: dict[str, str]) -> None:
    path = encode(tmp_path / f"clip{suffix}", **kind)
    want = plain(path)
    for workers in (1, 2, 5):
        with open_video(path, workers=workers) as video:
            assert video.frames == len(want) == 60
            for n, frame in enumerate(video):
                assert frame.index == n
                assert np.array_equal(frame.array, want[n])
            for picked in ([0, 7, 13, 14, 40, 59], [5], [58], [11, 12, 23, 24, 35]):
                got = video.at([float(video.times[n]) for n in reversed(picked)])
                assert [f.index for f in got] == picked[::-1]
                assert all(np.array_equal(f.array, want[f.index]) for f in got)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the clips are not beside this checkout")
@pytest.mark.parametrize("name", CLIPS)
def test_found_clips_are_the_same_with_and_without_threads(name: str) -> None:
    (path,) = SHARED.glob(f"*{name}")
    with open_video(path, workers=1) as alone, open_video(path, workers=2) as both:
        numbers = range(0, min(alone.frames, 60), 5)
        pairs = zip(alone.at(alone.times[list(numbers)]), both.at(both.times[list(numbers)]), strict=True)
        assert all(np.array_equal(a.array, b.array) and a.index == b.index for a, b in pairs)


def test_intervals_start_at_keyframes(tmp_path: Path) -> None:
    with open_video(encode(tmp_path / "clip.mp4", open_gop="0", scenecut="0")) as video:
        jobs = cut(video._source._index, [0, 1, 11, 12, 40])  # type: ignore[attr-defined]
        assert [j.numbers for j in jobs] == [(0, 1, 11), (12,), (40,)]
        assert [j.span for j in jobs] == [12, 1, 5]


def test_frames_that_nobody_needs_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    convert = Converter.__call__
    monkeypatch.setattr(Converter, "__call__", lambda self, f: made.append(f.pts) or convert(self, f))
    with open_video(encode(tmp_path / "clip.mp4", scenecut="0"), workers=2) as video:
        made.clear()
        assert [f.index for f in video.at([0.5, 3.5])] == [5, 35]
    assert len(made) == 2


def test_memory_is_bounded_and_decoding_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    shelve = Ahead._shelve
    monkeypatch.setattr(Ahead, "_shelve", lambda self, *found: made.append(0) or shelve(self, *found))
    frame = 3 * SIZE[0] * SIZE[1] // 2
    with open_video(encode(tmp_path / "clip.mp4"), workers=2, room=10 * frame) as video:
        frames = video.stream()
        next(frames)
        until = time.monotonic() + 10
        while len(made) < 10 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(made) >= 10  # while the first one is looked at
        time.sleep(0.1)
        assert len(made) <= 1 + 8 + 10 + 2  # read, in RGB, on the shelves, in the hands of two threads
        assert sum(1 for _ in frames) == 59


def test_threads_end_with_the_loop(tmp_path: Path) -> None:
    def running() -> int:
        return sum(t.name == "foveate-decode" for t in threading.enumerate())

    with open_video(encode(tmp_path / "clip.mp4"), workers=3, room=1) as video:
        for _ in video.stream():
            assert running()
            break
        frames = video.stream()
        next(frames)
        del frames
        assert not running()
        with pytest.raises(ZeroDivisionError):
            [frame.index / 0 for frame in video]
        assert not running()
        late = video.stream()
        next(late)
    with pytest.raises(InputError, match="closed"):
        next(late)
    assert not running()


def test_damage_is_told_as_without_threads(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", scenecut="0")
    with av.open(str(path)) as container:
        places = [p.pos for p in container.demux(video=0) if p.size and p.is_keyframe]
    data = bytearray(path.read_bytes())
    data[places[2] + 4 : places[2] + 900] = bytes(896)  # the third interval, from 2.4 s to 3.6 s
    path.write_bytes(data)
    with open_video(path, workers=2) as video:
        good: list[int] = []
        with pytest.raises(MediaError, match=r"frame at 2\.\d0 s cannot be decoded; the file is damaged from 2"):
            good.extend(frame.index for frame in video.stream())
        assert good[:23] == list(range(23))
        assert [f.index for f in video.stream(start=4.0, stop=4.5)] == [40, 41, 42, 43, 44]
        assert [f.index for f in video.at([5.5, 0.3])] == [55, 3]


def test_a_part(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving(20), 10, keyframe_every=6)
    with open_video(path) as video:
        assert [f.index for f in video.stream(start=0.5, stop=1.0)] == [5, 6, 7, 8, 9]
        assert [f.index for f in video.stream(fps=4, start=0.5, stop=1.2)] == [5, 7, 10]
        assert [f.index for f in video.sample(2, start=1.0, stop=2.0)] == [12, 17]
        assert [f.index for f in video.sample(3, strategy="ends", start=0.5, stop=1.5)] == [5, 10, 15]
        assert [f.index for f in video.sample(1, strategy="keyframes", start=0.5, stop=1.0)] == [6]
        assert [f.index for f in video.sample(fps=2, start=1.0)] == [10, 15]
        assert [f.index for f in video.stream(start=0.55, stop=0.56)] == [5]
        for start, stop in ((1.0, 1.0), (-1.0, 1.0), (3.0, None), (1.0, 0.5), (float("nan"), None)):
            with pytest.raises(InputError, match=r"is no part of .*runs from 0 to 2\.000"):
                video.sample(2, start=start, stop=stop)
    with pytest.raises(InputError, match="'workers' must be at least 1"):
        open_video(path, workers=0)


def test_a_frame_is_a_picture_and_an_array(tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "clip.mp4", moving(3), 10)) as video:
        a, b = video.at([0.1, 0.1])
        assert a is b
        assert a.array.shape == (64, 96, 3)
        assert np.array_equal(np.asarray(a.image), open_video(tmp_path / "clip.mp4").at([0.1])[0].array)
        assert a.image is a.image
        assert "0.100 s, number 1" in repr(a)


# --- limits -------------------------------------------------------------------------------------------------------


def test_limits_refuse_and_can_be_raised(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving(12), 10)
    film = tmp_path / "film.gif"
    moving(1)[0].save(film, save_all=True, append_images=moving(9)[1:], duration=100)
    picture = tmp_path / "picture.png"
    moving(1)[0].save(picture)
    few = Limits(pixels=6143)
    for path in (clip, film, picture):
        with pytest.raises(MediaError, match="96x64 pixels, more than 6,143"):
            open_video(path, limits=few)
        open_video(path, limits=Limits(pixels=6144)).close()
    with pytest.raises(MediaError, match="more than 11 frames"):
        open_video(clip, limits=Limits(frames=11))
    for short in (Limits(frames=8), Limits(animation=8 * 6144)):
        with pytest.raises(MediaError, match="more than 8 pictures of 96x64"):
            open_video(film, limits=short)
    with open_video(film, limits=Limits(animation=9 * 6144)) as video:
        assert video.frames == 9
    with pytest.raises(MediaError, match="more than 6,143"):
        open_image(picture, few)
    with pytest.raises(InputError, match="'pixels' of Limits"):
        Limits(pixels=0)


def test_bombs(tmp_path: Path) -> None:
    """Files of a few bytes that would unpack to gigabytes are refused before anything is unpacked."""
    for suffix, side in ((".png", 13_500), (".png", 60_000), (".gif", 60_000)):
        path = tmp_path / f"bomb{suffix}"
        moving(1)[0].save(path)
        data = bytearray(path.read_bytes())
        if suffix == ".png":
            data[16:24] = side.to_bytes(4, "big") * 2
            data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        else:
            data[6:10] = side.to_bytes(2, "little") * 2
        path.write_bytes(data)
        for read in (open_image, open_video):
            with pytest.raises(MediaError, match="shrink it first"):
                read(path)
    endless = tmp_path / "endless.gif"
    dot = Image.new("L", (2, 2))
    dot.save(endless, save_all=True, append_images=[Image.new("L", (2, 2), i % 2 * 255) for i in range(1, 400)])
    with pytest.raises(MediaError, match="more than 300 pictures of 2x2 pixels"):
        open_video(endless, limits=Limits(frames=300))


def test_a_stream_that_grows_is_stopped(tmp_path: Path) -> None:
    """The header says 96x64; a later parameter set says four times that."""
    small, large = tmp_path / "a.h264", tmp_path / "b.h264"
    for path, scale in ((small, 1), (large, 2)):
        with av.open(str(path), "w", format="h264") as out:
            stream = out.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = SIZE[0] * scale, SIZE[1] * scale, "yuv420p"
            for frame in moving(4):
                out.mux(stream.encode(av.VideoFrame.from_image(frame.resize((stream.width, stream.height)))))
            out.mux(stream.encode())
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    with (
        open_video(both, limits=Limits(pixels=8000), workers=1) as video,
        pytest.raises(MediaError),
    ):
        list(video)


# --- backends -----------------------------------------------------------------------------------------------------


def test_backends(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving(3), 10)
    with pytest.raises(InputError, match="did you mean 'pyav'"):
        open_video(path, using="pyab")
    try:
        other = open_video(path, using="torchcodec")
    except InputError as error:
        assert "pip install 'foveate[torchcodec]'" in str(error)  # noqa: PT017
        return
    with other, open_video(path) as video:
        for a, b in zip(other, video, strict=True):
            assert (a.index, a.time) == (b.index, b.time)
            assert np.abs(a.array.astype(int) - b.array.astype(int)).mean() < 3


# --- sound --------------------------------------------------------------------------------------------------------


def sounding(path: Path, seconds: float = 2.0, rate: int = 16000) -> Path:
    """A film with a rising tone: sample i of channel 0 is known up to compression (none here: PCM)."""
    with av.open(str(path), "w") as out:
        video, audio = out.add_stream("libx264", rate=10), out.add_stream("pcm_s16le", rate=rate, layout="stereo")
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        for frame in moving(int(seconds * 10)):
            out.mux(video.encode(av.VideoFrame.from_image(frame)))
        out.mux(video.encode())
        ramp = (np.arange(int(seconds * rate)) % 30000).astype(np.int16)
        for at in range(0, len(ramp), 1000):
            block = np.stack([ramp[at : at + 1000], -ramp[at : at + 1000]], 1).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="s16", layout="stereo")
            frame.sample_rate, frame.pts = rate, at
            out.mux(audio.encode(frame))
        out.mux(audio.encode())
    return path


def test_sound(tmp_path: Path) -> None:
    with open_video(sounding(tmp_path / "clip.mkv")) as video:
        whole = video.audio()
        assert whole is not None
        assert (whole.rate, whole.samples.shape) == (16000, (2, 32000))
        want = (np.arange(32000) % 30000) / 32768
        assert np.allclose(whole.samples[0], want, atol=1e-4)
        assert np.allclose(whole.samples[1], -want, atol=1e-4)
        assert whole.times[[0, 8000]] == pytest.approx([0, 0.5], abs=2e-3)
        part = video.audio(0.5, 1.0)
        assert part is not None
        assert part.samples.shape == (2, 8000)
        assert part.start == pytest.approx(0.5, abs=2e-3)
        assert np.abs(part.samples[0] - want[8000:16000]).max() < 40 / 32768  # stamps are whole milliseconds
        half = video.audio(rate=8000, mono=True)
        assert half is not None
        assert half.rate == 8000
        assert half.samples.shape[0] == 1
        assert half.samples.shape[1] == pytest.approx(16000, abs=40)
        with pytest.raises(InputError, match="rate"):
            video.audio(rate=0)


def test_no_sound(tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "clip.mp4", moving(3), 10)) as video:
        assert video.audio() is None
    moving(1)[0].save(tmp_path / "a.png")
    with open_video(tmp_path / "a.png") as video:
        assert video.audio() is None
