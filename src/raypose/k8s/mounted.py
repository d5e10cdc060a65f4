"""The files that pods see: config maps by where they are mounted."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from raypose.k8s.manifest import Group, Manifest, at, items, mapping

_OPERATORS = ";&|\n"
_SHELLS = {"sh", "bash"}
_COMMENT_OR_CONTINUATION = re.compile(r"^([ \t]*#.*)$|\\\n", re.MULTILINE)
"""A line of comment ends where it ends, even in a backslash."""


@dataclass(frozen=True, slots=True)
class ConfigMaps:
    """All config maps of a rendering, by name."""

    data: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, manifests: Sequence[Manifest]) -> ConfigMaps:
        return cls({one.name: mapping(one.content.get("data")) for one in manifests if one.kind == "ConfigMap"})

    def text(self, group: Group, path: str) -> str | None:
        """What a file of the Ray container holds, where it comes from one of these config maps."""
        wanted = PurePosixPath(path)
        for mount in items(group.ray_container.get("volumeMounts")):
            folder = PurePosixPath(str(mount.get("mountPath", "/")))
            if wanted.parent != folder:
                continue
            for volume in items(group.pod.get("volumes")):
                if volume.get("name") == mount.get("name"):
                    files = self.data.get(str(at(volume, "configMap", "name")), {})
                    return files.get(wanted.name)
        return None

    def commands(self, group: Group, shell: str) -> Iterator[list[str]]:
        """Every command of a line of shell, and of the mounted scripts that it starts, as words.

        Raises ValueError for what is no shell, such as a quote that nothing closes.
        """
        for words in shell_commands(shell):
            if words[0] in _SHELLS and len(words) == 2:
                script = self.text(group, words[1])
                if script is not None:
                    yield from self.commands(group, script)
                    continue
            yield words


class _Script:
    """A script for shlex, which skips comments by `readline`: that leaves the end of the line, which ends commands."""

    def __init__(self, text: str) -> None:
        self._text = io.StringIO(text)
        self.read, self.close = self._text.read, self._text.close

    def readline(self) -> str:
        line = self._text.readline()
        if line.endswith("\n"):
            self._text.seek(self._text.tell() - 1)
        return line


def shell_commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a script, as words. Knows enough of shell for scripts that only call programs.

    Raises ValueError for what is no shell, such as a quote that nothing closes.
    """
    joined = _COMMENT_OR_CONTINUATION.sub(lambda match: match[1] or "", text)
    lexer = shlex.shlex(_Script(joined), posix=True, punctuation_chars=_OPERATORS)
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word and not word.strip(_OPERATORS):
            if words:
                yield words
            words = []
        elif words or word not in ("then", "do", "else", "if", "!"):
            words.append(word)
