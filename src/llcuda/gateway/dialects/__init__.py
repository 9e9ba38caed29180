"""APIs beside OpenAI's: Ollama's, translated in and out, and what Anthropic's and editors' clients send."""
