"""Published checkpoints to bundles. Needs the extra `export`; the running node never imports it."""
