"""Draw a picture of the lab and say what is in it. ``python examples/make_picture.py PICTURE``"""

import sys
from pathlib import Path

from foveate.lab.tasks import generate

path = Path(sys.argv[1] if len(sys.argv) > 1 else "picture.png")
path.parent.mkdir(parents=True, exist_ok=True)
item = generate("attribute", seed=11, n=1)[0]
item.media[0].save(path)
print(f"{path}: {item.question} {item.answer}")
