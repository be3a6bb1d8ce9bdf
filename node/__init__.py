"""Network in, network out, and the durable workflow between."""
