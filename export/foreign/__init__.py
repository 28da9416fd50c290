"""Third-party networks, wrapped into files that follow the model contract; without torch."""
