"""The systems that BTR is compared with."""
