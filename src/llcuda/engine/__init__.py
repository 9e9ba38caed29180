"""Run one model on one local llama-server: where it runs, what it answers, and what of it is on a GPU."""

from __future__ import annotations

from llcuda.engine.draft import DraftReport
from llcuda.engine.inference import InferenceEngine, quick_infer
from llcuda.engine.report import DeviceReport, DeviceUse

__all__ = ["DeviceReport", "DeviceUse", "DraftReport", "InferenceEngine", "quick_infer"]
