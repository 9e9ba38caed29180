"""Ollama's API, translated into requests that the gateway has, and their answers back."""
