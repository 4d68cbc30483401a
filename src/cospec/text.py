"""Text of a growing token list, for tokenizers and loops of one's own."""

from .core.text import ByteDecoder, TextDecoder, TextStream, WindowDecoder

__all__ = ["ByteDecoder", "TextDecoder", "TextStream", "WindowDecoder"]
