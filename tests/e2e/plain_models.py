"""Models of digits without batch statistics and dropout, which differ between one process and two."""

MODELS = """\
models:
  student: !call:torch.nn.Sequential
    - !call:torch.nn.Flatten {}
    - !call:torch.nn.Linear [64, 32]
    - !call:torch.nn.Tanh {}
    - !call:torch.nn.Linear [32, 10]
  teacher: {arch: cnn, width: 8, depth: 2, weights: null}
"""
