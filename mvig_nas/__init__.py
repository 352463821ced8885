"""mvig-nas: latency-constrained architecture search over MobileViG-like networks for iPhones."""

__version__ = "0.1.0"
