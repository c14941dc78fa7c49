"""Operations in forms that are fast on CPUs too."""
