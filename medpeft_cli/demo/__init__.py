"""The embedded default: synthetic twins of the datasets and bundled tiny backbones, for `--demo` (docs: demo.md)."""
