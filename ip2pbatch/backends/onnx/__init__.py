"""The networks exported to ONNX, on onnxruntime's CPU, CUDA and TensorRT providers."""
