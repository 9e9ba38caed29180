"""What puts binaries into the package: source, build, BUILD.json, bundles. `prepare_binaries.py` is the one door."""
