"""One question about one video under several plans: what each keeps, what it costs, and a picture of it.

``python examples/ask_about_a_video.py [VIDEO QUESTION [MODEL]]``; without arguments it draws a clip of its own. The
model that comes with foveate is untrained: name a trained one for answers.
"""

import sys
from pathlib import Path

import foveate
from foveate.video import demo_clip

PLANS = ("none", "avgpool", "divprune(keep=0.25)", "divprune(keep=0.1) + snapkv(keep=0.3)")


def main(video: Path, question: str, model: str = "tiny") -> None:
    loaded = foveate.load(model)
    for plan in PLANS:
        answer = foveate.ask(video, question, model=loaded, plan=plan, max_new_tokens=8)
        held = answer.report.kv_bytes if answer.plan else "all"
        print(f"{plan}: {answer.first_token:.2f} s to the first token, {held} bytes of keys and values: {answer.text}")
    print("picture:", answer.show("kept.png"))


if __name__ == "__main__":
    given = sys.argv[1:]
    if not given:
        given = [str(demo_clip("clip.mp4").path), "What word is shown?"]
    main(Path(given[0]), *given[1:])
