"""Reading and writing media: exact frames at given times, pictures made upright RGB, and a clip drawn from nothing."""

from .demo import DemoClip, demo_clip
from .images import kind, open_image
from .read import Frame, Video, open_video
from .write import write_video

__all__ = ["DemoClip", "Frame", "Video", "demo_clip", "kind", "open_image", "open_video", "write_video"]
