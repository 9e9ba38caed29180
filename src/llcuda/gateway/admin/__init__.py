"""What the gateway answers itself, and what administrators may change while it runs."""
