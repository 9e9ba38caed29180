"""The messages of the binary protocol, made from its compiled descriptor when they are first used.

No generated code is read, so any runtime of protobuf will do.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, message_factory, struct_pb2
from google.protobuf.descriptor_pool import Default

from llcuda.errors import UsageError

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

__all__ = ["SERVICE", "find_service", "make"]

SERVICE = "llcuda.v1.Inference"
_PATH = Path(__file__).with_name("llcuda.binpb")
_STRUCT_FILE = struct_pb2.DESCRIPTOR.name  # to be in the pool before what imports it


@lru_cache(1)
def find_service() -> ServiceDescriptor:
    """Return the service. Raises UsageError where the descriptor was not compiled."""
    try:
        data = _PATH.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"the binary protocol needs {_PATH.name}, which is not here",
            hint="In a source tree: python -m tools.binaries.protocol. Otherwise install llcuda again.",
        ) from None
    pool = Default()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(SERVICE)


@lru_cache
def make(name: str) -> Any:
    """Return the class of the message called ``llcuda.v1.NAME``."""
    file = find_service().file
    return message_factory.GetMessageClass(file.message_types_by_name[name])
