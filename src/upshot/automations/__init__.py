"""The automation language: load files, match events, render templates."""
