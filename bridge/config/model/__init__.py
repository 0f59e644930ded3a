"""Models of the settings, one module per section of the configuration."""
