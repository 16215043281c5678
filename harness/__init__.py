import os

# Before anything imports ONNX Runtime, here and in the processes that are started from here: from 1.32 on it
# keeps a device's identity in ~/.cache/Microsoft and a thread that reports to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
