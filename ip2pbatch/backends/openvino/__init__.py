"""The networks exported to ONNX, compiled by OpenVINO for Intel's and other CPUs, Intel's GPUs and NPUs."""
