from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "plan_scale.py"


def test_a_small_data_set_is_simulated_to_a_verdict_on_every_claim(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--quick", "--repeats", "1", "--processes", "1", "--out", str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    summary = json.loads(output.splitlines()[-1])
    assert summary["exactly_once_ok"]
    assert summary["equal_work_ok"]
    assert summary["fetched_ok"]
    assert summary["memory_ok"]
    assert isinstance(summary["step_ok"], bool)  # a busy machine may say no
    (record,) = tmp_path.glob("plan_scale-*-quick.json")
    assert json.loads(record.read_text())["coverage"] == {"read": 200_000, "twice": 0, "missed": 0}
    assert record.with_suffix(".png").stat().st_size < 200_000
