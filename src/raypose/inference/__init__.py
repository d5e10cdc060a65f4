"""Images in, poses out, over PyTorch, ONNX Runtime, OpenVINO or TorchScript."""

from raypose.inference.backends import ComputePrecision
from raypose.inference.predictor import Fitted, Predictor, Selection
from raypose.inference.views import Views

__all__ = ["ComputePrecision", "Fitted", "Predictor", "Selection", "Views"]
