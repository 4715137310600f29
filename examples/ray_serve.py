"""Serve a model on Ray: two replicas behind one address, asked with OpenAI's form of request.

pip install 'foveate[serve,ray]'
python examples/ray_serve.py --model tiny --replicas 2
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import urllib.request
from typing import Any

from PIL import Image

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray
from ray import serve

from foveate.serve.ray import deployment


def start(model: str, plan: str, replicas: int, port: int) -> str:
    """Deploy on the running cluster, or on one that is started here; returns the address."""
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(deployment(model, plan, replicas=replicas, cpus=0.5), name="foveate", route_prefix="/")
    return f"http://127.0.0.1:{port}"


def ask(address: str, question: str, picture: Image.Image, new_tokens: int = 16) -> dict[str, Any]:
    """One question about one picture; the server's whole answer."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": new_tokens}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        out: dict[str, Any] = json.load(reply)
    return out


def main() -> None:
    """Deploy, ask once, and stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--plan", default="foveal(keep=0.25)")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    address = start(args.model, args.plan, args.replicas, args.port)
    said = ask(address, "What is it?", Image.radial_gradient("L"))
    usage = said["usage"]
    print(said["choices"][0]["message"]["content"])
    print(f"{usage['visual_tokens_after']} of {usage['visual_tokens_before']} visual tokens were kept")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
