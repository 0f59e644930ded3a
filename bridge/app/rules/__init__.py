"""Decisions of rules compared: in words, with another configuration, on live messages."""
