"""Model families: how each kind of vision-language model sees a volume."""
