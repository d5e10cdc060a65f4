"""Are shard sets equal for any number of workers and after any kill, and how fast are they built?

    python benchmarks/build.py [--images 20000] [--size 320] [--kills 6] [--ray]

Draws the images once into --work, then runs `raypose data build` on them with 1, 2 and 4 workers, once more with
SIGKILL at random moments until the last start is left alone, and with --ray as Ray tasks. Every file of every set is
compared by SHA-256. Images per second are those of the whole command, start included. The last line is JSON, and a
dated copy of it goes to --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from raypose.data.build import LocalProcesses
from raypose.data.synth_folder import synthesize_folder

WORKERS = (1, 2, 4)
RAYPOSE = (str(Path(sys.executable).with_name("raypose")), "data", "build")


def main() -> None:
    options = parse_arguments()
    people = draw(options)
    seconds: dict[str, float] = {}
    digests: dict[str, str] = {}
    for workers in WORKERS:
        name = str(workers)
        out = fresh(options.work / f"set-{name}")
        seconds[name] = run_to_end(command(people, out, options, workers))
        digests[name] = digest_of(out)
        print(f"{workers} workers: {options.images / seconds[name]:,.0f} images/s, sha256 {digests[name][:16]}")
    out = fresh(options.work / "set-killed")
    kills = build_with_kills(command(people, out, options, 2), out, seconds["2"], options.kills, options.seed)
    digests["killed"] = digest_of(out)
    print(f"2 workers, killed {kills} times: sha256 {digests['killed'][:16]}")
    if options.ray:
        out = fresh(options.work / "set-ray")
        seconds["ray"] = run_to_end([*command(people, out, options, None), "--ray"])
        digests["ray"] = digest_of(out)
        print(f"Ray: {options.images / seconds['ray']:,.0f} images/s, sha256 {digests['ray'][:16]}")
    result = {
        "images": options.images,
        "images_per_second": {name: round(options.images / taken, 1) for name, taken in seconds.items()},
        "kills": kills,
        "digests": digests,
        "equal_ok": len(set(digests.values())) == 1,
        "killed_ok": kills >= min(options.kills, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"build-{time.strftime('%Y-%m-%d')}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/build"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=320, help="long side of the images in pixels")
    parser.add_argument("--shard-mib", type=int, default=4, help="so that a few hundred MB make many shards")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="decides when to kill")
    parser.add_argument("--ray", action="store_true", help="build on Ray, too")
    return parser.parse_args()


def draw(options: argparse.Namespace) -> Path:
    people: Path = options.work / f"people-{options.images}-{options.size}"
    if not (people / "dataset.yaml").exists():
        shutil.rmtree(people, ignore_errors=True)
        synthesize_folder(options.images, 1, options.size, people, runner=LocalProcesses(os.cpu_count() or 1))
    return people


def fresh(out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    return out


def command(people: Path, out: Path, options: argparse.Namespace, workers: int | None) -> list[str]:
    given = [] if workers is None else ["--workers", str(workers), "--no-ray"]
    return [*RAYPOSE, str(people), str(out), "--shard-mib", str(options.shard_mib), *given]


def run_to_end(words: list[str]) -> float:
    """Seconds that the command took."""
    start_s = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start_s


def build_with_kills(words: list[str], out: Path, usual_s: float, kills: int, seed: int) -> int:
    """Start the build again and again, and kill it at random moments; returns how often that came in time."""
    chance, killed = random.Random(seed), 0
    for _ in range(kills):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=chance.uniform(0.1, 0.4) * usual_s)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
            finished = len(list(out.glob(".building/*/*.json")))
            print(f"killed with {finished} shards finished")
    if not (out / "manifest.json").exists():
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return killed


def digest_of(out: Path) -> str:
    """Of the names and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(out)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
