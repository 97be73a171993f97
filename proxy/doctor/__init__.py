"""``statecar doctor``: what a backend can do, found by trying."""

from proxy.doctor.examination import Report, examine

__all__ = ["Report", "examine"]
