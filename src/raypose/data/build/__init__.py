"""Labelled images in, a published shard set out: all of it, or nothing.

`cut` divides the list of images into shards by their listed sizes, `work` makes one of them, a `Runner` spreads the
work over processes or machines, `site` keeps what is finished, and `run` publishes. Which process makes a shard, and in
which attempt, has no influence on its bytes.
"""

from raypose.data.build.cut import SHARD_BYTES
from raypose.data.build.run import build_shard_set
from raypose.data.build.runners import InProcess, LocalProcesses, Runner
from raypose.data.build.work import MAX_PROBLEMS

__all__ = ["MAX_PROBLEMS", "SHARD_BYTES", "InProcess", "LocalProcesses", "Runner", "build_shard_set"]
