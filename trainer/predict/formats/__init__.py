"""Files of other programs that hold the depth network: ONNX, `torch.export`, transformers; each checked as written."""
