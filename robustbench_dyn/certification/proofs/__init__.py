"""The computation behind each certifier: what is prepared of a model, and what is proved."""
