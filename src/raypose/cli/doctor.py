"""`raypose doctor`: what this machine has, what a run will miss, and what to do about it."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer
from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape

from raypose.data.cache import cache_folder
from raypose.errors import RayposeError
from raypose.launch.cluster import cluster_address, require_answer
from raypose.storage import is_remote, open_store, require_writable

Status = Literal["ok", "warn", "fail"]

GIB = 1024**3
SHARED_MEMORY_WANTED_BYTES = GIB
"""Ray keeps its object store in /dev/shm; containers often have 64 MiB."""
MEMORY_WANTED_BYTES = 4 * GIB
DISK_WANTED_BYTES = 5 * GIB
DISK_NEEDED_BYTES = GIB // 2

SHOWN_PACKAGES = ("torch", "torchvision", "ultralytics", "ray", "numpy", "opencv-python", "pydantic")
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `advice` says what to do, and is empty where nothing is wrong."""

    name: str
    status: Status
    found: str
    advice: str = ""


def doctor(
    storage: Annotated[str, typer.Option(help="Folder or s3:// URL that runs are written to.")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine: versions, CPU, GPU, memory, disk, Ray. Exit code 1 if a run could not work."""
    findings = list(examine(storage))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print_table(findings)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def examine(storage: str) -> Iterator[Finding]:
    """Every finding about this machine, in the order in which people read them."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield from check_packages()
    yield check_import(
        "cv2", "install libgl1 and libglib2.0-0, or opencv-python-headless; `make setup` does the latter"
    )
    ray_loads = check_import("ray", "install the pinned version with `make setup`")
    yield ray_loads
    if ray_loads.status == "ok":
        yield check_ray_address(cluster_address())
    yield check_cpu(_read_text(Path("/proc/cpuinfo")), available_cores())
    yield check_memory(available_memory_bytes())
    torch_loads = check_import("torch", "install the pinned version with `make setup`")
    yield torch_loads
    if torch_loads.status == "ok":
        yield check_gpu()
    yield check_shared_memory(Path("/dev/shm"))
    if is_remote(storage):
        yield check_bucket(storage)
    else:
        folder = Path(storage).expanduser()
        yield check_writable("storage", folder)
        yield check_disk("disk", folder)
    yield check_writable("temporary files", Path(tempfile.gettempdir()))
    shards = cache_folder()
    yield check_writable("shard cache", shards)
    yield check_disk("cache disk", shards)
    yield check_offline(os.environ)


def check_packages() -> Iterator[Finding]:
    """Installed versions, and every requirement of raypose that the installation does not meet."""
    shown = [f"{name} {version}" for name in ("raypose", *SHOWN_PACKAGES) if (version := _installed_version(name))]
    yield Finding("packages", "ok", ", ".join(shown))
    for requirement in map(Requirement, metadata.requires("raypose") or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _installed_version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            yield Finding(
                requirement.name,
                "fail",
                found or "not installed",
                f"raypose needs {requirement.name}{requirement.specifier}; run `make setup`",
            )


def check_import(module: str, advice: str) -> Finding:
    """Whether the module loads, shared libraries and all."""
    try:
        importlib.import_module(module)
    except Exception as error:
        # A broken installation raises what it likes: ImportError, OSError, AttributeError … The finding is the same.
        return Finding(module, "fail", f"import {module}: {error}", advice)
    return Finding(module, "ok", f"import {module} works")


def check_ray_address(address: str | None) -> Finding:
    """Whether a run would reach the cluster that RAY_ADDRESS names; without one, it starts a local Ray."""
    name = "RAY_ADDRESS"
    if address is None:
        return Finding(name, "ok", "names no cluster: runs start a local Ray")
    try:
        require_answer(address)
    except RayposeError as error:
        found, _, advice = str(error).removeprefix(f"{name}: ").rpartition("; ")  # errors end with the next step
        return Finding(name, "fail", found, advice)
    return Finding(name, "ok", address if address == "auto" else f"{address} answers")


def check_cpu(cpuinfo: str, cores: int) -> Finding:
    """Cores of this process and what `train.precision: auto` will choose on them."""
    flags = cpu_flags(cpuinfo)
    vector = next((flag for flag in ("avx512f", "avx2", "asimd") if flag in flags), "no known vector extension")
    bfloat16 = [flag for flag in BFLOAT16_FLAGS if flag in flags]
    precision = f"{', '.join(bfloat16)}: bfloat16" if bfloat16 else "no bfloat16 arithmetic: float32"
    return Finding("cpu", "ok", f"{cores} cores, {vector}, {precision}")


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Features of the first processor in the text of /proc/cpuinfo (`flags` on x86, `Features` on Arm)."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def check_memory(available_bytes: int) -> Finding:
    found = f"{available_bytes / GIB:.1f} GiB available"
    if available_bytes < MEMORY_WANTED_BYTES:
        return Finding("memory", "warn", found, "close other programs, or lower train.batch and scaling.workers")
    return Finding("memory", "ok", found)


def check_gpu() -> Finding:
    """Whether torch sees a GPU, and if it does not although there is one, who is to blame."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("gpu", "ok", f"{len(names)}: {', '.join(names)}; torch is built for CUDA {torch.version.cuda}")
    if not Path("/dev/nvidiactl").exists():
        return Finding("gpu", "ok", "none: training runs on the CPU")
    built_for = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return Finding(
        "gpu",
        "warn",
        f"an NVIDIA driver is here, but torch ({built_for}) cannot use it",
        "install a torch for this driver",
    )


def check_shared_memory(path: Path) -> Finding:
    name = str(path)
    if not path.is_dir():
        return Finding(name, "ok", "absent: Ray uses ordinary files")
    free_bytes = shutil.disk_usage(path).free
    found = f"{free_bytes / GIB:.2f} GiB free"
    if free_bytes < SHARED_MEMORY_WANTED_BYTES:
        return Finding(name, "warn", found, "start the container with --shm-size=2g; Ray is slow without it")
    return Finding(name, "ok", found)


def check_writable(name: str, folder: Path) -> Finding:
    """Whether files can be made in the folder, or, while it does not exist, in the nearest parent that does."""
    existing = _nearest_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"raypose")
    except OSError as error:
        return Finding(
            name, "fail", f"{existing}: {error.strerror}", f"make {existing} writable or choose another folder"
        )
    return Finding(name, "ok", f"{folder} is writable" if existing == folder else f"{folder} can be made")


def check_bucket(url: str) -> Finding:
    """Whether a run could be written to the bucket, found out by writing an object and removing it."""
    try:
        store = open_store(url)
        require_writable(store, "--storage")
    except RayposeError as error:
        return Finding("storage", "fail", str(error), "correct the URL, the credentials or their permissions")
    return Finding("storage", "ok", f"{store.url} can be written to")


def check_disk(name: str, folder: Path) -> Finding:
    free_bytes = shutil.disk_usage(_nearest_existing(folder)).free
    found = f"{free_bytes / GIB:.1f} GiB free for {folder}"
    if free_bytes < DISK_NEEDED_BYTES:
        return Finding(name, "fail", found, "free some space or choose another folder")
    if free_bytes < DISK_WANTED_BYTES:
        return Finding(name, "warn", found, "large models and data sets will soon fill it; free some space")
    return Finding(name, "ok", found)


def check_offline(environment: Mapping[str, str]) -> Finding:
    """Whether a run talks to anybody outside; raypose turns Ultralytics' and Ray's reports off unless asked."""
    asked = environment.get("RAY_USAGE_STATS_ENABLED", "0")
    if asked == "0":
        return Finding("offline", "ok", "runs report to nobody")
    return Finding(
        "offline",
        "warn",
        f"RAY_USAGE_STATS_ENABLED={asked}: Ray reports usage",
        "unset it, unless that is what you want",
    )


def available_cores() -> int:
    """Cores that this process may use, which in a container or batch job can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory_bytes() -> int:
    """Memory that is free on the machine, or what the container's limit leaves if that is less."""
    import psutil

    machine_bytes = int(psutil.virtual_memory().available)
    limit, used = _read_text(Path("/sys/fs/cgroup/memory.max")), _read_text(Path("/sys/fs/cgroup/memory.current"))
    if limit.strip().isdecimal() and used.strip().isdecimal():
        return min(machine_bytes, int(limit) - int(used))
    return machine_bytes


def _installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _nearest_existing(folder: Path) -> Path:
    # Path.exists raises below a folder that one may not look into.
    return next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _print_table(findings: list[Finding]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = f"[{_STYLES[finding.status]}]{finding.status:4}[/]"
        console.print(f"{mark}  {finding.name:{width}}  {escape(finding.found)}")
        if finding.advice:
            console.print(f"{'':{width + 8}}{escape(finding.advice)}")
    failed = sum(finding.status == "fail" for finding in findings)
    console.print(f"\n{failed} of {len(findings)} checks failed" if failed else "\nready to train")
