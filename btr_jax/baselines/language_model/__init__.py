"""A decoder-only reader: LLaMA's architecture, its files, LoRA, answers."""
