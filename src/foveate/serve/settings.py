"""What a server allows; every limit has a default that suits a machine facing people one does not know."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import InputError

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Limits of a server.

    Attributes:
        keys: API keys, any of which opens; empty lets everyone in.
        waiting: requests that may wait or be prepared; one more is answered with 429.
        running: requests that are answered at a time.
        deadline: seconds from a request's arrival to the end of its answer; a client can ask for less.
        sending: seconds that a client may take to accept one piece of an answer.
        body: bytes of a request, data URIs included. reading: seconds that its body may take to arrive.
        media: images and videos in one request. media_bytes: of one of them. media_seconds: to fetch and decode one.
        pixels: of one picture or frame. video_seconds: length of one video.
        frames: sampled from a video when the request does not say. most_frames: at most, if it does.
        prompt: tokens of a prompt before anything is reduced, and new_tokens: of an answer, at most.
        default_new_tokens: of an answer when the request does not say.
        fetch: whether media are fetched from web addresses at all; data URIs always work.
        private_hosts: names of hosts that may lie at private addresses.
        redirects: hops that are followed.
        plans: if given, clients can choose only among these plans (by their text); "none" must be listed too.
        reuse_bytes: memory for what earlier requests left: encoded media and read prefixes. 0 switches both off.
        preparing: threads that fetch and decode media.
    """

    keys: tuple[str, ...] = field(default=(), repr=False)
    waiting: int = 64
    running: int = 32
    deadline: float = 300.0
    sending: float = 30.0
    body: int = 64 * MIB
    reading: float = 60.0
    media: int = 16
    media_bytes: int = 64 * MIB
    media_seconds: float = 30.0
    pixels: int = 50_000_000
    video_seconds: float = 2 * 3600.0
    frames: int = 16
    most_frames: int = 128
    prompt: int = 65_536
    new_tokens: int = 2048
    default_new_tokens: int = 256
    fetch: bool = True
    private_hosts: tuple[str, ...] = ()
    redirects: int = 3
    plans: tuple[str, ...] | None = None
    reuse_bytes: int = 512 * MIB
    preparing: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("reuse_bytes", "redirects") else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise InputError(f"{name!r} of the server must be at least {least}. Got {value}.")
            if isinstance(value, float) and not 0 < value < float("inf"):
                raise InputError(f"{name!r} of the server must be a positive number of seconds. Got {value}.")
        if self.frames > self.most_frames or self.default_new_tokens > self.new_tokens:
            raise InputError("a default of the server is above its own limit: frames or default_new_tokens")
        if any(not k.strip() or not k.isascii() for k in self.keys):
            raise InputError("an API key is empty or holds characters that no header can carry")
