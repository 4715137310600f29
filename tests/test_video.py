"""Reading media: the right frame at each time, in every kind of file, and one clear line when a file is bad."""

from __future__ import annotations

import gc
import random
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from foveate.errors import InputError, MediaError
from foveate.video import Limits, demo_clip, kind, open_image, open_video, write_video

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "video"
CLIPS = sorted(p for p in SHARED.glob("*") if p.suffix != ".json") if SHARED.is_dir() else []


def level(i: int) -> int:
    """The grey of frame i: far enough from its neighbours to survive compression."""
    return 20 + (i * 53) % 216


def grey(i: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, (level(i),) * 3)


def shows(image: Image.Image, i: int) -> bool:
    return abs(float(np.asarray(image).mean()) - level(i)) < 4


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """20 frames at 10 fps, a keyframe every 6."""
    return write_video(tmp_path / "clip.mp4", (grey(i) for i in range(20)), 10, keyframe_every=6)


def encode(path: Path, codec: str, frames: int = 40, **options: str) -> Path:
    """Other containers and codecs than write_video offers."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 12
        for i in range(frames):
            out.mux(stream.encode(av.VideoFrame.from_image(grey(i))))
        out.mux(stream.encode())
    return path


def damage(path: Path, start: float, stop: float) -> Path:
    """Overwrite a share of the file."""
    data = bytearray(path.read_bytes())
    a, b = int(len(data) * start), int(len(data) * stop)
    data[a:b] = random.Random(0).randbytes(b - a)
    path.write_bytes(bytes(data))
    return path


# --- times --------------------------------------------------------------------------------------------------------


def test_facts(clip: Path) -> None:
    with open_video(clip) as video:
        assert (video.path, video.frames, video.width, video.height) == (clip, 20, 64, 48)
        assert video.fps == pytest.approx(10)
        assert video.duration == pytest.approx(2)
        assert video.times == pytest.approx(np.arange(20) / 10)
        assert "64x48, 20 frames, 2.00 s" in repr(video)


def test_at_gives_the_frame_on_screen(clip: Path) -> None:
    with open_video(clip) as video:
        times = [1.95, 0.0, 0.05, 0.6, 0.59, 1.2, 0.05, 2.0]
        frames = video.at(times)
        assert [f.index for f in frames] == [19, 0, 0, 6, 5, 12, 0, 19]
        assert all(shows(f.image, f.index) for f in frames)
        assert [f.time for f in frames] == pytest.approx([1.9, 0, 0, 0.6, 0.5, 1.2, 0, 1.9])
        assert frames[2] is frames[6]
        assert video.at([]) == []


def test_at_goes_back_and_forth(clip: Path) -> None:
    order = random.Random(0).choices(range(20), k=40)
    with open_video(clip) as video:
        assert all(shows(video.at([i / 10])[0].image, i) for i in order)


@pytest.mark.parametrize("time", [-0.1, 2.2, float("nan"), float("inf")])
def test_at_refuses_times_outside(clip: Path, time: float) -> None:
    with (
        open_video(clip) as video,
        pytest.raises(InputError, match=r"outside of .*clip\.mp4, which runs from 0 to 2\.000"),
    ):
        video.at([time])


def test_iterates_over_all_frames(clip: Path) -> None:
    with open_video(clip) as video:
        assert [f.index for f in video if shows(f.image, f.index)] == list(range(20))


def test_closed(clip: Path) -> None:
    with open_video(clip) as video:
        pass
    video.close()
    with pytest.raises(InputError, match="closed"):
        video.at([0])


def test_variable_rate(tmp_path: Path) -> None:
    times = [0, 0.5, 0.6, 2.0, 2.1, 5.0]
    path = write_video(tmp_path / "vfr.mp4", map(grey, range(6)), 10, times=times)
    with open_video(path) as video:
        assert video.times == pytest.approx(times, abs=1e-4)
        assert [f.index for f in video.at([0.49, 0.55, 1.9, 2.05, 4.99, 5.0])] == [0, 1, 2, 3, 4, 5]
        assert [f.index for f in video.sample(3)] == [2, 4]  # 0.8, 2.5 and 4.2 s: two of them show the same frame
        assert all(shows(f.image, f.index) for f in video)


# --- sample -------------------------------------------------------------------------------------------------------


def test_sample_takes_the_middles(clip: Path) -> None:
    with open_video(clip) as video:
        assert [f.index for f in video.sample(4)] == [2, 7, 12, 17]
        assert [f.index for f in video.sample(1)] == [10]
        assert [f.index for f in video.sample(100)] == list(range(20))
        assert [f.index for f in video.sample(3, strategy="ends")] == [0, 9, 19]
        assert 0 < len(video.sample(4, strategy="keyframes")) <= 4


def test_sample_by_rate(clip: Path) -> None:
    with open_video(clip) as video:
        assert [f.index for f in video.sample(fps=2)] == [0, 5, 10, 15]
        assert [f.index for f in video.sample(fps=0.1)] == [0]
        assert [f.index for f in video.sample(fps=1000)] == list(range(20))
        assert [f.index for f in video.sample(8, fps=2)] == [0, 5, 10, 15]
        assert [f.index for f in video.sample(2, fps=5)] == [5, 15]


@pytest.mark.parametrize(
    "bad", [{}, {"n": 0}, {"n": -3}, {"fps": 0}, {"fps": -1.0}, {"fps": float("inf")}, {"n": 2, "strategy": "middle"}]
)
def test_sample_refuses(clip: Path, bad: dict[str, object]) -> None:
    with open_video(clip) as video, pytest.raises(InputError, match=r"sample\(\)"):
        video.sample(**bad)  # type: ignore[arg-type]


def test_progress(clip: Path) -> None:
    calls: list[tuple[int, int]] = []
    with open_video(clip) as video:
        video.sample(3, progress=lambda done, total: calls.append((done, total)))
        video.at([0.1, 0.1, 1.0], progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3), (1, 2), (2, 2)]


# --- kinds of files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.avi", "mpeg4", {}),
        ("b.avi", "libx264", {"bf": "2"}),
        ("c.ts", "libx264", {"bf": "2"}),
        ("d.h264", "libx264", {"bf": "2"}),
        ("e.mkv", "libx264", {"bf": "2"}),
        ("f.webm", "libvpx-vp9", {}),
        ("g.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "10"}),
        ("h.mpg", "mpeg2video", {}),
        ("i.flv", "libx264", {"bf": "2"}),
    ],
)
def test_containers(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    with open_video(encode(tmp_path / name, codec, **options)) as video:
        assert video.frames == 40
        for group in ([0, 3, 30, 31], [39], [20, 10, 25], [13, 12, 11]):
            frames = video.at([video.times[i] for i in group])
            assert [f.index for f in frames] == group
            assert all(shows(f.image, f.index) for f in frames)


def test_written_to_a_stream_without_duration(tmp_path: Path) -> None:
    path = tmp_path / "live.webm"
    with path.open("wb") as file, av.open(_Pipe(file), "w", format="webm") as out:
        stream = out.add_stream("libvpx-vp9", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(12):
            out.mux(stream.encode(av.VideoFrame.from_image(grey(i))))
        out.mux(stream.encode())
    with av.open(str(path)) as raw:
        assert raw.duration is None
    with open_video(path) as video:
        assert (video.frames, video.duration) == (12, pytest.approx(1.2, abs=0.01))
        assert [f.index for f in video.sample(3)] == [2, 6, 10]


class _Pipe:
    """A file that cannot seek, so that the writer cannot go back to fill in the duration."""

    def __init__(self, file: object) -> None:
        self.write = file.write  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [(63, 47), (64, 47), (3, 2), (2, 2)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / "odd.mp4", [grey(i, size) for i in range(3)], 5)
    with open_video(path) as video:
        assert (video.width, video.height) == size
        assert all(f.image.size == size and shows(f.image, f.index) for f in video)


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), Image.Transpose.ROTATE_270),
        ((-1, 0, 0, -1), Image.Transpose.ROTATE_180),
        ((0, -1, 1, 0), Image.Transpose.ROTATE_90),
        ((-1, 0, 0, 1), Image.Transpose.FLIP_LEFT_RIGHT),
    ],
)
def test_rotated(tmp_path: Path, matrix: tuple[int, ...], turn: Image.Transpose) -> None:
    quarters = np.kron(np.array([[250, 30], [90, 160]], np.uint8), np.ones((24, 32), np.uint8))
    path = write_video(tmp_path / "turned.mp4", [quarters] * 3, 5)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the matrix in the track header
    a, b, c, d = (int(v * 65536).to_bytes(4, "big", signed=True) for v in matrix)
    data[at : at + 36] = a + b + bytes(4) + c + d + bytes(12) + (1 << 30).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    upright = Image.fromarray(quarters).transpose(turn)
    with open_video(path) as video:
        frame = video.at([0.2])[0].image
        assert (video.width, video.height) == frame.size == upright.size
        assert np.abs(np.asarray(frame.convert("L")).astype(int) - np.asarray(upright)).mean() < 4


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animations(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    lasts = [100, 300, 50, 250]
    grey(0).save(path, save_all=True, append_images=[grey(i) for i in range(1, 4)], duration=lasts, loop=0)
    assert kind(path) == "video"
    with open_video(path) as video:
        assert video.times == pytest.approx([0, 0.1, 0.4, 0.45])
        assert video.duration == pytest.approx(0.7)
        assert [f.index for f in video.at([0.45, 0.39, 0.0])] == [3, 1, 0]
        assert all(shows(f.image, f.index) and f.image.mode == "RGB" for f in video)
    assert shows(open_image(path), 0)


def test_gif_with_transparency_is_over_white(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (16, 16), (0, 0, 0, 0)), Image.new("RGBA", (16, 16), (200, 0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    with open_video(tmp_path / "a.gif") as video:
        assert video.at([0])[0].image.getpixel((8, 8)) == (255, 255, 255)
        assert video.at([0.1])[0].image.getpixel((8, 8)) == (200, 0, 0)


def test_still_picture_is_one_frame(tmp_path: Path) -> None:
    grey(3).save(tmp_path / "still.png")
    with open_video(tmp_path / "still.png") as video:
        assert (video.frames, video.duration, video.fps, video.width, video.height) == (1, 0.0, 1.0, 64, 48)
        for frames in (video.sample(8), video.sample(fps=2), video.at([0])):
            assert [f.index for f in frames] == [0]
            assert shows(frames[0].image, 3)


def test_kind_is_by_content(tmp_path: Path, clip: Path) -> None:
    assert kind(clip) == "video"
    assert kind(clip.rename(tmp_path / "clip.png")) == "video"
    grey(0).save(tmp_path / "picture.mp4", format="PNG")
    assert kind(tmp_path / "picture.mp4") == "image"
    Image.new("RGB", (8, 8)).save(tmp_path / "pages.tiff", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert kind(tmp_path / "pages.tiff") == "image"
    with open_video(tmp_path / "clip.png") as video:
        assert video.frames == 20


# --- bad files ----------------------------------------------------------------------------------------------------


def test_cut_off_file_gives_what_it_has(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.mp4", (np.asarray(_noise(i)) for i in range(40)), 10, keyframe_every=10)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_video(path) as video:
        assert 10 < video.frames < 30
        assert video.duration == pytest.approx(4)
        assert video.at([0.5])[0].index == 5
        with pytest.raises(
            MediaError, match=r"cut\.mp4: the frame at 3\.50 s cannot be decoded; the file is cut off at"
        ):
            video.at([3.5])
        with pytest.raises(MediaError, match="cut off"):
            video.sample(8)


@pytest.mark.parametrize("threads", [True, False])
def test_damage_inside_spoils_only_its_part(tmp_path: Path, threads: bool) -> None:
    path = write_video(tmp_path / "hurt.mp4", (_noise(i) for i in range(60)), 10, keyframe_every=10)
    damage(path, 0.45, 0.5)
    with open_video(path) as video:
        video._source._threads = threads
        assert video.frames == 60
        assert video.at([0.3])[0].index == 3
        with pytest.raises(
            MediaError, match=r"hurt\.mp4: the frame at 2\.\d0 s cannot be decoded; the file is damaged"
        ):
            video.at([t / 10 for t in range(20, 40)])
        assert video.at([5.5])[0].index == 55


def _noise(i: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (48, 64, 3), dtype=np.uint8))


def test_one_liners(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.mp4").write_text("buy milk " * 50)
    (tmp_path / "short.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    (tmp_path / "phone.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(50))
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    Image.new("RGB", (1, 9)).save(tmp_path / "line.gif", save_all=True, append_images=[Image.new("RGB", (1, 9), "red")])
    for name, words in {
        "missing.mp4": "no such file",
        ".": "is a directory",
        "empty.mp4": r"is empty \(0 bytes\)",
        "notes.mp4": "cannot be opened as a video or picture",
        "short.png": "cannot be opened|damaged|has no frames",
        "phone.heic": "HEIC",
        "sound.wav": "has no frames",
        "dot.png": "is 1x1 pixels; at least 2x2 needed",
        "line.gif": "is 1x9 pixels; at least 2x2 needed",
    }.items():
        with pytest.raises(MediaError, match=words) as caught:
            open_video(tmp_path / name)
        assert "\n" not in str(caught.value)
        if name not in ("dot.png", "line.gif"):
            for read in (kind, open_image):
                if name == "short.png" and read is kind:
                    continue  # a picture by its header
                with pytest.raises(MediaError):
                    read(tmp_path / name)
    with pytest.raises(MediaError, match="download it first"):
        open_video("https://example.org/a.mp4")


@pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
def test_bad_files_are_closed(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    _noise(0).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:900])
    for name in ("dot.png", "half.png"):
        with pytest.raises(MediaError):
            open_video(tmp_path / name)
        with pytest.raises(MediaError):
            open_image(tmp_path / name)
    gc.collect()


def test_any_damage_is_a_media_error(tmp_path: Path, clip: Path) -> None:
    """Whatever is broken, nothing but MediaError comes out, and what comes out are frames."""
    rng = random.Random(0)
    gif, png = tmp_path / "a.gif", tmp_path / "a.png"
    grey(0).save(gif, save_all=True, append_images=[grey(i) for i in range(1, 9)], duration=100)
    _noise(0).save(png)
    webm = encode(tmp_path / "a.webm", "libvpx-vp9", 20)
    for source in (clip, gif, png, webm, encode(tmp_path / "a.avi", "mpeg4", 20)):
        data = source.read_bytes()
        for trial in range(12):
            broken = bytearray(data[: rng.randrange(1, len(data))] if trial % 2 else data)
            for _ in range(rng.choice([0, 1, 10, 100])):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            path = tmp_path / f"broken{source.suffix}"
            path.write_bytes(bytes(broken))
            for read in (kind, open_image, lambda p: open_video(p).sample(4)):
                try:
                    read(path)
                except MediaError as error:
                    assert "\n" not in str(error)  # noqa: PT017


# --- pictures -----------------------------------------------------------------------------------------------------


def test_open_image_sources(tmp_path: Path) -> None:
    grey(2).save(tmp_path / "a.png")
    array = np.asarray(grey(2))
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        grey(2),
        array,
        array[..., 0],
        array[..., :1],
        array / 255,
    ):
        image = open_image(source)
        assert (image.mode, image.size) == ("RGB", (64, 48))
        assert shows(image, 2)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.int64),
        np.full((4, 4, 3), 2.0),
        np.full((4, 4), np.nan),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
    ],
)
def test_open_image_refuses_arrays(array: np.ndarray) -> None:
    with pytest.raises(MediaError):
        open_image(array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_modes(mode: str) -> None:
    image = open_image(Image.new("L", (4, 4), 255).convert("RGB" if mode in ("CMYK", "YCbCr") else "L").convert(mode))
    assert image.mode == "RGB"
    if mode not in ("I;16",):
        assert np.asarray(image).min() >= 250


def test_sixteen_bits_and_alpha() -> None:
    deep = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    assert open_image(deep).getpixel((0, 0)) == (128, 128, 128)
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_image(half).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (20, 40)
    with open_video(tmp_path / "a.jpg") as video:
        assert (video.width, video.height) == video.sample(1)[0].image.size == (20, 40)


def test_bombs_and_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _noise(0).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="damaged"):
        open_image(tmp_path / "half.png")
    with pytest.raises(MediaError, match=r"more than 1,000 in all.*limits=Limits\(pixels="):
        open_image(tmp_path / "a.png", Limits(pixels=1000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(MediaError, match="shrink it first"):
        open_image(tmp_path / "a.png")


def test_open_image_leaves_its_input_alone() -> None:
    image = grey(1)
    out = open_image(image)
    out.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (level(1),) * 3


# --- writing ------------------------------------------------------------------------------------------------------


def test_write_refuses(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(InputError, match="no frames"):
        write_video(path, [])
    with pytest.raises(InputError, match="frame 1 is 8x8; the ones before 64x48"):
        write_video(path, [grey(0), grey(0, (8, 8))])
    with pytest.raises(InputError, match="'fps'"):
        write_video(path, [grey(0)], 0)
    for times in ([0.0], [0.0, 0.0], [1.0, 0.5]):
        with pytest.raises(InputError, match="'times'"):
            write_video(path, [grey(0), grey(1)], times=times)
    with pytest.raises(MediaError, match="cannot be written"):
        write_video(tmp_path / "no" / "such" / "a.mp4", [grey(0)])


@pytest.mark.parametrize("fps", [1, 8, 24, 29.97, 60])
def test_write_keeps_the_rate(tmp_path: Path, fps: float) -> None:
    with open_video(write_video(tmp_path / "a.mp4", [grey(i) for i in range(12)], fps)) as video:
        assert (video.frames, video.fps) == (12, pytest.approx(fps, rel=2e-3))


def test_demo_clip(tmp_path: Path) -> None:
    clip = demo_clip(tmp_path / "demo.mp4")
    again = demo_clip(tmp_path / "again.mp4")
    assert (clip.word, clip.start, clip.stop, clip.shapes) == (again.word, again.start, again.stop, again.shapes)
    assert demo_clip(tmp_path / "other.mp4", seconds=1, fps=2, size=(64, 48), seed=5).shapes != clip.shapes
    assert clip.path.read_bytes() == again.path.read_bytes()
    with open_video(clip.path) as video:
        assert (video.frames, video.width, video.height) == (64, 224, 160)
        assert video.duration == pytest.approx(8)
        corners = [np.asarray(f.image)[-20:, -60:] for f in video.at([clip.start - 0.2, (clip.start + clip.stop) / 2])]
        assert (corners[1] > 240).mean() > 0.2 > (corners[0] > 240).mean()  # the sign is there, and only then
    with pytest.raises(InputError):
        demo_clip(tmp_path / "no.mp4", seconds=0)


# --- other people's files, where there are some --------------------------------------------------------------------


@pytest.mark.parametrize("path", CLIPS, ids=lambda p: p.stem)
def test_found_files(path: Path) -> None:
    if "bitmap" in path.name:
        with pytest.raises(MediaError, match="is 1x1 pixels"):
            open_video(path)
        return
    with open_video(path) as video:
        wanted = sorted(random.Random(0).sample(range(video.frames), min(6, video.frames)))
        if "corrupted" in path.name:
            with pytest.raises(MediaError, match=r"damaged from 2\.90 s on"):
                video.sample(4)
            wanted = [i for i in wanted if i < 29]
        frames = video.at([video.times[i] for i in reversed(wanted)])[::-1]
        assert [f.index for f in frames] == wanted
        assert {f.image.size for f in frames} == {(video.width, video.height)}
        if path.suffix == ".gif":
            return
        plain = {}
        with av.open(str(path)) as container:
            for i, frame in zip(range(max(wanted) + 1), container.decode(video=0)):
                if i in wanted:
                    plain[i] = frame.to_ndarray(format="rgb24")
        for frame in frames:
            turned = np.rot90(np.asarray(frame.image), {"90": 1, "180": 2, "270": -1}.get(path.stem[-3:].strip("_"), 0))
            turned = np.rot90(turned, 2) if "fire2" in path.name else turned
            if frame.index in plain:
                assert np.array_equal(turned, plain[frame.index])
