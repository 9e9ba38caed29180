"""llama.cpp's own tests of its server, which is asked bare and through the gateway."""
