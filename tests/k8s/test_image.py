"""What the image has beside raypose: every extra that a command asks for on a node, and what `ray up` needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from raypose.launch.cluster import KEPT_MEMORY

ROOT = Path(__file__).parents[2]
_CONTINUED = re.compile(r"\\\n\s*")
DOCKERFILE = _CONTINUED.sub("", (ROOT / "cluster/Dockerfile").read_text())
COMMANDS = re.findall(r"^RUN (.*)$", DOCKERFILE, re.MULTILINE)


def command_with(text: str) -> str:
    (command,) = (command for command in COMMANDS if text in command)
    return str(command)


def test_the_image_has_what_sweeps_trackers_and_exported_models_need_and_pins_it(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    write = command_with("> requirements.txt").replace("python", sys.executable, 1)
    subprocess.run(["/bin/bash", "-c", write], cwd=tmp_path, check=True)
    required = {
        re.split(r"[\[<>=!]", line)[0].lower() for line in (tmp_path / "requirements.txt").read_text().splitlines()
    }
    assert {"ray", "ultralytics", "optuna", "mlflow-skinny", "wandb", "onnxruntime", "openvino"} <= required
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    normal = {name.replace("_", "-") for name in pinned}
    assert {name.replace("_", "-") for name in required} <= normal


def test_a_login_shell_finds_the_programs_of_the_image(tmp_path: Path) -> None:
    profile = tmp_path / "raypose.sh"
    write = command_with("/etc/profile.d/raypose.sh").replace("/etc/profile.d/raypose.sh", str(profile))
    subprocess.run(["/bin/sh", "-c", write], check=True)
    reset = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"  # Debian's /etc/profile, before profile.d
    done = subprocess.run(
        ["/bin/sh", "-c", f'{reset}; . {profile}; echo "$PATH"'], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"/opt/raypose/bin:{reset.removeprefix('PATH=')}"


def test_the_image_for_cpus_keeps_the_memory_that_training_frees() -> None:
    (settings,) = re.findall(r"^ENV (MALLOC.*)$", DOCKERFILE, re.MULTILINE)
    assert dict(setting.split("=") for setting in settings.split()) == KEPT_MEMORY


def test_ray_up_can_copy_files_into_the_container() -> None:
    assert "rsync" in command_with("apt-get install").split()
