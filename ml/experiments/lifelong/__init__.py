"""Claims C6a to C6g: new classes learned while every stored code stays as it is, and words in the same code space."""
