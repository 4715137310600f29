"""Reading and writing media: exact frames at given times, pictures made upright RGB, and a clip drawn from nothing."""

from .audio import Audio
from .demo import DemoClip, demo_clip
from .frame import Frame
from .images import kind, open_image
from .limits import Limits
from .read import Video, open_video
from .write import write_video

__all__ = [
    "Audio",
    "DemoClip",
    "Frame",
    "Limits",
    "Video",
    "demo_clip",
    "kind",
    "open_image",
    "open_video",
    "write_video",
]
