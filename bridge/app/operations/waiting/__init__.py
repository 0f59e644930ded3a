"""Operations on early and quarantined messages."""
