"""Draw the demo clip: three shapes that move, and a word shown for a moment. ``python examples/make_clip.py CLIP``"""

import sys
from pathlib import Path

from foveate.video import demo_clip

path = Path(sys.argv[1] if len(sys.argv) > 1 else "clip.mp4")
path.parent.mkdir(parents=True, exist_ok=True)
clip = demo_clip(path)
print(f"{clip.path}: the word {clip.word} is shown from {clip.start:g} s to {clip.stop:g} s")
