"""The SDK: what `import upshot` gives a program. `import upshot` loads a module when its first name is used."""
