"""README: the demo model's factory: data, tokenizer, training, export and evaluation (`python -m tools.demo_model`)."""
