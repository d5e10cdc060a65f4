"""Images in, poses out, over PyTorch, ONNX Runtime, OpenVINO or TorchScript."""

from raypose.inference.backends import ComputePrecision
from raypose.inference.lanes import Lanes, lanes_of
from raypose.inference.people import describe_people
from raypose.inference.predictor import Fitted, Predictor, Selection
from raypose.inference.views import Views

__all__ = ["ComputePrecision", "Fitted", "Lanes", "Predictor", "Selection", "Views", "describe_people", "lanes_of"]
