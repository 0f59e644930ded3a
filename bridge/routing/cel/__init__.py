"""CEL expressions and templates: compilation, cost, values."""
