"""What puts binaries into the package: the vendored source, the build, BUILD.json, bundles. `prepare_binaries.py` is the one door."""
