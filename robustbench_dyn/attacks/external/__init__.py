"""Attacks of other libraries: pyautoattack and torchattacks."""
