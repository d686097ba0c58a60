"""The networks on PyTorch."""
