"""The authoring side: sagas, requests, replay."""
