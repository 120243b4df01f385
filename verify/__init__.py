"""Whether both sides hold the same, told exactly, beside live writes."""
