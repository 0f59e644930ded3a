"""Commands on configurations and rules: check, lint, route and test."""
