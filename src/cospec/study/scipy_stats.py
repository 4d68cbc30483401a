"""scipy's distributions. It is an extra, and asked for before anything is measured."""

from ..errors import MissingExtra

try:
    from scipy import stats
except ImportError:
    raise MissingExtra("a pilot's tests need scipy: pip install 'cospec[pilot]'") from None

__all__ = ["stats"]
