"""An OpenAI-compatible server over one ensemble. Nothing outside this package knows the web framework."""
