"""The computation behind each certifier: the preparation of a model, and the proof."""
