"""Makes the families of metrics that `prometheus_client` collects of plain numbers and histograms."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client.metrics_core import Metric

BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the histograms' buckets, in seconds."""
FIRST: Final = BOUNDS[0]
PREFIX: Final = "reactor_trio_"
"""The beginning of every metric's name."""
_LE = (*map(str, BOUNDS), "+Inf")


class Histogram:
    """The number of observations in each bucket, and the sum of all, in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        # Most observations are in the first bucket, and to test it first takes half the time.
        self.counts[0 if seconds <= FIRST else bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus has them."""
        return list(zip(_LE, accumulate(self.counts), strict=True))


def gauge_family(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge for each value of the label."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family


def counter_family(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A counter for each value of the label."""
    family = CounterMetricFamily(PREFIX + name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family


def count_family(name: str, text: str, value: float) -> Metric:
    """A counter without a label."""
    return CounterMetricFamily(PREFIX + name, text, value=value)


def histogram_family(name: str, text: str, histogram: Histogram) -> Metric:
    """A histogram without a label."""
    return HistogramMetricFamily(PREFIX + name, text, buckets=histogram.buckets, sum_value=histogram.sum)


def histograms_family(name: str, text: str, histograms: Mapping[str, Histogram], label: str) -> Metric:
    """A histogram for each value of the label."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=(label,))
    for value, histogram in histograms.items():
        family.add_metric((value,), histogram.buckets, histogram.sum)
    return family
