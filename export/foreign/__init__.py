"""Networks that others trained, wrapped into files under our model contract; without torch."""
