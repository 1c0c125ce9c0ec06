"""The approaches that are measured, one module each; `harness` runs one of them in a process of its own."""
