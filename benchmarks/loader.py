"""How fast do images arrive from object storage? raypose against MosaicML Streaming, LitData and WebDataset.

    make peers
    .venv/bin/python -m benchmarks.loader [--samples 20160] [--repeats 5] [--workers 2]

Every contestant reads the same JPEGs (coco-mini and lspet, again and again, shuffled once) from the same S3 server on
this machine, decodes them, brings them to 192 x 192 RGB and makes batches of 64, in equally many workers. Each
measurement is a process of its own with an empty cache; contestants take turns. `cold` is the first epoch, from the
server, `warm` the second, from the cache. The result is the median of the repeats; `ratio_cold` and `ratio_warm` are
raypose's images a second over those of the best other, at the settings that its documentation recommends for speed;
`ratio_cold_plain` and the like are those of its other settings. Memory is the peak of what only this job holds, over
all its processes, without the page cache. The last line is JSON, and the whole result is a dated file.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.object_store import s3_server
from benchmarks.record import RESULTS, ROOT, machine
from raypose.config.s3_url import S3Location
from raypose.storage import open_store
from tests.s3.servers import SERVER_ENVIRONMENT, client_of

HERE = Path(__file__).parent
PEERS_PYTHON = ROOT / ".peers" / "bin" / "python"
RAYPOSE_WAYS = {
    "raypose": ["--kind", "processes", "--keep-pixels"],
    "raypose-plain": ["--kind", "processes"],
    "raypose-threads": ["--kind", "threads"],
}
"""The settings that docs/data.md recommends where loading is what holds training up; without decoded images kept on the
node's disk; and by default."""
CONTESTANTS = (*RAYPOSE_WAYS, "streaming", "litdata", "webdataset")
PACKAGES = ("numpy", "opencv-python", "torch", "mosaicml-streaming", "litdata", "webdataset")
BUCKET = "loader-benchmark"
FIGURES = ("cold", "warm", "warm_cpu_us", "peak_mib")
SAMPLE_INTERVAL_S = 0.25
ATTEMPTS = 3


def library_of(contestant: str) -> str:
    return contestant.partition("-")[0]


def run_contestant(verb: str, library: str, *arguments: object) -> subprocess.Popen[str]:
    command = [PEERS_PYTHON, HERE / "loader_contestants.py", verb, library, *arguments]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def prepare(libraries: list[str], given: argparse.Namespace, endpoint: str) -> dict[str, str]:
    """Write each library's format and put it into the bucket; where each one reads it from."""
    client = client_of(endpoint)
    client.create_bucket(Bucket=BUCKET)
    urls = {}
    for library in libraries:
        out = given.work / "written" / library
        shutil.rmtree(out, ignore_errors=True)
        finish(run_contestant("write", library, "--data", given.data, "--samples", given.samples, "--out", out))
        location = S3Location(BUCKET, library, endpoint_url=endpoint)
        store = open_store(location.url)
        names = sorted(path.name for path in out.iterdir() if path.is_file())
        for name in names:
            store.upload(out / name, name)
        if library == "raypose":
            urls[library] = location.url
        elif library == "webdataset":  # plain HTTP, which its own client reads fastest
            for name in names:
                client.put_object_acl(Bucket=BUCKET, Key=f"{library}/{name}", ACL="public-read")
            urls[library] = " ".join(f"{endpoint}/{BUCKET}/{library}/{name}" for name in names)
        else:
            urls[library] = f"s3://{BUCKET}/{library}"
        shutil.rmtree(out)
    return urls


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(process.args[2:4])} failed:\n{errors[-3000:]}")  # type: ignore[index]
    return output


