"""A model as one file that needs neither this package nor, as ONNX, torch."""

from __future__ import annotations

from embae_plugin.export.formats import FORMATS, ImagesToEmbeddings, export_model

__all__ = ["FORMATS", "ImagesToEmbeddings", "export_model"]
