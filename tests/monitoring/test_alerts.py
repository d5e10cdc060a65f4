"""Every alert fires where it should and is silent where it should, by Prometheus' own rule tests."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from raypose.monitoring.alerts import GROUPS

RULES = Path(__file__).parents[2] / "cluster/monitoring/rules.yaml"
ALERTS = {alert.name: alert for alerts in GROUPS.values() for alert in alerts}
RUNNING = ('raypose_run_finished{run="a"}', "0x200")
FINISHED = ('raypose_run_finished{run="a"}', "1x200")

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian's prometheus) is not installed"
)


@dataclass(frozen=True)
class Case:
    """Series, one value a minute, with which the alert fires, and some with which it does not, after 100 minutes."""

    firing: tuple[tuple[str, str], ...]
    silent: tuple[tuple[tuple[str, str], ...], ...]


def requests(code: str, values: str) -> tuple[str, str]:
    return (f'raypose_serve_requests_total{{replica="r",path="/v1/predict",code="{code}"}}', values)


STEP, WAIT = 'raypose_train_step{run="a"}', 'raypose_train_data_wait_seconds_total{run="a"}'
AGE, LOSS = 'raypose_checkpoint_age_seconds{run="a"}', 'raypose_train_loss{run="a",loss="box_loss"}'
FETCHED, EPOCH = 'raypose_data_fetched_bytes_total{run="a"}', 'raypose_train_epoch{run="a"}'
DATA = ('raypose_data_bytes{run="a"}', "1000x200")
RESTARTS, BAD = 'raypose_restarts_total{run="a",cause="node_lost"}', 'raypose_data_bad_images_total{run="a"}'
CHANGES = 'raypose_serve_model_changes_total{replica="r",outcome="refused"}'
DRIFT = 'raypose_serve_drift{replica="r",version="best-1",of="scores"}'
USED, FREE = 'ray_node_disk_usage{ip="10.0.0.1"}', 'ray_node_disk_free{ip="10.0.0.1"}'

CASES = {
    "RayposeStepStalled": Case(((STEP, "7x200"), RUNNING), (((STEP, "0+1x200"), RUNNING), ((STEP, "7x200"), FINISHED))),
    "RayposeDataBound": Case(
        ((WAIT, "0+30x200"), RUNNING), (((WAIT, "0+6x200"), RUNNING), ((WAIT, "0+30x200"), FINISHED))
    ),
    "RayposeCacheThrash": Case(
        ((FETCHED, "0+400x200"), (EPOCH, "0+0.1x200"), DATA),
        (
            ((FETCHED, "0+80x200"), (EPOCH, "0+0.1x200"), DATA),  # a cache that holds less than the set
            ((FETCHED, "0x60 0+100x10 1000x200"), (EPOCH, "0+0.001x200"), DATA),  # fetched well ahead
        ),
    ),
    "RayposeCheckpointTooOld": Case(
        ((AGE, "3000+60x200"), RUNNING), (((AGE, "600x200"), RUNNING), ((AGE, "3000+60x200"), FINISHED))
    ),
    "RayposeLossNotFinite": Case(((LOSS, f"1.5x90 {' '.join(['NaN'] * 20)}"),), (((LOSS, "1.5x200"),),)),
    "RayposeWorkersFlapping": Case(((RESTARTS, "0x60 0+1x5 5x200"),), (((RESTARTS, "0x60 1x200"),),)),
    "RayposeBadImages": Case(((BAD, "0x60 4x200"),), (((BAD, "4x200"),),)),
    "RayposeErrorBudgetBurn": Case(
        (requests("ok", "0+100x200"), requests("internal", "0+5x200")),
        (
            (requests("ok", "0+1000x200"), requests("internal", "0+1x200")),
            (requests("ok", "0+100x200"), requests("bad_image", "0+50x200")),  # the clients' fault
            (requests("ok", "0+100x200"), requests("internal", "0+5x60 300x200")),  # over
        ),
    ),
    "RayposeQueueSaturated": Case(
        (requests("ok", "0+100x200"), requests("overloaded", "0+20x200")),
        ((requests("ok", "0+1000x200"), requests("overloaded", "0+1x200")),),
    ),
    "RayposeModelRefused": Case(((CHANGES, "0x60 1x200"),), (((CHANGES, "1x200"),),)),
    "RayposeDrift": Case(((DRIFT, "0.4x200"),), (((DRIFT, "0.2x200"),), ((DRIFT, "0.4x20 0.1x180"),))),
    "RayposeDiskFilling": Case(((USED, "95x200"), (FREE, "5x200")), (((USED, "60x200"), (FREE, "40x200")),)),
}


def expecting_silence(alert: str, series: tuple[tuple[str, str], ...]) -> dict[str, object]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "alert_rule_test": [{"eval_time": "100m", "alertname": alert, "exp_alerts": []}],
    }


def outcome(tests: list[dict[str, object]], folder: Path) -> str:
    path = folder / "alerts.test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_every_alert_has_its_cases() -> None:
    assert set(CASES) == set(ALERTS)


def test_the_rules_are_what_prometheus_takes() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires(name: str, tmp_path: Path) -> None:
    # What promtool got is in what it prints where it expected nothing.
    said = outcome([expecting_silence(name, CASES[name].firing)], tmp_path)
    assert f'alertname="{name}"' in said, said
    assert ALERTS[name].runbook in said


@pytest.mark.parametrize("name", CASES)
def test_an_alert_is_silent(name: str, tmp_path: Path) -> None:
    said = outcome([expecting_silence(name, series) for series in CASES[name].silent], tmp_path)
    assert "SUCCESS" in said, said
