"""Models elsewhere: push them to a remote, and pull them from it, by name or by digest."""

from __future__ import annotations

from llcuda.storage.opening import open_remote
from llcuda.storage.remote import Remote
from llcuda.storage.transfer import RemoteModel, list_remote, pull_blob, pull_model, push_model

__all__ = ["Remote", "RemoteModel", "list_remote", "open_remote", "pull_blob", "pull_model", "push_model"]
