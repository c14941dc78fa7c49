"""Operations that are fast on CPUs as well as on accelerators."""
