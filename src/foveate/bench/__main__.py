"""``python -m foveate.bench``: run a study, or print every goal of the results."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import (
    ablation,
    cache,
    decode,
    decode_media,
    diffusion,
    gpu,
    image,
    memory,
    methods,
    mutants,
    prefill,
    results,
    serve,
    streaming,
    video,
)


def main() -> None:
    """Command line of the benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m foveate.bench", description=__doc__)
    what = parser.add_subparsers(dest="what", required=True)
    for name in ("prefill", "all"):
        one = what.add_parser(name, help="time to first token against the oracle")
        one.add_argument("--out", type=Path, default=Path("results/prefill.json"))
        one.add_argument("--method", default="divprune")
        one.add_argument("--sizes", type=int, nargs="+", default=[2048, 6144], help="visual tokens, about")
        one.add_argument("--repeats", type=int, default=3)
        one.add_argument("--small", action="store_true", help="tiny shapes: a dry run in seconds")
    alone = what.add_parser("methods", help="every method's decision alone, as a share of the prefill")
    alone.add_argument("--out", type=Path, default=Path("results/methods_speed.json"))
    alone.add_argument("--sizes", type=int, nargs="+", choices=list(methods.SIZES), default=list(methods.SIZES))
    alone.add_argument("--only", nargs="+", default=[], help="names of methods; default: all")
    alone.add_argument("--repeats", type=int, default=5)
    alone.add_argument("--small", action="store_true", help="prefill of a tiny model: a dry run")
    image.add(what)
    video.add(what)
    ablation.add(what)
    serve.add(what)
    cache.add(what)
    decode.add(what)
    decode_media.add(what)
    mutants.add(what)
    memory.add(what)
    streaming.add(what)
    diffusion.add(what)
    gpu.add(what)
    listing = what.add_parser("goals", help="every goal of the results, those that fall short first")
    listing.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args()
    if args.what == "goals":
        found = results.goals(args.results)
        print("\n".join(results.lines(found)))
        print(f"{sum(g['holds'] for g in found)} of {len(found)} goals hold")
        return
    if args.what in ("image", "video", "foveal", "cache"):
        {"image": image, "video": video, "foveal": ablation, "cache": cache}[args.what].main(args)
        return
    if args.what in ("memory", "streaming"):
        {"memory": memory, "streaming": streaming}[args.what].main(args)
        return
    if args.what == "serve":
        serve.main(args)
        return
    if args.what in ("diffusion", "gpu"):
        {"diffusion": diffusion, "gpu": gpu}[args.what].main(args)
        return
    if args.what == "decode":
        decode.main(args)
        return
    if args.what in ("decode_media", "mutants"):
        {"decode_media": decode_media, "mutants": mutants}[args.what].main(args)
        return
    if args.what == "methods":
        methods.study(args.out, args.sizes, args.repeats, args.only, args.small)
        methods.plot(args.out)
        print(f"wrote {args.out} and {args.out.with_suffix('.png')}")
        return
    prefill.study(args.out, args.method, tuple(args.sizes), args.repeats, args.small)
    prefill.plot(args.out)
    print(f"wrote {args.out} and {args.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
