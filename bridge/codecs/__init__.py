"""Codecs: formats of message bodies, read into JSON types and written from them."""
