"""The binary protocol: gRPC calls that are answered as every other request is, and its client."""
