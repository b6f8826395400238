"""Units of memory and of files, in bytes."""

MIB = 1 << 20
GIB = 1024 * MIB
TIB = 1024 * GIB
