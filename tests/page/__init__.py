"""Page of the ops port: in a real browser, and as HTML."""
