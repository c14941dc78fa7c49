"""Operations with implementations that are fast on CPUs too."""