def measure(contestant: str, url: str, given: argparse.Namespace) -> dict[str, float]:
    """FIGURES: images a second, processor time an image when warm, and the peak of memory.

    A contestant that fails is asked again: Streaming sometimes reads a shard that its other worker still fetches.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return measure_once(contestant, url, given)
        except SystemExit as failure:
            print(f"{contestant}: failed, attempt {attempt} of {ATTEMPTS}: {str(failure).splitlines()[-1]}", flush=True)
    return measure_once(contestant, url, given)


def measure_once(contestant: str, url: str, given: argparse.Namespace) -> dict[str, float]:
    library = library_of(contestant)
    cache = given.work / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    options = ["--samples", given.samples, "--workers", given.workers, *RAYPOSE_WAYS.get(contestant, ())]
    options += ["--reduce"] if given.reduce_peers else []
    process = run_contestant("read", library, "--url", url, "--cache", cache, *options)
    peak = PeakMemory(process.pid)
    with peak:
        output = finish(process)
    shutil.rmtree(cache, ignore_errors=True)
    return {**json.loads(output.splitlines()[-1]), "peak_mib": round(peak.peak_bytes / (1 << 20), 1)}


class PeakMemory:
    """Watches the private and shared memory of a process and its children; files in the page cache do not count."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_INTERVAL_S):
            with contextlib.suppress(psutil.NoSuchProcess):
                family = [self._root, *self._root.children(recursive=True)]
                self.peak_bytes = max(self.peak_bytes, sum(own_bytes(member.pid) for member in family))


def own_bytes(pid: int) -> int:
    """This process's share of memory that is no file's."""
    with contextlib.suppress(OSError):
        rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
        return sum(int(row[1]) * 1024 for row in rows if row[0] in ("Pss_Anon:", "Pss_Shmem:"))
    return 0  # it has ended


def summarize(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    medians = {
        name: {figure: statistics.median(run[figure] for run in done) for figure in FIGURES}
        for name, done in runs.items()
    }
    summary: dict[str, Any] = {"median": medians}
    peers = {name: figures for name, figures in medians.items() if library_of(name) != "raypose"}
    for epoch in ("cold", "warm") if peers else ():
        best = max(peers, key=lambda name: peers[name][epoch])
        summary[f"best_peer_{epoch}"] = best
        for way in [name for name in RAYPOSE_WAYS if name in medians]:
            key = f"ratio_{epoch}" + way.removeprefix("raypose").replace("-", "_")
            summary[key] = round(medians[way][epoch] / peers[best][epoch], 3)
    return summary


def peer_versions() -> dict[str, str]:
    code = f"import importlib.metadata as m, json; print(json.dumps({{p: m.version(p) for p in {PACKAGES}}}))"
    found = subprocess.run([PEERS_PYTHON, "-c", code], check=True, capture_output=True, text=True)
    return {"raypose": version("raypose"), **json.loads(found.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_160)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="worker processes, or raypose's threads")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--reduce-peers", action="store_true", help="let the others decode at half size, too")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="with lspet and coco-mini")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "loader-benchmark")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if not PEERS_PYTHON.exists():
        sys.exit(f"{PEERS_PYTHON.relative_to(ROOT)}: not found; 'make peers' installs what raypose is compared with")
    machine_at_start = machine()
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ.update(SERVER_ENVIRONMENT)
    with s3_server(given.work / "server") as (server, endpoint):
        # boto3, LitData and raypose's store listen to the AWS names, Streaming has one of its own.
        os.environ.update(AWS_ENDPOINT_URL=endpoint, S3_ENDPOINT_URL=endpoint)
        os.environ.update(AWS_REQUEST_CHECKSUM_CALCULATION="when_required", LITDATA_DISABLE_VERSION_CHECK="1")
        urls = prepare(sorted({library_of(name) for name in given.only}), given, endpoint)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in given.only}
        for repeat in range(given.repeats):
            turn = repeat % len(given.only)
            for name in given.only[turn:] + given.only[:turn]:
                runs[name].append(measure(name, urls[library_of(name)], given))
                print(f"{repeat + 1} {name:18} {runs[name][-1]}", flush=True)
    settings = {"samples": given.samples, "repeats": given.repeats, "workers": given.workers, "server": server}
    settings["reduce_peers"] = given.reduce_peers
    summary = summarize(runs)
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": machine_at_start,
        "versions": peer_versions(),
        "settings": settings,
        **summary,
        "runs": runs,
    }
    given.results.mkdir(exist_ok=True)
    name = f"loader-{result['date']}{'-reduced-peers' if given.reduce_peers else ''}.json"
    (given.results / name).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
