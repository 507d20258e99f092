"""Networks from ONNX files, as modules that torch.export traces."""
