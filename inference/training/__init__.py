"""How the built-in model was made: simulated heads in, bundle out. Needs the `train` extra."""
