"""The messages of the binary protocol, and its service, made from the descriptor that the build compiles.

Their types stand in ``llcuda_pb2.pyi``, which the build writes too. protoc's Python code is not used: it refuses a
protobuf or grpcio older than the protoc that wrote it (7.35 and 1.85 today), and much of what llcuda shares an
environment with holds them lower.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf import struct_pb2 as _struct_pb2  # noqa: F401 - what llcuda.proto imports is to be in the pool
from google.protobuf.descriptor_pool import Default

from llcuda.errors import UsageError

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

__all__ = ["DESCRIPTOR"]


def _load(path: Path) -> FileDescriptor:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"the binary protocol needs {path.name}, which is not here",
            hint="In a source tree: python -m tools.binaries.protocol. Otherwise install llcuda again.",
        ) from None
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(data).file
    return Default().AddSerializedFile(file.SerializeToString())


DESCRIPTOR = _load(Path(__file__).with_name("llcuda.binpb"))
globals().update({name: message_factory.GetMessageClass(one) for name, one in DESCRIPTOR.message_types_by_name.items()})
