"""Operations on engines and sources, for the command line and the control channel."""
