"""Operations on sources: states, pauses, lag, and moves of positions."""
