"""What a gateway can be told: options, flags, variables and files, and the checks of them all."""
