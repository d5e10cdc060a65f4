"""The files that pods see: config maps by where they are mounted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from raypose.k8s.manifest import Group, Manifest, at, items, mapping

_OPERATORS = {"&&", "||", ";", "|", "&"}
_SHELLS = {"sh", "bash"}


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
        """Every command of a line of shell, and of the mounted scripts that it starts, as words."""
        for words in shell_commands(shell):
            if words[0] in _SHELLS and len(words) == 2:
                script = self.text(group, words[1])
                if script is not None:
                    yield from self.commands(group, script)
                    continue
            yield words


def shell_commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a script, as words. Knows enough of shell for scripts that only call programs."""
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in _OPERATORS:
                if words:
                    yield words
                words = []
            elif words or word not in ("then", "do", "else", "if", "!"):
                words.append(word)
