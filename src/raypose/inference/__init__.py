"""Images in, poses out, over PyTorch, ONNX Runtime, OpenVINO or TorchScript."""

from raypose.inference.predictor import Predictor

__all__ = ["Predictor"]
