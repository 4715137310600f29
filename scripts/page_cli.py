"""The documentation's page of commands, read from the program itself."""

from __future__ import annotations

from typing import Any

from page_parts import table


def cli_page() -> str:
    """Every command and its options, read from the program itself."""
    import typer

    from foveate.cli import app

    group: Any = typer.main.get_command(app)
    parts = [
        "# Command line",
        "Results go to standard output, progress to standard error. `--json` prints one JSON object and nothing else. "
        "Exit code 0: done; 2: something was wrong with what was given, said in one line.",
    ]
    for name, command in group.commands.items():
        if not hasattr(command, "commands"):
            parts += _command(f"foveate {name}", command, "##")
            continue
        parts += [f"## foveate {name}", " ".join((command.help or "").split())]
        for part, below in command.commands.items():
            parts += _command(f"foveate {name} {part}", below, "###")
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: Any, level: str) -> list[str]:
    """One command: what it does, how it is called, its options."""
    usage = " ".join(
        f"[{p.opts[-1]}{'' if getattr(p, 'is_flag', False) else ' ' + p.name.upper()}]"
        if p.param_type_name == "option"
        else str(p.metavar or p.name.upper())
        for p in command.params
        if p.name != "help"
    )
    given = [p for p in command.params if p.param_type_name == "argument" and p.help]
    rows = [
        [
            f"`{', '.join(p.opts)}`",
            "" if p.default is None or p.default is False else f"`{p.default}`",
            p.help or "",
        ]
        for p in command.params
        if p.param_type_name == "option" and p.name != "help"
    ]
    parts = [f"{level} {name}", " ".join((command.help or "").split()), f"```text\n{name} {usage}\n```"]
    parts += [f"`{p.metavar or p.name.upper()}`: {p.help}" for p in given]
    return [*parts, table(["option", "default", "what it does"], rows)] if rows else parts
