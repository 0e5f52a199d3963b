"""A small trained model and a small real data sample, so that everything runs offline. `make assets` remakes both."""
