"""Foreign code in a process of its own, with limits, and with nothing but tensors to reach."""
