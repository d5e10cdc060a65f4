"""What a training worker imports: every start, and every recovery, waits for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data_sets import build_synthetic

TRAINING = """
import sys
from pathlib import Path

from raypose.engine.loop import run
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.storage import open_store
from tests.data_sets import tiny_run

folder, optimizer = Path(sys.argv[1]), sys.argv[2]
config = tiny_run(folder, folder / "runs", "name=start", f"train.optimizer={optimizer}", "train.epochs=1")
parts = prepare(config, World(0, 1), open_store(config.storage).child(config.name), print)
run(parts, print, lambda: False)
print("imported:", *{"torch._dynamo", "torch._inductor", "sympy", "torchvision"} & sys.modules.keys())
"""


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "MuSGD"])
def test_training_and_validation_import_no_compiler(optimizer: str, tmp_path: Path) -> None:
    build_synthetic(tmp_path, train=8, val=4, size_px=64, shard_bytes=2**20)
    command = [sys.executable, "-c", TRAINING, str(tmp_path), optimizer]
    said = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    assert "EpochValidated(" in said.stdout, said.stdout
    assert said.stdout.splitlines()[-1] == "imported:"
