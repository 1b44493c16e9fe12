"""Pure encoders: tensors or bytes in, arrays out."""
