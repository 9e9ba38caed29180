"""Other people's clients, each in a program of its own that asks a real gateway."""
