"""BTR in JAX: cached binary token representations for readers."""

__version__ = '0.1.0'
