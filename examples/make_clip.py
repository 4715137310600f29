"""Draw a clip that lab/video was not trained on, in which a shape moves. ``python examples/make_clip.py CLIP``"""

import shutil
import sys
import tempfile
from pathlib import Path

from foveate.lab.tasks import generate, write

path = Path(sys.argv[1] if len(sys.argv) > 1 else "clip.mp4")
path.parent.mkdir(parents=True, exist_ok=True)
(item,) = generate("direction", seed=1, n=1, difficulty=0.3, frames=16)
with tempfile.TemporaryDirectory() as folder:
    drawn = write(item, folder, crf=12).path
    assert drawn is not None
    shutil.copyfile(drawn, path)
turn = item.turns[-1]
print(f'{path}: "{turn.question}" The answer is {turn.answer}.')
