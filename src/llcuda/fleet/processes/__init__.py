"""The llama-servers of one model: what each is started with, whether it lives, and when it is started anew."""
