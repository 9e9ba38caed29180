"""Workers of other machines, which are asked and watched, and neither started nor ended."""
