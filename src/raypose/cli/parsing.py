"""Whether other commands would begin, for those that have them run elsewhere."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


def command_problem(root: Any, words: list[str]) -> str | None:
    """What `raypose` would say to these arguments before it does anything; None where it would begin.

    `root` is the command that holds all others: `find_root().command` of a context.
    """
    command, name = root, "raypose"
    while isinstance(command, TyperGroup):
        if not words:
            return "names no command"
        word, *words = words
        if word not in command.commands:
            return f"there is no command {word!r}"
        command, name = command.commands[word], f"{name} {word}"
    try:
        command.make_context(name, list(words))
    except Exception as error:
        # Typer keeps the classes of its parser's errors to itself; what tells them apart is the text for users.
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message())
    return None
